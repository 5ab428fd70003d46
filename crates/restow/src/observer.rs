//! Hearing of work while it goes on.

use std::sync::Arc;

use restow_convert as convert;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_registry as registry;

use crate::Warning;
use crate::WarningKind;
use crate::report::LayerReport;

/// Hears of work while it goes on, from several threads at once.
pub trait Observer: Send + Sync {
    /// Something begins that may take a while and has no layer of its own.
    fn step(&self, _step: &Step<'_>) {}

    /// Something went otherwise than one might expect. Reports have it, too.
    fn warning(&self, _warning: &Warning) {}

    /// A layer or blob is going to be read. A layer that is read for its order first may begin twice; one that is kept or
    /// known from earlier work may not begin at all.
    fn started(&self, _part: &Part<'_>) {}

    /// So many more of its bytes have been read.
    fn advanced(&self, _part: &Part<'_>, _bytes: u64) {}

    /// Nobody reads a blob any more; `whole`: since all of it has been read.
    fn finished(&self, _part: &Part<'_>, _whole: bool) {}

    /// A layer of a conversion has its place in the result.
    fn layer_finished(&self, _layer: &LayerReport) {}
}

/// The observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// What may take a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Step<'a> {
    /// The files in the layers of this manifest are listed.
    Listing(&'a Digest),
    /// It is predicted which files a container of this manifest reads first.
    Predicting(&'a Digest),
    /// The workloads of this manifest's image run.
    Running(&'a Digest),
}

/// What is read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Part<'a> {
    /// A layer that is converted.
    Layer {
        /// The manifest that it was found in.
        manifest: &'a Digest,
        /// Its position there, from 0.
        position: usize,
        /// Its blob.
        descriptor: &'a Descriptor,
    },
    /// A blob that is copied.
    Copy(&'a Descriptor),
    /// A blob that is uploaded to a registry.
    Upload(&'a Descriptor),
}

impl<'a> Part<'a> {
    /// Returns its blob.
    pub fn descriptor(&self) -> &'a Descriptor {
        match self {
            Part::Layer { descriptor, .. } | Part::Copy(descriptor) | Part::Upload(descriptor) => descriptor,
        }
    }
}

/// Tells an observer of the layers of a conversion.
pub(crate) struct Layers<'a>(pub(crate) &'a dyn Observer);

fn part<'a>(layer: &convert::Layer<'a>) -> Part<'a> {
    Part::Layer { manifest: layer.manifest, position: layer.position, descriptor: layer.descriptor }
}

impl convert::Observer for Layers<'_> {
    fn layer_started(&self, layer: &convert::Layer<'_>) {
        self.0.started(&part(layer));
    }

    fn advanced(&self, layer: &convert::Layer<'_>, bytes: u64) {
        self.0.advanced(&part(layer), bytes);
    }

    fn layer_finished(&self, report: &convert::LayerReport) {
        self.0.layer_finished(&LayerReport::of(report));
    }

    fn warning(&self, text: &str) {
        self.0.warning(&Warning::new(WarningKind::Conversion, text));
    }
}

/// Tells an observer of blobs that are copied or uploaded.
pub(crate) struct Blobs {
    observer: Arc<dyn Observer>,
    part: fn(&Descriptor) -> Part<'_>,
}

impl Blobs {
    pub(crate) fn copies(observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self { observer, part: |blob| Part::Copy(blob) })
    }

    pub(crate) fn uploads(observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self { observer, part: |blob| Part::Upload(blob) })
    }
}

impl registry::Observer for Blobs {
    fn started(&self, blob: &Descriptor) {
        self.observer.started(&(self.part)(blob));
    }

    fn advanced(&self, blob: &Descriptor, bytes: u64) {
        self.observer.advanced(&(self.part)(blob), bytes);
    }

    fn finished(&self, blob: &Descriptor, whole: bool) {
        self.observer.finished(&(self.part)(blob), whole);
    }
}
