//! What an image becomes, and how.

use std::fmt;

use restow_convert::LayerConverter;
use restow_convert::MediaTypes;
use restow_convert::Platforms;
use restow_convert::Readers;
use restow_convert::Unsupported;
use restow_layer::Chunking;
use restow_layer::Codec;
use restow_layer::DEFAULT_CHUNK_SIZE;
use restow_layer::Estargz;
use restow_layer::Landmark;
use restow_layer::Recompression;
use restow_layer::ZstdChunked;
use restow_oci::Platform;
use restow_registry::Existing;

use crate::Destination;
use crate::Result;
use crate::order::Order;

/// How an image is converted.
///
/// [`new`](ConvertOptions::new) says what the layers become; the other fields begin with what suits most images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConvertOptions<'a> {
    /// What the layers become.
    pub target: Target<'a>,
    /// Which images of an index are converted; that for this machine's platform, unless told otherwise.
    pub platforms: Platforms,
    /// Whether the other images stay in the index, unconverted.
    pub keep_other_platforms: bool,
    /// Whether a manifest that changes keeps its `subject`.
    pub keep_subject: bool,
    /// Whether what refers to the source is copied to the destination. It goes on to refer to the source's digest.
    pub copy_referrers: bool,
    /// Whether a manifest is attached to the result that says what it and its layers were made of.
    pub attach_provenance: bool,
    /// Whose media types the image gets.
    pub media_types: MediaTypes,
    /// The readers that fetch parts of zstd:chunked layers.
    pub readers: Readers,
    /// Whether the converted images join the index beside their sources.
    pub add_variants: bool,
    /// Whether a layer that podman's reader would refuse is an error.
    pub strict: bool,
    /// What is done about a layer that cannot be converted.
    pub unsupported: Unsupported,
    /// Whether names in layers may go through a parent directory (`../x`).
    pub parent_references: bool,
    /// Whether a layer that has the format already, and in which nothing moves, is kept once all of it is verified.
    pub reuse: bool,
    /// What becomes of an image that a registry has already.
    pub existing: Existing,
    /// How each new layer is verified before it counts.
    pub verify: Verify,
}

impl<'a> ConvertOptions<'a> {
    /// Makes this of the layers.
    pub fn new(target: impl Into<Target<'a>>) -> Self {
        Self {
            target: target.into(),
            platforms: Platforms::Prefer(Platform::host()),
            keep_other_platforms: false,
            keep_subject: false,
            copy_referrers: false,
            attach_provenance: false,
            media_types: MediaTypes::Keep,
            readers: Readers::default(),
            add_variants: false,
            strict: false,
            unsupported: Unsupported::Fail,
            parent_references: false,
            reuse: false,
            existing: Existing::default(),
            verify: Verify::default(),
        }
    }
}

impl ConvertOptions<'_> {
    /// Refuses a destination that cannot hold all that is asked for.
    pub(crate) fn check(&self, destination: &Destination) -> Result<()> {
        if self.copy_referrers || self.attach_provenance {
            destination.must_hold_referrers()?;
        }
        match &self.target {
            Target::Seekable(SeekableLayers { toc_image: Some(_), .. }) => destination.must_hold_tables(),
            _ => Ok(()),
        }
    }
}

impl<'a, C: LayerConverter> From<&'a C> for ConvertOptions<'a> {
    /// Lets the converter make what it will of the layers.
    fn from(converter: &'a C) -> Self {
        Self::new(Target::By(converter))
    }
}

impl From<SeekableLayers> for ConvertOptions<'_> {
    fn from(layers: SeekableLayers) -> Self {
        Self::new(Target::Seekable(layers))
    }
}

/// What layers become.
#[derive(Clone)]
#[non_exhaustive]
pub enum Target<'a> {
    /// Seekable ones, in some order.
    Seekable(SeekableLayers),
    /// Ordinary ones.
    Ordinary(Recompression),
    /// What they are: only media types change.
    Same,
    /// What a converter makes of them.
    By(&'a dyn LayerConverter),
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Seekable(layers) => f.debug_tuple("Seekable").field(layers).finish(),
            Target::Ordinary(recompression) => f.debug_tuple("Ordinary").field(recompression).finish(),
            Target::Same => f.write_str("Same"),
            Target::By(_) => f.write_str("By(..)"),
        }
    }
}

impl From<SeekableLayers> for Target<'_> {
    fn from(layers: SeekableLayers) -> Self {
        Target::Seekable(layers)
    }
}

impl From<Recompression> for Target<'_> {
    fn from(recompression: Recompression) -> Self {
        Target::Ordinary(recompression)
    }
}

/// Layers of which parts can be fetched and verified alone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SeekableLayers {
    /// Their format.
    pub format: Format,
    /// The most bytes of a file in one chunk.
    pub chunk_size: u64,
    /// Where the chunks of a file end.
    pub chunking: Chunking,
    /// When the end of the files that come first is marked.
    pub landmark: Landmark,
    /// Whether it is an error when the tar of a layer changes.
    pub keep_diff_id: bool,
    /// Which files come first.
    pub order: Order,
    /// The image that the tables of contents go to, for formats that keep none in the layers.
    pub toc_image: Option<TocImage>,
}

impl SeekableLayers {
    /// Returns layers of this format, with chunks of 4 MiB, whose files come in a predicted order.
    pub fn new(format: impl Into<Format>) -> Self {
        Self {
            format: format.into(),
            chunk_size: DEFAULT_CHUNK_SIZE,
            chunking: Chunking::default(),
            landmark: Landmark::Auto,
            keep_diff_id: false,
            order: Order::predicted(),
            toc_image: None,
        }
    }

    /// Puts files first as `order` says.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }
}

/// A format of seekable layers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Format {
    /// zstd:chunked.
    ZstdChunked(ZstdChunked),
    /// eStargz.
    Estargz(Estargz),
}

impl Format {
    pub(crate) fn codec(self) -> Box<dyn Codec> {
        match self {
            Format::ZstdChunked(codec) => Box::new(codec),
            Format::Estargz(codec) => Box::new(codec),
        }
    }
}

impl From<ZstdChunked> for Format {
    fn from(codec: ZstdChunked) -> Self {
        Format::ZstdChunked(codec)
    }
}

impl From<Estargz> for Format {
    fn from(codec: Estargz) -> Self {
        Format::Estargz(codec)
    }
}

/// An image of tables of contents.
#[derive(Clone, Debug, Default)]
pub struct TocImage {
    /// Its tags, in the place of the converted image.
    pub tags: Vec<String>,
    /// Whether it says which image it is about, as registries list referrers.
    pub referrer: bool,
}

/// How a new layer is verified before it counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Verify {
    /// It is read back: each chunk and file, the DiffID, the table of contents.
    Full,
    /// Each frame is decoded as it is made; then as for [`Verify::Toc`].
    Frames,
    /// The table of contents is read back, and each chunk's frame must start where it says.
    #[default]
    Toc,
    /// Not at all.
    None,
}
