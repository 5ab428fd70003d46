//! Pushes to repositories in every state, of registries of every kind: an ok is true, and a failure moves no tag.

use super::*;
use crate::Existing;

/// How a registry looks for what it is sent.
const REGISTRIES: [fn(&Registry); 4] = [
    |_| {},
    Registry::look_for_no_manifests,
    Registry::look_for_no_parts,
    |registry| registry.refuse_in_other_words(400, "MANIFEST_INVALID"),
];

/// What a manifest was refused for before, in the same run: in the same repository but for the last one, which is about
/// parts and tells of no other repository.
const EARLIER: [Option<(&str, u16, &str)>; 8] = [
    None,
    Some(("a", 400, "TAG_INVALID")),
    Some(("a", 409, "CONFLICT")),
    Some(("a", 412, "PRECONDITION")),
    Some(("a", 404, "NAME_UNKNOWN")),
    Some(("a", 404, "MANIFEST_UNKNOWN")),
    Some(("a", 400, "MANIFEST_INVALID")),
    Some(("b", 400, "MANIFEST_BLOB_UNKNOWN")),
];

/// What is in the repository before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Configs,
    FirstLayers,
    /// The same image under another compression, with the same config.
    Recompressed,
    /// An index or an image of which some parts are the same, the last manifest among them.
    Before,
    /// That one under the very tag.
    Tagged,
    /// Manifests without anything, as a killed push leaves them.
    BareManifests,
    BareRoot,
    There,
    LostBlob,
    LostConfig,
    LostManifest,
    /// The same under another tag.
    LostBlobElsewhere,
}

const STATES: [State; 13] = [
    State::Empty,
    State::Configs,
    State::FirstLayers,
    State::Recompressed,
    State::Before,
    State::Tagged,
    State::BareManifests,
    State::BareRoot,
    State::There,
    State::LostBlob,
    State::LostConfig,
    State::LostManifest,
    State::LostBlobElsewhere,
];

/// How it is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Copy,
    Repair,
    /// By its digest alone.
    Untagged,
    /// Blobs come one after the other, as those of a conversion.
    Made,
    /// The registry has all blobs in another repository, and the source has none.
    Mounted,
    /// The source does not have all of it.
    Incomplete,
}

const WAYS: [Way; 6] = [Way::Copy, Way::Repair, Way::Untagged, Way::Made, Way::Mounted, Way::Incomplete];

/// What is pushed, and what has been before.
struct Scene {
    target: Image,
    before: Image,
    recompressed: Image,
    /// The manifests below the root, or the root.
    manifests: Vec<Image>,
}

fn scenes() -> [Scene; 2] {
    let tar = |seed: u64, size: usize| restow_testkit::Random::new(seed).bytes(size);
    let of = |layers: [Layer; 2], platform: &str| {
        layers.into_iter().fold(ImageBuilder::new().platform(platform), ImageBuilder::layer).build()
    };
    let new = of([Layer::plain(tar(1, 900)), Layer::gzip(tar(2, 100_000))], "linux/amd64");
    let recompressed = of([Layer::gzip(tar(1, 900)), Layer::plain(tar(2, 100_000))], "linux/amd64");
    assert_eq!(new.document()["config"], recompressed.document()["config"]);
    let old = of([Layer::plain(tar(1, 900)), Layer::gzip(tar(3, 100_000))], "linux/amd64");
    let arm = of([Layer::plain(tar(4, 900)), Layer::gzip(tar(5, 100_000))], "linux/arm64");
    let index = |images: &[&Image]| {
        images.iter().fold(IndexBuilder::new(), |index, image| index.image(image)).build()
    };
    [
        Scene {
            target: index(&[&new, &arm]),
            before: index(&[&old, &arm]),
            recompressed: recompressed.clone(),
            manifests: vec![new.clone(), arm],
        },
        Scene { target: new.clone(), before: old, recompressed, manifests: vec![new] },
    ]
}

/// The descriptors of an image's blobs, its config first.
fn blobs(image: &Image) -> Vec<Digest> {
    let document = image.document();
    let layers = document["layers"].as_array().unwrap().iter();
    [&document["config"]].into_iter().chain(layers).map(digest).collect()
}

fn digest(descriptor: &serde_json::Value) -> Digest {
    Digest::parse(descriptor["digest"].as_str().unwrap()).unwrap()
}

impl Scene {
    fn prepare(&self, state: State, registry: &Registry, repository: &str) {
        let blob = |image: &Image, place: usize| {
            let digest = &blobs(image)[place];
            image.blobs.iter().find(|(known, _)| known == digest).unwrap().1.clone()
        };
        let bare = |image: &Image| {
            let media_type = image.root.media_type.to_string();
            registry.put_manifest(repository, None, &media_type, image.root_bytes());
        };
        let lose = |tag: &str, place: usize| {
            registry.put(repository, tag, &self.target);
            registry.remove_blob(repository, &blobs(&self.manifests[0])[place]);
        };
        let each_blob = |place: usize| {
            for image in &self.manifests {
                registry.put_blob(repository, &blob(image, place));
            }
        };
        match state {
            State::Empty => {}
            State::Configs => each_blob(0),
            State::FirstLayers => each_blob(1),
            State::Recompressed => registry.put(repository, "old", &self.recompressed),
            State::Before => registry.put(repository, "old", &self.before),
            State::Tagged => registry.put(repository, "v1", &self.before),
            State::BareManifests => self.manifests.iter().for_each(bare),
            State::BareRoot => bare(&self.target),
            State::There => registry.put(repository, "v1", &self.target),
            State::LostBlob => lose("v1", 2),
            State::LostConfig => lose("v1", 0),
            State::LostManifest => {
                registry.put(repository, "v1", &self.target);
                registry.remove_manifest(repository, &self.manifests[0].root.digest);
            }
            State::LostBlobElsewhere => lose("old", 1),
        }
    }

    fn push(&self, client: &Client, repository: &Repository, way: Way) -> Result<Vec<Notice>> {
        let scratch = tempfile::tempdir().unwrap();
        let other = Name::parse(&format!("{}/other", repository.host())).unwrap().repository;
        let others = if way == Way::Mounted { std::slice::from_ref(&other) } else { &[] };
        let place = RemoteDestination::new(client, repository, others, &Scratch::new(scratch.path()))?;
        let existing = if way == Way::Repair { Existing::Repair } else { Existing::Trust };
        let place: &dyn Destination = &place.existing(existing);
        let lost = &blobs(&self.manifests[0])[2];
        let source = MemoryStore::new();
        let store: &dyn restow_content::Store = if way == Way::Made { place.store() } else { &source };
        for (digest, bytes) in &self.target.blobs {
            let document: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
            let is_there = match way {
                Way::Mounted => document.get("schemaVersion").is_some(),
                Way::Incomplete => digest != lost,
                _ => true,
            };
            if is_there {
                restow_content::write(store, MediaType::OCI_LAYER, bytes).unwrap();
            }
        }
        let tags = if way == Way::Untagged { Vec::new() } else { vec!["v1".to_owned()] };
        place.publish(&source, &self.target.root, &tags)
    }
}

/// Pushes what is refused for another reason, or somewhere else.
fn be_refused(client: &Client, registry: &Registry, repository: &str) {
    let refused = image(77, &[10]);
    let index = IndexBuilder::new().image(&refused).build();
    let scratch = tempfile::tempdir().unwrap();
    let repository = Name::parse(&registry.name(repository)).unwrap().repository;
    let place = RemoteDestination::new(client, &repository, &[], &Scratch::new(scratch.path())).unwrap();
    let place: &dyn Destination = &place;
    place.publish(&store(&index), &index.root, &["refused".to_owned()]).unwrap_err();
}

fn walk(set_up: fn(&Registry)) {
    let scenes = scenes();
    for earlier in EARLIER {
        let registry = Registry::start();
        set_up(&registry);
        if let Some((_, status, code)) = earlier {
            let refused = format!("/manifests/{}", image(77, &[10]).root.digest);
            registry.intercept(move |request| {
                let refuses = request.method == "PUT" && request.path.ends_with(&refused);
                refuses.then(|| Answer::error(status, code))
            });
        }
        for scene in &scenes {
            registry.put("other", "v1", &scene.target);
        }
        let client = Client::new(Settings { attempts: 1, ..Settings::default() }).unwrap();
        // A refusal before is the same to every way.
        let ways = if earlier.is_none() { &WAYS[..] } else { &WAYS[..1] };
        let pushes = scenes.iter().flat_map(|scene| STATES.map(|state| (scene, state)));
        let pushes = pushes.flat_map(|(scene, state)| ways.iter().map(move |way| (scene, state, *way)));
        for (number, (scene, state, way)) in pushes.enumerate() {
            let path = format!("a{number}");
            let kind = scene.target.root.media_type.kind();
            let shown = format!("{kind:?}, {state:?}, {way:?}, refused before: {earlier:?}");
            match earlier {
                Some(("a", ..)) => be_refused(&client, &registry, &path),
                Some(_) if number == 0 => be_refused(&client, &registry, "b"),
                _ => {}
            }
            scene.prepare(state, &registry, &path);
            let before = registry.manifest(&path, "v1");
            let repository = Name::parse(&registry.name(&path)).unwrap().repository;
            let result = scene.push(&client, &repository, way);
            let after = registry.manifest(&path, "v1");
            let root = scene.target.root_bytes();
            let is_left = before.as_deref() == Some(root) && !matches!(way, Way::Repair | Way::Untagged);
            match result {
                Ok(_) if is_left => assert_eq!(before, after, "{shown}"),
                Ok(_) => {
                    let digest = scene.target.root.digest.as_str();
                    let reference = if way == Way::Untagged { digest } else { "v1" };
                    assert_eq!(registry.manifest(&path, reference).as_deref(), Some(root), "{shown}");
                    assert_eq!(registry.missing(&path, reference), [""; 0], "{shown}");
                }
                Err(error) => {
                    assert_eq!(before, after, "{shown}: {error}");
                    let is_missing = matches!(error, Error::MissingBlobs { .. });
                    assert!(way == Way::Incomplete && is_missing, "{shown}: {error}");
                    continue;
                }
            }
            // What the source lacks the repository has, or nothing was asked for it.
            let has_all = matches!(
                state,
                State::There | State::LostConfig | State::LostManifest | State::LostBlobElsewhere
            );
            assert!(way != Way::Incomplete || is_left || has_all, "{shown}");
        }
    }
}

#[test]
fn an_ok_is_true_where_the_registry_looks_for_parts() {
    walk(REGISTRIES[0]);
}

#[test]
fn an_ok_is_true_where_the_registry_looks_for_blobs_alone() {
    walk(REGISTRIES[1]);
}

#[test]
fn an_ok_is_true_where_the_registry_looks_for_nothing() {
    walk(REGISTRIES[2]);
}

#[test]
fn an_ok_is_true_where_the_registry_has_words_of_its_own() {
    walk(REGISTRIES[3]);
}
