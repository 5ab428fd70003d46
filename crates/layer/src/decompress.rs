//! A layer's tar stream out of whatever compression its first bytes announce.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use restow_oci::{Algorithm, Digest, Digester, Limits};

use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::tar::TarReader;
use crate::zstdframe;

/// Compressed bytes read at once.
const INPUT_BUFFER: usize = 256 << 10;

/// How many bytes tell the formats apart: bzip2's block magic ends here.
const SNIFFED: usize = 10;

/// The compression found at the start of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not compressed.
    Plain,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more zstd frames, skippable ones among them (RFC 8878).
    Zstd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Plain => "plain",
            Format::Gzip => "gzip",
            Format::Zstd => "zstd",
        }
    }
}

/// Recognises the compression of a layer by its first bytes; a media type may lie, bytes cannot. Where there are none, the
/// layer is a tar of nothing, as it is to Go's readers (layers of Windows images are).
pub fn sniff(first: &[u8]) -> Result<Format> {
    match first {
        [0x1f, 0x8b, 0x08, ..] => Ok(Format::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Format::Zstd),
        [0x1e, 0xb5, 0x2f, 0xfd, ..] | [0x22..=0x27, 0xb5, 0x2f, 0xfd, ..] => unsupported("zstd before 0.8"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => unsupported("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
        _ => Ok(Format::Plain),
    }
}

fn unsupported(format: &'static str) -> Result<Format> {
    Err(Error::UnsupportedCompression { format })
}

/// The uncompressed bytes of a layer.
///
/// Every member and every frame is decoded, checksums are checked, and what follows the last of them must be
/// another one. Output is bounded by [`Limits::expanded_size`] of the input consumed so far.
pub struct Decompress<R: Read> {
    decoder: Decoder<Input<R>>,
    format: Format,
    produced: u64,
    limits: Limits,
}

type Input<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Counted<R>>>;

#[expect(clippy::large_enum_variant, reason = "there is one for a whole layer")]
enum Decoder<B: BufRead> {
    Plain(B),
    Gzip(MultiGzDecoder<B>),
    Zstd(zstd::stream::read::Decoder<'static, B>),
}

/// Returns the tar stream in `source`, a layer in any supported compression.
pub fn decompress<R: Read>(source: R, limits: &Limits) -> Result<Decompress<R>> {
    let mut source = Counted { source, read: 0 };
    let mut first = Vec::with_capacity(SNIFFED);
    source.by_ref().take(SNIFFED as u64).read_to_end(&mut first).map_err(|error| into_error(error, 0))?;
    let format = sniff(&first)?;
    let input = BufReader::with_capacity(INPUT_BUFFER, Cursor::new(first).chain(source));
    let decoder = match format {
        Format::Plain => Decoder::Plain(input),
        Format::Gzip => Decoder::Gzip(MultiGzDecoder::new(input)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(compressor)?;
            decoder.window_log_max(limits.zstd_window_log).map_err(compressor)?;
            Decoder::Zstd(decoder)
        }
    };
    Ok(Decompress { decoder, format, produced: 0, limits: limits.clone() })
}

/// Returns the digest of the tar in `source`, a layer in any supported compression, which is read to its end.
pub fn diff_id(source: impl Read, algorithm: Algorithm, limits: &Limits) -> Result<Digest> {
    let unverifiable = |_| Error::Unverifiable { what: "the tar".into() };
    let mut digester = Digester::new(algorithm).map_err(unverifiable)?;
    let mut tar = decompress(source, limits)?;
    let mut buffer = vec![0; INPUT_BUFFER];
    loop {
        match tar.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish()),
            Ok(length) => digester.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(into_error(error, tar.consumed())),
        }
    }
}

/// Reads the layer in `source`, in any supported compression, to its end. Returns the digest of its tar, if `algorithm` says
/// which.
///
/// A tar that nobody could unpack is an error: one that ends within an entry, or has headers that mean nothing.
pub fn check_tar(source: impl Read, algorithm: Option<Algorithm>, limits: &Limits) -> Result<Option<Digest>> {
    let unverifiable = |_| Error::Unverifiable { what: "the tar".into() };
    let digester = algorithm.map(Digester::new).transpose().map_err(unverifiable)?;
    let mut tar = TarReader::new(Hashed { source: decompress(source, limits)?, digester }, limits);
    let mut scratch = Buffer::default();
    loop {
        scratch.truncate(0);
        match tar.next(&mut scratch) {
            Ok(Some(_)) => tar.skip_payload(&mut scratch)?,
            // What comes after such a header cannot be told, but is not damaged for that.
            Ok(None) | Err(Error::Unlistable { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    tar.finish(&mut scratch)?;
    Ok(tar.into_source().digester.map(Digester::finish))
}

/// A stream that is hashed while it is read.
struct Hashed<R> {
    source: R,
    digester: Option<Digester>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        if let Some(digester) = &mut self.digester {
            digester.update(&buffer[..length]);
        }
        Ok(length)
    }
}

fn compressor(error: io::Error) -> Error {
    Error::Compressor { format: "zstd", problem: error.to_string() }
}

impl<R: Read> Decompress<R> {
    /// Returns the compression found.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns how many compressed bytes have been decoded.
    pub fn consumed(&self) -> u64 {
        let input = match &self.decoder {
            Decoder::Plain(input) => input,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
        };
        let (first, source) = input.get_ref().get_ref();
        let waiting = input.buffer().len() as u64 + first.get_ref().len() as u64 - first.position();
        source.read - waiting
    }
}

impl<R: Read> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Plain(input) => input.read(buffer),
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        };
        let read = read.map_err(|error| self.corrupt(error))?;
        self.produced += read as u64;
        let limit = self.limits.expanded_size(self.consumed());
        if self.produced > limit {
            return Err(io::Error::other(Error::Limit {
                what: "the uncompressed size in bytes of the layer",
                found: self.produced,
                limit,
            }));
        }
        Ok(read)
    }
}

impl<R: Read> Decompress<R> {
    /// Tells what the decoder says from what the source says, which comes wrapped already.
    fn corrupt(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::Interrupted || is_ours(&error) {
            return error;
        }
        let (offset, problem) = (self.consumed(), error.to_string());
        if let Decoder::Zstd(decoder) = &self.decoder
            && let Some(refusal) = zstdframe::refusal(decoder.get_ref().buffer(), offset, &self.limits)
                .or_else(|| zstdframe::named(&problem, offset, &self.limits))
        {
            return io::Error::other(refusal);
        }
        let problem = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ends too early".to_string(),
            _ => problem,
        };
        io::Error::other(Error::Compression { format: self.format.name(), offset, problem })
    }
}

impl<R: Read> fmt::Debug for Decompress<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompress").field("format", &self.format).field("produced", &self.produced).finish()
    }
}

/// Counts what is read and marks failures of the source as such.
struct Counted<R> {
    source: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer) {
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(source) => Err(io::Error::other(Error::Read { offset: self.read, source })),
        }
    }
}

fn is_ours(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Error>())
}

/// Takes this crate's error out of an I/O error that carried it through a [`Read`].
pub(crate) fn into_error(error: io::Error, offset: u64) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::Read { offset, source },
    }
}

#[cfg(test)]
mod tests;
