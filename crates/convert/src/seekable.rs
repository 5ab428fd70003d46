//! The converter that makes layers seekable.

use std::collections::BTreeMap;
use std::io;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use restow_content::Blob;
use restow_content::Provider;
use restow_content::Store;
use restow_layer::Codec;
use restow_layer::Depth;
use restow_layer::EncodeOptions;
use restow_layer::Encoded;
use restow_layer::Format;
use restow_layer::Gathered;
use restow_layer::GatheredFiles;
use restow_layer::Header;
use restow_layer::Hints;
use restow_layer::ReadAt;
use restow_layer::TocPlace;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::encode;
use restow_layer::gather;
use restow_layer::gather_files;
use restow_layer::verify;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use restow_oci::annotations::STARGZ_PREFETCH;

use crate::BoxError;
use crate::Cancel;
use crate::Converted;
use crate::Error;
use crate::Layer;
use crate::LayerConverter;
use crate::LayerReader;
use crate::LayerWriter;
use crate::Partial;
use crate::Statistics;
use crate::toc_image;

/// Paths to move to the front of layers, by source manifest and position.
pub type Prioritized = BTreeMap<(Digest, usize), Vec<String>>;

/// Makes layers seekable, in the format of a [`Codec`].
///
/// What is to be moved to the front may depend on the files of an image. [`gather_files`](Self::gather_files) of its layers, look
/// into them, then [`prioritize`](Self::prioritize) and convert: every layer is read once.
#[derive(Debug)]
pub struct Seekable {
    codec: Arc<dyn Codec>,
    options: EncodeOptions,
    workers: Arc<Workers>,
    prioritized: Prioritized,
    verify: Option<Depth>,
    reuse: bool,
    /// Layers that were gathered, by their blobs.
    gathered: Mutex<BTreeMap<Digest, Gathered>>,
    /// How long that took, by source manifest and position.
    spent: Mutex<BTreeMap<(Digest, usize), Duration>>,
    tables: BTreeMap<Digest, Descriptor>,
}

impl Seekable {
    /// Returns a converter whose layers are worked on by `workers` together, which others may use, too. Paths to move to the front come from
    /// `prioritized` and not from `options`.
    pub fn new(codec: Box<dyn Codec>, options: EncodeOptions, workers: impl Into<Arc<Workers>>) -> Self {
        Self {
            codec: codec.into(),
            options,
            workers: workers.into(),
            prioritized: Prioritized::new(),
            verify: Some(Depth::Full),
            reuse: false,
            gathered: Mutex::default(),
            spent: Mutex::default(),
            tables: BTreeMap::new(),
        }
    }

    /// Moves these paths to the front.
    pub fn prioritize(mut self, prioritized: Prioritized) -> Self {
        self.prioritized = prioritized;
        self
    }

    /// Reads this much of a new layer back before it becomes visible; everything, unless told otherwise.
    pub fn verify(mut self, depth: Option<Depth>) -> Self {
        self.verify = depth;
        self
    }

    /// Keeps a layer that has the format already, whoever made it and with whatever options, unless files are to be moved
    /// in it. Every byte of it is verified; annotations that were lost are given back to it. A layer whose table is
    /// elsewhere is kept if [`Seekable::tables`] knows where.
    pub fn reuse(mut self, reuse: bool) -> Self {
        self.reuse = reuse;
        self
    }

    /// Reads a layer to its end, verifies it, and compresses its files, which wait in a temporary file until it is
    /// converted. `entry` sees each header.
    ///
    /// A layer that has no seekable form is an error here, for [`convert()`](crate::convert()) to tell.
    pub fn gather(
        &self,
        store: &dyn Provider,
        layer: &Layer<'_>,
        entry: &mut (dyn FnMut(&Header) + Send),
    ) -> Result<(), BoxError> {
        self.gather_by(store, layer, |source| {
            Ok((gather(source, &self.codec, &self.options, &self.workers, entry)?, ()))
        })
    }

    /// Does the same, and returns the files, in the order of the headers.
    pub fn gather_files(
        &self,
        store: &dyn Provider,
        layer: &Layer<'_>,
        entry: &mut (dyn FnMut(&Header) + Send),
    ) -> Result<GatheredFiles, BoxError> {
        self.gather_by(store, layer, |source| {
            gather_files(source, &self.codec, &self.options, &self.workers, entry)
        })
    }

    fn gather_by<T>(
        &self,
        store: &dyn Provider,
        layer: &Layer<'_>,
        gather: impl FnOnce(&mut LayerReader<'_>) -> restow_layer::Result<(Gathered, T)>,
    ) -> Result<T, BoxError> {
        layer.observer.layer_started(layer);
        let started = Instant::now();
        let mut source = layer.open(store)?;
        let (gathered, found) = gather(&mut source)?;
        source.finish()?;
        let place = (layer.manifest.clone(), layer.position);
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).insert(place, started.elapsed());
        self.gathered().insert(layer.descriptor.digest.clone(), gathered);
        Ok(found)
    }

    fn gathered(&self) -> MutexGuard<'_, BTreeMap<Digest, Gathered>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in which blobs of the store the tables of contents are of layers that have none of their own, by the digests
    /// of the layers. It takes the table to tell whether such a layer can be kept.
    pub fn tables(mut self, tables: BTreeMap<Digest, Descriptor>) -> Self {
        self.tables = tables;
        self
    }

    fn paths(&self, layer: &Layer<'_>) -> &[String] {
        self.prioritized.get(&(layer.manifest.clone(), layer.position)).map_or(&[], Vec::as_slice)
    }

    fn encode(
        &self,
        store: &dyn Store,
        layer: &Layer<'_>,
        output: &mut LayerWriter<'_>,
    ) -> Result<Option<Encoded>, BoxError> {
        let gathered = self.gathered().remove(&layer.descriptor.digest);
        let mut encoded = match gathered {
            Some(gathered) => gathered.encode(output, self.paths(layer), &self.workers)?,
            None => {
                let mut source = layer.open(store)?;
                let options =
                    EncodeOptions { prioritized: self.paths(layer).to_vec(), ..self.options.clone() };
                let encoded = encode(&mut source, output, &*self.codec, &options, &self.workers)?;
                source.finish()?;
                encoded
            }
        };
        layer.check_diff_id(encoded.source_diff_id.clone())?;
        if encoded.entries == 0 && self.codec.layout().toc != TocPlace::Hidden {
            // stargz's reader knows no layer without a root, and for others this would be gzip as before.
            return Ok(None);
        }
        if let Some(depth) = self.verify {
            let verified = self.read_back(layer, output, &mut encoded, depth);
            verified.map_err(|source| Error::ReadBack { source })?;
        }
        Ok(Some(encoded))
    }

    fn read_back(
        &self,
        layer: &Layer<'_>,
        output: &LayerWriter<'_>,
        encoded: &mut Encoded,
        depth: Depth,
    ) -> Result<(), BoxError> {
        let blob = ReadBack { blob: output.written()?, cancel: layer.cancel };
        let partial =
            encoded.partial_annotations.as_ref().ok().filter(|_| encoded.lazy_annotations.is_empty());
        let mut hints = Hints::from_annotations(partial.unwrap_or(&encoded.lazy_annotations))?;
        if let Some(toc) = &mut encoded.toc_blob {
            let mut bytes = Vec::new();
            toc.read()?.read_to_end(&mut bytes)?;
            hints.external_toc = Some(bytes);
        }
        let options = VerifyOptions {
            hints,
            diff_id: Some(encoded.diff_id.clone()),
            depth,
            limits: self.options.limits.clone(),
        };
        verify(&blob, &options, &self.workers)?;
        Ok(())
    }
}

impl Seekable {
    /// Returns the layer as what it is to become, if it is that already.
    fn reused(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Option<Converted>, BoxError> {
        let descriptor = layer.descriptor;
        let blob = ReadBack { blob: store.open(descriptor)?, cancel: layer.cancel };
        // Whatever is wrong with it as a seekable layer, it may still be a sound tar.
        let Ok(mut hints) = Hints::from_annotations(&descriptor.annotations) else { return Ok(None) };
        let table = self.tables.get(&descriptor.digest);
        hints.external_toc =
            table.and_then(|table| restow_content::read(store, table, self.options.limits.toc_size).ok());
        let (diff_id, limits) = (Some(layer.diff_id.clone()), self.options.limits.clone());
        let options = VerifyOptions { hints, diff_id, limits, depth: Depth::Full };
        let verified = verify(&blob, &options, &self.workers);
        layer.cancel.check()?;
        let Ok(verified) = verified else { return Ok(None) };
        let media_type = self.codec.media_type();
        let (Ok(mut annotations), Some(content)) = (verified.lazy_annotations, verified.content) else {
            return Ok(None);
        };
        if media_type != ordinary(verified.format) || verified.toc_place != self.codec.layout().toc {
            return Ok(None);
        }
        let toc = table.filter(|_| verified.toc_place == TocPlace::Apart);
        let toc = toc.map(|table| Descriptor::new(toc_image::MEDIA_TYPE, table.digest.clone(), table.size));
        layer.open(store)?.finish()?;
        // Where there is no landmark, nothing but the annotation knows how far to fetch ahead.
        let prefetch = descriptor.annotations.get(STARGZ_PREFETCH).filter(|_| verified.entries > 0).cloned();
        annotations.extend(prefetch.map(|size| (STARGZ_PREFETCH.to_owned(), size)));
        let partial = Some(Partial::from(content.partial_annotations));
        let statistics = Statistics {
            uncompressed_size: content.uncompressed_size,
            entries: verified.entries,
            chunks: verified.chunks,
            source_compression: verified.format.to_string(),
            toc_size: verified.toc_size,
            ..Statistics::default()
        };
        let mut descriptor = Descriptor::new(media_type, descriptor.digest.clone(), descriptor.size);
        descriptor.annotations = annotations;
        Ok(Some(Converted::Changed { descriptor, diff_id: content.diff_id, partial, toc, statistics }))
    }
}

impl LayerConverter for Seekable {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        if let Err(error) = layer.check_algorithm() {
            return Ok(Converted::Unsupported(error.into()));
        }
        if self.reuse
            && self.paths(layer).is_empty()
            && let Some(reused) = self.reused(store, layer)?
        {
            return Ok(reused);
        }
        let (blob, mut encoded) = match layer.write(store, |output| self.encode(store, layer, output)) {
            Ok(Some(written)) => written,
            Ok(None) => return Ok(Converted::Unchanged),
            Err(error) if is_unsupported(&*error) => return Ok(Converted::Unsupported(error)),
            Err(error) => return Err(error),
        };
        let mut descriptor = Descriptor::new(self.codec.media_type(), blob.digest, blob.size);
        descriptor.annotations = encoded.lazy_annotations;
        let statistics = Statistics {
            uncompressed_size: encoded.uncompressed_size,
            entries: encoded.entries,
            chunks: encoded.chunks,
            prioritized: encoded.moved,
            prefetch_size: encoded.prefetch_size,
            missing: encoded.missing,
            order_refused: encoded.order_refused,
            diverging_link: encoded.diverging_link,
            source_compression: encoded.source_format.to_string(),
            toc_size: encoded.toc_size,
        };
        let partial = Some(Partial::from(encoded.partial_annotations));
        let toc = encoded.toc_blob.as_mut().map(|toc| toc_image::store(store, toc)).transpose()?;
        Ok(Converted::Changed { descriptor, diff_id: encoded.diff_id, partial, toc, statistics })
    }

    fn spent(&self, layer: &Layer<'_>) -> Duration {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.get(&(layer.manifest.clone(), layer.position)).copied().unwrap_or_default()
    }

    fn identity(&self, layer: &Layer<'_>) -> Option<String> {
        let EncodeOptions { chunk_size, chunking, landmark, keep_diff_id, check_frames, .. } = &self.options;
        let paths = Digest::sha256(self.paths(layer).join("\0").as_bytes());
        let Self { verify, reuse, .. } = self;
        let codec = self.codec.identity();
        let table = self.tables.get(&layer.descriptor.digest).map_or("", |table| table.digest.as_str());
        Some(format!(
            "{codec} chunk={chunk_size} {chunking:?} landmark={landmark:?} keep={keep_diff_id} first={paths} \
             check={check_frames} verify={verify:?} reuse={reuse} table={table}"
        ))
    }
}

/// Returns the media type of a layer of this compression.
fn ordinary(format: Format) -> MediaType {
    match format {
        Format::Plain => MediaType::OCI_LAYER,
        Format::Gzip => MediaType::OCI_LAYER_GZIP,
        Format::Zstd => MediaType::OCI_LAYER_ZSTD,
    }
}

/// Tells whether nothing is wrong with a layer but that it has no form as what it should become, or one that is not read.
pub(crate) fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(|error: &restow_layer::Error| {
        error.is_unlistable() || matches!(error, restow_layer::Error::UnsupportedCompression { .. })
    })
}

/// A new layer that is being read back, cancellable.
struct ReadBack<'a> {
    blob: Box<dyn Blob>,
    cancel: &'a Cancel,
}

impl ReadAt for ReadBack<'_> {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.cancel.check()?;
        self.blob.read_at(buffer, offset)
    }
}
