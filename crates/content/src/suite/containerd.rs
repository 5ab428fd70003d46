//! The twelve cases of containerd's content suite, in the terms of these traits.
//!
//! One thing differs by design: a commit of what exists is success here and `ErrAlreadyExists` there. In both
//! the ingest is gone afterwards and the blob is as it was.
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/core/content/testsuite/testsuite.go>

use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use super::Case;
use super::content;
use super::describe;
use super::labels;
use crate::Error;
use crate::Expected;
use crate::Fields;
use crate::Ingest;
use crate::Labels;
use crate::MemoryStore;
use crate::Store;
use crate::copy;
use crate::now;
use crate::write;

/// containerd's cases with their names there.
pub const CONTAINERD: &[(&str, Case)] = &[
    ("Writer", writer),
    ("UpdateStatus", update_status),
    ("CommitExists", commit_exists),
    ("Resume", resume),
    ("ResumeTruncate", resume_truncate),
    ("ResumeDiscard", resume_discard),
    ("ResumeCopy", resume_copy),
    ("ResumeCopySeeker", resume_copy_seeker),
    ("ResumeCopyReaderAt", resume_copy_reader_at),
    ("SmallBlob", small_blob),
    ("Labels", check_labels),
    ("CommitErrorState", commit_error_state),
];

/// Returns `size` bytes that repeat nothing of another `seed`.
pub(super) fn create_content(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(size);
    bytes
}

fn root() -> Labels {
    labels(&[("containerd.io/gc.root", "2026-01-01T00:00:00Z")])
}

/// Notes the time, a little early: the clock that stamps files ticks more slowly.
fn clock() -> SystemTime {
    now() - std::time::Duration::from_millis(20)
}

/// Asserts that a time lies between `from` and now.
fn since(from: SystemTime, time: SystemTime) {
    assert!(from <= time && time <= now(), "{from:?} {time:?}");
}

fn check_info(store: &dyn Store, bytes: &[u8], labels: &Labels, created: SystemTime, updated: SystemTime) {
    let info = store.info(&Digest::sha256(bytes)).unwrap();
    assert_eq!((info.size, &info.labels), (bytes.len() as u64, labels));
    since(created, info.created);
    since(updated, info.updated);
}

fn check_status(store: &dyn Store, ingest: &dyn Ingest, key: &str, bytes: &[u8], total: usize) {
    let status = store.status(key).unwrap();
    assert_eq!((status.key.as_str(), status.offset), (key, bytes.len() as u64));
    assert_eq!(status.total, Some(total as u64));
    assert_eq!((ingest.offset(), ingest.digest()), (bytes.len() as u64, Digest::sha256(bytes)));
}

fn writer(store: &dyn Store) {
    let contents: Vec<_> = [256, 256, 256, 256, 16 << 21]
        .into_iter()
        .zip(1..)
        .map(|(size, seed)| create_content(seed, size))
        .collect();
    let expected = |number: usize, digest: bool, size: bool| {
        let found = describe(&contents[number]);
        Expected { digest: digest.then_some(found.digest), size: size.then_some(found.size) }
    };
    // All open at a time.
    let ingests: Vec<_> = [(false, false), (false, true), (true, false), (true, true), (true, true)]
        .into_iter()
        .enumerate()
        .map(|(number, (digest, size))| {
            store.begin(&format!("c{number}"), &expected(number, digest, size)).unwrap()
        })
        .collect();
    for (bytes, mut ingest) in contents.iter().zip(ingests) {
        // The large one in larger pieces, or this takes a minute where each is a system call.
        for piece in bytes.chunks(if bytes.len() > 256 { 32 << 10 } else { 32 }) {
            ingest.write_all(piece).unwrap();
        }
        let before = clock();
        let info = ingest.commit(None, root()).unwrap();
        assert_eq!(info.digest, Digest::sha256(bytes));
        check_info(store, bytes, &root(), before, before);
    }
}

fn update_status(store: &dyn Store) {
    let bytes = create_content(1, 256);
    let before = clock();
    let mut ingest = store.begin("c1", &Expected::from(&describe(&bytes))).unwrap();
    check_status(store, &*ingest, "c1", b"", 256);
    let started = store.status("c1").unwrap().started;
    since(before, started);
    for part in [0..64, 64..192, 192..256] {
        let before = clock();
        ingest.write_all(&bytes[part.clone()]).unwrap();
        check_status(store, &*ingest, "c1", &bytes[..part.end], 256);
        let status = store.status("c1").unwrap();
        assert_eq!(status.started, started);
        since(before, status.updated);
    }
    let before = clock();
    ingest.commit(None, root()).unwrap();
    check_info(store, &bytes, &root(), before, before);
}

fn commit_exists(store: &dyn Store) {
    let bytes = create_content(1, 256);
    write(store, MediaType::OCI_LAYER, &bytes).unwrap();
    let before = store.info(&Digest::sha256(&bytes)).unwrap();
    for expected in [Some(describe(&bytes)), None] {
        let mut ingest = store.ingest("c1-commitexists").unwrap();
        ingest.write_all(&bytes).unwrap();
        assert_eq!(ingest.commit(expected.as_ref(), Labels::new()).unwrap(), before);
        assert!(store.ingests().unwrap().is_empty());
    }
}

fn resume(store: &dyn Store) {
    let bytes = create_content(1, 256);
    let expected = Expected::from(&describe(&bytes));
    let mut ingest = store.begin("cb", &expected).unwrap();
    ingest.write_all(&bytes[..128]).unwrap();
    check_status(store, &*ingest, "cb", &bytes[..128], 256);
    let status = store.status("cb").unwrap();
    drop(ingest);
    assert_eq!(store.status("cb").unwrap(), status);

    let mut ingest = store.begin("cb", &expected).unwrap();
    check_status(store, &*ingest, "cb", &bytes[..128], 256);
    assert_eq!(store.status("cb").unwrap(), status);
    ingest.write_all(&bytes[128..]).unwrap();
    check_status(store, &*ingest, "cb", &bytes, 256);
    assert_eq!(store.status("cb").unwrap().started, status.started);
    let before = clock();
    ingest.commit(None, Labels::new()).unwrap();
    check_info(store, &bytes, &Labels::new(), before, before);
}

/// Takes up ingests of several sizes that stopped at several places, and completes them by `finish`.
fn resume_by(store: &dyn Store, finish: impl Fn(&str, Box<dyn Ingest>, &[u8], usize)) {
    for (number, size) in [500, 5000, 50_000].into_iter().enumerate() {
        for percent in [0, 10, 50, 90, 100] {
            let bytes = create_content((number * 1000 + percent) as u64, size);
            let written = size * percent / 100;
            let expected = Expected::from(&describe(&bytes));
            // The key that `copy` uses, so that it takes up what is there.
            let key = format!("copy-{}", Digest::sha256(&bytes));
            store.begin(&key, &expected).unwrap().write_all(&bytes[..written]).unwrap();
            let ingest = store.begin(&key, &expected).unwrap();
            assert_eq!(ingest.offset(), written as u64);
            let before = clock();
            finish(&key, ingest, &bytes, written);
            check_info(store, &bytes, &Labels::new(), before, before);
            assert!(store.ingests().unwrap().is_empty());
        }
    }
}

fn resume_truncate(store: &dyn Store) {
    resume_by(store, |_, mut ingest, bytes, _| {
        ingest.restart().unwrap();
        bytes.chunks(1024).for_each(|piece| ingest.write_all(piece).unwrap());
        ingest.commit(Some(&describe(bytes)), Labels::new()).unwrap();
    });
}

fn resume_discard(store: &dyn Store) {
    resume_by(store, |_, mut ingest, bytes, written| {
        bytes[written..].chunks(1024).for_each(|piece| ingest.write_all(piece).unwrap());
        ingest.commit(Some(&describe(bytes)), Labels::new()).unwrap();
    });
}

/// A plain reader: what was written already is read and thrown away.
fn resume_copy(store: &dyn Store) {
    resume_by(store, |_, mut ingest, bytes, _| {
        let mut reader = bytes;
        std::io::copy(&mut reader.by_ref().take(ingest.offset()), &mut std::io::sink()).unwrap();
        std::io::copy(&mut reader, &mut ingest).unwrap();
        ingest.commit(Some(&describe(bytes)), Labels::new()).unwrap();
    });
}

fn resume_copy_seeker(store: &dyn Store) {
    resume_by(store, |_, mut ingest, bytes, _| {
        let mut reader = std::io::Cursor::new(bytes);
        reader.seek(std::io::SeekFrom::Start(ingest.offset())).unwrap();
        std::io::copy(&mut reader, &mut ingest).unwrap();
        ingest.commit(Some(&describe(bytes)), Labels::new()).unwrap();
    });
}

fn resume_copy_reader_at(store: &dyn Store) {
    resume_by(store, |_, ingest, bytes, _| {
        drop(ingest);
        let source = MemoryStore::new();
        let descriptor = write(&source, MediaType::OCI_LAYER, bytes).unwrap();
        copy(&source, store, &descriptor).unwrap();
    });
}

fn small_blob(store: &dyn Store) {
    let descriptor = describe(b"foobar");
    let mut ingest = store.begin("key", &Expected::from(&descriptor)).unwrap();
    ingest.write_all(b"foobar").unwrap();
    ingest.commit(Some(&descriptor), Labels::new()).unwrap();
    // Reads through a buffer one larger than the blob, to its end.
    assert_eq!(content(&*store.open(&descriptor).unwrap()), b"foobar");
}

fn check_labels(store: &dyn Store) {
    let bytes = create_content(1, 256);
    let digest = Digest::sha256(&bytes);
    let mut ingest = store.begin("c1-checklabels", &Expected::from(&describe(&bytes))).unwrap();
    ingest.write_all(&bytes).unwrap();
    let mut expected = root();
    expected.extend(labels(&[("k1", "v1"), ("k2", "v2")]));
    let created = clock();
    ingest.commit(None, expected.clone()).unwrap();
    check_info(store, &bytes, &expected, created, created);

    expected.insert("k1".into(), "newvalue".into());
    expected.remove("k2");
    expected.insert("k3".into(), "v3".into());
    let updated = clock();
    store.update(&digest, expected.clone()).unwrap();
    check_info(store, &bytes, &expected, created, updated);

    let mut new = root();
    new.insert("k1".into(), "v1".into());
    let updated = clock();
    store.update_fields(&digest, new.clone(), &Fields::parse(["labels.k3", "labels.k1"]).unwrap()).unwrap();
    check_info(store, &bytes, &new, created, updated);
}

fn commit_error_state(store: &dyn Store) {
    let (bytes, other) = (create_content(1, 256), create_content(2, 256));
    write(store, MediaType::OCI_LAYER, &bytes).unwrap();
    let key = "c1-commiterror-state";
    let open = || {
        let ingest = store.ingest(key).unwrap();
        assert!(matches!(store.ingest(key).map(drop), Err(Error::Busy { .. })));
        ingest
    };
    let more = [&bytes[..], b"more"].concat();
    let failed = |result| assert!(matches!(result, Err(Error::Mismatch { .. })), "{result:?}");

    for expected in [Some(describe(&bytes)), None] {
        let mut ingest = open();
        assert_eq!(ingest.offset(), 0);
        ingest.write_all(&bytes).unwrap();
        ingest.commit(expected.as_ref(), Labels::new()).unwrap();
    }
    let mut ingest = open();
    ingest.write_all(&more).unwrap();
    failed(ingest.commit(Some(&Descriptor { size: 260, ..describe(&other) }), Labels::new()));
    // The bytes are still there.
    let ingest = open();
    assert_eq!(ingest.offset(), 260);
    failed(ingest.commit(Some(&Descriptor { size: 256, ..describe(&more) }), Labels::new()));
    let info = open().commit(Some(&describe(&more)), Labels::new()).unwrap();
    assert_eq!(info.size, 260);

    let mut ingest = open();
    ingest.write_all(&bytes).unwrap();
    ingest.commit(Some(&describe(&bytes)), Labels::new()).unwrap();
    for _ in 0..2 {
        open().restart().unwrap();
    }
}
