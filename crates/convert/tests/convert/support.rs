//! A store filled with an image, and the simplest converters.

use std::io::Write as _;
use std::sync::Mutex;

use restow_content::Labels;
use restow_content::MemoryStore;
use restow_content::Provider as _;
use restow_content::Store;
use restow_convert::BoxError;
use restow_convert::Conversion;
use restow_convert::Converted;
use restow_convert::Error;
use restow_convert::Layer;
use restow_convert::LayerConverter;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::Result;
use restow_convert::Silent;
use restow_convert::Statistics;
use restow_convert::convert;
use restow_layer::EncodeOptions;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::TarBuilder;
use restow_testkit::compress;
use restow_testkit::plain;
use restow_testkit::testdata;
use serde_json::Value;

/// Returns a small tar; other names make other tars.
pub(crate) fn tar(name: &str) -> Vec<u8> {
    TarBuilder::new().file(name, name).finish()
}

/// Returns an image with one gzip layer.
pub(crate) fn image(name: &str) -> ImageBuilder {
    ImageBuilder::new().layer(restow_testkit::Layer::gzip(tar(name)))
}

/// Returns a store that holds every blob of an image.
pub(crate) fn store(image: &Image) -> MemoryStore {
    let store = MemoryStore::new();
    for (digest, bytes) in &image.blobs {
        assert_eq!(*digest, Digest::sha256(bytes), "this store holds true blobs only");
        put(&store, bytes);
    }
    store
}

/// Returns how layers are encoded. In the golden images a link says another mode than its file.
pub(crate) fn encoding() -> EncodeOptions {
    let limits = Limits { diverging_links: true, ..Limits::default() };
    EncodeOptions { limits, ..EncodeOptions::new(tempfile::env::temp_dir()) }
}

/// Puts an image that another tool made into a store.
pub(crate) fn golden(name: &str) -> (MemoryStore, Descriptor) {
    let store = MemoryStore::new();
    let root = golden_into(&store, name);
    (store, root)
}

/// Adds such an image to a store.
pub(crate) fn golden_into(store: &MemoryStore, name: &str) -> Descriptor {
    let layout = testdata(format!("golden/{name}"));
    for file in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        put(store, &std::fs::read(file.unwrap().path()).unwrap());
    }
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let root = &index["manifests"][0];
    let text = |key: &str| root[key].as_str().unwrap();
    let media_type = MediaType::parse(text("mediaType")).unwrap();
    Descriptor::new(media_type, Digest::parse(text("digest")).unwrap(), root["size"].as_u64().unwrap())
}

/// Puts a blob into a store.
pub(crate) fn put(store: &dyn Store, bytes: &[u8]) -> Digest {
    let mut ingest = store.ingest(Digest::sha256(bytes).as_str()).unwrap();
    ingest.restart().unwrap();
    ingest.write_all(bytes).unwrap();
    ingest.commit(None, Labels::new()).unwrap().digest
}

/// Returns the verified bytes of a blob.
pub(crate) fn bytes(store: &MemoryStore, descriptor: &Descriptor) -> Vec<u8> {
    assert!(store.open(descriptor).is_ok(), "{} is not there", descriptor.digest);
    restow_content::read(store, descriptor, u64::MAX).unwrap()
}

/// Returns a document as JSON.
pub(crate) fn document(store: &MemoryStore, descriptor: &Descriptor) -> Value {
    serde_json::from_slice(&bytes(store, descriptor)).unwrap()
}

/// Follows a descriptor within a document, such as `/manifests/0` or `/config`.
pub(crate) fn follow(store: &MemoryStore, document: &Value, pointer: &str) -> Value {
    serde_json::from_slice(&blob(store, document, pointer)).unwrap()
}

/// Returns the bytes that a descriptor within a document names, which have to be as long as it says.
pub(crate) fn blob(store: &MemoryStore, document: &Value, pointer: &str) -> Vec<u8> {
    let entry = document.pointer(pointer).unwrap();
    let digest = Digest::parse(entry["digest"].as_str().unwrap()).unwrap();
    let media_type = MediaType::parse(entry["mediaType"].as_str().unwrap()).unwrap();
    bytes(store, &Descriptor::new(media_type, digest, entry["size"].as_u64().unwrap()))
}

/// Converts all images under a root.
pub(crate) fn convert_all(
    store: &MemoryStore,
    root: &Descriptor,
    converter: &dyn LayerConverter,
) -> Result<Conversion> {
    convert_with(store, root, converter, Options { platforms: Platforms::All, ..Options::default() })
}

/// Converts the images under a root.
pub(crate) fn convert_with(
    store: &MemoryStore,
    root: &Descriptor,
    converter: &dyn LayerConverter,
    options: Options,
) -> Result<Conversion> {
    convert(store, root, converter, &options, &Silent)
}

/// Returns an error and its causes in one line, as the command line shows them.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// The converter that changes nothing.
pub(crate) struct Nothing;

impl LayerConverter for Nothing {
    fn convert(&self, _store: &dyn Store, _layer: &Layer<'_>) -> Result<Converted, BoxError> {
        Ok(Converted::Unchanged)
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        None
    }
}

/// A converter that appends blocks of zeros to tars and compresses them anew.
#[derive(Default)]
pub(crate) struct Pad {
    /// Blocks for layers at even and at odd positions; none keeps the DiffID.
    pub(crate) blocks: [usize; 2],
    /// Whether the result is zstd under OCI's media type, or gzip under the source's.
    pub(crate) zstd: bool,
    /// Annotations that the new layers gain.
    pub(crate) annotations: Vec<(&'static str, &'static str)>,
    /// The layers converted.
    pub(crate) calls: Mutex<Vec<(Digest, usize)>>,
}

impl Pad {
    /// Appends as many blocks whatever the position.
    pub(crate) fn by(blocks: usize) -> Self {
        Self { blocks: [blocks; 2], ..Self::default() }
    }

    /// Compresses with zstd.
    pub(crate) fn zstd(mut self) -> Self {
        self.zstd = true;
        self
    }

    /// Returns what has become of a tar.
    pub(crate) fn padded(&self, position: usize, tar: &[u8]) -> Vec<u8> {
        [tar, &vec![0; self.blocks[position % 2] * 512]].concat()
    }

    /// Returns the positions of the layers converted, sorted.
    pub(crate) fn positions(&self) -> Vec<usize> {
        let mut positions: Vec<_> = self.calls.lock().unwrap().iter().map(|call| call.1).collect();
        positions.sort();
        positions
    }
}

impl LayerConverter for Pad {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        self.calls.lock().unwrap().push((layer.manifest.clone(), layer.position));
        let mut source = Vec::new();
        std::io::copy(&mut layer.open(store)?, &mut source)?;
        let tar = self.padded(layer.position, &plain::decompress(source)?);
        let blob = if self.zstd { compress::zstd(&tar) } else { compress::gzip(&tar) };
        let media_type =
            if self.zstd { MediaType::OCI_LAYER_ZSTD } else { layer.descriptor.media_type.clone() };
        let mut descriptor = restow_content::write(store, media_type, &blob)?;
        let annotations = self.annotations.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        descriptor.annotations.extend(annotations);
        let statistics = Statistics { uncompressed_size: tar.len() as u64, ..Statistics::default() };
        Ok(Converted::Changed {
            descriptor,
            diff_id: Digest::sha256(&tar),
            partial: None,
            toc: None,
            statistics,
        })
    }

    fn identity(&self, layer: &Layer<'_>) -> Option<String> {
        Some(format!("pad by {} zstd {}", self.blocks[layer.position % 2], self.zstd))
    }
}
