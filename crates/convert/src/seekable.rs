//! The converter that makes layers seekable.

use std::collections::BTreeMap;
use std::io;
use std::io::Read as _;
use std::sync::Arc;
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
/// What is to be moved to the front may depend on the files of an image: [`Ordered`](crate::Ordered) begins with all layers,
/// asks an [`Orderer`](crate::Orderer), and then finishes each, so that every layer is read once.
#[derive(Debug)]
pub struct Seekable {
    codec: Arc<dyn Codec>,
    options: EncodeOptions,
    workers: Arc<Workers>,
    prioritized: Prioritized,
    verify: Option<Depth>,
    reuse: bool,
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

    /// Reads a layer to its end, verifies it, and compresses its files, which wait in a temporary file until the layer is
    /// finished. `entry` sees each header.
    ///
    /// A layer that has no seekable form is an error here, for [`convert()`](crate::convert()) to tell.
    pub fn begin(
        &self,
        store: &dyn Provider,
        layer: &Layer<'_>,
        entry: &mut (dyn FnMut(&Header) + Send),
    ) -> Result<Pending<'_>, BoxError> {
        let begin = |source: &mut LayerReader<'_>| {
            Ok((gather(source, &self.codec, &self.options, &self.workers, entry)?, ()))
        };
        self.begin_by(store, layer, begin).map(|(pending, ())| pending)
    }

    /// Does the same, and returns the files, in the order of the headers.
    pub fn begin_with_files(
        &self,
        store: &dyn Provider,
        layer: &Layer<'_>,
        entry: &mut (dyn FnMut(&Header) + Send),
    ) -> Result<(Pending<'_>, GatheredFiles), BoxError> {
        self.begin_by(store, layer, |source| {
            gather_files(source, &self.codec, &self.options, &self.workers, entry)
        })
    }

    fn begin_by<T>(
        &self,
        store: &dyn Provider,
        layer: &Layer<'_>,
        gather: impl FnOnce(&mut LayerReader<'_>) -> restow_layer::Result<(Gathered, T)>,
    ) -> Result<(Pending<'_>, T), BoxError> {
        layer.observer.layer_started(layer);
        let started = Instant::now();
        let mut source = layer.open(store)?;
        let (gathered, found) = gather(&mut source)?;
        source.finish()?;
        Ok((Waiting { gathered, begun: started.elapsed() }.of(self), found))
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
        first: &[String],
        gathered: Option<Gathered>,
        output: &mut LayerWriter<'_>,
    ) -> Result<Option<Encoded>, BoxError> {
        let mut encoded = match gathered {
            Some(gathered) => gathered.encode(output, first, &self.workers)?,
            None => {
                let mut source = layer.open(store)?;
                let options = EncodeOptions { prioritized: first.to_vec(), ..self.options.clone() };
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

impl Seekable {
    /// Converts a layer, with these paths at its front, from what was gathered of it if anything was.
    pub(crate) fn convert_with(
        &self,
        store: &dyn Store,
        layer: &Layer<'_>,
        first: &[String],
        pending: Option<Pending<'_>>,
    ) -> Result<Converted, BoxError> {
        if let Err(error) = layer.check_algorithm() {
            return Ok(Converted::Unsupported(error.into()));
        }
        if self.reuse
            && first.is_empty()
            && let Some(reused) = self.reused(store, layer)?
        {
            return Ok(reused);
        }
        let begun = pending.as_ref().map(|pending| pending.waiting.begun).unwrap_or_default();
        let gathered = pending.map(|pending| pending.waiting.gathered);
        let written = layer.write(store, |output| self.encode(store, layer, first, gathered, output));
        let (blob, mut encoded) = match written {
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
            begun,
        };
        let partial = Some(Partial::from(encoded.partial_annotations));
        let toc = encoded.toc_blob.as_mut().map(|toc| toc_image::store(store, toc)).transpose()?;
        Ok(Converted::Changed { descriptor, diff_id: encoded.diff_id, partial, toc, statistics })
    }

    /// Names what decides the result beside the layer: the options, and the paths at its front.
    pub(crate) fn identity_with(&self, layer: &Layer<'_>, first: &[String]) -> String {
        let EncodeOptions { chunk_size, chunking, landmark, keep_diff_id, check_frames, .. } = &self.options;
        let paths = Digest::sha256(first.join("\0").as_bytes());
        let Self { verify, reuse, .. } = self;
        let codec = self.codec.identity();
        let table = self.tables.get(&layer.descriptor.digest).map_or("", |table| table.digest.as_str());
        format!(
            "{codec} chunk={chunk_size} {chunking:?} landmark={landmark:?} keep={keep_diff_id} first={paths} \
             check={check_frames} verify={verify:?} reuse={reuse} table={table}"
        )
    }
}

impl LayerConverter for Seekable {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        self.convert_with(store, layer, self.paths(layer), None)
    }

    fn identity(&self, layer: &Layer<'_>) -> Option<String> {
        Some(self.identity_with(layer, self.paths(layer)))
    }
}

/// A layer that was read and verified, whose files wait for their order.
#[derive(Debug)]
pub struct Pending<'s> {
    seekable: &'s Seekable,
    waiting: Waiting,
}

/// What waits of a layer.
#[derive(Debug)]
pub(crate) struct Waiting {
    gathered: Gathered,
    /// How long it took.
    begun: Duration,
}

impl Waiting {
    pub(crate) fn of(self, seekable: &Seekable) -> Pending<'_> {
        Pending { seekable, waiting: self }
    }
}

impl From<Pending<'_>> for Waiting {
    fn from(pending: Pending<'_>) -> Self {
        pending.waiting
    }
}

impl Pending<'_> {
    /// Converts the layer, with these paths at its front. It has to be the one that was begun with.
    pub fn finish(
        self,
        store: &dyn Store,
        layer: &Layer<'_>,
        first: &[String],
    ) -> Result<Converted, BoxError> {
        self.seekable.convert_with(store, layer, first, Some(self))
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
