use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use restow_content::VerifiedReader;
use restow_content::read;
use restow_oci::Kind;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_testkit::Entry as TarEntry;
use restow_testkit::TarBuilder;
use serde_json::json;

use super::*;

fn layer(name: &str) -> Vec<u8> {
    TarBuilder::new().file(name, "content").finish()
}

fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    json!({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).to_string()
}

fn open(tar: Vec<u8>) -> Result<DockerArchive> {
    let directory = tempfile::tempdir().unwrap();
    DockerArchive::from_input(&mut tar.as_slice(), directory.path(), &Limits::default())
}

/// What docker saved before version 25: a directory for each layer, and a link where one comes again.
fn old() -> TarBuilder {
    let (one, two) = (layer("one"), layer("two"));
    let list = json!([
        {"Config": "c.json", "RepoTags": ["debian:12", "example.org/a:v1"],
         "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]},
        {"Config": "d.json", "RepoTags": null, "Layers": ["1/layer.tar"]},
    ]);
    TarBuilder::new()
        .dir("1/")
        .file("1/layer.tar", &one)
        .dir("2/")
        .entry(TarEntry::symlink("2/layer.tar", "../1/layer.tar"))
        .file("3/layer.tar", &two)
        .file("c.json", config(&[&one, &one, &two]))
        .file("d.json", config(&[&one]))
        .file("manifest.json", list.to_string())
}

#[test]
fn an_old_archive_is_read_with_its_links() {
    let archive = open(old().finish()).unwrap();
    for name in ["debian:12", "docker.io/library/debian:12", "v1", "example.org/a:v1"] {
        let root = archive.resolve(&Selector::Tag(name.into())).unwrap();
        let bytes = read(&archive, &root, u64::MAX).unwrap();
        let manifest = Manifest::parse_as(bytes, &MediaType::OCI_MANIFEST, &Limits::default()).unwrap();
        let layers: Vec<_> = manifest.layers().iter().map(|layer| layer.digest.clone()).collect();
        let (one, two) = (Digest::sha256(&layer("one")), Digest::sha256(&layer("two")));
        assert_eq!(layers, [one.clone(), one, two]);
        // There is no original whose media types were worth keeping.
        assert_eq!(manifest.config().media_type, MediaType::OCI_CONFIG);
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            assert!(!blob.media_type.is_docker() && blob.media_type.kind() != Kind::Other, "{blob:?}");
            VerifiedReader::new(archive.open(blob).unwrap(), blob).unwrap().finish().unwrap();
        }
    }
    let error = archive.resolve(&Selector::Only).unwrap_err();
    assert!(error.to_string().contains("several images, debian:12, @sha256:"), "{error}");
    let error = archive.resolve(&Selector::Tag("v2".into())).unwrap_err();
    assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_found_out_when_it_is_read() {
    let list = json!([{"Config": "c.json", "Layers": ["layer.tar"]}]).to_string();
    let tar = TarBuilder::new()
        .file("layer.tar", layer("other"))
        .file("c.json", config(&[&layer("one")]))
        .file("manifest.json", list);
    let archive = open(tar.finish()).unwrap();
    let root = archive.resolve(&Selector::Only).unwrap();
    let manifest = Manifest::parse(read(&archive, &root, u64::MAX).unwrap(), &Limits::default()).unwrap();
    let layer = &manifest.layers()[0];
    let reader = VerifiedReader::new(archive.open(layer).unwrap(), layer).unwrap();
    assert!(matches!(reader.finish(), Err(restow_content::Error::Mismatch { .. })));
}

/// Returns the layers that the only image of an archive has.
fn layers(archive: &DockerArchive) -> Vec<Descriptor> {
    let root = archive.resolve(&Selector::Only).unwrap();
    let manifest = Manifest::parse(read(archive, &root, u64::MAX).unwrap(), &Limits::default()).unwrap();
    manifest.layers().to_vec()
}

#[test]
fn keys_may_begin_with_small_letters_as_old_versions_of_jib_write_them() {
    let one = layer("one");
    let list = json!([{"config": "c.json", "repoTags": ["app:v1"], "layers": ["one.tar"]}]).to_string();
    let tar =
        TarBuilder::new().file("one.tar", &one).file("c.json", config(&[&one])).file("manifest.json", &list);
    let archive = open(tar.finish()).unwrap();
    archive.resolve(&Selector::Tag("app:v1".into())).unwrap();
    assert_eq!(layers(&archive).len(), 1);

    // Which of the two counts, readers disagree on.
    let twice = list.replace(r#""config""#, r#""Config":"c.json","config""#);
    let tar = TarBuilder::new().file("c.json", config(&[])).file("manifest.json", twice).finish();
    assert!(crate::client::chain(&open(tar).unwrap_err()).contains("duplicate field"));
}

/// A layout beside Docker's list, with that index and manifest of one image with one layer.
fn with_layout(
    index: impl Fn(&Descriptor) -> serde_json::Value,
    manifest_layers: &[&str],
) -> (Vec<u8>, Descriptor) {
    let one = layer("one");
    let config = config(&[&one]);
    let blob = |media_type: MediaType, bytes: &[u8]| {
        Descriptor::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    };
    let path = |blob: &Descriptor| format!("blobs/sha256/{}", blob.digest.encoded());
    let config_blob = blob(MediaType::OCI_CONFIG, config.as_bytes());
    let layer_blob = blob(MediaType::OCI_LAYER, &one);
    let layers = manifest_layers.iter().map(|_| layer_blob.clone()).collect();
    let manifest = Manifest::new(config_blob.clone(), layers).into_bytes();
    let root = blob(MediaType::OCI_MANIFEST, &manifest);
    let list = json!([{"Config": path(&config_blob), "Layers": [path(&layer_blob)]}]).to_string();
    let tar = TarBuilder::new()
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index(&root).to_string())
        .file("manifest.json", list)
        .file(path(&root), &manifest)
        .file(path(&config_blob), &config)
        .file(path(&layer_blob), &one);
    (tar.finish(), root)
}

fn index_of(root: &Descriptor) -> serde_json::Value {
    let root =
        json!({"mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size});
    json!({"schemaVersion": 2, "manifests": [root]})
}

#[test]
fn an_image_has_its_own_manifest_where_that_names_the_layers_that_the_list_names() {
    let (tar, root) = with_layout(index_of, &["one"]);
    assert_eq!(open(tar).unwrap().resolve(&Selector::Only).unwrap(), root);
    // As Docker 25 saved images before its release.
    let (tar, root) = with_layout(index_of, &[]);
    let archive = open(tar).unwrap();
    assert_ne!(archive.resolve(&Selector::Only).unwrap(), root);
    assert_eq!(layers(&archive).len(), 1);
}

#[test]
fn the_list_counts_where_an_index_names_nothing() {
    let (tar, _) = with_layout(|_| json!({"schemaVersion": 2, "manifests": []}), &["one"]);
    let directory = tempfile::tempdir().unwrap();
    let as_layout = OciArchive::from_input(&mut tar.as_slice(), directory.path(), &Limits::default());
    assert!(matches!(as_layout, Err(Error::DockerArchive { .. })), "{as_layout:?}");
    assert_eq!(layers(&open(tar).unwrap()).len(), 1);
}

/// Counts the bytes that are read.
struct Counting {
    bytes: Vec<u8>,
    read: AtomicU64,
}

impl Blob for Counting {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let count = InMemory(&self.bytes).read_at(buffer, offset)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Returns an archive in which a list names a gzip layer of a megabyte so often in each of so many images.
fn repeating(mentions: usize, images: usize) -> Vec<u8> {
    let mut gzip = vec![0; 1 << 20];
    gzip[..2].copy_from_slice(&[0x1f, 0x8b]);
    let entry = json!({"Config": "c.json", "Layers": vec!["a"; mentions]});
    TarBuilder::new()
        .file("a", &gzip)
        .file("c.json", config(&vec![&b"layer"[..]; mentions]))
        .file("manifest.json", json!(vec![entry; images]).to_string())
        .finish()
}

#[test]
fn a_file_is_read_once_however_often_it_is_mentioned() {
    let limits = Limits::default();
    let tar = Counting { bytes: repeating(1000, 50), read: AtomicU64::new(0) };
    let contents = Contents::scan(Path::new("place"), &tar, &limits).unwrap();
    let mut found = Found::new(&contents, BTreeMap::new(), &limits);
    for entry in contents.list(&limits).unwrap() {
        found.image(entry).unwrap();
    }
    let read = tar.read.into_inner();
    assert!(read < 2 << 20, "{read}");

    let error = open(repeating(50_000, 1)).unwrap_err();
    assert!(matches!(error, Error::Content(restow_content::Error::TooLarge { .. })), "{error}");
    let error = open(repeating(1000, 100)).unwrap_err();
    assert!(matches!(error, Error::TooMany { limit: 100_000, .. }), "{error}");
}

#[test]
fn lists_that_lead_nowhere_are_refused() {
    let with = |list: serde_json::Value| {
        let one = layer("one");
        TarBuilder::new()
            .file("layer.tar", &one)
            .entry(TarEntry::symlink("loop", "loop"))
            .entry(TarEntry::symlink("out", "../../etc/passwd"))
            .file("c.json", config(&[&one]))
            .file("manifest.json", list.to_string())
            .finish()
    };
    for (list, expected) in [
        (json!([{"Config": "none", "Layers": ["layer.tar"]}]), "none is not there"),
        (json!([{"Config": "c.json", "Layers": ["none"]}]), "none is not there"),
        (json!([{"Config": "c.json", "Layers": ["loop"]}]), "loop is not there"),
        (json!([{"Config": "c.json", "Layers": ["out"]}]), "out is not there"),
        (json!([{"Config": "c.json", "Layers": []}]), "0 layers where the config names 1"),
        (json!([{"Config": "layer.tar", "Layers": []}]), "layer.tar of -"),
        (json!({}), "manifest.json of -"),
    ] {
        let error = open(with(list)).unwrap_err();
        let message = crate::client::chain(&error);
        assert!(message.contains(expected), "{message}");
    }
    let error = open(TarBuilder::new().file("x", "y").finish()).unwrap_err();
    assert!(crate::client::chain(&error).contains("no manifest.json"), "{error}");
}
