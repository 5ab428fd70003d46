//! What comes out of the frames or members in one part of a blob.

use std::io::{self, BufReader, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use restow_oci::Limits;

use crate::blob::{ReadAt, Section};
use crate::decompress::Format;
use crate::{Error, Result, zstdframe};

/// Compressed bytes read at once.
const INPUT_BUFFER: u64 = 64 << 10;

/// Decodes whole frames or members from `start` to `end`; a part of one at the end is an error of the reading.
pub(crate) struct Frames<'a> {
    decoder: Decoder<'a>,
    limits: Limits,
}

enum Decoder<'a> {
    Gzip(Box<MultiGzDecoder<BufReader<Section<'a>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Section<'a>>>),
}

impl<'a> Frames<'a> {
    pub(crate) fn new(
        format: Format,
        blob: &'a dyn ReadAt,
        start: u64,
        end: u64,
        limits: &Limits,
    ) -> Result<Self> {
        // Small enough that reading a small file does not read its neighbours.
        let capacity = end.saturating_sub(start).clamp(1, INPUT_BUFFER) as usize;
        let input = BufReader::with_capacity(capacity, Section::new(blob, start, end));
        let compressor = |error: io::Error| Error::Compressor { format: "zstd", problem: error.to_string() };
        let decoder = match format {
            Format::Plain => return Err(Error::NotSeekable),
            Format::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(compressor)?;
                decoder.window_log_max(limits.zstd_window_log).map_err(compressor)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self { decoder, limits: limits.clone() })
    }

    /// Tells what the decoder says from what the blob says, which comes wrapped already.
    fn corrupt(&self, error: io::Error) -> io::Error {
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            return error;
        }
        let (format, input) = match &self.decoder {
            Decoder::Gzip(decoder) => ("gzip", decoder.get_ref()),
            Decoder::Zstd(decoder) => ("zstd", decoder.get_ref()),
        };
        let offset = input.get_ref().position() - input.buffer().len() as u64;
        let refusal = || {
            let refusal = zstdframe::refusal(input.buffer(), offset, &self.limits);
            refusal.or_else(|| zstdframe::named(&error.to_string(), offset, &self.limits))
        };
        if let ("zstd", Some(refusal)) = (format, refusal()) {
            return io::Error::other(refusal);
        }
        let problem = match error.kind() {
            ErrorKind::UnexpectedEof => "it ends too early".to_string(),
            _ => error.to_string(),
        };
        io::Error::other(Error::Compression { format, offset, problem })
    }
}

impl Read for Frames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
        };
        read.map_err(|error| self.corrupt(error))
    }
}
