use super::*;
use crate::Selector;
use restow_content::Blob;
use restow_content::LocalStore;
use restow_content::Manager;
use restow_content::MemoryStore;
use restow_content::Store;
use restow_content::read;
use restow_oci::Limits;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

fn layer(content: &str) -> Layer {
    Layer::gzip(TarBuilder::new().file("file", content).finish())
}

fn image(content: &str) -> Image {
    ImageBuilder::new().layer(layer("base")).layer(layer(content)).build()
}

fn store(image: &Image) -> MemoryStore {
    let store = MemoryStore::new();
    for (digest, bytes) in &image.blobs {
        // Not checked: some images are wrong on purpose.
        let descriptor = Descriptor::new(image.root.media_type.clone(), digest.clone(), bytes.len() as u64);
        restow_content::write(&store, descriptor.media_type, bytes).unwrap();
    }
    store
}

fn layout(directory: &Path) -> Layout {
    Layout::create(&directory.join("layout"), &Limits::default()).unwrap()
}

fn tags(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|tag| (*tag).to_owned()).collect()
}

fn resolve(layout: &Layout, tag: &str) -> Descriptor {
    layout.resolve(&Selector::Tag(tag.into())).unwrap()
}

/// Reads all of an image, verified.
fn check(layout: &Layout, root: &Descriptor) {
    let graph = graph::walk(layout.store(), root, &layout.limits).unwrap();
    assert!(graph.missing.is_empty());
    for blob in graph.documents.iter().chain(&graph.leaves) {
        read(layout.store(), blob, u64::MAX).unwrap();
    }
}

#[test]
fn an_image_is_published_whole_under_all_its_tags() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let index = IndexBuilder::new().image(&image("one")).image(&image("two")).build();
    let notices = layout.publish(&store(&index), &index.root, &tags(&["v1", "latest"])).unwrap();
    assert!(notices.is_empty());
    assert_eq!(layout.tags().unwrap(), ["v1", "latest"]);
    for tag in ["v1", "latest"] {
        assert_eq!(resolve(&layout, tag).digest, index.root.digest);
    }
    check(&layout, &index.root);
    let distinct: BTreeSet<_> = index.blobs.iter().map(|(digest, _)| digest).collect();
    assert_eq!(blobs(layout.store()), distinct.len());
    let names = ["blobs", "index.json", "oci-layout"];
    assert_eq!(fs::read_dir(layout.path()).unwrap().count(), names.len());
}

fn blobs(store: &dyn Store) -> usize {
    let mut count = 0;
    store
        .walk(&mut |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
    count
}

#[test]
fn an_image_without_a_tag_is_the_only_one() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let image = image("one");
    for _ in 0..2 {
        layout.publish(&store(&image), &image.root, &[]).unwrap();
        assert_eq!(layout.resolve(&Selector::Only).unwrap(), image.root);
    }
    assert!(layout.tags().unwrap().is_empty());
}

#[test]
fn publishing_again_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let image = image("one");
    layout.publish(&store(&image), &image.root, &tags(&["v1"])).unwrap();
    let state = || {
        let blob = fs::metadata(layout.store().path(&image.root.digest)).unwrap().modified().unwrap();
        (blob, fs::metadata(layout.path().join("index.json")).unwrap().modified().unwrap())
    };
    let before = state();
    // The source may be without what the layout has.
    layout.publish(&MemoryStore::new(), &image.root, &tags(&["v1"])).unwrap();
    assert_eq!(state(), before);
}

#[test]
fn other_entries_keep_their_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let (old, new) = (image("old"), image("new"));
    layout.publish(&store(&old), &old.root, &tags(&["a", "b", "c"])).unwrap();
    let path = layout.path().join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(r#""a"}}"#, r#""a"},"x-unknown":{"z":1,"y":[null,1.5]}}"#);
    fs::write(&path, &text).unwrap();

    layout.publish(&store(&new), &new.root, &tags(&["b"])).unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert_ne!(after, text);
    let (start, rest) = text.split_at(text.match_indices(old.root.digest.as_str()).nth(1).unwrap().0);
    let end = &rest[rest.find(r#""annotations""#).unwrap()..];
    assert!(after.starts_with(start) && after.ends_with(end), "{text}\n{after}");
    assert_eq!(resolve(&layout, "a").digest, old.root.digest);
    assert_eq!(resolve(&layout, "b").digest, new.root.digest);
}

#[test]
fn publishers_at_the_same_time_all_succeed() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let images: Vec<_> = (0..8).map(|number| image(&format!("image {number}"))).collect();
    std::thread::scope(|scope| {
        for (number, image) in images.iter().enumerate() {
            // Each with a handle of its own, as another process would have.
            let path = layout.path();
            scope.spawn(move || {
                let layout = Layout::open(path, &Limits::default()).unwrap();
                layout.publish(&store(image), &image.root, &[format!("v{number}")]).unwrap();
            });
        }
    });
    assert_eq!(layout.tags().unwrap().len(), 8);
    for (number, image) in images.iter().enumerate() {
        let root = resolve(&layout, &format!("v{number}"));
        assert_eq!(root.digest, image.root.digest);
        check(&layout, &root);
    }
    assert!(!layout.path().join("ingest").exists());
}

/// A store whose reads fail after a number of bytes, as at the end of a process.
struct Dying<'a> {
    store: &'a MemoryStore,
    left: &'a AtomicUsize,
}

struct DyingBlob {
    blob: Box<dyn Blob>,
    fatal: bool,
}

impl Provider for Dying<'_> {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        Ok(Box::new(DyingBlob { blob: self.store.open(descriptor)?, fatal: left.is_err() }))
    }
}

impl Blob for DyingBlob {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.fatal && offset > 0 {
            return Err(io::Error::other("killed"));
        }
        // A byte at a time, so that blobs are left in their middle.
        let length = buffer.len().min(1);
        self.blob.read_at(&mut buffer[..length], offset)
    }
}

#[test]
fn a_publication_that_dies_leaves_the_old_image_and_can_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let (old, new) = (image("old"), image("new"));
    layout.publish(&store(&old), &old.root, &tags(&["v1"])).unwrap();
    let index = fs::read(layout.path().join("index.json")).unwrap();
    let source = store(&new);
    let mut deaths = 0;
    for reads in 0.. {
        let left = AtomicUsize::new(reads);
        match layout.publish(&Dying { store: &source, left: &left }, &new.root, &tags(&["v1"])) {
            Err(error) => {
                assert!(matches!(error, Error::Content(_)), "{error}");
                assert_eq!(fs::read(layout.path().join("index.json")).unwrap(), index);
                check(&layout, &old.root);
                deaths += 1;
            }
            Ok(_) => break,
        }
    }
    assert!(deaths >= 3, "{deaths}");
    check(&layout, &resolve(&layout, "v1"));
    assert_eq!(resolve(&layout, "v1").digest, new.root.digest);
    assert!(!layout.path().join("ingest").exists());
}

#[test]
fn what_a_killed_publisher_leaves_is_in_nobodys_way() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let image = image("one");
    fs::write(layout.path().join(".index.json.draft"), b"{\"schemaVersion\":2,\"manif").unwrap();
    let key = format!("copy-{}", image.root.digest);
    let left =
        layout.store().root().join("ingest").join(restow_oci::Digest::sha256(key.as_bytes()).encoded());
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("ref"), &key).unwrap();
    fs::write(left.join("data"), b"\0\0\0\0").unwrap();

    assert!(Layout::open(layout.path(), &Limits::default()).unwrap().tags().unwrap().is_empty());
    layout.publish(&store(&image), &image.root, &tags(&["v1"])).unwrap();
    check(&layout, &image.root);
    assert!(!layout.path().join(".index.json.draft").exists());
    assert!(!layout.path().join("ingest").exists());
}

#[test]
fn missing_blobs_are_all_named_and_nothing_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let (one, two) = (image("one"), image("two"));
    let index = IndexBuilder::new().image(&one).image(&two).build();
    let source = store(&index);
    let layer = &one.document()["layers"][1]["digest"];
    let layer = restow_oci::Digest::parse(layer.as_str().unwrap()).unwrap();
    source.remove(&layer).unwrap();
    source.remove(&two.root.digest).unwrap();
    let error = layout.publish(&source, &index.root, &tags(&["v1"])).unwrap_err();
    let Error::MissingBlobs { root, missing } = error else { panic!("{error}") };
    assert_eq!(root, index.root.digest);
    assert_eq!(BTreeSet::from_iter(missing), BTreeSet::from([layer, two.root.digest]));
    assert!(layout.tags().unwrap().is_empty());
}

#[test]
fn blobs_that_may_be_absent_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let image = ImageBuilder::new()
        .layer(layer("here").media_type(foreign))
        .layer(layer("kept back").media_type(foreign).missing())
        .layer(layer("elsewhere").field("urls", serde_json::json!(["https://example.org/"])).missing())
        .build();
    let notices = layout.publish(&store(&image), &image.root, &tags(&["v1"])).unwrap();
    let [Notice::NotCopied { descriptor: first }, Notice::NotCopied { descriptor: second }] =
        notices.as_slice()
    else {
        panic!("{notices:?}")
    };
    let digest =
        |position: usize| image.document()["layers"][position]["digest"].as_str().unwrap().to_owned();
    assert_eq!((first.digest.as_str(), second.digest.as_str()), (&*digest(1), &*digest(2)));
    assert_eq!(blobs(layout.store()), 3);
}

#[test]
fn a_blob_that_is_not_what_it_should_be_stops_the_publication() {
    let good = layer("good");
    let cases = [
        ("other bytes", good.clone().stored(b"other")),
        ("another size", good.clone().size(7)),
        ("another digest", good.clone().digest(restow_oci::Digest::sha256(b"x"))),
        ("an unknown algorithm", good.clone().digest("blake3:abc")),
    ];
    for (case, layer) in cases {
        let directory = tempfile::tempdir().unwrap();
        let image = ImageBuilder::new().layer(layer).build();
        image.write_layout(&directory.path().join("source"), "v1").unwrap();
        let source = LocalStore::open(&directory.path().join("source")).unwrap();
        let layout = layout(directory.path());
        let error = layout.publish(&source, &image.root, &tags(&["v1"])).unwrap_err();
        assert!(matches!(error, Error::Content(_)), "{case}: {error}");
        assert!(layout.tags().unwrap().is_empty(), "{case}");
        assert!(layout.store().info(&image.root.digest).is_err(), "{case}");
        assert!(!layout.path().join("ingest").exists(), "{case}");
    }
}

#[test]
fn a_tag_that_no_index_may_hold_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let image = image("one");
    let result = layout.publish(&store(&image), &image.root, &tags(&["v1", "a b"]));
    assert!(matches!(result, Err(Error::InvalidTag { .. })));
    assert_eq!(blobs(layout.store()), 0);
}

#[test]
fn images_that_belong_together_appear_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let layout = layout(directory.path());
    let (one, other) = (image("one"), image("other"));
    let source = store(&one);
    let (first, second) = (tags(&["a", "b"]), tags(&["c"]));
    let pair: [(&Descriptor, &[String]); 2] = [(&one.root, &first), (&other.root, &second)];
    assert!(matches!(layout.publish_all(&source, &pair), Err(Error::MissingBlobs { .. })));
    assert_eq!(layout.tags().unwrap(), Vec::<String>::new());
    for (_, bytes) in &other.blobs {
        restow_content::write(&source, other.root.media_type.clone(), bytes).unwrap();
    }
    layout.publish_all(&source, &pair).unwrap();
    assert_eq!(layout.tags().unwrap(), ["a", "b", "c"]);
    check(&layout, &resolve(&layout, "b"));
    check(&layout, &resolve(&layout, "c"));
}
