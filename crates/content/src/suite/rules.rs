//! Rules of the local store of containerd that no other case shows.

use std::io::Write;

use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::MediaType;

use super::begin;
use super::describe;
use super::labels;
use crate::Error;
use crate::Expected;
use crate::Fields;
use crate::Filter;
use crate::Labels;
use crate::Store;
use crate::write;

pub(super) fn a_blob_that_exists_is_not_begun_again(store: &dyn Store) {
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

pub(super) fn an_expected_digest_chooses_the_algorithm(store: &dyn Store) {
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
    let unknown = Expected { digest: Some(Digest::parse("blake3:abcdef").unwrap()), size: None };
    let error = store.begin("key", &unknown).map(drop).unwrap_err();
    assert!(matches!(error, Error::UnsupportedAlgorithm { .. }), "{error}");
}

pub(super) fn an_ingest_of_another_size_starts_again(store: &dyn Store) {
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

pub(super) fn a_failed_commit_lets_go_of_its_key(store: &dyn Store) {
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

pub(super) fn a_commit_without_expectations_checks_no_size(store: &dyn Store) {
    let mut ingest = store.begin("key", &Expected { digest: None, size: Some(100) }).unwrap();
    ingest.write_all(b"content").unwrap();
    assert_eq!(ingest.commit(None, Labels::new()).unwrap().size, 7);
}

pub(super) fn ingests_are_filtered(store: &dyn Store) {
    for key in ["layer-1", "layer-2", "config"] {
        drop(begin(store, key, b""));
    }
    let keys = |filter: &str| {
        let filter = Filter::parse([filter]).unwrap();
        let found = store.ingests().unwrap().into_iter().filter(|status| filter.matches(status));
        found.map(|status| status.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("ref==config"), ["config"]);
    assert_eq!(keys("ref~=^layer-"), ["layer-1", "layer-2"]);
    assert_eq!(keys("ref!=\"layer-1\",ref~=layer"), ["layer-2"]);
    assert_eq!(keys("digest").len(), 0);
}

pub(super) fn blobs_are_filtered(store: &dyn Store) {
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

pub(super) fn an_update_changes_the_fields_it_names(store: &dyn Store) {
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
}
