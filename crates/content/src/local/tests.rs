use super::*;
use crate::copy;
use crate::read;
use crate::suite;
use crate::write;
use restow_oci::MediaType;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

fn temporary() -> (tempfile::TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn put(store: &LocalStore, bytes: &[u8]) -> Descriptor {
    write(store, MediaType::OCI_LAYER, bytes).unwrap()
}

/// Returns the paths of all files and directories below `root`, relative to it.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn passes_the_suite() {
    let directories = Mutex::new(Vec::new());
    let new = || {
        let (directory, store) = temporary();
        directories.lock().unwrap().push(directory);
        store
    };
    suite::run(new);
    suite::run_directory(|| {
        let store = new();
        let root = store.root().to_owned();
        (store, root)
    });
}

#[test]
fn reading_creates_nothing() {
    let (directory, store) = temporary();
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(b"x"), 1);
    assert!(store.open(&descriptor).is_err());
    assert!(store.info(&descriptor.digest).is_err());
    assert!(store.remove(&descriptor.digest).is_err());
    assert!(store.update(&descriptor.digest, Labels::from([("a".into(), "b".into())])).is_err());
    assert!(store.status("key").is_err());
    assert!(store.abort("key").is_err());
    assert!(store.ingests().unwrap().is_empty());
    store.walk(&mut |_| unreachable!()).unwrap();
    assert!(tree(directory.path()).is_empty());
}

#[test]
fn a_file_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, b"").unwrap();
    assert!(matches!(LocalStore::open(&path), Err(Error::Io { .. })));
}

#[test]
fn a_commit_leaves_the_blob_and_nothing_else() {
    let (_directory, store) = temporary();
    let digest = put(&store, b"content").digest;
    let blob = format!("blobs/sha256/{}", digest.encoded());
    assert_eq!(tree(store.root()), ["blobs", "blobs/sha256", &blob]);
    assert_eq!(fs::metadata(store.path(&digest)).unwrap().permissions().mode() & 0o7777, 0o444);

    let labels = Labels::from([("key".into(), "value".into())]);
    store.update(&digest, labels).unwrap();
    assert_eq!(fs::read(store.root().join(blob.replace("blobs", "labels"))).unwrap(), br#"{"key":"value"}"#);
    store.update(&digest, Labels::new()).unwrap();
    assert_eq!(tree(&store.root().join("labels")), ["sha256"]);
}

#[test]
fn an_ingest_that_containerd_left_is_taken_up_and_removed_whole() {
    let (_directory, store) = temporary();
    let directory = ingest::directory(store.root(), "layer-sha256:abc");
    fs::create_dir_all(&directory).unwrap();
    for (name, bytes) in [
        ("ref", "layer-sha256:abc"),
        ("data", "begin"),
        ("startedat", "2026-01-01T00:00:00Z"),
        ("updatedat", "garbage"),
        ("total", "-7"),
    ] {
        fs::write(directory.join(name), bytes).unwrap();
    }
    let mut ingest = store.ingest("layer-sha256:abc").unwrap();
    assert_eq!(ingest.offset(), 5);
    ingest.write_all(b"ning").unwrap();
    let digest = ingest.commit(None, Labels::new()).unwrap().digest;
    assert_eq!(digest, Digest::sha256(b"beginning"));
    assert!(!store.root().join("ingest").exists());
}

#[test]
fn a_blob_that_has_rotted_is_replaced_by_one_that_is_made_anew() {
    let (_directory, store) = temporary();
    let content = b"what the digest says";
    let descriptor = put(&store, content);
    let path = store.path(&descriptor.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"something as long...").unwrap();
    // Without a digest, nobody looks for it beforehand.
    let mut ingest = store.begin("anew", &Expected::default()).unwrap();
    ingest.write_all(content).unwrap();
    ingest.commit(None, Labels::new()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(tree(&store.root().join("blobs/sha256")).len(), 1);
}

#[test]
fn data_that_changes_behind_the_writer_is_not_committed() {
    for change in [3, 100] {
        let (_directory, store) = temporary();
        let mut ingest = store.ingest("key").unwrap();
        ingest.write_all(b"content").unwrap();
        let data = ingest::directory(store.root(), "key").join("data");
        fs::OpenOptions::new().write(true).open(data).unwrap().set_len(change).unwrap();
        let error = ingest.commit(None, Labels::new()).unwrap_err();
        assert!(matches!(error, Error::Disturbed { expected: 7, actual, .. } if actual == change), "{error}");
        store.walk(&mut |_| unreachable!()).unwrap();
    }
}

#[test]
fn damaged_labels_are_an_error_of_their_blob_alone() {
    let (_directory, store) = temporary();
    let (one, two) = (put(&store, b"one"), put(&store, b"two"));
    let path = store.labels_path(&one.digest);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"{\"key\": 1}").unwrap();
    assert!(matches!(store.info(&one.digest), Err(Error::DamagedLabels { .. })));
    assert_eq!(read(&store, &one, 3).unwrap(), b"one");
    store.info(&two.digest).unwrap();
}

/// Whatever interleaves: a key has one owner, every commit succeeds, nothing is left.
#[test]
fn writers_come_and_go_on_one_key() {
    let (_directory, store) = temporary();
    let committed = Mutex::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (store, committed) = (&store, &committed);
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let mut ingest = match store.ingest("key") {
                        Err(Error::Busy { .. }) => continue,
                        ingest => ingest.unwrap(),
                    };
                    let descriptor =
                        Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(&[thread, round]), 2);
                    ingest.restart().unwrap();
                    ingest.write_all(&[thread, round]).unwrap();
                    match round % 3 {
                        0 => drop(ingest),
                        1 => ingest.abort().unwrap(),
                        _ => {
                            ingest.commit(Some(&descriptor), Labels::new()).unwrap();
                            *committed.lock().unwrap() += 1;
                        }
                    }
                }
            });
        }
    });
    store.ingest("key").unwrap().abort().unwrap();
    let mut blobs = 0;
    store
        .walk(&mut |info| {
            blobs += 1;
            let bytes = fs::read(store.path(&info.digest)).unwrap();
            assert_eq!(Digest::sha256(&bytes), info.digest);
            Ok(())
        })
        .unwrap();
    assert_eq!(blobs, committed.into_inner().unwrap());
    assert!(!store.root().join("ingest").exists());
}

/// The lock belongs to the kernel: another process sees it, and it ends with its holder.
#[test]
fn another_process_holds_and_dies() {
    let (_directory, store) = temporary();
    store.ingest("key").unwrap().write_all(b"begun ").unwrap();
    let path = ingest::directory(store.root(), "key").join("ref");
    let mut holder = std::process::Command::new("flock")
        .args(["--exclusive", "--no-fork"])
        .arg(&path)
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    while store.ingest("key").is_ok() {
        assert_eq!(holder.try_wait().unwrap(), None, "the holder never held");
    }
    assert!(matches!(store.ingest("key").map(drop), Err(Error::Busy { .. })));
    // A writer of the same blob is not stopped by that.
    copy(&store, &store, &put(&store, b"other")).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(store.ingest("key").unwrap().offset(), 6);
}

/// Runs a test that is ignored otherwise in a process of its own, which `script` prepares; it ends with `"$@"`.
fn run_apart(script: &str, test: &str) {
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).arg(program).args(["--ignored", "--exact"]);
    let output = command.arg(format!("local::tests::{test}")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_short_write_keeps_digest_and_file_in_step() {
    // Blocks of 512 bytes, and an error in place of a signal.
    run_apart(r#"trap "" XFSZ; ulimit -f 8; exec "$@""#, "short_write");
    run_apart(r#"trap "" XFSZ; ulimit -f 12296; exec "$@""#, "short_write_of_much");
}

#[test]
#[ignore = "runs in a process that may only write 4096 bytes to a file"]
fn short_write() {
    write_until(4096);
    // A copy for which there is no room leaves nothing that would take it.
    let (_directory, store) = temporary();
    let source = crate::MemoryStore::new();
    let descriptor = write(&source, MediaType::OCI_LAYER, &[7; 5000]).unwrap();
    let error = copy(&source, &store, &descriptor).unwrap_err();
    assert!(matches!(error, Error::Write { offset: 0, .. }), "{error}");
    assert!(store.ingests().unwrap().is_empty());
}

#[test]
#[ignore = "runs in a process that may only write 6 MiB and 4096 bytes to a file"]
fn short_write_of_much() {
    write_until((6 << 20) + 4096);
}

fn write_until(limit: usize) {
    let (_directory, store) = temporary();
    // Of what is known to be large, a thread makes the digest.
    let expected = Expected { size: Some(limit as u64), ..Expected::default() };
    let mut ingest = store.begin("key", &expected).unwrap();
    ingest.write_all(&vec![7; limit - 4096]).unwrap();
    assert_eq!(ingest.write(&[7; 5000]).unwrap(), 4096);
    assert_eq!(ingest.write(b"more").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    for _ in 0..2 {
        assert_eq!((ingest.offset(), ingest.digest()), (limit as u64, Digest::sha256(&vec![7; limit])));
        drop(ingest);
        ingest = store.begin("key", &expected).unwrap();
    }
    ingest.commit(None, Labels::new()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_to_is_read_and_keeps_nobody_out_later() {
    // Root may write everywhere, unless it gives that up.
    let script =
        r#"[ "$(id -u)" -ne 0 ] || set -- setpriv --inh-caps=-all --bounding-set=-all "$@"; exec "$@""#;
    run_apart(script, "read_only_directory");
}

#[test]
#[ignore = "runs in a process that permissions hold for"]
fn read_only_directory() {
    let (_directory, store) = temporary();
    let descriptor = put(&store, b"content");
    store.ingest("begun").unwrap().write_all(b"begin").unwrap();
    let begun = ingest::directory(store.root(), "begun");
    let directories =
        [store.root(), &store.root().join("ingest"), &begun, &store.root().join("blobs/sha256")];
    let set = |mode: u32| {
        for path in directories {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set(0o555);
    assert_eq!(read(&store, &descriptor, 7).unwrap(), b"content");
    assert_eq!(store.ingests().unwrap()[0].offset, 5);
    let mut ingest = store.ingest("begun").unwrap();
    ingest.write_all(b"ning").unwrap();
    for error in [
        ingest.commit(None, Labels::new()).unwrap_err(),
        store.ingest("new").map(drop).unwrap_err(),
        store.abort("begun").unwrap_err(),
        store.remove(&descriptor.digest).unwrap_err(),
        store.update(&descriptor.digest, Labels::from([("a".into(), "b".into())])).unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied),
            "{error}"
        );
    }
    set(0o755);
    let ingest = store.ingest("begun").unwrap();
    assert_eq!((ingest.offset(), ingest.digest()), (9, Digest::sha256(b"beginning")));
    ingest.commit(None, Labels::new()).unwrap();
    store.remove(&descriptor.digest).unwrap();
}
