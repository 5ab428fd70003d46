//! What every store must do, as cases that the tests of each store run: rules of this crate in [`CASES`],
//! containerd's own suite in [`CONTAINERD`], and for stores with namespaces [`shared`] and [`isolated`].
//!
//! ```ignore
//! restow_content::suite::run(|| MyStore::new_and_empty());
//! ```
#![expect(clippy::unwrap_used, reason = "a case fails by panicking")]

mod containerd;
mod namespaces;
mod rules;

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;
use std::time::Duration;

use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::MediaType;

use crate::Blob;
use crate::Error;
use crate::Ingest;
use crate::Labels;
use crate::MemoryStore;
use crate::Store;
use crate::copy;
use crate::ingest_beside;
use crate::read;
use crate::write;

pub use self::containerd::CONTAINERD;
pub use self::namespaces::isolated;
pub use self::namespaces::shared;

/// A case, called with an empty store.
pub type Case = fn(&dyn Store);

/// All cases with their names.
pub const CASES: &[(&str, Case)] = &[
    ("a_blob_is_visible_only_after_its_commit", a_blob_is_visible_only_after_its_commit),
    ("an_ingest_needs_a_key", an_ingest_needs_a_key),
    ("a_key_has_one_writer_at_a_time", a_key_has_one_writer_at_a_time),
    ("a_dropped_ingest_is_taken_up_where_it_stopped", a_dropped_ingest_is_taken_up_where_it_stopped),
    ("a_restarted_ingest_holds_nothing_of_before", a_restarted_ingest_holds_nothing_of_before),
    ("what_was_written_can_be_read_before_and_after_the_commit", what_was_written_can_be_read),
    ("a_wrong_size_or_digest_is_not_committed_and_loses_nothing", a_mismatch_loses_nothing),
    ("an_expected_sha512_is_computed", an_expected_sha512_is_computed),
    ("a_digest_that_cannot_be_computed_is_refused", a_digest_that_cannot_be_computed_is_refused),
    ("a_blob_that_exists_is_committed_again_with_success", a_blob_that_exists_is_committed_again),
    ("a_committed_key_starts_empty_again", a_committed_key_starts_empty_again),
    ("an_aborted_ingest_is_gone", an_aborted_ingest_is_gone),
    ("the_status_of_an_ingest_outlives_its_writer", the_status_of_an_ingest_outlives_its_writer),
    ("a_blob_ends_where_its_size_says", a_blob_ends_where_its_size_says),
    ("a_blob_of_another_size_is_not_opened", a_blob_of_another_size_is_not_opened),
    ("a_missing_blob_is_not_found", a_missing_blob_is_not_found),
    ("labels_are_kept_merged_and_replaced", labels_are_kept_merged_and_replaced),
    ("labels_that_are_too_large_are_refused", labels_that_are_too_large_are_refused),
    ("a_walk_meets_every_blob_once_in_order", a_walk_meets_every_blob_once_in_order),
    ("a_walk_ends_with_its_visitor", a_walk_ends_with_its_visitor),
    ("a_removed_blob_leaves_nothing_to_its_successor", a_removed_blob_leaves_nothing_to_its_successor),
    ("an_empty_blob_is_a_blob", an_empty_blob_is_a_blob),
    ("writers_of_one_blob_all_succeed", writers_of_one_blob_all_succeed),
    ("an_interrupted_copy_is_completed", an_interrupted_copy_is_completed),
    ("a_damaged_blob_is_not_copied", a_damaged_blob_is_not_copied),
    ("a_blob_that_exists_is_not_begun_again", rules::a_blob_that_exists_is_not_begun_again),
    ("an_expected_digest_chooses_the_algorithm", rules::an_expected_digest_chooses_the_algorithm),
    ("an_ingest_of_another_size_starts_again", rules::an_ingest_of_another_size_starts_again),
    ("a_failed_commit_lets_go_of_its_key", rules::a_failed_commit_lets_go_of_its_key),
    ("a_commit_without_expectations_checks_no_size", rules::a_commit_without_expectations_checks_no_size),
    ("ingests_are_filtered", rules::ingests_are_filtered),
    ("blobs_are_filtered", rules::blobs_are_filtered),
    ("an_update_changes_the_fields_it_names", rules::an_update_changes_the_fields_it_names),
];

/// Runs every case on a store of its own, as `new` makes them. A failing case names itself in its panic.
pub fn run<S: Store>(new: impl Fn() -> S + Sync) {
    for (name, case) in CASES.iter().chain(CONTAINERD) {
        let new = &new;
        thread::scope(|scope| {
            // The name of the thread is the name in the panic.
            let handle =
                thread::Builder::new().name((*name).into()).spawn_scoped(scope, || case(&new())).unwrap();
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(bytes), bytes.len() as u64)
}

fn begin(store: &dyn Store, key: &str, bytes: &[u8]) -> Box<dyn Ingest> {
    let mut ingest = store.ingest(key).unwrap();
    ingest.write_all(bytes).unwrap();
    ingest
}

fn content(blob: &dyn Blob) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(blob.size()).unwrap() + 1];
    let mut length = 0;
    loop {
        match blob.read_at(&mut bytes[length..], length as u64).unwrap() {
            0 => break,
            count => length += count,
        }
    }
    bytes.truncate(length);
    bytes
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn a_blob_is_visible_only_after_its_commit(store: &dyn Store) {
    let descriptor = describe(b"content");
    let ingest = begin(store, "key", b"content");
    assert!(matches!(store.open(&descriptor), Err(Error::NotFound { .. })));
    assert!(matches!(store.info(&descriptor.digest), Err(Error::NotFound { .. })));
    assert_eq!(ingest.digest(), descriptor.digest);

    let info = ingest.commit(None, Labels::new()).unwrap();
    assert_eq!((&info.digest, info.size), (&descriptor.digest, 7));
    assert_eq!(store.info(&descriptor.digest).unwrap(), info);
    assert_eq!(content(&*store.open(&descriptor).unwrap()), b"content");
    assert_eq!(read(store, &descriptor, 7).unwrap(), b"content");
}

fn an_ingest_needs_a_key(store: &dyn Store) {
    assert!(matches!(store.ingest("").map(drop), Err(Error::EmptyKey)));
}

fn a_key_has_one_writer_at_a_time(store: &dyn Store) {
    let first = begin(store, "key", b"first");
    assert!(matches!(store.ingest("key").map(drop), Err(Error::Busy { .. })));
    assert!(matches!(store.abort("key"), Err(Error::Busy { .. })));
    drop(store.ingest("another key").unwrap());
    drop(first);
    drop(store.ingest("key").unwrap());
}

fn a_dropped_ingest_is_taken_up_where_it_stopped(store: &dyn Store) {
    let bytes: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
    for part in [0, 1, 10_000, 90_000, 100_000] {
        let key = format!("key {part}");
        drop(begin(store, &key, &bytes[..part]));
        let mut ingest = store.ingest(&key).unwrap();
        assert_eq!(ingest.offset(), part as u64);
        assert_eq!(ingest.digest(), Digest::sha256(&bytes[..part]));
        ingest.write_all(&bytes[part..]).unwrap();
        ingest.commit(Some(&describe(&bytes)), Labels::new()).unwrap();
        assert_eq!(read(store, &describe(&bytes), 100_000).unwrap(), bytes);
        store.remove(&Digest::sha256(&bytes)).unwrap();
    }
}

fn a_restarted_ingest_holds_nothing_of_before(store: &dyn Store) {
    drop(begin(store, "key", b"a long beginning of something"));
    let mut ingest = store.ingest("key").unwrap();
    ingest.restart().unwrap();
    assert_eq!(ingest.offset(), 0);
    ingest.write_all(b"short").unwrap();
    ingest.commit(None, Labels::new()).unwrap();
    assert_eq!(read(store, &describe(b"short"), 5).unwrap(), b"short");
}

fn what_was_written_can_be_read(store: &dyn Store) {
    let mut ingest = begin(store, "key", b"first ");
    ingest.write_all(b"second").unwrap();
    let view = ingest.written().unwrap();
    assert_eq!(content(&*view), b"first second");
    ingest.commit(None, Labels::new()).unwrap();
    assert_eq!(content(&*view), b"first second");
}

fn a_mismatch_loses_nothing(store: &dyn Store) {
    let right = describe(b"content");
    let wrong_size = Descriptor { size: 8, ..right.clone() };
    let wrong_digest = Descriptor { digest: Digest::sha256(b"other"), ..right.clone() };
    drop(begin(store, "key", b"content"));
    for wrong in [wrong_size, wrong_digest] {
        let error = store.ingest("key").unwrap().commit(Some(&wrong), Labels::new()).unwrap_err();
        let Error::Mismatch { expected, expected_size, actual, actual_size } = error else {
            panic!("{error}")
        };
        assert_eq!((expected, expected_size), (wrong.digest.clone(), wrong.size));
        assert_eq!((actual, actual_size), (right.digest.clone(), right.size));
        assert!(store.info(&wrong.digest).is_err());
    }
    let ingest = store.ingest("key").unwrap();
    assert_eq!(ingest.offset(), 7);
    ingest.commit(Some(&right), Labels::new()).unwrap();
}

fn an_expected_sha512_is_computed(store: &dyn Store) {
    let mut digester = Digester::new(Algorithm::Sha512).unwrap();
    digester.update(b"content");
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, digester.finish(), 7);
    let other = begin(store, "key", b"conTent").commit(Some(&descriptor), Labels::new());
    assert!(matches!(other, Err(Error::Mismatch { .. })));
    let info = begin(store, "key 2", b"content").commit(Some(&descriptor), Labels::new()).unwrap();
    assert_eq!(info.digest, descriptor.digest);
    assert_eq!(read(store, &descriptor, 7).unwrap(), b"content");
}

fn a_digest_that_cannot_be_computed_is_refused(store: &dyn Store) {
    let digest = Digest::parse("blake3:abcdef").unwrap();
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, digest, 7);
    let unsupported = |error| assert!(matches!(error, Error::UnsupportedAlgorithm { .. }), "{error}");
    unsupported(begin(store, "key", b"content").commit(Some(&descriptor), Labels::new()).unwrap_err());
    unsupported(store.open(&descriptor).map(drop).unwrap_err());
    unsupported(read(store, &descriptor, 7).unwrap_err());
    unsupported(copy(store, store, &descriptor).unwrap_err());
}

fn a_blob_that_exists_is_committed_again(store: &dyn Store) {
    let first = begin(store, "key", b"content").commit(None, Labels::new()).unwrap();
    for expected in [None, Some(describe(b"content"))] {
        let again = begin(store, "key", b"content").commit(expected.as_ref(), Labels::new()).unwrap();
        assert_eq!(again, first);
        assert!(store.ingests().unwrap().is_empty());
    }
}

fn a_committed_key_starts_empty_again(store: &dyn Store) {
    begin(store, "key", b"content").commit(None, Labels::new()).unwrap();
    let ingest = store.ingest("key").unwrap();
    assert_eq!(ingest.offset(), 0);
    assert_eq!(ingest.digest(), Digest::sha256(b""));
}

fn an_aborted_ingest_is_gone(store: &dyn Store) {
    begin(store, "key", b"content").abort().unwrap();
    assert!(matches!(store.status("key"), Err(Error::NoIngest { .. })));
    assert!(matches!(store.abort("key"), Err(Error::NoIngest { .. })));
    assert_eq!(store.ingest("key").unwrap().offset(), 0);

    drop(begin(store, "key", b"content"));
    store.abort("key").unwrap();
    assert!(store.ingests().unwrap().is_empty());
    assert_eq!(store.ingest("key").unwrap().offset(), 0);
}

fn the_status_of_an_ingest_outlives_its_writer(store: &dyn Store) {
    assert!(matches!(store.status("b"), Err(Error::NoIngest { .. })));
    assert!(store.ingests().unwrap().is_empty());
    let mut ingest = begin(store, "b", b"first");
    let before = store.status("b").unwrap();
    assert_eq!((before.key.as_str(), before.offset), ("b", 5));
    thread::sleep(Duration::from_millis(20));
    ingest.write_all(b"second").unwrap();
    drop(ingest);
    drop(begin(store, "a", b"other"));

    let after = store.status("b").unwrap();
    assert_eq!((after.offset, after.started), (11, before.started));
    assert!(after.updated > before.updated);
    drop(store.ingest("b").unwrap());
    assert_eq!(store.status("b").unwrap(), after);
    let keys: Vec<_> =
        store.ingests().unwrap().into_iter().map(|status| (status.key, status.offset)).collect();
    assert_eq!(keys, [("a".into(), 5), ("b".into(), 11)]);
}

fn a_blob_ends_where_its_size_says(store: &dyn Store) {
    let descriptor = write(store, MediaType::OCI_LAYER, b"012345").unwrap();
    let blob = store.open(&descriptor).unwrap();
    let mut buffer = [0; 7];
    assert_eq!(blob.size(), 6);
    assert_eq!(blob.read_at(&mut buffer, 0).unwrap(), 6);
    assert_eq!(blob.read_at(&mut buffer, 4).unwrap(), 2);
    assert_eq!(&buffer[..2], b"45");
    for beyond in [6, 7, u64::MAX] {
        assert_eq!(blob.read_at(&mut buffer, beyond).unwrap(), 0);
    }
}

fn a_blob_of_another_size_is_not_opened(store: &dyn Store) {
    let descriptor = write(store, MediaType::OCI_LAYER, b"content").unwrap();
    for size in [0, 6, 8] {
        let wrong = Descriptor { size, ..descriptor.clone() };
        assert!(matches!(store.open(&wrong), Err(Error::WrongSize { actual: 7, .. })));
    }
    assert!(matches!(read(store, &descriptor, 6), Err(Error::TooLarge { size: 7, limit: 6, .. })));
}

fn a_missing_blob_is_not_found(store: &dyn Store) {
    let missing = describe(b"missing");
    let not_found = |error: Error| assert!(matches!(error, Error::NotFound { .. }), "{error}");
    not_found(store.open(&missing).map(drop).unwrap_err());
    not_found(store.info(&missing.digest).unwrap_err());
    not_found(store.update(&missing.digest, Labels::new()).unwrap_err());
    not_found(store.update(&missing.digest, labels(&[("key", "value")])).unwrap_err());
    not_found(store.remove(&missing.digest).unwrap_err());
    not_found(copy(store, store, &missing).unwrap_err());
    assert!(store.ingests().unwrap().is_empty());
}

fn labels_are_kept_merged_and_replaced(store: &dyn Store) {
    let first = labels(&[("containerd.io/gc.root", "yes"), ("key", "one")]);
    let info = begin(store, "key", b"content").commit(None, first.clone()).unwrap();
    assert_eq!(info.labels, first);
    assert_eq!(store.info(&info.digest).unwrap(), info);

    let merged =
        begin(store, "key", b"content").commit(None, labels(&[("key", "two"), ("new", "")])).unwrap();
    assert_eq!(merged.labels, labels(&[("containerd.io/gc.root", "yes"), ("key", "two"), ("new", "")]));

    thread::sleep(Duration::from_millis(20));
    let replaced = store.update(&info.digest, labels(&[("only", "this")])).unwrap();
    assert_eq!(replaced.labels, labels(&[("only", "this")]));
    assert_eq!(replaced.created, info.created);
    assert!(replaced.updated > merged.updated);
    assert_eq!(store.info(&info.digest).unwrap(), replaced);

    assert_eq!(store.update(&info.digest, Labels::new()).unwrap().labels, Labels::new());
    assert_eq!(store.info(&info.digest).unwrap().labels, Labels::new());
}

fn labels_that_are_too_large_are_refused(store: &dyn Store) {
    let large = |size: usize| labels(&[("key", &"x".repeat(size - 3))]);
    let refused = begin(store, "key", b"content").commit(None, large(4097));
    assert!(matches!(refused, Err(Error::LabelTooLarge { size: 4097, limit: 4096, .. })));
    let info = store.ingest("key").unwrap().commit(None, large(4096)).unwrap();
    assert!(matches!(store.update(&info.digest, large(4097)), Err(Error::LabelTooLarge { .. })));
    assert_eq!(store.info(&info.digest).unwrap().labels, large(4096));
}

fn a_walk_meets_every_blob_once_in_order(store: &dyn Store) {
    let mut expected = BTreeMap::new();
    for number in 0..20_u8 {
        let key = format!("key {number}");
        let info = begin(store, &key, &[number]).commit(None, labels(&[("number", &key)])).unwrap();
        expected.insert(info.digest.clone(), info);
    }
    drop(begin(store, "unfinished", b"business"));
    let mut met = Vec::new();
    store
        .walk(&mut |info| {
            met.push(info);
            Ok(())
        })
        .unwrap();
    assert_eq!(met, expected.into_values().collect::<Vec<_>>());
}

fn a_walk_ends_with_its_visitor(store: &dyn Store) {
    for byte in [b"1", b"2", b"3"] {
        write(store, MediaType::OCI_LAYER, byte).unwrap();
    }
    let mut visits = 0;
    let result = store.walk(&mut |_| {
        visits += 1;
        Err(Error::EmptyKey)
    });
    assert!(matches!(result, Err(Error::EmptyKey)));
    assert_eq!(visits, 1);
}

fn a_removed_blob_leaves_nothing_to_its_successor(store: &dyn Store) {
    let info = begin(store, "key", b"content").commit(None, labels(&[("key", "value")])).unwrap();
    store.remove(&info.digest).unwrap();
    assert!(matches!(store.info(&info.digest), Err(Error::NotFound { .. })));
    assert!(matches!(store.remove(&info.digest), Err(Error::NotFound { .. })));
    let info = begin(store, "key", b"content").commit(None, Labels::new()).unwrap();
    assert_eq!(info.labels, Labels::new());
}

fn an_empty_blob_is_a_blob(store: &dyn Store) {
    let descriptor = write(store, MediaType::OCI_LAYER, b"").unwrap();
    assert_eq!(descriptor.size, 0);
    assert_eq!(read(store, &descriptor, 0).unwrap(), b"");
}

fn writers_of_one_blob_all_succeed(store: &dyn Store) {
    let bytes = vec![7; 100_000];
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| write(store, MediaType::OCI_LAYER, &bytes).unwrap());
        }
    });
    // And where the key is held for good.
    let _held = ingest_beside(store, &format!("write-{}", Digest::sha256(&bytes))).unwrap();
    write(store, MediaType::OCI_LAYER, &bytes).unwrap();
    assert_eq!(read(store, &describe(&bytes), 100_000).unwrap(), bytes);
    assert_eq!(store.ingests().unwrap().len(), 1);
}

fn an_interrupted_copy_is_completed(store: &dyn Store) {
    let bytes = vec![9; 3 << 20];
    let source = MemoryStore::new();
    let descriptor = write(&source, MediaType::OCI_LAYER, &bytes).unwrap();
    let garbage = vec![0; 4 << 20];
    for left in [&bytes[..0], &bytes[..1 << 20], &bytes, &garbage[..1000], &garbage] {
        drop(begin(store, &format!("copy-{}", descriptor.digest), left));
        copy(&source, store, &descriptor).unwrap();
        assert_eq!(read(store, &descriptor, 3 << 20).unwrap(), bytes);
        store.remove(&descriptor.digest).unwrap();
    }
}

fn a_damaged_blob_is_not_copied(store: &dyn Store) {
    struct Damaged;
    impl crate::Provider for Damaged {
        fn open(&self, _: &Descriptor) -> crate::Result<Box<dyn Blob>> {
            Ok(Box::new(crate::read::InMemory(b"conTent")))
        }
    }
    let descriptor = describe(b"content");
    assert!(matches!(copy(&Damaged, store, &descriptor), Err(Error::Mismatch { .. })));
    assert!(matches!(store.info(&descriptor.digest), Err(Error::NotFound { .. })));
    assert!(store.ingests().unwrap().is_empty());
}
