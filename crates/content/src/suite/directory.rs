//! Disks hold more than what a store has put there. Cases for stores whose blobs are files: what lies where a blob or an
//! ingest should, and is none.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::mkfifoat;

use super::DirectoryCase;
use super::describe;
use crate::Error;
use crate::Labels;
use crate::Store;
use crate::VerifiedReader;
use crate::read;
use crate::write;

/// The cases with their names.
pub const DIRECTORY: &[(&str, DirectoryCase)] = &[
    ("a_blob_is_a_file_that_nobody_can_write_to", a_blob_is_a_file_that_nobody_can_write_to),
    ("a_longer_or_shorter_file_is_not_the_blob", a_longer_or_shorter_file_is_not_the_blob),
    ("a_rotten_file_is_found_out_by_whoever_reads_it", a_rotten_file_is_found_out),
    ("a_symbolic_link_is_no_blob", a_symbolic_link_is_no_blob),
    ("a_fifo_is_no_blob", a_fifo_is_no_blob),
    ("a_directory_is_no_blob", a_directory_is_no_blob),
    ("files_that_are_named_like_no_digest_are_no_blobs", files_that_are_named_like_no_digest_are_no_blobs),
    ("digests_of_other_algorithms_are_left_alone", digests_of_other_algorithms_are_left_alone),
    ("an_ingest_with_a_damaged_key_starts_anew", an_ingest_with_a_damaged_key_starts_anew),
    ("an_ingest_with_damaged_notes_is_taken_up", an_ingest_with_damaged_notes_is_taken_up),
    ("a_link_in_place_of_an_ingest_is_refused", a_link_in_place_of_an_ingest_is_refused),
    ("foreign_files_among_ingests_are_no_ingests", foreign_files_among_ingests_are_no_ingests),
    ("a_commit_that_failed_leaves_no_labels", a_commit_that_failed_leaves_no_labels),
    ("files_behind_a_link_to_a_directory_stay", files_behind_a_link_to_a_directory_stay),
    ("foreign_files_in_an_ingest_stay", foreign_files_in_an_ingest_stay),
];

fn path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs").join(digest.algorithm_name()).join(digest.encoded())
}

fn put(store: &dyn Store) -> Descriptor {
    write(store, MediaType::OCI_LAYER, b"content").unwrap()
}

/// Writes a file that is none of the store's.
fn beside(root: &Path, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(root).unwrap();
    fs::write(root.join("elsewhere"), bytes).unwrap();
    root.join("elsewhere")
}

/// Returns the directory of the only ingest, left by a writer of `bytes`.
fn leave(store: &dyn Store, root: &Path, bytes: &[u8]) -> PathBuf {
    store.ingest("key").unwrap().write_all(bytes).unwrap();
    let mut found = fs::read_dir(root.join("ingest")).unwrap().map(|entry| entry.unwrap().path());
    let directory = found.next().unwrap();
    assert_eq!(found.next(), None);
    directory
}

fn met(store: &dyn Store) -> Vec<Digest> {
    let mut met = Vec::new();
    let mut visit = |info: crate::Info| {
        met.push(info.digest);
        Ok(())
    };
    store.walk(&mut visit).unwrap();
    met
}

fn a_blob_is_a_file_that_nobody_can_write_to(store: &dyn Store, root: &Path) {
    let digest = put(store).digest;
    assert_eq!(fs::metadata(path(root, &digest)).unwrap().permissions().mode() & 0o7777, 0o444);
    assert!(!root.join("ingest").exists());
}

fn a_longer_or_shorter_file_is_not_the_blob(store: &dyn Store, root: &Path) {
    for other in [&b"cont"[..], b"", b"content and more"] {
        let descriptor = put(store);
        let path = path(root, &descriptor.digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, other).unwrap();
        let error = store.open(&descriptor).map(drop).unwrap_err();
        assert!(
            matches!(error, Error::WrongSize { expected: 7, actual, .. } if actual == other.len() as u64)
        );
        // Whoever writes it again puts it right.
        put(store);
        assert_eq!(read(store, &descriptor, 7).unwrap(), b"content");
    }
}

fn a_rotten_file_is_found_out(store: &dyn Store, root: &Path) {
    let descriptor = put(store);
    let path = path(root, &descriptor.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"conTent").unwrap();
    let streamed = || VerifiedReader::new(store.open(&descriptor)?, &descriptor)?.finish();
    for error in [read(store, &descriptor, 7).unwrap_err(), streamed().unwrap_err()] {
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains(descriptor.digest.as_str()), "{error}");
    }
}

fn a_symbolic_link_is_no_blob(store: &dyn Store, root: &Path) {
    let elsewhere = beside(root, b"content");
    is_no_blob(store, root, "symbolic link", |path| symlink(&elsewhere, path).unwrap());
    assert_eq!(fs::read(&elsewhere).unwrap(), b"content");
}

fn a_fifo_is_no_blob(store: &dyn Store, root: &Path) {
    is_no_blob(store, root, "FIFO", |path| mkfifoat(CWD, path, Mode::RWXU).unwrap());
}

fn a_directory_is_no_blob(store: &dyn Store, root: &Path) {
    is_no_blob(store, root, "directory", |path| fs::create_dir(path).unwrap());
}

/// Asserts that what `make` puts in the place of a blob is refused, and out of the way of whoever writes that blob,
/// unless it is a directory.
fn is_no_blob(store: &dyn Store, root: &Path, kind: &str, make: impl FnOnce(&Path)) {
    let descriptor = put(store);
    let path = path(root, &descriptor.digest);
    fs::remove_file(&path).unwrap();
    make(&path);
    for error in [
        store.open(&descriptor).map(drop).unwrap_err(),
        store.info(&descriptor.digest).map(drop).unwrap_err(),
        store.remove(&descriptor.digest).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::NotRegular { found, .. } if *found == kind), "{error}");
    }
    assert_eq!(met(store), []);
    match write(store, MediaType::OCI_LAYER, b"content") {
        Ok(_) => assert_eq!(read(store, &descriptor, 7).unwrap(), b"content"),
        Err(error) => assert!(kind == "directory", "{error}"),
    }
}

fn files_that_are_named_like_no_digest_are_no_blobs(store: &dyn Store, root: &Path) {
    let digest = put(store).digest;
    let blobs = root.join("blobs");
    fs::write(blobs.join("README"), b"").unwrap();
    for name in [".tmp", &digest.encoded()[1..], &digest.encoded().to_uppercase()] {
        fs::write(blobs.join("sha256").join(name), b"content").unwrap();
    }
    assert_eq!(met(store), [digest]);
}

fn digests_of_other_algorithms_are_left_alone(store: &dyn Store, root: &Path) {
    let other = Digest::parse("blake3:abcdef").unwrap();
    fs::create_dir_all(root.join("blobs/blake3")).unwrap();
    fs::write(path(root, &other), b"content").unwrap();
    assert_eq!(met(store), []);
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, other.clone(), 7);
    let error = store.open(&descriptor).map(drop).unwrap_err();
    assert!(matches!(&error, Error::UnsupportedAlgorithm { digest } if *digest == other), "{error}");
    assert_eq!(fs::read(path(root, &other)).unwrap(), b"content");
}

/// A way to spoil a file, with its name.
type Damage<'a> = (&'static str, &'a dyn Fn(&Path));

fn an_ingest_with_a_damaged_key_starts_anew(store: &dyn Store, root: &Path) {
    let damages: [Damage<'_>; 4] = [
        ("another key", &|path| fs::write(path, b"another key").unwrap()),
        ("no key", &|path| fs::remove_file(path).unwrap()),
        ("no text", &|path| fs::write(path, [0xff]).unwrap()),
        ("a long key", &|path| fs::write(path, [b'x'; 5000]).unwrap()),
    ];
    for (damage, apply) in damages {
        let directory = leave(store, root, b"a long beginning");
        apply(&directory.join("ref"));
        assert!(matches!(store.status("key"), Err(Error::NoIngest { .. })), "{damage}");
        assert!(store.ingests().unwrap().is_empty(), "{damage}");

        let mut ingest = store.ingest("key").unwrap();
        assert_eq!(ingest.offset(), 0, "{damage}");
        ingest.write_all(b"short").unwrap();
        // Nothing of before is behind it.
        assert_eq!(ingest.commit(None, Labels::new()).unwrap().size, 5, "{damage}");
        assert_eq!(read(store, &describe(b"short"), 5).unwrap(), b"short", "{damage}");
        assert!(!directory.exists(), "{damage}");
        store.remove(&describe(b"short").digest).unwrap();
    }
}

fn an_ingest_with_damaged_notes_is_taken_up(store: &dyn Store, root: &Path) {
    let directory = leave(store, root, b"begin");
    for (name, text) in [("startedat", "2026-01-01T00:00:00Z"), ("updatedat", "garbage"), ("total", "-7")] {
        fs::write(directory.join(name), text).unwrap();
    }
    let status = store.status("key").unwrap();
    assert_eq!((status.offset, status.total), (5, None));
    let mut ingest = store.ingest("key").unwrap();
    ingest.write_all(b"ning").unwrap();
    ingest.commit(Some(&describe(b"beginning")), Labels::new()).unwrap();
    assert!(!root.join("ingest").exists());
}

fn a_link_in_place_of_an_ingest_is_refused(store: &dyn Store, root: &Path) {
    let victim = beside(root, b"precious");
    for name in ["data", "ref"] {
        let directory = leave(store, root, b"begin");
        fs::remove_file(directory.join(name)).unwrap();
        symlink(&victim, directory.join(name)).unwrap();
        let error = store.ingest("key").map(drop).unwrap_err();
        assert!(matches!(error, Error::NotRegular { .. }), "{name}: {error}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
        fs::remove_file(directory.join(name)).unwrap();
    }
}

fn foreign_files_among_ingests_are_no_ingests(store: &dyn Store, root: &Path) {
    let directory = leave(store, root, b"begin");
    let ingests = root.join("ingest");
    fs::write(ingests.join("file"), b"").unwrap();
    symlink("/", ingests.join("link")).unwrap();
    fs::create_dir(ingests.join("empty")).unwrap();
    let found = store.ingests().unwrap();
    assert_eq!(found.iter().map(|status| (&*status.key, status.offset)).collect::<Vec<_>>(), [("key", 5)]);
    store.abort("key").unwrap();
    assert!(store.ingests().unwrap().is_empty() && ingests.join("file").exists() && !directory.exists());
}

/// Whatever names files there have: an ingest is a directory itself, and so is the one that ingests lie in.
#[expect(clippy::disallowed_methods, reason = "nothing is published")]
fn files_behind_a_link_to_a_directory_stay(store: &dyn Store, root: &Path) {
    let victim = beside(root, b"precious").with_file_name("victim");
    let ingests = root.join("ingest");
    for all in [false, true] {
        for key in ["key", "another key"] {
            let directory = leave(store, root, b"begin");
            let link = if all { &ingests } else { &directory };
            fs::rename(link, &victim).unwrap();
            let ours = if all { victim.join(directory.file_name().unwrap()) } else { victim.clone() };
            if key != "key" {
                fs::write(ours.join("ref"), key).unwrap();
            }
            fs::write(ours.join("precious"), b"").unwrap();
            symlink(&victim, link).unwrap();
            let before = fs::read_dir(&ours).unwrap().count();

            assert!(store.ingests().unwrap().is_empty());
            assert!(matches!(store.status("key"), Err(Error::NoIngest { .. })));
            for error in [store.ingest("key").map(drop).unwrap_err(), store.abort("key").unwrap_err()] {
                assert!(matches!(&error, Error::Io { path, .. } if path == link), "{error}");
            }
            assert_eq!(fs::read_dir(&ours).unwrap().count(), before);
            assert_eq!(fs::read(ours.join("data")).unwrap(), b"begin");
            fs::remove_file(link).unwrap();
            fs::remove_dir_all(&victim).unwrap();
        }
    }
}

fn foreign_files_in_an_ingest_stay(store: &dyn Store, root: &Path) {
    let directory = leave(store, root, b"begin");
    fs::create_dir(directory.join("directory")).unwrap();
    fs::write(directory.join("directory/file"), b"").unwrap();
    fs::write(directory.join("file"), b"").unwrap();
    let mut ingest = store.ingest("key").unwrap();
    ingest.write_all(b"ning").unwrap();
    ingest.commit(Some(&describe(b"beginning")), Labels::new()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["directory", "file"]);
    assert!(store.ingests().unwrap().is_empty());
}

fn a_commit_that_failed_leaves_no_labels(store: &dyn Store, root: &Path) {
    let label = |key: &str| Labels::from([(key.to_owned(), "value".to_owned())]);
    let commit = |labels: Labels| {
        let mut ingest = store.ingest("key").unwrap();
        ingest.restart().unwrap();
        ingest.write_all(b"content").unwrap();
        ingest.commit(None, labels)
    };
    let path = path(root, &describe(b"content").digest);
    for later in [Labels::new(), label("later")] {
        fs::create_dir_all(&path).unwrap();
        commit(label("failed")).unwrap_err();
        fs::remove_dir(&path).unwrap();
        assert_eq!(commit(later.clone()).unwrap().labels, later);
        store.remove(&describe(b"content").digest).unwrap();
    }
}
