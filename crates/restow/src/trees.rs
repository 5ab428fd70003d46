//! The names in the layers of images: read for their own sake, or on the way to a conversion.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::OnceLock;

use restow_analyze as analyze;
use restow_analyze::Reading;
use restow_analyze::Tree;
use restow_content::Provider;
use restow_convert::Cancel;
use restow_convert::Layer;
use restow_convert::Observer;
use restow_convert::Seekable;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;

use crate::image::Image;
use crate::parallel;

/// Where the names of an image's files are found.
#[derive(Clone, Copy)]
pub struct Trees<'a> {
    pub provider: &'a dyn Provider,
    pub limits: &'a Limits,
    pub threads: NonZeroUsize,
    pub cancel: &'a Cancel,
    /// What becomes of the layers afterwards, if they are converted: files are then compressed in the same reading.
    pub conversion: Option<Gathering<'a>>,
}

/// How layers are read that are converted afterwards.
#[derive(Clone, Copy)]
pub struct Gathering<'a> {
    pub seekable: &'a Seekable,
    pub observer: &'a dyn Observer,
    pub repeated: &'a Repeated,
}

/// Layers that stand in several places of the images of a run, and are read for the first only.
pub struct Repeated(BTreeMap<Digest, OnceLock<Option<Arc<analyze::Layer>>>>);

impl Repeated {
    /// Finds those of `images`.
    pub fn among(images: &[Image]) -> Self {
        let mut places: BTreeMap<&Digest, usize> = BTreeMap::new();
        for layer in images.iter().flat_map(|image| image.manifest.layers()) {
            *places.entry(&layer.digest).or_default() += 1;
        }
        let repeated = places.into_iter().filter(|(_, count)| *count > 1);
        Self(repeated.map(|(digest, _)| (digest.clone(), OnceLock::new())).collect())
    }

    fn once(
        &self,
        digest: &Digest,
        read: impl FnOnce() -> Option<analyze::Layer>,
    ) -> Option<Arc<analyze::Layer>> {
        match self.0.get(digest) {
            Some(layer) => layer.get_or_init(|| read().map(Arc::new)).clone(),
            None => read().map(Arc::new),
        }
    }
}

impl Trees<'_> {
    /// Returns the names in the layers of an image.
    pub fn names(&self, image: &Image) -> analyze::Result<Tree> {
        self.tree(image, false)
    }

    /// Returns the same, and what predictions are made of.
    pub fn for_prediction(&self, image: &Image) -> analyze::Result<Tree> {
        self.tree(image, true)
    }

    fn tree(&self, image: &Image, predicting: bool) -> analyze::Result<Tree> {
        if let Some(tree) = self.gather(image, predicting) {
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
    fn gather(&self, image: &Image, predicting: bool) -> Option<Tree> {
        let Gathering { seekable, observer, repeated } = self.conversion?;
        let layers = image.manifest.layers();
        let mut places: Vec<usize> = (0..layers.len()).collect();
        // The largest first, so that no thread is left with it at the end.
        places.sort_by_key(|&position| Reverse(layers[position].size));
        let gathered = parallel::map(&places, self.threads, |&position| {
            let descriptor = &layers[position];
            let Kind::Layer { distributable, .. } = descriptor.media_type.kind() else {
                return Some(Arc::default());
            };
            if !distributable && self.provider.open(descriptor).is_err_and(|error| error.is_not_found()) {
                return Some(Arc::default());
            }
            let (manifest, diff_id) = (&image.descriptor.digest, image.diff_ids.get(position)?);
            let layer = Layer { manifest, position, descriptor, diff_id, observer, cancel: self.cancel };
            repeated.once(&descriptor.digest, || {
                if !predicting {
                    let mut names = analyze::Layer::default();
                    seekable.gather(self.provider, &layer, &mut |header| names.add(header)).ok()?;
                    return Some(names.finish(None));
                }
                let mut names = analyze::Layer::gathering();
                let files = seekable.gather_files(self.provider, &layer, &mut |header| names.add(header));
                Some(names.finish(Some(files.ok()?)))
            })
        });
        let mut gathered: Vec<_> = places.into_iter().zip(gathered).collect();
        gathered.sort_by_key(|(position, _)| *position);
        gathered.into_iter().map(|(_, layer)| layer).collect::<Option<Vec<_>>>().map(Tree::from_layers)
    }
}
