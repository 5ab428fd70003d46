//! Layers whose order depends on what all layers of their image hold.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use restow_content::Store;
use restow_layer::GatheredFiles;
use restow_layer::Header;
use restow_oci::Digest;

use crate::BoxError;
use crate::Converted;
use crate::ImageConverter;
use crate::Layer;
use crate::LayerConverter;
use crate::Pending;
use crate::Seekable;
use crate::SourceImage;
use crate::seekable::Waiting;

/// Says which paths come first in the layers of an image.
pub trait Orderer: Send + Sync {
    /// Returns the paths to put first, by the position of their layer. If it takes the files of layers to tell, they are had
    /// by [`BegunImage::begin`].
    fn order(&self, image: &BegunImage<'_>) -> Result<BTreeMap<usize, Vec<String>>, BoxError>;
}

/// Makes layers seekable in the order that an [`Orderer`] chooses for each image.
///
/// The orderer looks into the layers on the way: what has been compressed by then waits for its order in temporary files,
/// those of one image at a time.
#[expect(missing_debug_implementations, reason = "an orderer has none")]
pub struct Ordered<'o> {
    seekable: Seekable,
    orderer: &'o dyn Orderer,
}

impl<'o> Ordered<'o> {
    /// Returns a converter that lets `orderer` choose, and does not heed [`Seekable::prioritize`]. It converts whole images,
    /// and so does not go into a [`Chain`](crate::Chain).
    pub fn new(seekable: Seekable, orderer: &'o dyn Orderer) -> Self {
        Self { seekable, orderer }
    }
}

impl LayerConverter for Ordered<'_> {
    fn convert(&self, _store: &dyn Store, _layer: &Layer<'_>) -> Result<Converted, BoxError> {
        Err("the order of a layer is known with its image only: this converter is for whole images".into())
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        // It is the orderer's to know.
        None
    }

    fn per_image(&self) -> Option<&dyn ImageConverter> {
        Some(self)
    }
}

impl ImageConverter for Ordered<'_> {
    fn begin<'a>(
        &'a self,
        store: &'a dyn Store,
        source: &'a SourceImage<'a>,
        later: &'a [SourceImage<'a>],
    ) -> Result<Box<dyn LayerConverter + 'a>, BoxError> {
        let pending =
            source.layers.iter().map(|layer| (&layer.descriptor.digest, Mutex::default())).collect();
        let image = BegunImage { seekable: &self.seekable, store, source, later, pending };
        let first = self.orderer.order(&image)?;
        Ok(Box::new(OrderedImage { image, first }))
    }
}

/// An image whose layers can be looked into before they are converted.
#[expect(missing_debug_implementations, reason = "a store has none")]
pub struct BegunImage<'a> {
    seekable: &'a Seekable,
    store: &'a dyn Store,
    source: &'a SourceImage<'a>,
    later: &'a [SourceImage<'a>],
    /// Layers begun with, by their blobs: equal ones are begun with once.
    pending: BTreeMap<&'a Digest, Mutex<Option<Waiting>>>,
}

impl<'a> BegunImage<'a> {
    /// Returns the image's documents and layers.
    pub fn source(&self) -> &'a SourceImage<'a> {
        self.source
    }

    /// Tells whether a later image has the layer, too.
    pub fn comes_again(&self, layer: &Layer<'_>) -> bool {
        let digest = &layer.descriptor.digest;
        self.later.iter().flat_map(|image| &image.layers).any(|later| later.descriptor.digest == *digest)
    }

    /// Reads a layer, of which `entry` sees each header, and keeps its files compressed until it is converted. Layers may be
    /// begun with side by side.
    pub fn begin(&self, layer: &Layer<'_>, entry: &mut (dyn FnMut(&Header) + Send)) -> Result<(), BoxError> {
        let pending = self.seekable.begin(self.store, layer, entry)?;
        self.keep(layer, pending);
        Ok(())
    }

    /// Does the same, and returns the files, in the order of the headers.
    pub fn begin_with_files(
        &self,
        layer: &Layer<'_>,
        entry: &mut (dyn FnMut(&Header) + Send),
    ) -> Result<GatheredFiles, BoxError> {
        let (pending, files) = self.seekable.begin_with_files(self.store, layer, entry)?;
        self.keep(layer, pending);
        Ok(files)
    }

    fn keep(&self, layer: &Layer<'_>, pending: Pending<'_>) {
        if let Some(place) = self.pending.get(&layer.descriptor.digest) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(pending.into());
        }
    }

    fn take(&self, layer: &Layer<'_>) -> Option<Pending<'a>> {
        let place = self.pending.get(&layer.descriptor.digest)?;
        let waiting = place.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(waiting.of(self.seekable))
    }
}

/// An image whose order is known.
struct OrderedImage<'a> {
    image: BegunImage<'a>,
    first: BTreeMap<usize, Vec<String>>,
}

impl OrderedImage<'_> {
    fn first(&self, layer: &Layer<'_>) -> &[String] {
        self.first.get(&layer.position).map_or(&[], Vec::as_slice)
    }
}

impl LayerConverter for OrderedImage<'_> {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        let first = self.first(layer);
        match self.image.take(layer) {
            Some(pending) => pending.finish(store, layer, first),
            None => self.image.seekable.convert_with(store, layer, first, None),
        }
    }

    fn identity(&self, layer: &Layer<'_>) -> Option<String> {
        Some(self.image.seekable.identity_with(layer, self.first(layer)))
    }
}
