//! Why a conversion failed.

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use crate::BoxError;
use crate::Cancelled;
use crate::Layer;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a conversion failed. Nothing refers to the blobs written until then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A manifest, index or config could not be read from the store.
    #[error("cannot read {media_type} {digest}")]
    Read {
        /// The document.
        digest: Digest,
        /// What the descriptor says it is.
        media_type: MediaType,
        /// Why.
        source: restow_content::Error,
    },
    /// A document is not what its media type promises.
    #[error("{media_type} {digest} is malformed")]
    Malformed {
        /// The document.
        digest: Digest,
        /// What the descriptor says it is.
        media_type: MediaType,
        /// Why.
        source: Box<restow_oci::Error>,
    },
    /// The root descriptor is neither an index nor a manifest.
    #[error("{digest} is a {media_type}, not an image or an index of images")]
    NotAnImage {
        /// The root.
        digest: Digest,
        /// What its descriptor says it is.
        media_type: MediaType,
    },
    /// No image is for a platform that was asked for.
    #[error("no image for {wanted}; there is {available}")]
    NoMatch {
        /// The platforms without an image.
        wanted: String,
        /// The platforms that have one.
        available: String,
    },
    /// Indexes refer to indexes too many times over.
    #[error("index {digest} is nested more than {limit} deep")]
    TooDeep {
        /// The index beyond the limit.
        digest: Digest,
        /// The limit.
        limit: usize,
    },
    /// The indexes under the root have too many entries in all.
    #[error("the indexes down to {digest} have more than {limit} entries")]
    TooMany {
        /// The index that passed the limit.
        digest: Digest,
        /// The limit.
        limit: usize,
    },
    /// An image's config counts other layers than its manifest.
    #[error("manifest {manifest} has {layers} layers, its config {diff_ids} diff_ids")]
    LayerCount {
        /// The manifest.
        manifest: Digest,
        /// Layers in the manifest.
        layers: usize,
        /// Entries of `rootfs.diff_ids` in the config.
        diff_ids: usize,
    },
    /// Blobs of layers that are to be converted are not in the store.
    #[error("{} of the layers to convert are not in the store: {}", .layers.len(), .layers.join(", "))]
    Missing {
        /// Each with its place.
        layers: Vec<String>,
    },
    /// A layer could not be converted.
    #[error("layer {position} of manifest {manifest} ({media_type} {digest})")]
    Layer {
        /// The manifest.
        manifest: Digest,
        /// The layer's position in it, from 0.
        position: usize,
        /// What the manifest says the layer is.
        media_type: MediaType,
        /// The layer's blob.
        digest: Digest,
        /// Why.
        source: BoxError,
    },
    /// The layers of an image could not be looked at together.
    #[error("the layers of manifest {manifest}")]
    Image {
        /// The manifest.
        manifest: Digest,
        /// Why.
        source: BoxError,
    },
    /// A layer's content is not the one its config names.
    #[error("expected a layer with DiffID {expected}, as its config says, found {actual}")]
    DiffId {
        /// The config's entry.
        expected: Digest,
        /// What the layer decompresses to.
        actual: Digest,
    },
    /// A layer's content cannot be held against its config.
    #[error("cannot verify DiffID {diff_id}: only sha256 can be")]
    DiffIdAlgorithm {
        /// The config's entry.
        diff_id: Digest,
    },
    /// Podman's reader would refuse a layer, and the options are strict about it.
    #[error("podman cannot read it in part: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// A part of an image has no place in an image of Docker's.
    #[error(
        "manifest {manifest} cannot become Docker's: {media_type} {digest} has no media type there that readers know"
    )]
    NotDocker {
        /// The manifest.
        manifest: Digest,
        /// What the part is.
        media_type: MediaType,
        /// The part.
        digest: Digest,
    },
    /// A converted layer is not what it should have become.
    #[error("the new layer could not be verified")]
    ReadBack {
        /// What is wrong with it.
        source: BoxError,
    },
    /// An edited document could not be put into the store.
    #[error("cannot store the new {media_type} of {digest}")]
    Write {
        /// The document before.
        digest: Digest,
        /// What it is now.
        media_type: MediaType,
        /// Why.
        source: restow_content::Error,
    },
    /// What stands in an image of tables of contents does not say whose table it is.
    #[error("{table} in manifest {manifest} does not say of which layer it is the table of contents")]
    Ownerless {
        /// The manifest.
        manifest: Digest,
        /// The layer that should be a table.
        table: Digest,
    },
    /// An image of tables of contents has two for one layer.
    #[error("there are two tables of contents of layer {layer}: {} and {}", .tables[0], .tables[1])]
    Ambiguous {
        /// The layer.
        layer: Digest,
        /// The tables.
        tables: [Digest; 2],
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Error {
    pub(crate) fn read(document: &Descriptor, source: restow_content::Error) -> Self {
        Self::Read { digest: document.digest.clone(), media_type: document.media_type.clone(), source }
    }

    pub(crate) fn malformed(document: &Descriptor, source: restow_oci::Error) -> Self {
        Self::Malformed {
            digest: document.digest.clone(),
            media_type: document.media_type.clone(),
            source: Box::new(source),
        }
    }

    pub(crate) fn layer(layer: &Layer<'_>, source: impl Into<BoxError>) -> Self {
        Self::Layer {
            manifest: layer.manifest.clone(),
            position: layer.position,
            media_type: layer.descriptor.media_type.clone(),
            digest: layer.descriptor.digest.clone(),
            source: source.into(),
        }
    }
}
