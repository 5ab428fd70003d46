//! The seam: what a converter of layers is given and what it gives back.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::time::Duration;

use restow_content::Blob;
use restow_content::Info;
use restow_content::Ingest;
use restow_content::Labels;
use restow_content::Provider;
use restow_content::Store;
use restow_content::VerifiedReader;
use restow_oci::Algorithm;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Manifest;
use serde::Deserialize;
use serde::Serialize;

use crate::Cancel;
use crate::Error;
use crate::Observer;

/// The error of a converter: any.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Turns one layer into another. Layers are converted side by side, so a converter holds no state of a single one.
///
/// It sees tar layers only, compressed or not: encrypted layers and other payloads pass it by. Its errors are wrapped
/// with the layer's place, so they need not name it.
pub trait LayerConverter: Send + Sync {
    /// Converts a layer, leaving the result in the store, and nothing of it after an error.
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError>;

    /// Names everything besides the layer's content that decides the result: the converter, the version of its output,
    /// its options, and what of [`Layer::manifest`] and [`Layer::position`] it heeds. Equal layers with an equal
    /// identity are converted once, and never again while a [`Memo`](crate::Memo) remembers. `None`: always on its own.
    fn identity(&self, layer: &Layer<'_>) -> Option<String>;

    /// Returns how it looks at the layers of an image together, if it does so before it converts any of them. Images then
    /// come one after another.
    fn per_image(&self) -> Option<&dyn ImageConverter> {
        None
    }
}

/// Looks at all layers of an image before any of them is converted.
pub trait ImageConverter: Send + Sync {
    /// Returns the converter for the layers of `image`, which `later` ones follow. All that it holds of them goes when the
    /// image is done.
    fn begin<'a>(
        &'a self,
        store: &'a dyn Store,
        image: &'a SourceImage<'a>,
        later: &'a [SourceImage<'a>],
    ) -> Result<Box<dyn LayerConverter + 'a>, BoxError>;
}

/// An image before its conversion.
#[derive(Clone, Debug)]
pub struct SourceImage<'a> {
    /// Names the manifest.
    pub descriptor: &'a Descriptor,
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The config, where there is a layer to convert.
    pub config: Option<&'a Config>,
    /// Those of the manifest's layers that a converter can make something of, the lowest first.
    pub layers: Vec<Layer<'a>>,
}

/// A layer in its place.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// The manifest the layer is in, before the conversion.
    pub manifest: &'a Digest,
    /// The position among the manifest's layers, from 0.
    pub position: usize,
    /// The layer's blob.
    pub descriptor: &'a Descriptor,
    /// What the config says the layer's uncompressed digest is. It is for the converter to hold it to that.
    pub diff_id: &'a Digest,
    /// Who watches; [`LayerReader`] reports to it what is read.
    pub observer: &'a dyn Observer,
    /// Raised when the result is no longer wanted; [`LayerReader`] heeds it.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Layer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer")
            .field("manifest", self.manifest)
            .field("position", &self.position)
            .field("descriptor", self.descriptor)
            .field("diff_id", self.diff_id)
            .finish_non_exhaustive()
    }
}

impl<'a> Layer<'a> {
    /// Opens the layer's compressed bytes. They are verified against the descriptor at their end: a converter that
    /// stops before has verified nothing.
    pub fn open(&self, store: &dyn Provider) -> Result<LayerReader<'a>, restow_content::Error> {
        let bytes = VerifiedReader::new(store.open(self.descriptor)?, self.descriptor)?;
        Ok(LayerReader { bytes, layer: *self })
    }

    /// Tells whether its DiffID can be held against its content.
    pub(crate) fn check_algorithm(&self) -> Result<(), Error> {
        match self.diff_id.algorithm() {
            Algorithm::Sha256 => Ok(()),
            _ => Err(Error::DiffIdAlgorithm { diff_id: self.diff_id.clone() }),
        }
    }

    /// Holds the digest of its tar to what the config says.
    pub(crate) fn check_diff_id(&self, actual: Digest) -> Result<(), Error> {
        if actual == *self.diff_id {
            return Ok(());
        }
        Err(Error::DiffId { expected: self.diff_id.clone(), actual })
    }

    /// Writes the layer's new blob: `fill` writes it, and returns what else is known of it.
    ///
    /// When `fill` returns nothing or fails, nothing stays in the store.
    pub fn write<T>(
        &self,
        store: &dyn Store,
        fill: impl FnOnce(&mut LayerWriter<'_>) -> Result<Option<T>, BoxError>,
    ) -> Result<Option<(Info, T)>, BoxError> {
        let key = format!("restow-{}", self.descriptor.digest);
        let mut ingest = restow_content::ingest_beside(store, &key)?;
        // A conversion cannot be taken up where it stopped.
        ingest.restart()?;
        let mut writer = LayerWriter { ingest, cancel: self.cancel };
        let filled = fill(&mut writer);
        let LayerWriter { ingest, .. } = writer;
        match filled {
            Ok(Some(known)) => Ok(Some((ingest.commit(None, Labels::new())?, known))),
            Ok(None) => ingest.abort().map(|()| None).map_err(BoxError::from),
            Err(error) => {
                // Why it failed is worth more than what could not be cleaned up; a next attempt starts anew.
                let _ = ingest.abort();
                Err(error)
            }
        }
    }
}

/// The compressed bytes of a layer, verified, watched and cancellable.
pub struct LayerReader<'a> {
    bytes: VerifiedReader<Box<dyn Blob>>,
    layer: Layer<'a>,
}

impl std::fmt::Debug for LayerReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerReader").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl LayerReader<'_> {
    /// Reads what is left and verifies the whole.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(|_| ())
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.layer.cancel.check()?;
        let count = self.bytes.read(buf)?;
        if count > 0 {
            self.layer.observer.advanced(&self.layer, count as u64);
        }
        Ok(count)
    }
}

/// The new blob of a layer on its way into the store, cancellable.
pub struct LayerWriter<'a> {
    ingest: Box<dyn Ingest>,
    cancel: &'a Cancel,
}

impl std::fmt::Debug for LayerWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerWriter").field("offset", &self.ingest.offset()).finish_non_exhaustive()
    }
}

impl LayerWriter<'_> {
    /// Opens what has been written so far, to check it before it becomes visible.
    pub fn written(&self) -> Result<Box<dyn Blob>, restow_content::Error> {
        self.ingest.written()
    }
}

impl Write for LayerWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check()?;
        self.ingest.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ingest.flush()
    }
}

/// What became of a layer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each layer, and most are the large one")]
pub enum Converted {
    /// The layer is as it should be.
    Unchanged,
    /// The layer cannot be converted, though nothing is wrong with it;
    /// [`Options::unsupported`](crate::Options::unsupported) decides whether that is an error.
    Unsupported(BoxError),
    /// The layer has a new blob in the store.
    Changed {
        /// The new blob. Its annotations are those the layer gains: they join the old ones, of which those that described
        /// the old blob's format are gone. The media type is the plain one; a layer that was not for distribution stays so.
        descriptor: Descriptor,
        /// The digest of the new blob's uncompressed bytes.
        diff_id: Digest,
        /// What podman's reader is told of the blob instead, where the format has something to say to it.
        partial: Option<Partial>,
        /// The blob of its table of contents, where that is not in the layer.
        toc: Option<Descriptor>,
        /// What is worth telling.
        statistics: Statistics,
    },
}

/// How podman's reader finds its way in a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partial {
    /// The annotations by which it finds the table of contents and the tar-split stream.
    Annotations(BTreeMap<String, String>),
    /// Why it would refuse to read the layer in part. For it the layer is an ordinary one.
    Refused(String),
}

impl From<Result<BTreeMap<String, String>, String>> for Partial {
    fn from(found: Result<BTreeMap<String, String>, String>) -> Self {
        match found {
            Ok(annotations) => Self::Annotations(annotations),
            Err(reason) => Self::Refused(reason),
        }
    }
}

/// What a converter counted; zero or empty where it means nothing to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Bytes of the layer without compression.
    pub uncompressed_size: u64,
    /// Entries in the layer.
    pub entries: u64,
    /// Chunks of files that can be fetched alone.
    pub chunks: u64,
    /// Entries that were moved to the front.
    pub prioritized: u64,
    /// Bytes from the front that hold them.
    pub prefetch_size: u64,
    /// Paths that were to be moved to the front and are not there.
    pub missing: Vec<String>,
    /// Whether nothing was moved since a global extended header holds for the files after it; there is a warning then.
    #[serde(default)]
    pub order_refused: bool,
    /// A hard link that says another mode, owner, time or attributes than its file, if there is one; there is a warning then.
    #[serde(default)]
    pub diverging_link: Option<String>,
    /// The compression that the source's first bytes announce: `plain`, `gzip` or `zstd`. Where the media type says
    /// another one, there is a warning.
    #[serde(default)]
    pub source_compression: String,
    /// Bytes of the JSON of its table of contents. Where they are more than this project reads, there is a warning.
    #[serde(default)]
    pub toc_size: u64,
    /// How long the layer was worked on before the converter was asked for it.
    #[serde(skip)]
    pub begun: Duration,
}
