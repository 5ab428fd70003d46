use super::*;
use crate::VerifiedReader;
use crate::copy;
use crate::read;
use crate::suite;
use crate::write;
use restow_oci::Index;
use restow_oci::MediaType;
use restow_oci::Timestamp;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

fn open(root: &Path) -> MetadataStore {
    MetadataStore::create(root, &Limits::default()).unwrap().0
}

fn temporary() -> (tempfile::TempDir, MetadataStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store"));
    (directory, store)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

fn put(store: &MetadataStore, bytes: &[u8]) -> Descriptor {
    write(store, MediaType::OCI_LAYER, bytes).unwrap()
}

/// Writes an image with a configuration and two layers, and returns its manifest and all four blobs.
fn put_image(store: &MetadataStore, name: &str) -> (Descriptor, BTreeSet<Digest>) {
    let config = put(store, format!("{{\"config of {name}\":1}}").as_bytes());
    let layers = ["one", "two"].map(|layer| put(store, format!("layer {layer} of {name}").as_bytes()));
    let entry = |descriptor: &Descriptor| {
        let Descriptor { media_type, digest, size, .. } = descriptor;
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{},{}]}}"#,
        entry(&config),
        entry(&layers[0]),
        entry(&layers[1])
    );
    let manifest = write(store, MediaType::OCI_MANIFEST, manifest.as_bytes()).unwrap();
    let blobs = [&config, &layers[0], &layers[1], &manifest].map(|blob| blob.digest.clone()).into();
    (manifest, blobs)
}

fn present(store: &MetadataStore) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    store
        .walk(&mut |info| {
            let descriptor = Descriptor::new(MediaType::OCI_LAYER, info.digest.clone(), info.size);
            VerifiedReader::new(store.open(&descriptor)?, &descriptor)?.finish()?;
            found.insert(info.digest);
            Ok(())
        })
        .unwrap();
    found
}

/// Collects, and returns what was removed; a dry run before tells the same.
fn collect(store: &MetadataStore) -> BTreeSet<Digest> {
    let before = present(store);
    let told = store.collect(&Collection { dry_run: true, ..Collection::default() }).unwrap();
    assert_eq!(present(store), before);
    let done = store.collect(&Collection::default()).unwrap();
    assert_eq!(done, told);
    let again = store.collect(&Collection::default()).unwrap();
    assert_eq!((again.blobs.len(), again.kept), (0, done.kept));
    done.blobs.into_iter().map(|(digest, _)| digest).collect()
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
fn passes_the_suite_of_namespaces() {
    let directories = Mutex::new(Vec::new());
    let pair = |sharing: Sharing, shareable: bool| {
        let (directory, store) = temporary();
        directories.lock().unwrap().push(directory);
        let first = store.namespace("first", sharing).unwrap();
        if shareable {
            first.label_namespace(&labels(&[(SHAREABLE, "true")])).unwrap();
        }
        (first, store.namespace("second", sharing).unwrap())
    };
    suite::run_namespaces(suite::CROSS_NAMESPACE_SHARED, || pair(Sharing::Shared, false));
    suite::run_namespaces(suite::CROSS_NAMESPACE_ISOLATED, || pair(Sharing::Isolated, false));
    suite::run_namespaces(suite::SHARED_NAMESPACE_ISOLATED, || pair(Sharing::Isolated, true));
}

#[test]
fn a_store_is_what_it_was_when_it_is_opened_again() {
    let (_directory, store) = temporary();
    let (manifest, blobs) = put_image(&store, "a");
    let of = labels(&[("key", "value")]);
    store.update(&manifest.digest, of.clone()).unwrap();
    store.set_images(&["a:v1".into(), "a:v2".into()], &manifest, &of).unwrap();
    let lease = store.create_lease("lease", Some(now() + Duration::from_secs(60)), Labels::new()).unwrap();
    let images = store.images().unwrap();
    drop(store.ingest("unfinished").unwrap());

    let again = open(store.root());
    assert_eq!(present(&again), blobs);
    assert_eq!(again.images().unwrap(), images);
    assert_eq!(images[0].name, "a:v1");
    assert_eq!((&images[1].target, &images[1].labels), (&manifest, &of));
    assert!(again.resolves(&images[0]).unwrap());
    assert_eq!(again.info(&manifest.digest).unwrap().labels, of);
    assert_eq!(again.leases().unwrap(), [lease]);
    assert_eq!(again.ingests().unwrap()[0].key, "unfinished");
}

#[test]
fn an_image_needs_its_target() {
    let (_directory, store) = temporary();
    let (manifest, _) = put_image(&store, "a");
    let absent = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"absent"), 6);
    let error = store.set_images(&["a".into()], &absent, &Labels::new()).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(matches!(store.image("a"), Err(Error::NoImage { .. })));
    store.set_images(&["a".into()], &manifest, &Labels::new()).unwrap();
    store.remove_image("a").unwrap();
    assert!(matches!(store.remove_image("a"), Err(Error::NoImage { .. })));
}

#[test]
fn what_an_image_refers_to_is_kept() {
    let (_directory, store) = temporary();
    let (manifest, blobs) = put_image(&store, "a");
    let (_, others) = put_image(&store, "b");
    let (nested, below) = put_image(&store, "c");
    let index = Index::new(vec![nested]).into_bytes();
    let index = write(&store, MediaType::OCI_INDEX, &index).unwrap();
    let outer = Index::new(vec![index.clone()]).into_bytes();
    let outer = write(&store, MediaType::OCI_INDEX, &outer).unwrap();
    store.set_images(&["a".into()], &manifest, &Labels::new()).unwrap();
    store.set_images(&["c".into()], &outer, &Labels::new()).unwrap();

    assert_eq!(collect(&store), others);
    let mut kept = &blobs | &below;
    kept.extend([index.digest, outer.digest]);
    assert_eq!(present(&store), kept);
    store.remove_image("c").unwrap();
    collect(&store);
    assert_eq!(present(&store), blobs);
    store.remove_image("a").unwrap();
    assert_eq!(collect(&store), blobs);
    assert!(store.blobs().digests().unwrap().is_empty());
}

#[test]
fn labels_keep_and_refer() {
    let (_directory, store) = temporary();
    let blob = |name: &str, pairs: &[(&str, &str)]| {
        let digest = put(&store, name.as_bytes()).digest;
        store.update(&digest, labels(pairs)).unwrap();
        digest
    };
    let end = blob("end", &[]);
    let slash = blob("slash", &[("containerd.io/gc.ref.content/x", end.as_str())]);
    let dot = blob("dot", &[("containerd.io/gc.ref.content.l.0", slash.as_str())]);
    let absent = Digest::sha256(b"absent");
    let root = blob(
        "root",
        &[
            ("containerd.io/gc.root", "2026-01-01T00:00:00Z"),
            ("containerd.io/gc.ref.content", dot.as_str()),
            ("containerd.io/gc.ref.content.1", absent.as_str()),
            ("containerd.io/gc.ref.content.2", "no digest"),
        ],
    );
    let back = blob("back", &[("containerd.io/gc.bref.content.x", dot.as_str())]);
    let further = blob("further", &[("containerd.io/gc.bref.content", back.as_str())]);
    let dependents = |digest: &Digest| -> Vec<Digest> {
        store.dependents(digest).unwrap().into_iter().map(|info| info.digest).collect()
    };
    assert_eq!(dependents(&dot), std::slice::from_ref(&back));
    assert_eq!(dependents(&back), std::slice::from_ref(&further));
    assert_eq!(dependents(&slash), []);
    let (manifest, image) = put_image(&store, "a");
    store.set_images(&["a".into()], &manifest, &Labels::new()).unwrap();
    let of_image = blob("of image", &[("containerd.io/gc.bref.image", "a")]);
    let lost = [
        blob("empty root", &[("containerd.io/gc.root", "")]),
        blob("other label", &[("containerd.io/gc.ref.contents", "x"), ("key", end.as_str())]),
        blob("of no image", &[("containerd.io/gc.bref.image", "b")]),
        blob("of nothing kept", &[("containerd.io/gc.bref.content", Digest::sha256(b"nothing").as_str())]),
    ];
    assert_eq!(collect(&store), lost.into());
    let mut kept = image;
    kept.extend([end, slash, dot, root.clone(), back, further, of_image.clone()]);
    assert_eq!(present(&store), kept);
    store.update(&root, Labels::new()).unwrap();
    assert_eq!(collect(&store).len(), 6);
    store.remove_image("a").unwrap();
    assert_eq!(collect(&store).len(), 5);
}

#[test]
fn a_lease_keeps_until_it_ends() {
    let (_directory, store) = temporary();
    let (_, blobs) = {
        let held = store.hold(Duration::from_secs(60)).unwrap();
        let found = put_image(&held, "a");
        assert_eq!(collect(&store), BTreeSet::new());
        assert_eq!(store.leases().unwrap().len(), 1);
        found
    };
    assert_eq!(store.leases().unwrap(), []);
    assert_eq!(collect(&store), blobs);

    let past = now() - Duration::from_secs(60);
    let future = now() + Duration::from_secs(60);
    for (expires, flat, gone) in [
        (None, false, 0),
        (Some(future), false, 0),
        (Some(past), false, 4),
        // The manifest alone.
        (None, true, 3),
    ] {
        let of = if flat { labels(&[("containerd.io/gc.flat", "yes")]) } else { Labels::new() };
        store.create_lease("lease", expires, of).unwrap();
        let again = store.create_lease("lease", None, Labels::new());
        assert!(matches!(again, Err(Error::LeaseExists { .. })));
        let (manifest, _) = put_image(&store, "a");
        // What is found counts as well as what is written.
        store.under_lease("lease").info(&manifest.digest).unwrap();
        assert_eq!(store.leased("lease").unwrap(), [manifest.digest]);
        assert_eq!(collect(&store).len(), gone, "{expires:?} {flat}");
        assert_eq!(store.leases().unwrap().is_empty(), expires == Some(past));
        let _ = store.delete_lease("lease");
        collect(&store);
    }
    let error = put_under(&store, "no lease").unwrap_err();
    assert!(matches!(error, Error::NoLease { .. }), "{error}");
    assert!(matches!(store.delete_lease("no lease"), Err(Error::NoLease { .. })));
}

#[test]
fn a_lease_lives_as_long_as_its_holder_whatever_the_clock_says() {
    let (_directory, store) = temporary();
    let held = store.hold(Duration::from_secs(60 * 60)).unwrap();
    let blob = put(&held, b"content");
    let set_labels = |labels: &Labels| {
        store.database.change("test", |transaction| {
            let statement = "UPDATE lease SET labels = ?1";
            transaction.execute(statement, [database::to_json(labels)]).unwrap();
            Ok(())
        })
    };
    let lease = store.leases().unwrap().remove(0);
    let end = lease.expires().unwrap();
    // The clock jumps: to everybody, the lease seems to have ended.
    let ended = labels(&[(leases::EXPIRE, "2001-01-01T00:00:00Z")]);
    set_labels(&ended).unwrap();
    let told = store.collect(&Collection { dry_run: true, ..Collection::default() }).unwrap();
    assert_eq!((told.blobs, told.leases), (Vec::new(), Vec::new()));
    assert_eq!(store.leases().unwrap()[0].labels, ended);
    let created = now() - Duration::from_secs(90 * 60);
    store
        .database
        .change("test", |transaction| {
            let values = params![database::nanoseconds(created)];
            transaction.execute("UPDATE lease SET created = ?1", values).unwrap();
            Ok(())
        })
        .unwrap();
    let past = labels(&[(leases::EXPIRE, &Timestamp::from(end - Duration::from_secs(90 * 60)).to_string())]);
    set_labels(&past).unwrap();
    assert!(collect(&store).is_empty());
    // It lasts as long again as it was made for.
    let renewed = store.leases().unwrap().remove(0).expires().unwrap();
    assert!(renewed >= end - Duration::from_secs(1) && renewed > now(), "{renewed:?}");
    assert_eq!(store.leased(&lease.id).unwrap(), [blob.digest]);
    // Its program is killed: nobody holds it.
    std::mem::forget(held);
    set_labels(&ended).unwrap();
    fs::remove_dir_all(store.root().join("leases")).unwrap();
    let collected = store.collect(&Collection::default()).unwrap();
    assert_eq!((collected.blobs.len(), collected.leases.len()), (1, 1));
}

#[test]
fn a_store_that_many_make_at_once_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let root = directory.path().join(round.to_string());
        std::thread::scope(|scope| {
            for number in 0..10 {
                let root = &root;
                scope.spawn(move || put(&open(root), format!("content {number}").as_bytes()));
            }
        });
        assert_eq!(present(&open(&root)).len(), 10);
    }
}

fn put_under(store: &MetadataStore, lease: &str) -> Result<Descriptor> {
    write(&store.under_lease(lease), MediaType::OCI_LAYER, b"content")
}

#[test]
fn an_image_may_expire() {
    let (_directory, store) = temporary();
    let (manifest, _) = put_image(&store, "a");
    let mut of = Labels::new();
    // A time to containerd and nobody else, or to others and not to containerd.
    for (text, expired) in [
        ("not a time", false),
        ("2001-01-01t00:00:00z", false),
        ("2001-01-01 00:00:00Z", false),
        ("2001-02-29T00:00:00Z", false),
        ("2001-01-01T00:00:60Z", false),
        ("2001-01-01T0:00:00,5+24:00", true),
        ("2001-01-01T00:00:00Z", true),
    ] {
        of.insert(leases::EXPIRE.into(), text.into());
        store.set_images(&["a".into()], &manifest, &of).unwrap();
        let told = store.collect(&Collection { dry_run: true, ..Collection::default() }).unwrap();
        assert_eq!(told.images.len(), usize::from(expired), "{text}");
        assert_eq!(told.blobs.is_empty(), !expired, "{text}");
    }
    store.set_images(&["b".into()], &manifest, &of).unwrap();
    let told = store.collect(&Collection { dry_run: true, ..Collection::default() }).unwrap();
    assert_eq!(told.images, ["default/a", "default/b"]);
    assert_eq!(collect(&store).len(), 4);
    // A name that stands for nothing would only be in the way.
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn a_name_keeps_its_labels_and_is_found_by_the_annotations_of_its_target() {
    let (_directory, store) = temporary();
    let (mut manifest, _) = put_image(&store, "a");
    manifest.annotations.insert("org.example.key".into(), "value".into());
    let name = ["a".to_owned()];
    store.set_images(&name, &manifest, &labels(&[("kept", "it's"), ("changed", "1")])).unwrap();
    store.set_images(&name, &manifest, &labels(&[("changed", "\"2\""), ("new", "")])).unwrap();
    store.set_images(&name, &manifest, &Labels::new()).unwrap();
    let image = store.image("a").unwrap();
    assert_eq!(image.labels, labels(&[("kept", "it's"), ("changed", "\"2\""), ("new", "")]));
    for (filter, expected) in [
        ("annotations.org.example.key==value", true),
        ("annotations.org.example.key==other", false),
        ("annotations.kept", false),
        ("labels.kept", true),
    ] {
        assert_eq!(crate::Filter::parse([filter]).unwrap().matches(&image), expected, "{filter}");
    }
}

#[test]
fn a_namespace_has_a_name_that_containerd_takes() {
    let (_directory, store) = temporary();
    let long = "x".repeat(76);
    for name in ["default", "k8s.io", "A", "0", "a-b_c.d", &long] {
        assert_eq!(&*store.namespace(name, Sharing::Shared).unwrap().namespace, name);
    }
    let longer = "x".repeat(77);
    for name in ["", "a/b", ".", "..", "-a", "a-", "a--b", "a.-b", "a b", "ä", "a\0", &longer] {
        let error = store.namespace(name, Sharing::Shared).map(drop).unwrap_err();
        assert!(matches!(&error, Error::InvalidNamespace { name: found } if found == name), "{error}");
    }
}

#[test]
fn a_manifest_that_cannot_be_read_stops_the_collection() {
    let (_directory, store) = temporary();
    let (manifest, blobs) = put_image(&store, "a");
    store.set_images(&["a".into()], &manifest, &Labels::new()).unwrap();
    let path = store.blobs().path(&manifest.digest);
    let bytes = fs::read(&path).unwrap();
    for damage in [&b"{"[..], &bytes[1..], &bytes[..bytes.len() - 1], b""] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        let error = store.collect(&Collection::default()).unwrap_err();
        assert!(matches!(&error, Error::Unreadable { digest, .. } if *digest == manifest.digest), "{error}");
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    assert_eq!(present(&store), blobs);
    // One that is not there at all refers to nothing.
    fs::remove_file(&path).unwrap();
    assert_eq!(store.collect(&Collection::default()).unwrap().blobs.len(), 3);
    assert!(!store.resolves(&store.image("a").unwrap()).unwrap());
}

#[test]
fn namespaces_keep_for_themselves_and_share_files() {
    let (_directory, store) = temporary();
    let other = store.namespace("other", Sharing::Shared).unwrap();
    let (manifest, blobs) = put_image(&store, "a");
    put_image(&other, "a");
    other.set_images(&["a".into()], &manifest, &Labels::new()).unwrap();
    assert!(store.images().unwrap().is_empty());
    let done = store.collect(&Collection::default()).unwrap();
    assert_eq!((done.blobs.len(), done.kept), (0, 4));
    assert_eq!((present(&store), present(&other)), (BTreeSet::new(), blobs));
}

#[test]
fn ingests_are_kept_while_they_are_held_or_young() {
    let (_directory, store) = temporary();
    let held = store.ingest("held").unwrap();
    drop(store.ingest("young").unwrap());
    let none = Collection { ingest_age: Duration::ZERO, ..Collection::default() };
    assert!(store.collect(&Collection::default()).unwrap().ingests.is_empty());
    let told = store.collect(&Collection { dry_run: true, ..none.clone() }).unwrap().ingests;
    assert_eq!(told, ["default/young"]);
    assert_eq!(store.collect(&none).unwrap().ingests, ["default/young"]);
    drop(held);
    assert_eq!(store.collect(&none).unwrap().ingests, ["default/held"]);
    assert!(store.ingests().unwrap().is_empty());
    // What a writer left that died between its first steps goes too, some time.
    let ingests = store.root().join("ingest");
    fs::create_dir_all(ingests.join("empty")).unwrap();
    fs::create_dir_all(ingests.join("half")).unwrap();
    fs::write(ingests.join("half/data"), b"x").unwrap();
    fs::write(ingests.join("half/ref"), b"").unwrap();
    store.collect(&Collection::default()).unwrap();
    assert!(ingests.join("empty").exists() && ingests.join("half").exists());
    store.collect(&none).unwrap();
    assert!(!ingests.join("empty").exists() && !ingests.join("half").exists());
}

#[test]
fn an_ingest_that_cannot_be_removed_is_told_of_and_ends_nothing() {
    let (_directory, store) = temporary();
    let none = Collection { ingest_age: Duration::ZERO, ..Collection::default() };
    let digest = put(&store, b"content").digest;
    for key in ["a", "b", "c"] {
        drop(store.ingest(key).unwrap());
    }
    let ingests = store.root().join("ingest");
    let path = |key: &str| ingests.join(Digest::sha256(format!("default/{key}").as_bytes()).encoded());
    fs::create_dir(path("b").join("total")).unwrap();
    // What lies behind a link is none of ours, whatever its name.
    let victim = store.root().with_file_name("victim");
    fs::create_dir(&victim).unwrap();
    for name in ["data", "total", "ref", "precious"] {
        fs::write(victim.join(name), b"").unwrap();
    }
    std::os::unix::fs::symlink(&victim, ingests.join("link")).unwrap();

    let collected = store.collect(&none).unwrap();
    assert_eq!(collected.blobs, [(digest, 7)]);
    assert_eq!(collected.ingests, ["default/a", "default/c"]);
    assert_eq!(collected.problems.len(), 1);
    assert!(collected.problems[0].contains("total"), "{collected:?}");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 4);
}

/// A way to lose a file, and its name.
type Loss<'a> = (&'static str, &'a dyn Fn(&Path));

#[test]
fn a_lost_database_is_made_again_from_the_blobs() {
    let losses: [Loss<'_>; 4] = [
        ("removed", &|path| fs::remove_file(path).unwrap()),
        ("empty", &|path| fs::write(path, b"").unwrap()),
        ("no database", &|path| fs::write(path, [b'x'; 5000]).unwrap()),
        ("zeroed", &|path| fs::write(path, [0; 4096]).unwrap()),
    ];
    for (loss, lose) in losses {
        let (_directory, store) = temporary();
        let (manifest, blobs) = put_image(&store, "a");
        let (_, nested) = {
            let (nested, below) = put_image(&store, "b");
            let index = write(&store, MediaType::OCI_INDEX, &Index::new(vec![nested]).into_bytes()).unwrap();
            store.set_images(&["b".into()], &index, &Labels::new()).unwrap();
            (index, below)
        };
        store.set_images(&["a".into()], &manifest, &Labels::new()).unwrap();
        let before = present(&store);
        let root = store.root().to_owned();
        drop(store);
        for companion in ["-wal", "-shm"] {
            let _ = fs::remove_file(root.join(format!("{DATABASE}{companion}")));
        }
        lose(&root.join(DATABASE));

        let (store, rebuilt) = MetadataStore::create(&root, &Limits::default()).unwrap();
        let rebuilt = rebuilt.unwrap_or_else(|| panic!("{loss}"));
        assert_eq!((rebuilt.blobs, rebuilt.images.len()), (9, 2), "{loss}");
        let names: Vec<_> = store.images().unwrap().into_iter().map(|image| image.name).collect();
        assert_eq!(names, rebuilt.images);
        assert!(names.contains(&format!("recovered@{}", manifest.digest)));
        assert!(collect(&store).is_empty());
        assert_eq!(present(&store), before);
        assert!(before.is_superset(&blobs) && before.is_superset(&nested));
        assert_eq!(MetadataStore::create(&root, &Limits::default()).unwrap().1, None);
    }
}

/// What kept it may have been a label or a lease.
#[test]
fn a_blob_that_nothing_refers_to_survives_the_loss_of_the_database() {
    let (_directory, store) = temporary();
    let (manifest, blobs) = put_image(&store, "a");
    let other = put(&store, b"other").digest;
    let root = store.root().to_owned();
    drop(store);
    fs::remove_file(root.join(DATABASE)).unwrap();
    let (store, rebuilt) = MetadataStore::create(&root, &Limits::default()).unwrap();
    let rebuilt = rebuilt.unwrap();
    assert_eq!((rebuilt.blobs, rebuilt.images.len(), rebuilt.roots), (5, 1, 1));
    assert_eq!(store.info(&other).unwrap().labels, labels(&[(collect::ROOT, "recovered")]));
    assert!(collect(&store).is_empty());
    // The image goes as a whole when its name does.
    store.remove_image(&format!("recovered@{}", manifest.digest)).unwrap();
    assert_eq!(collect(&store), blobs);
    assert_eq!(present(&store), [other].into());
}

#[test]
fn a_database_that_turns_out_to_be_damaged_is_made_again_by_the_next_one() {
    let (_directory, store) = temporary();
    for number in 0..100 {
        put(&store, format!("{number}").as_bytes());
    }
    let before = present(&store);
    let root = store.root().to_owned();
    drop(store);
    let path = root.join(DATABASE);
    let mut bytes = fs::read(&path).unwrap();
    // All but the page that is read when it is opened.
    bytes[4096..].fill(0xff);
    fs::write(&path, bytes).unwrap();

    let (store, rebuilt) = MetadataStore::create(&root, &Limits::default()).unwrap();
    assert_eq!(rebuilt, None);
    let error = store.images().unwrap_err();
    assert!(error.is_damage(), "{error}");
    drop(store);
    let (store, rebuilt) = MetadataStore::create(&root, &Limits::default()).unwrap();
    assert_eq!(rebuilt.unwrap().blobs, 100);
    assert_eq!(present(&store), before);
    assert!(root.join("metadata.db.damaged").exists());

    // An alarm that was false costs nothing.
    fs::write(root.join("metadata.suspect"), b"").unwrap();
    let (store, rebuilt) = MetadataStore::create(&root, &Limits::default()).unwrap();
    assert_eq!((rebuilt, present(&store)), (None, before));
    assert!(!root.join("metadata.suspect").exists());
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir_all(path("a/io.containerd.content.v1.content/blobs/sha256")).unwrap();
    fs::create_dir_all(path("b/moved/blobs")).unwrap();
    fs::create_dir_all(path("b/io.containerd.metadata.v1.bolt")).unwrap();
    std::os::unix::fs::symlink("a/io.containerd.content.v1.content", path("link")).unwrap();
    fs::create_dir_all(path("layout/blobs")).unwrap();
    fs::write(path("layout/oci-layout"), "{}").unwrap();
    for root in ["a/io.containerd.content.v1.content", "b/moved", "link", "layout"] {
        let error = MetadataStore::create(&path(root), &Limits::default()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert!(!path(root).join(DATABASE).exists() && !path(root).join("lock").exists());
    }
}

#[test]
fn tables_of_a_later_version_are_left_alone() {
    let (_directory, store) = temporary();
    put(&store, b"content");
    store
        .database
        .read("set the version", |connection| connection.pragma_update(None, "user_version", 99))
        .unwrap();
    let error = MetadataStore::create(store.root(), &Limits::default()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Metadata { .. }), "{error}");
}

/// A row comes first; where the process dies before the file, there is no blob, and no trace of its labels later.
#[test]
fn a_row_without_a_file_is_no_blob() {
    let (_directory, store) = temporary();
    let descriptor = put(&store, b"content");
    store.update(&descriptor.digest, labels(&[("containerd.io/gc.root", "yes")])).unwrap();
    fs::remove_file(store.blobs().path(&descriptor.digest)).unwrap();
    assert!(store.info(&descriptor.digest).unwrap_err().is_not_found());
    assert!(store.update(&descriptor.digest, Labels::new()).unwrap_err().is_not_found());
    assert!(store.open(&descriptor).map(drop).unwrap_err().is_not_found());
    assert!(present(&store).is_empty());
    put(&store, b"content");
    assert_eq!(store.info(&descriptor.digest).unwrap().labels, Labels::new());
}

/// Collectors and writers at once: what is under a lease when it is named stays, whatever interleaves.
#[test]
fn collections_never_take_what_a_writer_holds() {
    let (_directory, store) = temporary();
    let root = store.root();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|thread| {
                scope.spawn(move || {
                    // As another process would.
                    let store = open(root);
                    for round in 0..8 {
                        let held = store.hold(Duration::from_secs(600)).unwrap();
                        // Half of the images are the same ones for all.
                        let name =
                            if round % 2 == 0 { format!("{round}") } else { format!("{thread}-{round}") };
                        let (manifest, blobs) = put_image(&held, &name);
                        held.set_images(&[name], &manifest, &Labels::new()).unwrap();
                        drop(held);
                        for digest in blobs {
                            store.info(&digest).unwrap();
                        }
                    }
                })
            })
            .collect();
        let collector = open(root);
        while writers.iter().any(|writer| !writer.is_finished()) {
            collector.collect(&Collection::default()).unwrap();
        }
    });
    assert_eq!(present(&store).len(), 4 * (4 + 3 * 4));
    for image in store.images().unwrap() {
        assert!(store.resolves(&image).unwrap());
    }
}

#[test]
fn a_copy_out_of_the_store_is_verified() {
    let (_directory, store) = temporary();
    let descriptor = put(&store, b"content");
    let other = crate::MemoryStore::new();
    copy(&store, &other, &descriptor).unwrap();
    assert_eq!(read(&other, &descriptor, 7).unwrap(), b"content");
    let path = store.blobs().path(&descriptor.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"conTent").unwrap();
    assert!(matches!(copy(&store, &crate::MemoryStore::new(), &descriptor), Err(Error::Mismatch { .. })));
}
