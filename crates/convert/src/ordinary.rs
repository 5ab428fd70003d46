//! The converters that make ordinary layers, and none at all.

use std::io;
use std::io::Read;
use std::sync::Arc;

use restow_content::Blob;
use restow_content::Store;
use restow_layer::Recompressed;
use restow_layer::Recompression;
use restow_layer::Workers;
use restow_layer::diff_id;
use restow_layer::footer;
use restow_layer::recompress;
use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::annotations::CHUNKED;

use crate::BoxError;
use crate::Cancel;
use crate::Converted;
use crate::Error;
use crate::Layer;
use crate::LayerConverter;
use crate::LayerWriter;
use crate::Statistics;
use crate::seekable::is_unsupported;

/// Makes layers ordinary: a tar, compressed anew, with nothing in it that only seekable layers have a use for.
///
/// Layers of a Docker image stay Docker's, but for zstd ones, whose Docker media type few readers know.
#[derive(Debug)]
pub struct Recompress {
    recompression: Recompression,
    limits: Limits,
    workers: Arc<Workers>,
    check: bool,
    read_back: bool,
    reuse: bool,
}

impl Recompress {
    /// Returns a converter whose layers are worked on by `workers` together, which others may use, too.
    pub fn new(recompression: Recompression, limits: Limits, workers: impl Into<Arc<Workers>>) -> Self {
        let workers = workers.into();
        Self { recompression, limits, workers, check: true, read_back: false, reuse: false }
    }

    /// Decodes each part of a layer as soon as it is made, and compares; unless told otherwise.
    pub fn check(mut self, check: bool) -> Self {
        self.check = check;
        self
    }

    /// Reads a new layer back before it becomes visible, and compares its DiffID.
    pub fn read_back(mut self, read_back: bool) -> Self {
        self.read_back = read_back;
        self
    }

    /// Keeps a layer that has the compression already, whoever made it, if it holds all that it should and nothing more.
    pub fn reuse(mut self, reuse: bool) -> Self {
        self.reuse = reuse;
        self
    }

    /// Tells whether a layer is already what it is to become.
    fn is_one(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<bool, BoxError> {
        let Descriptor { annotations, media_type, .. } = layer.descriptor;
        if annotations.keys().any(|key| CHUNKED.contains(&key.as_str()))
            || *media_type != self.media_type(media_type)
            || is_seekable(&*store.open(layer.descriptor)?)?
        {
            return Ok(false);
        }
        let mut source = layer.open(store)?;
        let mut nowhere = io::sink();
        let plain = Recompression::None;
        let found = recompress(&mut source, &mut nowhere, plain, false, &self.limits, &self.workers)?;
        source.finish()?;
        layer.check_diff_id(found.source_diff_id)?;
        Ok(found.source_format == self.recompression.format() && found.diff_id == *layer.diff_id)
    }

    fn write(
        &self,
        store: &dyn Store,
        layer: &Layer<'_>,
        output: &mut LayerWriter<'_>,
    ) -> Result<Recompressed, BoxError> {
        let mut source = layer.open(store)?;
        let recompressed =
            recompress(&mut source, output, self.recompression, self.check, &self.limits, &self.workers)?;
        source.finish()?;
        layer.check_diff_id(recompressed.source_diff_id.clone())?;
        if self.read_back {
            let verified = self.verify(layer, output, &recompressed);
            verified.map_err(|source| Error::ReadBack { source })?;
        }
        Ok(recompressed)
    }

    fn verify(
        &self,
        layer: &Layer<'_>,
        output: &LayerWriter<'_>,
        expected: &Recompressed,
    ) -> Result<(), BoxError> {
        let blob = Sequential { blob: output.written()?, position: 0, cancel: layer.cancel };
        let actual = diff_id(blob, Algorithm::Sha256, &self.limits)?;
        let expected = expected.diff_id.clone();
        if expected == actual { Ok(()) } else { Err(Error::DiffId { expected, actual }.into()) }
    }

    fn media_type(&self, source: &MediaType) -> MediaType {
        let oci = self.recompression.media_type();
        match (self.recompression, oci.to_docker()) {
            (Recompression::None | Recompression::Gzip { .. }, Some(docker)) if source.is_docker() => docker,
            _ => oci,
        }
    }
}

impl LayerConverter for Recompress {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        if let Err(error) = layer.check_algorithm() {
            return Ok(Converted::Unsupported(error.into()));
        }
        if self.reuse && self.is_one(store, layer)? {
            return Ok(Converted::Unchanged);
        }
        let (blob, recompressed) =
            match layer.write(store, |output| self.write(store, layer, output).map(Some)) {
                Ok(Some(written)) => written,
                Ok(None) => return Ok(Converted::Unchanged),
                Err(error) if is_unsupported(&*error) => return Ok(Converted::Unsupported(error)),
                Err(error) => return Err(error),
            };
        let media_type = self.media_type(&layer.descriptor.media_type);
        let statistics = Statistics {
            uncompressed_size: recompressed.uncompressed_size,
            entries: recompressed.entries,
            source_compression: recompressed.source_format.to_string(),
            ..Statistics::default()
        };
        Ok(Converted::Changed {
            descriptor: Descriptor::new(media_type, blob.digest, blob.size),
            diff_id: recompressed.diff_id,
            partial: None,
            toc: None,
            statistics,
        })
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        let Self { recompression, check, read_back, reuse, .. } = self;
        Some(format!("{} check={check} read back={read_back} reuse={reuse}", recompression.identity()))
    }
}

/// Tells whether a blob ends like a seekable layer. Damage to a footer is for whoever reads it to complain about.
fn is_seekable(blob: &dyn Blob) -> io::Result<bool> {
    let mut tail = vec![0; blob.size().min(footer::TAIL as u64) as usize];
    let start = blob.size() - tail.len() as u64;
    let mut filled = 0;
    while filled < tail.len() {
        match blob.read_at(&mut tail[filled..], start + filled as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(!matches!(footer::parse(&tail, blob.size()), Ok(None)))
}

/// A blob read from front to end, cancellable.
struct Sequential<'a> {
    blob: Box<dyn Blob>,
    position: u64,
    cancel: &'a Cancel,
}

impl Read for Sequential<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check()?;
        let count = self.blob.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// Keeps every layer as it is, where only the media types of an image are to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep;

impl LayerConverter for Keep {
    fn convert(&self, _store: &dyn Store, _layer: &Layer<'_>) -> Result<Converted, BoxError> {
        Ok(Converted::Unchanged)
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        None
    }
}
