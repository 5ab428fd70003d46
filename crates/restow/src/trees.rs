//! The names in the layers of images: read for their own sake, or on the way to a conversion.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use restow_analyze as analyze;
use restow_analyze::Reading;
use restow_analyze::Tree;
use restow_content::Provider;
use restow_convert::BegunImage;
use restow_convert::Cancel;
use restow_convert::Layer;
use restow_oci::Digest;
use restow_oci::Limits;

use crate::image::Image;
use crate::parallel;

/// Where the names of an image's files are found.
#[derive(Clone, Copy)]
pub(crate) struct Trees<'a> {
    pub(crate) provider: &'a dyn Provider,
    pub(crate) limits: &'a Limits,
    pub(crate) threads: NonZeroUsize,
    pub(crate) cancel: &'a Cancel,
    /// What becomes of the layers afterwards, if they are converted: files are then compressed in the same reading.
    pub(crate) conversion: Option<Gathering<'a>>,
}

/// How layers are read that are converted afterwards.
#[derive(Clone, Copy)]
pub(crate) struct Gathering<'a> {
    pub(crate) image: &'a BegunImage<'a>,
    pub(crate) repeated: &'a Repeated,
}

/// Layers that later images have, too, and that are read for the first only.
#[derive(Default)]
pub(crate) struct Repeated(Mutex<BTreeMap<Digest, Arc<analyze::Layer>>>);

impl Repeated {
    /// Returns a layer of the image, which `read` reads unless an earlier one had it. It is kept until the last has it.
    fn once(
        &self,
        image: &BegunImage<'_>,
        layer: &Layer<'_>,
        read: impl FnOnce() -> Option<analyze::Layer>,
    ) -> Option<Arc<analyze::Layer>> {
        let digest = &layer.descriptor.digest;
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match known().remove(digest) {
            Some(found) => found,
            None => Arc::new(read()?),
        };
        if image.comes_again(layer) {
            known().insert(digest.clone(), found.clone());
        }
        Some(found)
    }
}

impl Trees<'_> {
    /// Returns the names in the layers of an image.
    pub(crate) fn names(&self, image: &Image) -> analyze::Result<Tree> {
        self.tree(image, false)
    }

    /// Returns the same, and what predictions are made of.
    pub(crate) fn for_prediction(&self, image: &Image) -> analyze::Result<Tree> {
        self.tree(image, true)
    }

    fn tree(&self, image: &Image, predicting: bool) -> analyze::Result<Tree> {
        if let Some(tree) = self.gather(predicting) {
            return Ok(tree);
        }
        let reading = Reading {
            provider: self.provider,
            limits: self.limits,
            threads: self.threads.get(),
            stop: &|| self.cancel.is_cancelled(),
        };
        let layers = image.manifest.layers();
        if predicting { reading.tree_with_notes(layers) } else { reading.tree(layers) }
    }

    /// Returns nothing where a layer cannot be gathered: it may still be read, and whoever converts it tells why.
    fn gather(&self, predicting: bool) -> Option<Tree> {
        let Gathering { image, repeated } = self.conversion?;
        let mut layers: Vec<_> = image.source().layers.iter().collect();
        // The largest first, so that no thread is left with it at the end. Equal ones are together, and one is read.
        layers.sort_by_key(|layer| (Reverse(layer.descriptor.size), &layer.descriptor.digest));
        let works: Vec<_> =
            layers.chunk_by(|one, next| one.descriptor.digest == next.descriptor.digest).collect();
        let gathered = parallel::map(&works, self.threads, |equal| {
            let layer = equal[0];
            repeated.once(image, layer, || {
                if !predicting {
                    let mut names = analyze::Layer::default();
                    image.begin(layer, &mut |header| names.add(header)).ok()?;
                    return Some(names.finish(None));
                }
                let mut names = analyze::Layer::gathering();
                let files = image.begin_with_files(layer, &mut |header| names.add(header));
                Some(names.finish(Some(files.ok()?)))
            })
        });
        // What is no tar, or is not there and need not be, counts as empty.
        let mut all = vec![Arc::default(); image.source().manifest.layers().len()];
        for (equal, layer) in works.into_iter().zip(gathered) {
            let layer = layer?;
            equal.iter().for_each(|place| all[place.position] = layer.clone());
        }
        Some(Tree::from_layers(all))
    }
}
