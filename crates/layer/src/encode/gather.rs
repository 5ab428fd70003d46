//! A layer between the two passes: its files are compressed, their order is open.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use restow_oci::Digest;

use super::reorder::Collected;
use super::{EncodeOptions, Encoded, Encoder};
use crate::buffer::Buffer;
use crate::codec::Codec;
use crate::decompress::{Format, decompress};
use crate::error::{Error, Result};
use crate::tar::{Header, TarReader};
use crate::workers::Workers;

/// A layer whose files are compressed and wait in an unnamed temporary file until their order is known.
#[derive(Debug)]
pub struct Gathered {
    collected: Collected,
    source_format: Format,
    codec: Arc<dyn Codec>,
    options: EncodeOptions,
}

/// Reads the layer in `source` to its end, compresses its files, and shows each of its headers to `entry` on the way.
///
/// Encoding what is gathered gives what [`encode`](super::encode) gives. The paths in `options` are not heeded: they come
/// later.
pub fn gather(
    source: impl Read,
    codec: &Arc<dyn Codec>,
    options: &EncodeOptions,
    workers: &Workers,
    entry: &mut (dyn FnMut(&Header) + Send),
) -> Result<Gathered> {
    collect(source, codec, options, workers, entry, None)
}

/// Does the same, and returns the files for those whose order depends on what is in them. That takes memory: 16 bytes for
/// each chunk, and 4 for each entry.
pub fn gather_files(
    source: impl Read,
    codec: &Arc<dyn Codec>,
    options: &EncodeOptions,
    workers: &Workers,
    entry: &mut (dyn FnMut(&Header) + Send),
) -> Result<(Gathered, GatheredFiles)> {
    let mut chunks = ChunkIndex::default();
    let gathered = collect(source, codec, options, workers, entry, Some(&mut chunks))?;
    let frames = Arc::new(gathered.collected.frames.try_clone().map_err(Error::Spool)?);
    let codec = Encoder::new(&**codec, options, workers).waiting_shared(codec);
    Ok((gathered, GatheredFiles { frames, chunks: Arc::new(chunks), codec }))
}

fn collect(
    source: impl Read,
    codec: &Arc<dyn Codec>,
    options: &EncodeOptions,
    workers: &Workers,
    entry: &mut (dyn FnMut(&Header) + Send),
    index: Option<&mut ChunkIndex>,
) -> Result<Gathered> {
    let mut tar = TarReader::new(decompress(source, &options.limits)?, &options.limits);
    let encoder = Encoder::new(&**codec, options, workers);
    let collected = encoder.collect(&mut tar, entry, index)?;
    let source_format = tar.source().format();
    Ok(Gathered { collected, source_format, codec: codec.clone(), options: options.clone() })
}

impl Gathered {
    /// Returns the digest of the source's tar.
    pub fn source_diff_id(&self) -> &Digest {
        &self.collected.source_diff_id
    }

    /// Puts these paths first and writes the layer to `output`.
    pub fn encode(
        self,
        output: &mut (dyn Write + Send),
        prioritized: &[String],
        workers: &Workers,
    ) -> Result<Encoded> {
        let encoder = Encoder::new(&*self.codec, &self.options, workers);
        encoder.checked(encoder.arrange(self.collected, prioritized, self.source_format, output)?)
    }
}

/// The files of a layer that was gathered, by the positions of their headers as [`gather_files`] showed them, from 0.
#[derive(Debug, Clone)]
pub struct GatheredFiles {
    frames: Arc<File>,
    chunks: Arc<ChunkIndex>,
    codec: Arc<dyn Codec>,
}

impl GatheredFiles {
    /// Opens the content of the entry at a position; nothing is in it if it is no file.
    pub fn open(&self, entry: usize) -> GatheredFile<'_> {
        GatheredFile { files: self, chunks: self.chunks.of(entry), decoded: Buffer::default(), read: 0 }
    }
}

/// The content of a file that was gathered, read from its start on.
#[derive(Debug)]
pub struct GatheredFile<'a> {
    files: &'a GatheredFiles,
    /// Those that are not decoded yet.
    chunks: &'a [Chunk],
    decoded: Buffer,
    /// How many of the bytes decoded have been handed out.
    read: usize,
}

impl GatheredFile<'_> {
    /// Appends at most `most` bytes of what comes next to `bytes`; returns how many, 0 at the end.
    pub fn read(&mut self, bytes: &mut Buffer, most: u64) -> Result<u64> {
        if self.read == self.decoded.len() && !self.decode()? {
            return Ok(0);
        }
        let left = &self.decoded.filled()[self.read..];
        let piece = &left[..left.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
        bytes.append(piece);
        self.read += piece.len();
        Ok(piece.len() as u64)
    }

    /// Passes over at most `most` bytes without decoding them; returns how many.
    pub fn skip(&mut self, most: u64) -> u64 {
        let waiting = (self.decoded.len() - self.read) as u64;
        if waiting > 0 {
            let skipped = waiting.min(most);
            self.read += skipped as usize;
            return skipped;
        }
        let mut skipped = 0;
        while let Some((chunk, rest)) = self.chunks.split_first()
            && skipped + u64::from(chunk.size) <= most
        {
            skipped += u64::from(chunk.size);
            self.chunks = rest;
        }
        skipped
    }

    /// Decodes the next chunk, if there is one.
    fn decode(&mut self) -> Result<bool> {
        let Some((chunk, rest)) = self.chunks.split_first() else { return Ok(false) };
        let GatheredFiles { frames, codec, .. } = self.files;
        let mut frame = vec![0; chunk.length as usize];
        frames.read_exact_at(&mut frame, chunk.offset).map_err(Error::Spool)?;
        let size = chunk.size as usize;
        self.decoded.truncate(0);
        codec.decompress(&frame, self.decoded.room(size))?;
        self.decoded.advance(size);
        (self.chunks, self.read) = (rest, 0);
        Ok(true)
    }
}

/// Where the chunks of each entry are.
#[derive(Debug, Default)]
pub(super) struct ChunkIndex {
    chunks: Vec<Chunk>,
    /// For each entry, where its chunks begin.
    entries: Vec<u32>,
}

/// A chunk in the frame file. No chunk is larger than a worker can hold.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    offset: u64,
    length: u32,
    size: u32,
}

impl ChunkIndex {
    /// Begins the next entry.
    pub(super) fn entry(&mut self) {
        self.entries.push(u32::try_from(self.chunks.len()).unwrap_or(u32::MAX));
    }

    /// Adds a chunk to the last entry.
    pub(super) fn chunk(&mut self, offset: u64, length: u64, size: u64) {
        let small = |number| u32::try_from(number).ok();
        if let (Some(length), Some(size)) = (small(length), small(size)) {
            self.chunks.push(Chunk { offset, length, size });
        }
    }

    fn of(&self, entry: usize) -> &[Chunk] {
        let start = |entry: usize| self.entries.get(entry).map_or(self.chunks.len(), |start| *start as usize);
        self.chunks.get(start(entry)..start(entry.saturating_add(1))).unwrap_or_default()
    }
}
