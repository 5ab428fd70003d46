//! Reads single files of a seekable layer, each byte verified before it is believed.

use std::fmt;
use std::io::{self, Read};

use restow_oci::{Algorithm, Digest, Digester, Limits};

use crate::blob::ReadAt;
use crate::decompress::{Format, into_error};
use crate::frames::Frames;
use crate::locate::{Hints, Location, expect_digest};
use crate::toc::{Chunk, EntryKind, Node, Toc};
use crate::{Error, Result};

/// The largest chunk that [`Reader::read_chunk`] puts into memory. [`Reader::read_file`] has no such limit.
const MAX_CHUNK: u64 = 1 << 30;

/// A seekable layer whose table of contents has been read and found sound.
///
/// The table is as trustworthy as what [`Hints`] said of its digest; what it says of the content is verified as the
/// content is read.
pub struct Reader<B> {
    blob: B,
    format: Format,
    toc: Toc,
    toc_digest: Digest,
    limits: Limits,
}

impl<B: ReadAt> Reader<B> {
    /// Opens a layer by its footer or by its annotations.
    pub fn open(blob: B, hints: &Hints, limits: &Limits) -> Result<Self> {
        let location = Location::find(&blob, hints, limits)?;
        let mut open = location.open_toc(&blob, limits)?;
        let entries = std::iter::from_fn(|| open.parser.next_entry().transpose());
        let toc = Toc::new(entries, location.payload_end, limits)?;
        let toc_digest = open.finish()?.digest;
        let format = location.format;
        Ok(Self { blob, format, toc, toc_digest, limits: limits.clone() })
    }

    /// Returns the table of contents.
    pub fn toc(&self) -> &Toc {
        &self.toc
    }

    /// Returns the sha256 digest of the table's JSON.
    pub fn toc_digest(&self) -> &Digest {
        &self.toc_digest
    }

    /// Returns whether the layer is made of gzip members or of zstd frames.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the entry of a name, however the name is spelled.
    pub fn lookup(&self, name: &str) -> Option<Node<'_>> {
        self.toc.lookup(name)
    }

    /// Reads a chunk and verifies it.
    pub fn read_chunk(&self, chunk: &Chunk) -> Result<Vec<u8>> {
        if chunk.size > MAX_CHUNK {
            let what = "the size in bytes of a chunk to be read at once";
            return Err(Error::Limit { what, found: chunk.size, limit: MAX_CHUNK });
        }
        let mut content = Vec::new();
        let mut open = self.open_chunk(chunk)?;
        open.read_to_end(&mut content).map_err(|error| into_error(error, chunk.offset))?;
        Ok(content)
    }

    /// Reads a regular file, or the one that a hard link repeats, from front to end.
    ///
    /// The bytes of a chunk come before its digest is known to be right; the reading fails at its end if it is not.
    /// So the whole is verified once the end has been reached.
    pub fn read_file<'a>(&'a self, node: Node<'a>) -> Result<File<'a, B>> {
        let target = node.target();
        if target.kind != EntryKind::Regular {
            let problem =
                format!("{:?}: it is of kind {}, not a regular file", node.name, target.kind.as_str());
            return Err(Error::Toc(problem));
        }
        Ok(File { reader: self, node: target, next: 0, open: None, digester: Some(Digester::sha256()) })
    }

    fn open_chunk(&self, chunk: &Chunk) -> Result<OpenChunk<'_>> {
        let what = || format!("the chunk at blob byte {}", chunk.offset);
        let expected = chunk.digest.clone().filter(|digest| digest.algorithm() == Algorithm::Sha256);
        let expected = expected.ok_or_else(|| Error::Unverifiable { what: what() })?;
        let end = self.toc.frame_end(chunk);
        // What the frame cannot hold need not be looked for.
        let limit = self.limits.expanded_size(end.saturating_sub(chunk.offset));
        let found = chunk.inner_offset.saturating_add(chunk.size);
        if found > limit {
            return Err(Error::Limit { what: "the uncompressed size in bytes of a frame", found, limit });
        }
        let mut frames = Frames::new(self.format, &self.blob, chunk.offset, end, &self.limits)?;
        let skipped = io::copy(&mut (&mut frames).take(chunk.inner_offset), &mut io::sink());
        let skipped = skipped.map_err(|error| into_error(error, chunk.offset))?;
        if skipped < chunk.inner_offset {
            return Err(short(chunk));
        }
        Ok(OpenChunk {
            frames,
            chunk: chunk.clone(),
            expected,
            left: chunk.size,
            digester: Some(Digester::sha256()),
        })
    }
}

/// Shows `read` the JSON of a layer's table of contents as it stands there, found sound or not.
pub fn read_toc<T>(
    blob: &dyn ReadAt,
    hints: &Hints,
    limits: &Limits,
    read: impl FnOnce(&mut dyn Read) -> T,
) -> Result<T> {
    let location = Location::find(blob, hints, limits)?;
    Ok(read(&mut location.json(blob, limits)?))
}

impl<B> fmt::Debug for Reader<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reader").field("toc_digest", &self.toc_digest).finish_non_exhaustive()
    }
}

fn short(chunk: &Chunk) -> Error {
    Error::Toc(format!("the frame at byte {} ends before the chunk in it", chunk.offset))
}

/// A chunk being read, which ends well only if its digest is right.
struct OpenChunk<'a> {
    frames: Frames<'a>,
    chunk: Chunk,
    expected: Digest,
    left: u64,
    digester: Option<Digester>,
}

impl Read for OpenChunk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(digester) = &mut self.digester else { return Ok(0) };
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.frames.read(&mut buffer[..wanted])?;
        if length == 0 && wanted > 0 {
            return Err(io::Error::other(short(&self.chunk)));
        }
        digester.update(&buffer[..length]);
        self.left -= length as u64;
        if self.left == 0
            && let Some(digester) = self.digester.take()
        {
            let what = || format!("the chunk at blob byte {}", self.chunk.offset);
            expect_digest(&digester.finish(), &self.expected, what).map_err(io::Error::other)?;
        }
        Ok(length)
    }
}

/// The content of a regular file; errors of the reading carry [`Error`].
pub struct File<'a, B> {
    reader: &'a Reader<B>,
    node: Node<'a>,
    next: usize,
    open: Option<OpenChunk<'a>>,
    digester: Option<Digester>,
}

impl<B: ReadAt> File<'_, B> {
    /// Checks the digest of the whole, where the table has one.
    fn finish(&mut self) -> Result<()> {
        let (Some(digester), Some(expected)) = (self.digester.take(), &self.node.entry().digest) else {
            return Ok(());
        };
        let what = || format!("the file {:?}", self.node.name);
        if expected.algorithm() != Algorithm::Sha256 {
            return Err(Error::Unverifiable { what: what() });
        }
        expect_digest(&digester.finish(), expected, what)
    }
}

impl<B: ReadAt> Read for File<'_, B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(open) = &mut self.open {
                let length = open.read(buffer)?;
                if length > 0 {
                    if let Some(digester) = &mut self.digester {
                        digester.update(&buffer[..length]);
                    }
                    return Ok(length);
                }
            }
            let Some(chunk) = self.node.chunk(self.next) else {
                self.finish().map_err(io::Error::other)?;
                return Ok(0);
            };
            self.next += 1;
            self.open = Some(self.reader.open_chunk(&chunk).map_err(io::Error::other)?);
        }
    }
}

impl<B> fmt::Debug for File<'_, B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("File").field("name", &self.node.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
