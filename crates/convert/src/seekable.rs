//! The converter that makes layers seekable.

use std::collections::BTreeMap;
use std::io;

use restow_content::Blob;
use restow_content::Store;
use restow_layer::Codec;
use restow_layer::Depth;
use restow_layer::EncodeOptions;
use restow_layer::Encoded;
use restow_layer::Hints;
use restow_layer::ReadAt;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::encode;
use restow_layer::verify;
use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Digest;

use crate::BoxError;
use crate::Cancel;
use crate::Converted;
use crate::Error;
use crate::Layer;
use crate::LayerConverter;
use crate::LayerWriter;
use crate::Partial;
use crate::Statistics;

/// Paths to move to the front of layers, by source manifest and position.
pub type Prioritized = BTreeMap<(Digest, usize), Vec<String>>;

/// Makes layers seekable, in the format of a [`Codec`].
#[derive(Debug)]
pub struct Seekable {
    codec: Box<dyn Codec>,
    options: EncodeOptions,
    workers: Workers,
    prioritized: Prioritized,
    verify: Option<Depth>,
}

impl Seekable {
    /// Returns a converter whose layers are worked on by `workers` together. Paths to move to the front come from
    /// `prioritized` and not from `options`.
    pub fn new(codec: Box<dyn Codec>, options: EncodeOptions, workers: Workers) -> Self {
        Self { codec, options, workers, prioritized: Prioritized::new(), verify: Some(Depth::Full) }
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

    fn paths(&self, layer: &Layer<'_>) -> &[String] {
        self.prioritized.get(&(layer.manifest.clone(), layer.position)).map_or(&[], Vec::as_slice)
    }

    fn encode(
        &self,
        store: &dyn Store,
        layer: &Layer<'_>,
        output: &mut LayerWriter<'_>,
    ) -> Result<Option<Encoded>, BoxError> {
        let mut source = layer.open(store)?;
        let options = EncodeOptions { prioritized: self.paths(layer).to_vec(), ..self.options.clone() };
        let encoded = encode(&mut source, output, &*self.codec, &options, &self.workers)?;
        source.finish()?;
        if encoded.source_diff_id != *layer.diff_id {
            let (expected, actual) = (layer.diff_id.clone(), encoded.source_diff_id);
            return Err(Error::DiffId { expected, actual }.into());
        }
        if encoded.entries == 0 {
            // stargz's reader knows no layer without a root; one that holds nothing has nothing to fetch lazily.
            return Ok(None);
        }
        if let Some(depth) = self.verify {
            let verified = self.read_back(layer, output, &encoded, depth);
            verified.map_err(|source| Error::ReadBack { source })?;
        }
        Ok(Some(encoded))
    }

    fn read_back(
        &self,
        layer: &Layer<'_>,
        output: &LayerWriter<'_>,
        encoded: &Encoded,
        depth: Depth,
    ) -> Result<(), BoxError> {
        let blob = ReadBack { blob: output.written()?, cancel: layer.cancel };
        let options = VerifyOptions {
            hints: Hints::from_annotations(&encoded.lazy_annotations)?,
            diff_id: Some(encoded.diff_id.clone()),
            depth,
            limits: self.options.limits.clone(),
        };
        verify(&blob, &options, &self.workers)?;
        Ok(())
    }
}

impl LayerConverter for Seekable {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        if layer.diff_id.algorithm() != Algorithm::Sha256 {
            let diff_id = layer.diff_id.clone();
            return Ok(Converted::Unsupported(Error::DiffIdAlgorithm { diff_id }.into()));
        }
        let (blob, encoded) = match layer.write(store, |output| self.encode(store, layer, output)) {
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
        };
        let partial = Some(match encoded.partial_annotations {
            Ok(annotations) => Partial::Annotations(annotations),
            Err(reason) => Partial::Refused(reason),
        });
        Ok(Converted::Changed { descriptor, diff_id: encoded.diff_id, partial, statistics })
    }

    fn identity(&self, layer: &Layer<'_>) -> Option<String> {
        let EncodeOptions { chunk_size, landmark, check_frames, .. } = &self.options;
        let paths = Digest::sha256(self.paths(layer).join("\0").as_bytes());
        let (codec, verify) = (self.codec.identity(), self.verify);
        Some(format!(
            "{codec} chunk={chunk_size} landmark={landmark:?} first={paths} check={check_frames} verify={verify:?}"
        ))
    }
}

/// Tells whether a layer is sound and merely has no form as a seekable one.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(restow_layer::Error::is_unlistable)
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
