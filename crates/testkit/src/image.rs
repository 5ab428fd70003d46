//! Images from layers: right ones in a line, wrong ones by saying what is wrong.

use std::fs;
use std::io;
use std::path::Path;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::compress;
use crate::random::Random;
use crate::random::TarOptions;
use crate::random::random_tar;

/// A media type in its OCI and its Docker spelling.
type MediaTypes = (&'static str, &'static str);

const CONFIG: MediaTypes =
    ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json");
const MANIFEST: MediaTypes =
    ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json");
const INDEX: MediaTypes =
    ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json");
const PLAIN: MediaTypes =
    ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar");
const GZIP: MediaTypes =
    ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip");
const ZSTD: MediaTypes =
    ("application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd");
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// One layer: a blob, and what the manifest and the config say about it.
#[derive(Debug, Clone)]
pub struct Layer {
    media_types: (String, String),
    blob: Vec<u8>,
    stored: Option<Vec<u8>>,
    diff_id: Option<String>,
    digest: String,
    size: u64,
    fields: Map<String, Value>,
}

impl Layer {
    /// A tar as it is.
    pub fn plain(tar: impl AsRef<[u8]>) -> Layer {
        Layer::tar(PLAIN, tar.as_ref(), tar.as_ref().to_vec())
    }

    /// A tar in one gzip member.
    pub fn gzip(tar: impl AsRef<[u8]>) -> Layer {
        Layer::tar(GZIP, tar.as_ref(), compress::gzip(&tar))
    }

    /// A tar in one zstd frame.
    pub fn zstd(tar: impl AsRef<[u8]>) -> Layer {
        Layer::tar(ZSTD, tar.as_ref(), compress::zstd(&tar))
    }

    /// Any blob under any media type; its DiffID is the digest of the blob itself.
    pub fn blob(media_type: &str, blob: impl AsRef<[u8]>) -> Layer {
        Layer::tar(PLAIN, blob.as_ref(), blob.as_ref().to_vec()).media_type(media_type)
    }

    fn tar(media_types: MediaTypes, tar: &[u8], blob: Vec<u8>) -> Layer {
        Layer {
            media_types: (media_types.0.to_owned(), media_types.1.to_owned()),
            stored: Some(blob.clone()),
            diff_id: Some(Digest::sha256(tar).to_string()),
            digest: Digest::sha256(&blob).to_string(),
            size: blob.len() as u64,
            blob,
            fields: Map::new(),
        }
    }

    /// Replaces the blob and what the descriptor says of it; the DiffID stays the first tar's.
    pub fn with_blob(mut self, blob: impl AsRef<[u8]>) -> Layer {
        self.blob = blob.as_ref().to_vec();
        self.stored = Some(self.blob.clone());
        self.digest = Digest::sha256(&self.blob).to_string();
        self.size = self.blob.len() as u64;
        self
    }

    /// Replaces the media type, for OCI and Docker manifests alike.
    pub fn media_type(mut self, media_type: &str) -> Layer {
        self.media_types = (media_type.to_owned(), media_type.to_owned());
        self
    }

    /// Lets the config name another DiffID.
    pub fn diff_id(mut self, diff_id: impl ToString) -> Layer {
        self.diff_id = Some(diff_id.to_string());
        self
    }

    /// Leaves the layer out of the config's list of DiffIDs.
    pub fn without_diff_id(mut self) -> Layer {
        self.diff_id = None;
        self
    }

    /// Lets the descriptor name another digest; the blob is stored under it, if it is a digest at all.
    pub fn digest(mut self, digest: impl ToString) -> Layer {
        self.digest = digest.to_string();
        self
    }

    /// Lets the descriptor claim another size.
    pub fn size(mut self, size: u64) -> Layer {
        self.size = size;
        self
    }

    /// Stores other bytes under the blob's digest.
    pub fn stored(mut self, bytes: impl AsRef<[u8]>) -> Layer {
        self.stored = Some(bytes.as_ref().to_vec());
        self
    }

    /// Stores nothing: the descriptor points nowhere.
    pub fn missing(mut self) -> Layer {
        self.stored = None;
        self
    }

    /// Adds an annotation to the descriptor.
    pub fn annotation(mut self, key: &str, value: &str) -> Layer {
        annotate(&mut self.fields, key, value);
        self
    }

    /// Sets any field of the descriptor, known or not, also over the right ones.
    pub fn field(mut self, key: &str, value: Value) -> Layer {
        self.fields.insert(key.to_owned(), value);
        self
    }

    fn descriptor(&self, docker: bool) -> Value {
        let media_type = if docker { &self.media_types.1 } else { &self.media_types.0 };
        let mut descriptor = json!({"mediaType": media_type, "digest": self.digest, "size": self.size});
        merge(&mut descriptor, &self.fields);
        descriptor
    }
}

/// Builds an image of one platform.
///
/// ```
/// use restow_testkit::{ImageBuilder, Layer, TarBuilder};
///
/// let base = TarBuilder::new().dir("bin/").file("bin/sh", "...").finish();
/// let image = ImageBuilder::new().layer(Layer::gzip(base)).platform("linux/arm64").build();
/// assert_eq!(image.blobs.len(), 3);
/// ```
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    docker: bool,
    platform: String,
    layers: Vec<Layer>,
    history: Vec<Value>,
    config_bytes: Option<Vec<u8>>,
    config_fields: Map<String, Value>,
    manifest_fields: Map<String, Value>,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        ImageBuilder {
            docker: false,
            platform: "linux/amd64".to_owned(),
            layers: Vec::new(),
            history: Vec::new(),
            config_bytes: None,
            config_fields: Map::new(),
            manifest_fields: Map::new(),
        }
    }
}

impl ImageBuilder {
    /// Starts an OCI image for linux/amd64 without layers.
    pub fn new() -> ImageBuilder {
        ImageBuilder::default()
    }

    /// Uses Docker's media types throughout.
    pub fn docker(mut self) -> ImageBuilder {
        self.docker = true;
        self
    }

    /// Sets the platform, as `linux/arm64` or `linux/arm/v7`.
    pub fn platform(mut self, platform: &str) -> ImageBuilder {
        self.platform = platform.to_owned();
        self
    }

    /// Adds a layer and a line of history.
    pub fn layer(mut self, layer: Layer) -> ImageBuilder {
        self.history.push(json!({"created_by": format!("layer {}", self.layers.len())}));
        self.layers.push(layer);
        self
    }

    /// Adds a line of history that made no layer.
    pub fn empty_layer(mut self, created_by: &str) -> ImageBuilder {
        self.history.push(json!({"created_by": created_by, "empty_layer": true}));
        self
    }

    /// Sets a top-level field of the config, known or not, also over the right ones.
    pub fn config_field(mut self, key: &str, value: Value) -> ImageBuilder {
        self.config_fields.insert(key.to_owned(), value);
        self
    }

    /// Replaces the whole config.
    pub fn config_bytes(mut self, bytes: impl AsRef<[u8]>) -> ImageBuilder {
        self.config_bytes = Some(bytes.as_ref().to_vec());
        self
    }

    /// Adds an annotation to the manifest.
    pub fn annotation(mut self, key: &str, value: &str) -> ImageBuilder {
        annotate(&mut self.manifest_fields, key, value);
        self
    }

    /// Sets a top-level field of the manifest, known or not, also over the right ones.
    pub fn manifest_field(mut self, key: &str, value: Value) -> ImageBuilder {
        self.manifest_fields.insert(key.to_owned(), value);
        self
    }

    /// Returns the image.
    pub fn build(self) -> Image {
        let spelling = |(oci, docker): MediaTypes| if self.docker { docker } else { oci };
        let platform = platform(&self.platform);
        let config = self.config_bytes.unwrap_or_else(|| {
            let diff_ids: Vec<&String> =
                self.layers.iter().filter_map(|layer| layer.diff_id.as_ref()).collect();
            let mut config = json!({
                "created": "2023-11-14T22:13:20Z",
                "config": {"Entrypoint": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": self.history,
            });
            merge(&mut config, platform.as_object().expect("a platform is an object"));
            merge(&mut config, &self.config_fields);
            bytes(&config)
        });
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": spelling(MANIFEST),
            "config": descriptor(spelling(CONFIG), &config),
            "layers": self.layers.iter().map(|layer| layer.descriptor(self.docker)).collect::<Vec<_>>(),
        });
        merge(&mut manifest, &self.manifest_fields);

        let mut image = Image::new(spelling(MANIFEST), bytes(&manifest), Some(platform));
        image.store(config);
        for layer in self.layers {
            if let (Ok(digest), Some(stored)) = (Digest::parse(&layer.digest), layer.stored) {
                image.blobs.push((digest, stored));
            }
        }
        image
    }
}

/// Builds an index of images, of indexes, or of anything.
#[derive(Debug, Clone, Default)]
pub struct IndexBuilder {
    docker: bool,
    entries: Vec<Value>,
    blobs: Vec<(Digest, Vec<u8>)>,
    fields: Map<String, Value>,
}

impl IndexBuilder {
    /// Starts an empty OCI index.
    pub fn new() -> IndexBuilder {
        IndexBuilder::default()
    }

    /// Makes it a Docker manifest list.
    pub fn docker(mut self) -> IndexBuilder {
        self.docker = true;
        self
    }

    /// Adds an image with its platform, or an index.
    pub fn image(self, image: &Image) -> IndexBuilder {
        let fields = image.platform.as_ref().map(|platform| json!({"platform": platform}));
        self.image_with(image, fields.unwrap_or_else(|| json!({})))
    }

    /// Adds an image or an index whose descriptor has these fields beside (or over) the usual three.
    pub fn image_with(mut self, image: &Image, fields: Value) -> IndexBuilder {
        let mut entry = image.descriptor();
        merge(&mut entry, fields.as_object().expect("descriptor fields are an object"));
        self.entries.push(entry);
        self.blobs.extend(image.blobs.iter().cloned());
        self
    }

    /// Adds a provenance attestation about an image, as build tools do.
    pub fn attestation(self, about: &Image) -> IndexBuilder {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "subject": [{"name": "image", "digest": {"sha256": about.root.digest.encoded()}}],
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "predicate": {},
        });
        let layer = Layer::blob(IN_TOTO, bytes(&statement))
            .annotation("in-toto.io/predicate-type", "https://slsa.dev/provenance/v0.2");
        let attestation = ImageBuilder::new().platform("unknown/unknown").layer(layer).build();
        self.image_with(
            &attestation,
            json!({
                "annotations": {
                    "vnd.docker.reference.digest": about.root.digest.to_string(),
                    "vnd.docker.reference.type": "attestation-manifest",
                },
                "platform": {"architecture": "unknown", "os": "unknown"},
            }),
        )
    }

    /// Adds an annotation to the index.
    pub fn annotation(mut self, key: &str, value: &str) -> IndexBuilder {
        annotate(&mut self.fields, key, value);
        self
    }

    /// Sets a top-level field of the index, known or not, also over the right ones.
    pub fn field(mut self, key: &str, value: Value) -> IndexBuilder {
        self.fields.insert(key.to_owned(), value);
        self
    }

    /// Returns the index and all that it holds.
    pub fn build(self) -> Image {
        let media_type = if self.docker { INDEX.1 } else { INDEX.0 };
        let mut index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": self.entries});
        merge(&mut index, &self.fields);
        let mut image = Image::new(media_type, bytes(&index), None);
        image.blobs.extend(self.blobs);
        image
    }
}

/// A finished image: the root, a manifest or an index, and every blob under it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Names the manifest or the index; carries neither platform nor annotations.
    pub root: Descriptor,
    /// All blobs, the root's first. A digest may come twice, and need not be that of its bytes.
    pub blobs: Vec<(Digest, Vec<u8>)>,
    platform: Option<Value>,
}

impl Image {
    fn new(media_type: &str, root: Vec<u8>, platform: Option<Value>) -> Image {
        let digest = Digest::sha256(&root);
        let media_type = MediaType::parse(media_type).expect("the media type is well formed");
        let descriptor = Descriptor::new(media_type, digest.clone(), root.len() as u64);
        Image { root: descriptor, blobs: vec![(digest, root)], platform }
    }

    fn store(&mut self, blob: Vec<u8>) {
        self.blobs.push((Digest::sha256(&blob), blob));
    }

    /// Returns the bytes of the manifest or index.
    pub fn root_bytes(&self) -> &[u8] {
        &self.blobs[0].1
    }

    /// Returns the manifest or index as JSON.
    ///
    /// # Panics
    ///
    /// If it is not JSON.
    pub fn document(&self) -> Value {
        serde_json::from_slice(self.root_bytes()).expect("the root is JSON")
    }

    /// Returns the bytes stored under a digest, if any.
    pub fn blob(&self, digest: &str) -> Option<&[u8]> {
        self.blobs.iter().find(|(name, _)| name.as_str() == digest).map(|(_, bytes)| bytes.as_slice())
    }

    /// Replaces the bytes of the manifest or index; the root's digest and size follow.
    pub fn with_root_bytes(mut self, bytes: impl AsRef<[u8]>) -> Image {
        let root = Image::new(self.root.media_type.as_str(), bytes.as_ref().to_vec(), None);
        self.blobs[0] = root.blobs[0].clone();
        self.root = root.root;
        self
    }

    /// Edits the manifest or index; the root's digest and size follow.
    pub fn edit(self, edit: impl FnOnce(&mut Value)) -> Image {
        let mut document = self.document();
        edit(&mut document);
        self.with_root_bytes(bytes(&document))
    }

    /// Edits the text of the manifest or index, for what JSON values cannot say (a key given twice).
    pub fn edit_text(self, edit: impl FnOnce(String) -> String) -> Image {
        let text = String::from_utf8_lossy(self.root_bytes()).into_owned();
        self.with_root_bytes(edit(text))
    }

    /// Writes an OCI layout with this image under a tag.
    pub fn write_layout(&self, directory: &Path, tag: &str) -> io::Result<()> {
        write_layout(directory, &[(tag, self)])
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.root.media_type.as_str(),
            "digest": self.root.digest.as_str(),
            "size": self.root.size,
        })
    }
}

/// Writes an OCI layout of several tags; the directory is made if need be, blobs already there stay.
pub fn write_layout(directory: &Path, images: &[(&str, &Image)]) -> io::Result<()> {
    let mut entries = Vec::new();
    for (tag, image) in images {
        for (digest, blob) in &image.blobs {
            let (algorithm, encoded) = digest.as_str().split_once(':').expect("a digest has a colon");
            let folder = directory.join("blobs").join(algorithm);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(encoded), blob)?;
        }
        let mut entry = image.descriptor();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        entries.push(entry);
    }
    fs::create_dir_all(directory)?;
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX.0, "manifests": entries});
    fs::write(directory.join("index.json"), bytes(&index))
}

/// Returns a random image of one to four layers of random compression, sometimes with two equal ones.
pub fn random_image(seed: u64) -> Image {
    let mut random = Random::new(seed);
    let mut layers = Vec::new();
    for _ in 0..1 + random.below(4) {
        let tar = random_tar(random.next(), &TarOptions::default());
        layers.push(match random.below(3) {
            0 => Layer::plain(tar),
            1 => Layer::gzip(tar),
            _ => Layer::zstd(tar),
        });
    }
    if random.chance(4) {
        layers.push(layers[0].clone());
    }
    layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

fn platform(text: &str) -> Value {
    let mut parts = text.split('/');
    let mut platform = Map::new();
    for key in ["os", "architecture", "variant"] {
        if let Some(part) = parts.next() {
            platform.insert(key.to_owned(), part.into());
        }
    }
    platform.into()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len()})
}

fn annotate(fields: &mut Map<String, Value>, key: &str, value: &str) {
    let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
    annotations[key] = value.into();
}

fn merge(document: &mut Value, fields: &Map<String, Value>) {
    for (key, value) in fields {
        document[key] = value.clone();
    }
}

fn bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("a JSON value can be written")
}
