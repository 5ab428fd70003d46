//! What every store must do, as cases that the tests of each store run: the rules of containerd's local store in
//! [`RULES`], containerd's own suite in [`CONTAINERD`], and what else this crate asks for in [`CASES`]. Stores with
//! namespaces have four cases of containerd's more, and those whose blobs are files those of [`DIRECTORY`].
//!
//! ```ignore
//! restow_content::suite::run(|| MyStore::new_and_empty());
//! ```
#![expect(clippy::unwrap_used, reason = "a case fails by panicking")]

mod containerd;
mod directory;
mod namespaces;
mod rules;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use crate::Blob;
use crate::Error;
use crate::Filter;
use crate::Ingest;
use crate::Labels;
use crate::MemoryStore;
use crate::Store;
use crate::copy;
use crate::ingest_beside;
use crate::read;
use crate::write;

pub use self::containerd::CONTAINERD;
pub use self::directory::DIRECTORY;
pub use self::namespaces::CROSS_NAMESPACE_ISOLATED;
pub use self::namespaces::CROSS_NAMESPACE_SHARED;
pub use self::namespaces::SHARED_NAMESPACE_ISOLATED;
pub use self::rules::RULES;

/// A case, called with an empty store.
pub type Case = fn(&dyn Store);

/// A case, called with two namespaces of an empty store.
pub type NamespaceCase = fn(&dyn Store, &dyn Store);

/// A case, called with an empty store and the directory that its blobs lie in, as [`LocalStore`](crate::LocalStore)
/// keeps them.
pub type DirectoryCase = fn(&dyn Store, &Path);

/// What is asked for besides, with names.
pub const CASES: &[(&str, Case)] = &[
    ("what_was_written_can_be_read", what_was_written_can_be_read),
    ("a_blob_of_another_size_is_not_opened", a_blob_of_another_size_is_not_opened),
    ("a_missing_blob_is_not_found", a_missing_blob_is_not_found),
    ("labels_are_kept_merged_and_replaced", labels_are_kept_merged_and_replaced),
    ("a_walk_meets_every_blob_once_in_order", a_walk_meets_every_blob_once_in_order),
    ("a_walk_ends_with_its_visitor", a_walk_ends_with_its_visitor),
    ("blobs_are_filtered", blobs_are_filtered),
    ("a_removed_blob_leaves_nothing_to_its_successor", a_removed_blob_leaves_nothing_to_its_successor),
    ("an_empty_blob_is_a_blob", an_empty_blob_is_a_blob),
    ("writers_of_one_blob_all_succeed", writers_of_one_blob_all_succeed),
    ("an_interrupted_copy_is_completed", an_interrupted_copy_is_completed),
    ("a_damaged_blob_is_not_copied", a_damaged_blob_is_not_copied),
    ("the_labels_of_all_writers_stay", the_labels_of_all_writers_stay),
    ("a_copy_says_how_long_it_will_be", a_copy_says_how_long_it_will_be),
    ("a_key_has_a_length_that_is_read_back", a_key_has_a_length_that_is_read_back),
    ("a_large_blob_has_its_digest", a_large_blob_has_its_digest),
];

/// Runs the cases for every store, each on a store of its own, as `new` makes them. A failing case names itself in its
/// panic.
pub fn run<S: Store>(new: impl Fn() -> S + Sync) {
    for (name, case) in RULES.iter().chain(CONTAINERD).chain(CASES) {
        named(name, || case(&new()));
    }
}

/// Runs cases for namespaces, each on a pair of its own.
pub fn run_namespaces<S: Store>(cases: &[(&str, NamespaceCase)], new: impl Fn() -> (S, S) + Sync) {
    for (name, case) in cases {
        named(name, || {
            let (first, second) = new();
            case(&first, &second);
        });
    }
}

/// Runs the cases for stores whose blobs are files; `new` returns the directory, too.
pub fn run_directory<S: Store>(new: impl Fn() -> (S, PathBuf) + Sync) {
    for (name, case) in DIRECTORY {
        named(name, || {
            let (store, root) = new();
            case(&store, &root);
        });
    }
}

/// Runs a case on a thread of its name, which is the name in the panic.
fn named(name: &str, case: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let handle = thread::Builder::new().name(name.into()).spawn_scoped(scope, case).unwrap();
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
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

fn what_was_written_can_be_read(store: &dyn Store) {
    let mut ingest = begin(store, "key", b"first ");
    ingest.write_all(b"second").unwrap();
    let view = ingest.written().unwrap();
    assert_eq!(content(&*view), b"first second");
    ingest.commit(None, Labels::new()).unwrap();
    assert_eq!(content(&*view), b"first second");
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

fn blobs_are_filtered(store: &dyn Store) {
    for (bytes, number) in [(b"a", "1"), (b"b", "2"), (b"c", "1")] {
        let of = labels(&[("number", number), ("containerd.io/kind", "test")]);
        begin(store, "key", bytes).commit(None, of).unwrap();
    }
    let count = |filter: &str| {
        let filter = Filter::parse([filter]).unwrap();
        let mut count = 0;
        store
            .walk(&mut |info| {
                count += usize::from(filter.matches(&info));
                Ok(())
            })
            .unwrap();
        count
    };
    assert_eq!(count("labels.number==1"), 2);
    assert_eq!(count("labels.\"containerd.io/kind\"==test,labels.number!=1"), 1);
    assert_eq!(count(&format!("digest=={}", Digest::sha256(b"a"))), 1);
    assert_eq!(count("labels.missing"), 0);
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

fn a_copy_says_how_long_it_will_be(store: &dyn Store) {
    struct Failing;
    impl Blob for Failing {
        fn size(&self) -> u64 {
            7
        }

        fn read_at(&self, _: &mut [u8], _: u64) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::Other.into())
        }
    }
    impl crate::Provider for Failing {
        fn open(&self, _: &Descriptor) -> crate::Result<Box<dyn Blob>> {
            Ok(Box::new(Failing))
        }
    }
    let descriptor = describe(b"content");
    copy(&Failing, store, &descriptor).unwrap_err();
    assert_eq!(store.ingests().unwrap()[0].total, Some(7));
}

fn a_key_has_a_length_that_is_read_back(store: &dyn Store) {
    let key = "k".repeat(4000);
    drop(begin(store, &key, b"begun"));
    assert_eq!(store.status(&key).unwrap().offset, 5);
    assert_eq!(store.ingest(&key).unwrap().offset(), 5);
    for length in [4097, 100_000] {
        let error = store.ingest(&"k".repeat(length)).map(drop).unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 4096, .. }), "{error}");
    }
    assert_eq!(store.ingests().unwrap().len(), 1);
}

fn a_large_blob_has_its_digest(store: &dyn Store) {
    let bytes: Vec<_> = (0..11_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut ingest = store.ingest("key").unwrap();
    for (number, piece) in bytes.chunks(1_700_000).enumerate() {
        ingest.write_all(piece).unwrap();
        if number == 4 {
            let offset = usize::try_from(ingest.offset()).unwrap();
            assert_eq!(ingest.digest(), Digest::sha256(&bytes[..offset]));
        }
    }
    // Given up in the middle, it is taken up.
    drop(ingest);
    let mut ingest = store.ingest("key").unwrap();
    assert_eq!(ingest.digest(), Digest::sha256(&bytes));
    ingest.write_all(&bytes).unwrap();
    let twice = [&bytes[..], &bytes].concat();
    assert_eq!(ingest.digest(), Digest::sha256(&twice));
    ingest.restart().unwrap();
    ingest.write_all(&bytes).unwrap();
    ingest.commit(Some(&describe(&bytes)), Labels::new()).unwrap();
}

fn the_labels_of_all_writers_stay(store: &dyn Store) {
    for round in 0..10_u8 {
        let write = |writer: &str| {
            let ingest = begin(store, &format!("key {writer}"), &[round]);
            // One has nothing to say.
            let of = if writer == "0" { Labels::new() } else { labels(&[(writer, "yes")]) };
            let digest = ingest.commit(None, of.clone()).unwrap().digest;
            let found = store.info(&digest).unwrap().labels;
            assert!(of.keys().all(|key| found.contains_key(key)), "{found:?}");
        };
        thread::scope(|scope| {
            for writer in ["0", "1", "2", "3"] {
                scope.spawn(move || write(writer));
            }
        });
        let found = store.info(&Digest::sha256(&[round])).unwrap().labels;
        assert_eq!(found, labels(&[("1", "yes"), ("2", "yes"), ("3", "yes")]));
    }
}
