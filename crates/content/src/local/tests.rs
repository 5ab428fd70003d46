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

#[test]
fn a_short_write_keeps_digest_and_file_in_step() {
    // Eight blocks of 512 bytes, and an error in place of a signal.
    let script = r#"trap "" XFSZ; ulimit -f 8; exec "$0" --ignored --exact local::tests::short_write"#;
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh").args(["-c", script]).arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "runs in a process that may only write 4096 bytes to a file"]
fn short_write() {
    let (_directory, store) = temporary();
    let mut ingest = store.ingest("key").unwrap();
    assert_eq!(ingest.write(&[7; 5000]).unwrap(), 4096);
    assert_eq!(ingest.write(b"more").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    for _ in 0..2 {
        assert_eq!((ingest.offset(), ingest.digest()), (4096, Digest::sha256(&[7; 4096])));
        drop(ingest);
        ingest = store.ingest("key").unwrap();
    }
    ingest.commit(None, Labels::new()).unwrap();
}
