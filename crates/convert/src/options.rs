//! How a conversion is done.

use std::num::NonZero;
use std::sync::Arc;

use restow_oci::Limits;
use restow_oci::Platform;

use crate::Cancel;
use crate::Memo;
use crate::NoMemo;
use crate::Platforms;
use crate::Readers;

/// How to convert.
#[derive(Clone, Debug)]
pub struct Options {
    /// The images to convert.
    pub platforms: Platforms,
    /// Whether the other images stay in the index, untouched. Their blobs need not be in the store.
    pub keep_other_platforms: bool,
    /// Whether a manifest or index that changes keeps its `subject`.
    pub keep_subject: bool,
    /// Who is to read the layers lazily.
    pub readers: Readers,
    /// Whether converted images join the index beside their sources, which stay first and untouched. A root that is
    /// the manifest of an image becomes an index.
    pub add_variants: bool,
    /// Whether a layer that podman's reader would refuse is an error, or one that cannot be converted and is kept. Otherwise
    /// it is an ordinary layer to podman, with a warning.
    pub strict: bool,
    /// Whose media types the images get.
    pub media_types: MediaTypes,
    /// What to do about a layer that the converter cannot convert.
    pub unsupported: Unsupported,
    /// How many layers are converted at once.
    pub jobs: NonZero<usize>,
    /// How much is accepted.
    pub limits: Limits,
    /// Stops the conversion when raised.
    pub cancel: Cancel,
    /// Layers converted before.
    pub memo: Arc<dyn Memo>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            platforms: Platforms::Prefer(Platform::host()),
            keep_other_platforms: false,
            keep_subject: false,
            readers: Readers::default(),
            add_variants: false,
            strict: false,
            media_types: MediaTypes::Keep,
            unsupported: Unsupported::Fail,
            jobs: NonZero::<usize>::MIN,
            limits: Limits::default(),
            cancel: Cancel::default(),
            memo: Arc::new(NoMemo),
        }
    }
}

/// Whose media types an image gets, all of it: readers trip over a mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those it has, as long as they can say what the image becomes: Docker's know no annotations.
    #[default]
    Keep,
    /// OCI's.
    Oci,
    /// Docker's. Layers lose their annotations; a part that Docker has no media type for is an error.
    Docker,
}

/// What to do about a layer that the converter cannot convert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsupported {
    /// Fail, with the converter's reason.
    #[default]
    Fail,
    /// Keep the layer as it is, with a warning.
    Keep,
}
