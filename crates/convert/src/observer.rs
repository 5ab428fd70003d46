//! What a conversion tells while it runs and when it is done.

use std::time::Duration;

use restow_oci::Descriptor;
use restow_oci::Digest;

use crate::Layer;
use crate::Statistics;

/// Watches a conversion. Layers report from several threads at once.
pub trait Observer: Sync {
    /// A converter begins with a layer, or goes on with one that it [began with](crate::Seekable::begin). Layers that are
    /// shared, recalled or kept may never start, and finish all the same.
    fn layer_started(&self, layer: &Layer<'_>);

    /// A converter has read this many more bytes of the layer's blob.
    fn advanced(&self, layer: &Layer<'_>, bytes: u64);

    /// A layer has its place in the result.
    fn layer_finished(&self, report: &LayerReport);

    /// Something did not go as one might expect. Also in [`Conversion::warnings`](crate::Conversion::warnings).
    fn warning(&self, text: &str);
}

/// The observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn layer_started(&self, _layer: &Layer<'_>) {}
    fn advanced(&self, _layer: &Layer<'_>, _bytes: u64) {}
    fn layer_finished(&self, _report: &LayerReport) {}
    fn warning(&self, _text: &str) {}
}

/// What became of one image.
#[derive(Clone, Debug)]
pub struct ImageReport {
    /// The manifest before the conversion.
    pub source: Descriptor,
    /// The manifest after it.
    pub destination: Descriptor,
}

/// What became of one layer of one image.
#[derive(Clone, Debug)]
pub struct LayerReport {
    /// The manifest the layer was found in, by its digest before the conversion.
    pub manifest: Digest,
    /// The layer's position in that manifest, from 0.
    pub position: usize,
    /// How the result was come by.
    pub outcome: Outcome,
    /// The layer before.
    pub source: Descriptor,
    /// The layer after.
    pub destination: Descriptor,
    /// The blob of the layer's table of contents, where that is not in the layer.
    pub toc: Option<Descriptor>,
    /// Whether the uncompressed bytes, and with them the entry in the config, are the same as before.
    pub diff_id_kept: bool,
    /// What the converter counted; zeros for a layer that was kept.
    pub statistics: Statistics,
    /// How long the converter worked; zero for layers it did not work on.
    pub elapsed: Duration,
}

/// How the result for a layer was come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The layer's blob stays as it was.
    #[default]
    Kept,
    /// The layer was converted.
    Converted,
    /// An equal layer was converted in the same run.
    Shared,
    /// The result is known from an earlier conversion.
    Recalled,
}
