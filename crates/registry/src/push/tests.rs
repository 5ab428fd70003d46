use restow_content::MemoryStore;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::Registry;
use restow_testkit::registry::Answer;

use super::*;
use crate::Destination;
use crate::RemoteDestination;
use crate::Scratch;
use crate::Settings;

mod pairs;

/// An image of layers of these sizes.
fn image(seed: u64, sizes: &[usize]) -> Image {
    let layer = |(place, size): (usize, &usize)| {
        Layer::plain(restow_testkit::Random::new(seed + place as u64).bytes(*size))
    };
    sizes.iter().enumerate().map(layer).fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

fn store(image: &Image) -> MemoryStore {
    let store = MemoryStore::new();
    for (_, bytes) in &image.blobs {
        restow_content::write(&store, MediaType::OCI_LAYER, bytes).unwrap();
    }
    store
}

fn push_as(client: &Client, registry: &Registry, image: &Image, tags: &[&str]) -> Result<Vec<Notice>> {
    let repository = Name::parse(&registry.name("a")).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let destination = RemoteDestination::new(client, &repository, &[], &Scratch::new(scratch.path()))?;
    let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
    (&destination as &dyn Destination).publish(&store(image), &image.root, &tags)
}

fn push(registry: &Registry, image: &Image, tags: &[&str]) -> Result<Vec<Notice>> {
    push_as(&Client::new(Settings::default()).unwrap(), registry, image, tags)
}

/// Counts the lines that start with each word.
fn count(registry: &Registry) -> [usize; 5] {
    let lines = registry.take_lines();
    ["HEAD", "GET", "POST", "PATCH", "PUT"]
        .map(|word| lines.iter().filter(|line| line.starts_with(word)).count())
}

#[test]
fn the_first_push_sends_what_is_missing_and_the_second_looks() {
    let registry = Registry::start();
    let image = image(1, &[1000, 100_000, 200_000]);
    let client = Client::new(Settings::default()).unwrap();
    push_as(&client, &registry, &image, &["v1"]).unwrap();
    assert_eq!(registry.manifest("a", "v1").as_deref(), Some(image.root_bytes()));
    // A look at the tag and at each blob; four uploads; the manifest.
    assert_eq!(count(&registry), [5, 0, 4, 0, 5]);
    push(&registry, &image, &["v1"]).unwrap();
    assert_eq!(count(&registry), [1, 0, 0, 0, 0]);
    // In the same run, all is known to be there; in another one, it is looked at.
    push_as(&client, &registry, &image, &["v2"]).unwrap();
    assert_eq!(count(&registry), [1, 0, 0, 0, 1]);
    push(&registry, &image, &["v3"]).unwrap();
    assert_eq!(count(&registry), [5, 0, 0, 0, 1]);
    // By its digest alone it may be what a killed push has left.
    push(&registry, &image, &[]).unwrap();
    assert_eq!(count(&registry), [5, 0, 0, 0, 0]);
}

#[test]
fn a_manifest_of_an_index_costs_a_put_where_the_registry_is_known_to_look_for_blobs() {
    let registry = Registry::start();
    let images: Vec<_> = (0..12).map(|seed| image(100 * seed, &[1000])).collect();
    let index_of = |images: &[&Image]| {
        images.iter().fold(IndexBuilder::new(), |index, image| index.image(image)).build()
    };
    let all = index_of(&images.iter().collect::<Vec<_>>());
    registry.put("a", "v1", &all);
    // Nothing is known: each manifest is put, and its blobs are looked for.
    push(&registry, &all, &["v2"]).unwrap();
    assert_eq!(count(&registry), [1 + 24, 0, 0, 0, 12 + 1]);
    assert_eq!(registry.manifest("a", "v2").as_deref(), Some(all.root_bytes()));

    // One is refused: from then on, what is taken is there. Two requests for each of its blobs.
    let more = image(9999, &[1000]);
    let client = Client::new(Settings::default()).unwrap();
    push_as(&client, &registry, &index_of(&[&more]), &["v3"]).unwrap();
    assert_eq!(count(&registry), [1, 0, 2, 0, 2 + 2 + 1]);
    push_as(&client, &registry, &all, &["v4"]).unwrap();
    assert_eq!(count(&registry), [1, 0, 0, 0, 12 + 1]);
    // An image, too, is put at once.
    let tagged = image(0, &[1000, 1000]);
    registry.put("a", "old", &tagged);
    push_as(&client, &registry, &tagged, &["v5"]).unwrap();
    assert_eq!(count(&registry), [1, 0, 0, 0, 1]);
}

#[test]
fn parts_that_were_lost_are_sent_again_when_asked() {
    let registry = Registry::start();
    let images: Vec<_> = (0..2).map(|seed| image(100 * seed, &[1000])).collect();
    let index = images.iter().fold(IndexBuilder::new(), |index, image| index.image(image)).build();
    registry.put("a", "v1", &index);
    let lost = &images[0].blobs[1].0;
    registry.remove_blob("a", lost);
    let repository = Name::parse(&registry.name("a")).unwrap().repository;
    let repair = |existing: Existing| {
        let client = Client::new(Settings::default()).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let place = RemoteDestination::new(&client, &repository, &[], &Scratch::new(scratch.path())).unwrap();
        let place: &dyn Destination = &place.existing(existing);
        place.publish(&store(&index), &index.root, &["v1".to_owned()]).unwrap();
    };
    repair(Existing::Trust);
    assert_eq!(count(&registry), [1, 0, 0, 0, 0]);
    assert_eq!(registry.missing("a", "v1"), [lost.to_string()]);
    repair(Existing::Repair);
    assert!(registry.missing("a", "v1").is_empty());
    // The tag means it, and is not put again: it might be one that may not be.
    assert!(registry.take_lines().iter().all(|line| line != "PUT /v2/a/manifests/v1"));
}

#[test]
fn a_registry_that_looks_for_no_blobs_gets_them_all_the_same() {
    let registry = Registry::start();
    registry.look_for_no_parts();
    let (one, two) = (image(1, &[1000, 100_000]), image(2, &[2000]));
    push(&registry, &one, &["v1"]).unwrap();
    assert!(registry.missing("a", "v1").is_empty());
    let index = IndexBuilder::new().image(&one).image(&two).build();
    push(&registry, &index, &["v2"]).unwrap();
    assert!(registry.missing("a", "v2").is_empty());
    // A conversion that leaves the config as it was, and has been put there before.
    let tar = restow_testkit::Random::new(3).bytes(3000);
    let (before, after) = (Layer::plain(&tar), Layer::gzip(&tar));
    let [before, after] = [before, after].map(|layer| ImageBuilder::new().layer(layer).build());
    assert_eq!(before.document()["config"], after.document()["config"]);
    push(&registry, &before, &["v1"]).unwrap();
    let client = Client::new(Settings::default()).unwrap();
    let repository = Name::parse(&registry.name("a")).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let place = RemoteDestination::new(&client, &repository, &[], &Scratch::new(scratch.path())).unwrap();
    let place: &dyn Destination = &place;
    for (_, bytes) in &after.blobs {
        restow_content::write(place.store(), MediaType::OCI_LAYER, bytes).unwrap();
    }
    place.publish(&MemoryStore::new(), &after.root, &["v1".to_owned()]).unwrap();
    assert!(registry.missing("a", "v1").is_empty());
    // What is nowhere is not passed over in silence.
    let broken = ImageBuilder::new().layer(Layer::plain("gone").missing()).build();
    let error = push(&registry, &broken, &["v3"]).unwrap_err();
    assert!(matches!(&error, Error::MissingBlobs { .. }), "{error}");
}

#[test]
fn what_one_document_lacks_is_not_missed_by_another() {
    let registry = Registry::start();
    registry.look_for_no_parts();
    let whole = image(1, &[1000]);
    let broken = ImageBuilder::new().layer(Layer::plain("gone").missing()).build();
    // Of a document that is refused for another's parts, nothing would be told.
    let index = IndexBuilder::new().image(&whole).image(&broken).build();
    let error = push(&registry, &index, &["v1"]).unwrap_err();
    let Error::MissingBlobs { root, missing } = &error else { panic!("{error}") };
    assert_eq!((root, missing.as_slice()), (&broken.root.digest, &[Digest::sha256(b"gone")][..]));
}

#[test]
fn a_blob_of_several_images_is_sent_once() {
    let registry = Registry::start();
    let shared = || Layer::plain(restow_testkit::Random::new(5).bytes(100_000));
    let one = ImageBuilder::new().layer(shared()).layer(shared()).build();
    let two = ImageBuilder::new().platform("linux/arm64").layer(shared()).build();
    let index = IndexBuilder::new().image(&one).image(&two).image(&one).build();
    push(&registry, &index, &["v1", "v2"]).unwrap();
    let [head, _, post, ..] = count(&registry);
    // Two tags and a layer are looked at; a layer and two configs are sent.
    assert_eq!((head, post), (3, 3));
    assert_eq!(registry.manifest("a", "v2").as_deref(), Some(index.root_bytes()));
}

#[test]
fn blobs_of_the_same_registry_are_mounted() {
    let registry = Registry::start();
    let image = image(1, &[1000, 100_000]);
    registry.put("other", "v1", &image);
    let client = Client::new(Settings::default()).unwrap();
    let name = |name: &str| Name::parse(&registry.name(name)).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let others = [name("other")];
    let destination =
        RemoteDestination::new(&client, &name("a"), &others, &Scratch::new(scratch.path())).unwrap();
    (&destination as &dyn Destination).publish(&store(&image), &image.root, &["v1".to_owned()]).unwrap();
    assert_eq!(count(&registry), [1, 0, 3, 0, 1]);
    assert_eq!(registry.manifest("a", "v1").as_deref(), Some(image.root_bytes()));
}

#[test]
fn what_is_nowhere_is_named_and_what_may_not_leave_stays() {
    let registry = Registry::start();
    let gone = Layer::plain("gone").missing();
    let broken = ImageBuilder::new().layer(gone).build();
    let error = push(&registry, &broken, &["v1"]).unwrap_err();
    let expected = Digest::sha256(b"gone");
    assert!(matches!(&error, Error::MissingBlobs { missing, .. } if *missing == [expected]), "{error}");
    assert_eq!(registry.manifest("a", "v1"), None);

    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let kept = Layer::blob(foreign, "kept").field("urls", serde_json::json!(["https://example.org/"]));
    let windows = ImageBuilder::new().layer(kept).build();
    let notices = push(&registry, &windows, &["v1"]).unwrap();
    assert!(matches!(notices.as_slice(), [Notice::NotCopied { .. }]), "{notices:?}");
    assert_eq!(registry.blob("a", &Digest::sha256(b"kept")), None);
    assert_eq!(registry.manifest("a", "v1").as_deref(), Some(windows.root_bytes()));
}

#[test]
fn a_refusal_for_another_reason_is_told_as_it_is() {
    for status in [401, 403, 405, 409, 412, 413, 415] {
        let registry = Registry::start();
        registry.intercept(move |request| {
            let is_manifest = request.method == "PUT" && request.path.contains("/manifests/");
            is_manifest.then(|| Answer::error(status, "DENIED"))
        });
        let image = image(1, &[10]);
        for image in [IndexBuilder::new().image(&image).build(), image] {
            let error = push(&registry, &image, &["v1"]).unwrap_err();
            assert!(error.to_string().contains(&format!(": {status}, DENIED")), "{error}");
            // For a manifest of an index that is refused so, no blob is sent.
            let posts = if image.root.media_type.kind() == Kind::Index { 0 } else { 2 };
            let [.., post, _, put] = count(&registry);
            assert_eq!((post, put), (posts, posts + 1));
        }
    }
    // A registry that refuses whatever one does is not asked for ever.
    let registry = Registry::start();
    registry.intercept(|request| {
        (request.method == "PUT" && request.path.contains("/manifests/"))
            .then(|| Answer::error(400, "MANIFEST_INVALID"))
    });
    let error = push(&registry, &image(1, &[10]), &["v1"]).unwrap_err();
    assert!(error.to_string().contains("MANIFEST_INVALID"), "{error}");
}

#[test]
fn a_large_blob_is_sent_as_soon_as_it_is_committed() {
    let registry = Registry::start();
    let client = Client::new(Settings::default()).unwrap();
    let repository = Name::parse(&registry.name("a")).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let destination =
        RemoteDestination::new(&client, &repository, &[], &Scratch::new(scratch.path())).unwrap();
    let image = image(1, &[100_000]);
    let layer = &image.blobs[2].1;
    restow_content::write(destination.store(), MediaType::OCI_LAYER, layer).unwrap();
    // By the time the image is published it is there, or the push waits for it.
    (&destination as &dyn Destination).publish(&store(&image), &image.root, &["v1".to_owned()]).unwrap();
    assert_eq!(registry.blob("a", &Digest::sha256(layer)).as_ref(), Some(layer));
    assert_eq!(count(&registry), [3, 0, 2, 0, 3]);
    drop(destination);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

/// Tells which blobs have come how far.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(&'static str, u64)>>);

impl crate::Observer for Told {
    fn started(&self, blob: &Descriptor) {
        self.0.lock().unwrap().push(("started", blob.size));
    }

    fn advanced(&self, _: &Descriptor, _: u64) {}

    fn finished(&self, blob: &Descriptor, whole: bool) {
        self.0.lock().unwrap().push((if whole { "sent" } else { "broken" }, blob.size));
    }
}

#[test]
fn a_layer_is_sent_while_the_next_one_is_still_fetched() {
    let registry = Registry::start();
    let image = image(1, &[100_000, 5 << 20]);
    registry.put("src", "v1", &image);
    let layers: Vec<_> = image.blobs[2..4].iter().map(|(_, bytes)| bytes.clone()).collect();
    let layers = [100_000, 5 << 20].map(|size| layers.iter().find(|bytes| bytes.len() == size).unwrap());
    let describe =
        |bytes: &[u8]| Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(bytes), bytes.len() as u64);
    // The second layer does not come before the first one has gone.
    registry.hold(&format!("GET /v2/src/blobs/{}", Digest::sha256(layers[1])), "PUT /v2/a/blobs/uploads/");
    // One that waits for ever is given up.
    let client = Client::new(Settings { attempts: 1, ..Settings::default() }).unwrap();
    let name = |name: &str| Name::parse(&registry.name(name)).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let told = std::sync::Arc::new(Told::default());
    let destination = RemoteDestination::new(&client, &name("a"), &[], &Scratch::new(scratch.path()));
    let destination = destination.unwrap().watched(told.clone());
    let source = crate::Remote::new(&client, &name("src"));
    for layer in layers {
        restow_content::copy(&source, destination.store(), &describe(layer)).unwrap();
    }
    (&destination as &dyn Destination).publish(&source, &image.root, &["v1".to_owned()]).unwrap();
    assert_eq!(registry.manifest("a", "v1").as_deref(), Some(image.root_bytes()));
    // The reader of a blob may take a moment longer than who was sent it.
    while told.0.lock().unwrap().len() < 4 {
        std::thread::yield_now();
    }
    let told = told.0.lock().unwrap();
    for size in [100_000, 5 << 20] {
        assert!(told.contains(&("started", size)) && told.contains(&("sent", size)), "{told:?}");
    }
    assert_eq!(told.len(), 4, "configs are not told of: {told:?}");
}

#[test]
fn a_refused_upload_ends_the_work_at_the_next_commit() {
    let registry = Registry::start();
    registry.intercept(|request| (request.method == "POST").then(|| Answer::error(403, "DENIED")));
    let client = Client::new(Settings::default()).unwrap();
    let repository = Name::parse(&registry.name("a")).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let destination =
        RemoteDestination::new(&client, &repository, &[], &Scratch::new(scratch.path())).unwrap();
    let write = |seed: u64| {
        let bytes = restow_testkit::Random::new(seed).bytes(100_000);
        restow_content::write(destination.store(), MediaType::OCI_LAYER, &bytes).map(drop)
    };
    write(0).unwrap();
    let failed = (1..).find_map(|seed| write(seed).err()).unwrap();
    let error = crate::client::chain(&failed);
    assert!(error.contains("cannot write to") && error.contains("403, DENIED"), "{error}");
    // And all that come after it.
    assert!(crate::client::chain(&write(u64::MAX).unwrap_err()).contains("403, DENIED"));
}

#[test]
fn no_more_than_four_blobs_are_sent_ahead_at_a_time() {
    let registry = Registry::start();
    let client = Client::new(Settings::default()).unwrap();
    let repository = Name::parse(&registry.name("a")).unwrap().repository;
    let scratch = tempfile::tempdir().unwrap();
    let destination =
        RemoteDestination::new(&client, &repository, &[], &Scratch::new(scratch.path())).unwrap();
    registry.hold("POST", "GET /v2/go");
    let write = |seed: u64| {
        let bytes = restow_testkit::Random::new(seed).bytes(100_000);
        restow_content::write(destination.store(), MediaType::OCI_LAYER, &bytes).unwrap();
        Digest::sha256(&bytes)
    };
    let blobs: Vec<_> = (0..12).map(write).collect();
    let waiting = || registry.requests().iter().filter(|request| request.method == "POST").count();
    while waiting() < 4 {
        std::thread::yield_now();
    }
    // A fifth would have been looked for before it is sent.
    assert_eq!(registry.requests().iter().filter(|request| request.method == "HEAD").count(), 4);
    drop(std::net::TcpStream::connect(registry.host()).and_then(|mut stream| {
        std::io::Write::write_all(&mut stream, b"GET /v2/go HTTP/1.1\r\n\r\n")?;
        std::io::Read::read(&mut stream, &mut [0])
    }));
    let image = image(50, &[10]);
    (&destination as &dyn Destination).publish(&store(&image), &image.root, &["v1".to_owned()]).unwrap();
    assert!(blobs.iter().all(|digest| registry.blob("a", digest).is_some()));
}
