//! Operations of a store that fail at each of their steps: what is visible is whole, and a rerun ends as if nothing had
//! happened.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::print_stderr, reason = "how many points were tried is what this is about")]

use std::io;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use restow_content::Expected;
use restow_content::Info;
use restow_content::Labels;
use restow_content::LocalStore;
use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_content::MetadataStore;
use restow_content::Result;
use restow_content::Store;
use restow_content::copy;
use restow_content::scrub;
use restow_content::write;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::Fault;
use restow_testkit::Faulty;

const FAULTS: [Fault; 4] = [
    Fault::Error(io::ErrorKind::StorageFull),
    Fault::Error(io::ErrorKind::Interrupted),
    Fault::Short,
    Fault::Death,
];

fn bytes() -> Vec<u8> {
    (0..3_000_000_u32).map(|number| (number % 251) as u8).collect()
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(bytes), bytes.len() as u64)
}

fn labels(value: &str) -> Labels {
    Labels::from([("containerd.io/gc.root".into(), value.into())])
}

/// Ingests what is in `bytes`, in pieces, or takes up what is there.
fn ingest(store: &dyn Store, bytes: &[u8]) -> Result<()> {
    let descriptor = describe(bytes);
    let mut ingest = match store.begin("key", &Expected::from(&descriptor)) {
        Err(restow_content::Error::Exists { .. }) => return Ok(()),
        ingest => ingest?,
    };
    let start = usize::try_from(ingest.offset()).unwrap();
    for piece in bytes[start..].chunks(700_000) {
        ingest.write_all(piece).map_err(|source| restow_content::Error::Write {
            key: "key".into(),
            offset: ingest.offset(),
            source,
        })?;
    }
    ingest.commit(Some(&descriptor), labels("yes")).map(drop)
}

fn remove(store: &dyn Store, digest: &Digest) -> Result<()> {
    match store.remove(digest) {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

/// Lets `act` fail at each of its steps on stores that `open` opens anew, and completes it.
fn at_every_step<S: Store>(
    open: &dyn Fn(&Path) -> S,
    prepare: &dyn Fn(&dyn Store),
    act: &dyn Fn(&dyn Store) -> Result<()>,
) -> usize {
    let mut points = 0;
    for fault in FAULTS {
        for at in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path().join("store");
            prepare(&open(&root));
            let faulty = Faulty::new(open(&root), at, fault);
            let result = act(&faulty);
            let failed = faulty.has_failed();
            drop(faulty);

            let store = open(&root);
            let scrubbed = scrub(&store, NonZeroUsize::MIN, &|| false).unwrap();
            assert!(scrubbed.rotten.is_empty(), "{fault:?} {at}: {:?}", scrubbed.rotten);
            act(&store).unwrap_or_else(|error| panic!("{fault:?} {at}: {error}"));
            assert!(store.ingests().unwrap().is_empty(), "{fault:?} {at}");
            if !failed {
                result.unwrap();
                break;
            }
            points += 1;
        }
    }
    points
}

fn on_every_store(
    name: &str,
    prepare: &dyn Fn(&dyn Store),
    act: &dyn Fn(&dyn Store) -> Result<()>,
    check: &dyn Fn(Option<Info>),
    digest: &Digest,
) {
    let act = |store: &dyn Store| {
        act(store)?;
        match store.info(digest) {
            Ok(info) => check(Some(info)),
            Err(error) if error.is_not_found() => check(None),
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let local = at_every_step(&|root| LocalStore::open(root).unwrap(), prepare, &act);
    let open = |root: &Path| MetadataStore::create(root, &Limits::default()).unwrap().0;
    let metadata = at_every_step(&open, prepare, &act);
    assert!(local > 0 && metadata > 0);
    eprintln!("{name}: {local} points tried on a directory, {metadata} on a store with a database");
}

#[test]
fn an_ingest_fails_at_every_step() {
    let bytes = bytes();
    let digest = describe(&bytes).digest;
    let check = |info: Option<Info>| assert_eq!(info.unwrap().labels, labels("yes"));
    on_every_store("ingest", &|_| {}, &|store| ingest(store, &bytes), &check, &digest);
}

#[test]
fn a_copy_fails_at_every_step() {
    let bytes = bytes();
    let source = MemoryStore::new();
    let descriptor = write(&source, MediaType::OCI_LAYER, &bytes).unwrap();
    let check = |info: Option<Info>| assert_eq!(info.unwrap().size, 3_000_000);
    on_every_store("copy", &|_| {}, &|store| copy(&source, store, &descriptor), &check, &descriptor.digest);
    // And from a store whose reads fail: nothing but what is whole arrives.
    for fault in FAULTS {
        for at in 1.. {
            let faulty = Faulty::new(source.clone(), at, fault);
            let target = MemoryStore::new();
            let result = copy(&faulty, &target, &descriptor);
            assert!(target.info(&descriptor.digest).is_ok() == result.is_ok());
            if !faulty.has_failed() {
                break;
            }
            copy(&source, &target, &descriptor).unwrap();
            assert!(target.ingests().unwrap().is_empty());
        }
    }
}

#[test]
fn an_update_and_a_removal_fail_at_every_step() {
    let digest = Digest::sha256(b"content");
    let prepare = |store: &dyn Store| {
        write(store, MediaType::OCI_LAYER, b"content").unwrap();
        store.update(&digest, labels("before")).unwrap();
    };
    let update = |store: &dyn Store| store.update(&digest, labels("after")).map(drop);
    let check = |info: Option<Info>| assert_eq!(info.unwrap().labels, labels("after"));
    on_every_store("update", &prepare, &update, &check, &digest);
    let check = |info: Option<Info>| assert_eq!(info, None);
    on_every_store("remove", &prepare, &|store| remove(store, &digest), &check, &digest);
}
