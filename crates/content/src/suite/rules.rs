//! The 25 rules that containerd's local store keeps, by their numbers.
//!
//! | rule | containerd | where these traits differ |
//! |---|---|---|
//! | 1 | an ingest needs a key | |
//! | 2 | a key that is written is unavailable to others | in other processes, too |
//! | 3 | an expected digest that is there already exists | |
//! | 4 | an invalid digest is refused | a malformed one is none; one that cannot be computed is refused |
//! | 5 | an ingest is taken up, digested again by the algorithm that is expected | |
//! | 6 | another total, or a state that cannot be read, starts again from nothing | and leaves no bytes of before |
//! | 7 | offset, total and times outlive the writer | |
//! | 8 | the digest is that of the bytes so far | after a short write, too |
//! | 9 | a commit lets go of the key, also when it fails | |
//! | 10 | a wrong size fails, the bytes stay | |
//! | 11 | no size, no check | |
//! | 12 | a wrong digest fails, the bytes stay | |
//! | 13 | a digest of another algorithm is computed | |
//! | 14 | a blob that is there is left alone, the ingest goes | and that is success |
//! | 15 | synced, renamed, the directory synced; then the ingest goes | labels are there before the blob is |
//! | 16 | a writer that ends keeps its progress | |
//! | 17 | truncation goes to zero, for digest and offset, too | nothing else can be asked for |
//! | 18 | an aborted ingest is gone, an unknown one not found | |
//! | 19 | status and list, with filters | |
//! | 20 | a blob that is not there is removed with success | it is not found |
//! | 21 | a missing blob is not found, a read at the end is empty | |
//! | 22 | an update replaces all labels, or those that its fields name | every store has labels |
//! | 23 | an update does not change when a blob was made | |
//! | 24 | key and value of a label have at most 4096 bytes | |
//! | 25 | a key that was committed starts empty again | |
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/plugins/content/local/store.go>

use std::io::Write;
use std::thread;
use std::time::Duration;

use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::MediaType;

use super::Case;
use super::begin;
use super::content;
use super::describe;
use super::labels;
use crate::Error;
use crate::Expected;
use crate::Fields;
use crate::Filter;
use crate::Labels;
use crate::Store;
use crate::copy;
use crate::read;
use crate::write;

/// The rules in their order.
pub const RULES: [(&str, Case); 25] = [
    ("01_an_ingest_needs_a_key", an_ingest_needs_a_key),
    ("02_a_key_has_one_writer_at_a_time", a_key_has_one_writer_at_a_time),
    ("03_a_blob_that_exists_is_not_begun_again", a_blob_that_exists_is_not_begun_again),
    ("04_a_digest_that_cannot_be_computed_is_refused", a_digest_that_cannot_be_computed_is_refused),
    ("05_an_expected_digest_chooses_the_algorithm", an_expected_digest_chooses_the_algorithm),
    ("06_an_ingest_of_another_size_starts_again", an_ingest_of_another_size_starts_again),
    ("07_the_status_of_an_ingest_outlives_its_writer", the_status_of_an_ingest_outlives_its_writer),
    ("08_the_digest_is_that_of_the_bytes_so_far", the_digest_is_that_of_the_bytes_so_far),
    ("09_a_failed_commit_lets_go_of_its_key", a_failed_commit_lets_go_of_its_key),
    ("10_a_wrong_size_is_not_committed_and_loses_nothing", a_wrong_size_is_not_committed_and_loses_nothing),
    ("11_a_commit_without_expectations_checks_no_size", a_commit_without_expectations_checks_no_size),
    (
        "12_a_wrong_digest_is_not_committed_and_loses_nothing",
        a_wrong_digest_is_not_committed_and_loses_nothing,
    ),
    ("13_an_expected_sha512_is_computed", an_expected_sha512_is_computed),
    ("14_a_blob_that_exists_is_committed_again", a_blob_that_exists_is_committed_again),
    ("15_a_blob_is_visible_only_after_its_commit", a_blob_is_visible_only_after_its_commit),
    ("16_a_dropped_ingest_is_taken_up_where_it_stopped", a_dropped_ingest_is_taken_up_where_it_stopped),
    ("17_a_restarted_ingest_holds_nothing_of_before", a_restarted_ingest_holds_nothing_of_before),
    ("18_an_aborted_ingest_is_gone", an_aborted_ingest_is_gone),
    ("19_ingests_are_found_by_key_and_filter", ingests_are_found_by_key_and_filter),
    ("20_a_missing_blob_is_not_removed", a_missing_blob_is_not_removed),
    ("21_a_blob_ends_where_its_size_says", a_blob_ends_where_its_size_says),
    ("22_an_update_changes_the_fields_it_names", an_update_changes_the_fields_it_names),
    ("23_an_update_changes_the_time_of_the_update_alone", an_update_changes_the_time_of_the_update_alone),
    ("24_labels_that_are_too_large_are_refused", labels_that_are_too_large_are_refused),
    ("25_a_committed_key_starts_empty_again", a_committed_key_starts_empty_again),
];

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

fn a_blob_that_exists_is_not_begun_again(store: &dyn Store) {
    let expected = Expected::from(&describe(b"content"));
    drop(store.begin("key", &expected).unwrap());
    store.abort("key").unwrap();
    write(store, MediaType::OCI_LAYER, b"content").unwrap();
    for _ in 0..2 {
        let error = store.begin("key", &expected).map(drop).unwrap_err();
        assert!(
            matches!(&error, Error::Exists { digest } if Some(digest) == expected.digest.as_ref()),
            "{error}"
        );
    }
    // Nothing is held or left.
    assert!(store.ingests().unwrap().is_empty());
    store.ingest("key").unwrap().abort().unwrap();
}

fn a_digest_that_cannot_be_computed_is_refused(store: &dyn Store) {
    let digest = Digest::parse("blake3:abcdef").unwrap();
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, digest, 7);
    let unsupported = |error| assert!(matches!(error, Error::UnsupportedAlgorithm { .. }), "{error}");
    unsupported(store.begin("key", &Expected::from(&descriptor)).map(drop).unwrap_err());
    assert!(store.ingests().unwrap().is_empty());
    unsupported(begin(store, "key", b"content").commit(Some(&descriptor), Labels::new()).unwrap_err());
    unsupported(store.open(&descriptor).map(drop).unwrap_err());
    unsupported(read(store, &descriptor, 7).unwrap_err());
    unsupported(copy(store, store, &descriptor).unwrap_err());
}

fn an_expected_digest_chooses_the_algorithm(store: &dyn Store) {
    let sha512 = |bytes: &[u8]| {
        let mut digester = Digester::new(Algorithm::Sha512).unwrap();
        digester.update(bytes);
        digester.finish()
    };
    let expected = Expected { digest: Some(sha512(b"content")), size: None };
    let mut ingest = store.begin("key", &expected).unwrap();
    assert_eq!(ingest.digest(), sha512(b""));
    ingest.write_all(b"con").unwrap();
    assert_eq!(ingest.digest(), sha512(b"con"));
    drop(ingest);
    // What was written is digested again, by whatever the next writer expects.
    assert_eq!(store.ingest("key").unwrap().digest(), Digest::sha256(b"con"));
    let mut ingest = store.begin("key", &expected).unwrap();
    assert_eq!((ingest.offset(), ingest.digest()), (3, sha512(b"con")));
    ingest.write_all(b"tent").unwrap();
    assert_eq!(ingest.commit(None, Labels::new()).unwrap().digest, sha512(b"content"));

    // And the other way round: what is committed as sha256 is computed again.
    let mut ingest = store.begin("key", &Expected { digest: Some(sha512(b"other")), size: None }).unwrap();
    ingest.write_all(b"content").unwrap();
    assert_eq!(
        ingest.commit(Some(&describe(b"content")), Labels::new()).unwrap().digest,
        describe(b"content").digest
    );
}

fn an_ingest_of_another_size_starts_again(store: &dyn Store) {
    let of = |size| Expected { digest: None, size };
    let write = |expected: &Expected, bytes: &[u8]| {
        let mut ingest = store.begin("key", expected).unwrap();
        ingest.write_all(bytes).unwrap();
        ingest.offset()
    };
    assert_eq!(write(&of(None), b"abc"), 3);
    assert_eq!(store.status("key").unwrap().total, None);
    assert_eq!(write(&of(Some(100)), b"def"), 6);
    assert_eq!(store.status("key").unwrap().total, Some(100));
    // Who says nothing does not contradict.
    assert_eq!(write(&of(None), b"ghi"), 9);
    assert_eq!(store.status("key").unwrap().total, Some(100));
    assert_eq!(write(&of(Some(100)), b"jkl"), 12);
    assert_eq!(write(&of(Some(101)), b"new"), 3);
    assert_eq!(store.status("key").unwrap().total, Some(101));
    let info = store.ingest("key").unwrap().commit(None, Labels::new()).unwrap();
    assert_eq!(info.digest, Digest::sha256(b"new"));
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

fn the_digest_is_that_of_the_bytes_so_far(store: &dyn Store) {
    // Larger than what a store may take at a time, and smaller.
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 253) as u8).collect();
    let mut ingest = store.ingest("key").unwrap();
    let mut written = 0;
    for end in [0, 1, 1000, 4_000_000, 4_000_001, 5_000_000] {
        ingest.write_all(&bytes[written..end]).unwrap();
        written = end;
        assert_eq!((ingest.offset(), ingest.digest()), (end as u64, Digest::sha256(&bytes[..end])));
    }
    let descriptor = describe(&bytes);
    ingest.commit(Some(&descriptor), Labels::new()).unwrap();
    assert_eq!(read(store, &descriptor, descriptor.size).unwrap(), bytes);
}

fn a_failed_commit_lets_go_of_its_key(store: &dyn Store) {
    let wrong = Descriptor { size: 8, ..describe(b"content") };
    for _ in 0..3 {
        let ingest = match store.status("key") {
            Ok(_) => store.ingest("key").unwrap(),
            Err(_) => begin(store, "key", b"content"),
        };
        assert!(matches!(ingest.commit(Some(&wrong), Labels::new()), Err(Error::Mismatch { .. })));
        let large = labels(&[("key", &"x".repeat(5000))]);
        let refused = store.ingest("key").unwrap().commit(None, large);
        assert!(matches!(refused, Err(Error::LabelTooLarge { .. })));
    }
    store.ingest("key").unwrap().commit(None, Labels::new()).unwrap();
}

fn a_wrong_size_is_not_committed_and_loses_nothing(store: &dyn Store) {
    refuses(store, &Descriptor { size: 8, ..describe(b"content") });
}

fn a_commit_without_expectations_checks_no_size(store: &dyn Store) {
    let mut ingest = store.begin("key", &Expected { digest: None, size: Some(100) }).unwrap();
    ingest.write_all(b"content").unwrap();
    assert_eq!(ingest.commit(None, Labels::new()).unwrap().size, 7);
}

fn a_wrong_digest_is_not_committed_and_loses_nothing(store: &dyn Store) {
    refuses(store, &Descriptor { digest: Digest::sha256(b"other"), ..describe(b"content") });
}

/// Asserts that `content` is not committed as `wrong`, and is still there to be committed as what it is.
fn refuses(store: &dyn Store, wrong: &Descriptor) {
    let right = describe(b"content");
    drop(begin(store, "key", b"content"));
    for _ in 0..2 {
        let error = store.ingest("key").unwrap().commit(Some(wrong), Labels::new()).unwrap_err();
        let Error::Mismatch { expected, expected_size, actual, actual_size } = error else {
            panic!("{error}")
        };
        assert_eq!((expected, expected_size), (wrong.digest.clone(), wrong.size));
        assert_eq!((actual, actual_size), (right.digest.clone(), right.size));
        store.info(&wrong.digest).unwrap_err();
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

fn a_blob_that_exists_is_committed_again(store: &dyn Store) {
    let first = begin(store, "key", b"content").commit(None, Labels::new()).unwrap();
    for expected in [None, Some(describe(b"content"))] {
        let again = begin(store, "key", b"content").commit(expected.as_ref(), Labels::new()).unwrap();
        assert_eq!(again, first);
        assert!(store.ingests().unwrap().is_empty());
    }
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

fn ingests_are_found_by_key_and_filter(store: &dyn Store) {
    assert!(store.ingests().unwrap().is_empty());
    assert!(matches!(store.status("config"), Err(Error::NoIngest { key }) if key == "config"));
    for key in ["layer-1", "layer-2", "config"] {
        drop(begin(store, key, b""));
    }
    let keys = |filter: &str| {
        let filter = Filter::parse([filter]).unwrap();
        let found = store.ingests().unwrap().into_iter().filter(|status| filter.matches(status));
        found.map(|status| status.key).collect::<Vec<_>>()
    };
    assert_eq!(store.status("config").unwrap().key, "config");
    assert_eq!(keys("ref==config"), ["config"]);
    assert_eq!(keys("ref~=^layer-"), ["layer-1", "layer-2"]);
    assert_eq!(keys("ref!=\"layer-1\",ref~=layer"), ["layer-2"]);
    assert_eq!(keys("digest").len(), 0);
}

fn a_missing_blob_is_not_removed(store: &dyn Store) {
    let digest = write(store, MediaType::OCI_LAYER, b"content").unwrap().digest;
    store.remove(&digest).unwrap();
    for _ in 0..2 {
        assert!(
            matches!(store.remove(&digest), Err(Error::NotFound { digest: missing }) if missing == digest)
        );
    }
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

fn an_update_changes_the_fields_it_names(store: &dyn Store) {
    let first = labels(&[("a", "1"), ("b", "2"), ("c.d", "3")]);
    let digest = begin(store, "key", b"content").commit(None, first).unwrap().digest;
    let update = |new: &[(&str, &str)], paths: &[&str]| {
        let fields = Fields::parse(paths.iter().copied()).unwrap();
        let info = store.update_fields(&digest, labels(new), &fields).unwrap();
        assert_eq!(store.info(&digest).unwrap(), info);
        info.labels
    };
    assert_eq!(
        update(&[("a", "new"), ("b", "ignored")], &["labels.a"]),
        labels(&[("a", "new"), ("b", "2"), ("c.d", "3")])
    );
    assert_eq!(update(&[("b", "")], &["labels.b", "labels.c.d"]), labels(&[("a", "new")]));
    assert_eq!(update(&[("x", "y")], &["labels"]), labels(&[("x", "y")]));
    assert_eq!(update(&[("z", "")], &[]), labels(&[("z", "")]));
    let large = labels(&[("z", &"x".repeat(5000))]);
    let refused = store.update_fields(&digest, large, &Fields::parse(["labels.z"]).unwrap());
    assert!(matches!(refused, Err(Error::LabelTooLarge { .. })));
    for path in ["size", "label.z", "labels."] {
        assert!(matches!(Fields::parse([path]), Err(Error::InvalidField { .. })));
    }
}

fn an_update_changes_the_time_of_the_update_alone(store: &dyn Store) {
    let info = begin(store, "key", b"content").commit(None, labels(&[("key", "one")])).unwrap();
    thread::sleep(Duration::from_millis(20));
    let updated = store.update(&info.digest, labels(&[("key", "two")])).unwrap();
    assert_eq!((updated.size, updated.created), (info.size, info.created));
    assert!(updated.updated > info.updated);
    assert_eq!(store.info(&info.digest).unwrap(), updated);
}

fn labels_that_are_too_large_are_refused(store: &dyn Store) {
    let large = |size: usize| labels(&[("key", &"x".repeat(size - 3))]);
    let refused = begin(store, "key", b"content").commit(None, large(4097));
    assert!(matches!(refused, Err(Error::LabelTooLarge { size: 4097, limit: 4096, .. })));
    let info = store.ingest("key").unwrap().commit(None, large(4096)).unwrap();
    assert!(matches!(store.update(&info.digest, large(4097)), Err(Error::LabelTooLarge { .. })));
    assert_eq!(store.info(&info.digest).unwrap().labels, large(4096));
}

fn a_committed_key_starts_empty_again(store: &dyn Store) {
    begin(store, "key", b"content").commit(None, Labels::new()).unwrap();
    let ingest = store.ingest("key").unwrap();
    assert_eq!(ingest.offset(), 0);
    assert_eq!(ingest.digest(), Digest::sha256(b""));
}
