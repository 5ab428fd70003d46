//! Converters one after another.

use std::path::PathBuf;

use restow_content::LocalStore;
use restow_content::Overlay;
use restow_content::Provider;
use restow_content::Store;
use restow_content::copy;
use restow_oci::Descriptor;
use restow_oci::annotations::strip_chunked;

use crate::BoxError;
use crate::Converted;
use crate::Layer;
use crate::LayerConverter;
use crate::Silent;
use crate::Statistics;
use crate::index::retarget;
use crate::schedule::NewBlob;

/// Gives each layer to several converters, one after another: what one makes, the next is given.
///
/// Each holds what the one before it made to its digests, as it does with any layer. Only the last result goes to the
/// store; what comes before waits in a directory that lasts as long as the layer takes.
#[expect(missing_debug_implementations, reason = "the converters it holds have none")]
pub struct Chain {
    converters: Vec<Box<dyn LayerConverter>>,
    scratch: PathBuf,
}

impl Chain {
    /// Joins converters, which keep results for each other below `scratch`. A chain of none changes nothing.
    pub fn new(converters: Vec<Box<dyn LayerConverter>>, scratch: PathBuf) -> Self {
        Self { converters, scratch }
    }
}

impl LayerConverter for Chain {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        let scratch = tempfile::tempdir_in(&self.scratch)?;
        let between = LocalStore::open(scratch.path())?;
        let mut made: Option<Made> = None;
        for (position, converter) in self.converters.iter().enumerate() {
            let given = made.as_ref().map_or(*layer, |made| made.layer(layer));
            let last = position + 1 == self.converters.len();
            let (upper, lower): (&dyn Store, &dyn Provider) =
                if last { (store, &between) } else { (&between, store) };
            match converter.convert(&Overlay::new(upper, [lower]), &given)? {
                Converted::Unchanged => {}
                Converted::Unsupported(reason) => return Ok(Converted::Unsupported(reason)),
                Converted::Changed { descriptor, diff_id, partial, toc, statistics } => {
                    let next = successor(given.descriptor, &descriptor);
                    let blob = NewBlob { descriptor, diff_id, partial, toc };
                    made = Some(Made::of(blob, statistics, next, made));
                }
            }
        }
        let Some(Made { blob, statistics, .. }) = made else { return Ok(Converted::Unchanged) };
        let NewBlob { descriptor, diff_id, partial, toc } = blob;
        // Where the last converter had nothing to do, the result is still waiting for it.
        let anywhere = Overlay::new(&between, [store as &dyn Provider]);
        for blob in std::iter::once(&descriptor).chain(&toc) {
            copy(&anywhere, store, blob)?;
        }
        Ok(Converted::Changed { descriptor, diff_id, partial, toc, statistics })
    }

    fn identity(&self, layer: &Layer<'_>) -> Option<String> {
        let identities = self.converters.iter().map(|converter| converter.identity(layer));
        // With its length, so that no two chains read the same.
        let counted = identities.map(|identity| identity.map(|text| format!("{}:{text}", text.len())));
        Some(format!("chain {}", counted.collect::<Option<Vec<_>>>()?.join(" ")))
    }
}

/// What the converters so far have made of a layer.
struct Made {
    blob: NewBlob,
    statistics: Statistics,
    /// The layer as the next converter finds it.
    descriptor: Descriptor,
}

impl Made {
    /// Adds to what a converter has made what is still true of what came before.
    fn of(
        mut blob: NewBlob,
        mut statistics: Statistics,
        descriptor: Descriptor,
        before: Option<Made>,
    ) -> Self {
        if let Some(Made { blob: old, statistics: first, .. }) = before {
            let mut annotations = old.descriptor.annotations;
            strip_chunked(&mut annotations);
            annotations.append(&mut blob.descriptor.annotations);
            blob.descriptor.annotations = annotations;
            statistics.source_compression = first.source_compression;
        }
        Self { blob, statistics, descriptor }
    }

    /// Returns the layer that takes the place of the one before. What is read of it is no progress with that one.
    fn layer<'a>(&'a self, source: &Layer<'a>) -> Layer<'a> {
        Layer { descriptor: &self.descriptor, diff_id: &self.blob.diff_id, observer: &Silent, ..*source }
    }
}

/// Returns the descriptor of what a layer has become, as it would stand in the manifest.
fn successor(layer: &Descriptor, new: &Descriptor) -> Descriptor {
    let mut successor = retarget(layer, new);
    strip_chunked(&mut successor.annotations);
    successor.annotations.extend(new.annotations.clone());
    successor
}
