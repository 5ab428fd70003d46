//! Consecutive tar bytes that one worker compresses, and how they are cut into frames.
//!
//! A payload chunk is a frame. Header bytes, padding among them, join into a frame until a payload follows or
//! [`RUN`] bytes are full. A batch ends, and with it a frame, at the first item after [`BATCH`] bytes (or when
//! [`DROPPED`] bytes were left out). All of this is decided by the tar's bytes and the chunk size alone.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use restow_oci::Digest;

use crate::buffer::Buffer;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::listing::Listing;
use crate::tar::Header;
use crate::tarsplit::Checksum;
use crate::workers::{Memory, Workers};

/// Bytes after which a batch is complete.
pub(super) const BATCH: usize = 1 << 20;

/// Bytes left out after which a batch is complete.
///
/// Below that, a layer from which a table of contents is taken has the frames of one that never had it.
pub(super) const DROPPED: usize = 16 << 20;

/// Header bytes after which a frame is complete.
const RUN: usize = 64 << 10;

/// Tar bytes in order, and what they are.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Buffer,
    /// Room for the frames.
    compressed: Vec<u8>,
    pub(super) items: Vec<Item>,
    /// Bytes of the source that the result leaves out, each with its place in `bytes`.
    pub(super) dropped: Vec<(usize, Vec<u8>)>,
    /// Which of `bytes` the source does not have.
    pub(super) inserted: Vec<Range<usize>>,
}

/// Part of a batch; the ranges of its items follow each other without gaps.
#[derive(Debug)]
pub(super) enum Item {
    /// An entry begins: padding of the one before, and header blocks.
    Entry { range: Range<usize>, start: Box<Start> },
    /// A chunk of the content of the entry before.
    Chunk { range: Range<usize>, stored: Option<Stored> },
    /// What no header follows, of which the first `padding` bytes still belong to the entry before.
    Trailing { range: Range<usize>, padding: usize },
}

/// The beginning of an entry.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) header: Header,
    pub(super) listing: Listing,
    /// The digest of the whole content, where it is known beforehand.
    pub(super) digest: Option<Digest>,
}

/// A chunk that was compressed before and waits in the frame file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) facts: Facts,
}

/// What is known of a chunk's content.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) digest: Digest,
    pub(super) checksum: Checksum,
    pub(super) zeros: bool,
}

/// A batch and its frames.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) batch: Batch,
    /// The frames, one after another.
    pub(super) compressed: Vec<u8>,
    /// For each chunk of the batch in order: where its frame lies in `compressed`, and its facts.
    pub(super) chunks: Vec<(Range<usize>, Facts)>,
}

/// How the frames of a batch are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Press<'a> {
    pub(super) codec: &'a dyn Codec,
    /// Where memory to decode into comes from.
    pub(super) workers: &'a Workers,
    pub(super) headers: Headers,
    /// Whether every new frame is decoded and compared with what it was made of.
    pub(super) check: bool,
    /// Where chunks wait that were compressed before.
    pub(super) stored: Option<&'a File>,
}

/// What a worker is to do about header bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Headers {
    /// Compress them into frames.
    Compress,
    /// Leave them out: the layer is put together anew later.
    Leave,
}

impl Item {
    pub(super) fn range(&self) -> Range<usize> {
        match self {
            Item::Entry { range, .. } | Item::Chunk { range, .. } | Item::Trailing { range, .. } => {
                range.clone()
            }
        }
    }
}

impl Batch {
    /// Starts an empty batch.
    pub(super) fn new(memory: Memory) -> Self {
        Self { bytes: memory.plain, compressed: memory.compressed, ..Self::default() }
    }

    /// Makes the frames of the batch.
    pub(super) fn compress(mut self, press: Press<'_>) -> Result<Frames> {
        let mut frames = NewFrames {
            press,
            compressed: std::mem::take(&mut self.compressed),
            decoded: press.check.then(|| press.workers.memory()),
        };
        let mut chunks = Vec::new();
        let mut run = 0..0;
        let items = std::mem::take(&mut self.items);
        for item in &items {
            let range = item.range();
            let Item::Chunk { stored, .. } = item else {
                run = if run.is_empty() { range } else { run.start..range.end };
                if run.len() >= RUN {
                    frames.headers(&self.bytes.filled()[std::mem::take(&mut run)])?;
                }
                continue;
            };
            frames.headers(&self.bytes.filled()[std::mem::take(&mut run)])?;
            let start = frames.compressed.len();
            let facts = match stored {
                Some(stored) => {
                    frames.fetch(stored, &mut self.bytes.filled_mut()[range])?;
                    stored.facts.clone()
                }
                None => {
                    let bytes = &self.bytes.filled()[range];
                    frames.add(bytes)?;
                    Facts {
                        digest: Digest::sha256(bytes),
                        checksum: Checksum::of(bytes),
                        zeros: bytes.iter().all(|byte| *byte == 0),
                    }
                }
            };
            chunks.push((start..frames.compressed.len(), facts));
        }
        frames.headers(&self.bytes.filled()[run])?;
        self.items = items;
        if let Some(memory) = frames.decoded {
            press.workers.recycle(memory);
        }
        Ok(Frames { batch: self, compressed: frames.compressed, chunks })
    }
}

/// The frames of a batch, growing.
struct NewFrames<'a> {
    press: Press<'a>,
    compressed: Vec<u8>,
    /// Where new frames are decoded to, if they are checked.
    decoded: Option<Memory>,
}

impl NewFrames<'_> {
    fn headers(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() || self.press.headers == Headers::Leave { Ok(()) } else { self.add(bytes) }
    }

    /// Appends a frame made of `bytes`.
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let start = self.compressed.len();
        self.press.codec.compress(bytes, &mut self.compressed)?;
        if let Some(memory) = &mut self.decoded {
            let decoded = memory.plain.room(bytes.len());
            self.press.codec.decompress(&self.compressed[start..], decoded)?;
            if decoded != bytes {
                return Err(Error::Frame { size: bytes.len() });
            }
        }
        Ok(())
    }

    /// Appends a frame that was made before, and decodes it into `bytes`.
    fn fetch(&mut self, stored: &Stored, bytes: &mut [u8]) -> Result<()> {
        let missing = || Error::Spool(std::io::ErrorKind::NotFound.into());
        let start = self.compressed.len();
        self.compressed.resize(start + stored.length as usize, 0);
        let frame = &mut self.compressed[start..];
        self.press.stored.ok_or_else(missing)?.read_exact_at(frame, stored.offset).map_err(Error::Spool)?;
        self.press.codec.decompress(frame, bytes)
    }
}
