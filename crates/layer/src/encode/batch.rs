//! Consecutive tar bytes that one worker compresses, and how they are cut into frames.
//!
//! The cutter has settled which chunks have a frame of their own and which begin or continue one ([`Place`]). Around
//! chunks that have one, header bytes, padding among them, join into a frame until a payload follows or [`RUN`] bytes
//! are full; else they go into the frame that is open. The end of a batch ends a frame. All of this is decided by the
//! tar's bytes and the options alone.

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
    /// Whether it is part of the files that come first.
    pub(super) prioritized: bool,
}

/// Part of a batch; the ranges of its items follow each other without gaps.
#[derive(Debug)]
pub(super) enum Item {
    /// An entry begins: padding of the one before, and header blocks.
    Entry { range: Range<usize>, start: Box<Start> },
    /// A chunk of the content of the entry before.
    Chunk { range: Range<usize>, place: Place, stored: Option<Stored> },
    /// What no header follows, of which the first `padding` bytes still belong to the entry before.
    Trailing { range: Range<usize>, padding: usize },
}

/// Where a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Into a frame of its own.
    Alone,
    /// To the beginning of a frame.
    First,
    /// Into the frame that is open.
    Inside,
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
    /// The chunks of the batch in order.
    pub(super) chunks: Vec<Framed>,
}

/// A chunk whose frame is made.
#[derive(Debug)]
pub(super) struct Framed {
    /// Where the frame lies.
    pub(super) frame: Range<usize>,
    /// How many uncompressed bytes of the frame come before the chunk.
    pub(super) inner_offset: u64,
    pub(super) facts: Facts,
}

/// How the frames of a batch are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Press<'a> {
    pub(super) codec: &'a dyn Codec,
    /// The codec of the files that come first, if it is another one.
    pub(super) prioritized: Option<&'a dyn Codec>,
    /// Where memory to decode into comes from.
    pub(super) workers: &'a Workers,
    pub(super) headers: Headers,
    /// Whether every new frame is decoded and compared with what it was made of.
    pub(super) check: bool,
    /// Where chunks wait that were compressed before. A chunk that has a frame of its own keeps the one that waits.
    pub(super) stored: Option<FrameFile<'a>>,
}

/// Chunks that were compressed before.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameFile<'a> {
    pub(super) file: &'a File,
    /// What they were compressed with.
    pub(super) codec: &'a dyn Codec,
    /// Whether their bytes are wanted, too, where their frames are taken as they are.
    pub(super) decode: bool,
}

/// What a worker is to do about header bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Headers {
    /// Compress them into frames of [`RUN`] bytes.
    Runs,
    /// Put them into the frame that is open.
    Along,
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
        let prioritized = press.prioritized.filter(|_| self.prioritized);
        let mut frames = NewFrames {
            press: Press { codec: prioritized.unwrap_or(press.codec), ..press },
            remake: prioritized.is_some(),
            compressed: std::mem::take(&mut self.compressed),
            decoded: press.check.then(|| press.workers.memory()),
            open: 0..0,
            chunks: Vec::new(),
            closed: 0,
        };
        let bytes = &mut self.bytes;
        for item in &self.items {
            let range = item.range();
            let Item::Chunk { place, stored, .. } = item else {
                frames.open.end = range.end;
                if press.headers == Headers::Runs && frames.open.len() >= RUN {
                    frames.close(bytes)?;
                }
                continue;
            };
            if *place != Place::Inside {
                frames.close(bytes)?;
            }
            frames.chunk(*place, range, stored.as_ref(), bytes)?;
        }
        frames.close(bytes)?;
        if let Some(memory) = frames.decoded {
            press.workers.recycle(memory);
        }
        Ok(Frames { batch: self, compressed: frames.compressed, chunks: frames.chunks })
    }
}

/// The frames of a batch, growing.
struct NewFrames<'a> {
    press: Press<'a>,
    /// Whether frames that wait are made anew even where they could be taken.
    remake: bool,
    compressed: Vec<u8>,
    /// Where new frames are decoded to, if they are checked.
    decoded: Option<Memory>,
    /// The bytes of the frame that is open.
    open: Range<usize>,
    chunks: Vec<Framed>,
    /// How many of the chunks are in frames that are closed.
    closed: usize,
}

impl NewFrames<'_> {
    /// Adds a chunk to the open frame, which is empty unless the chunk goes inside one.
    fn chunk(
        &mut self,
        place: Place,
        range: Range<usize>,
        stored: Option<&Stored>,
        bytes: &mut Buffer,
    ) -> Result<()> {
        let inner_offset = (range.start - self.open.start) as u64;
        self.open.end = range.end;
        let facts = match stored {
            Some(stored) => {
                let start = self.compressed.len();
                self.fetch(stored, place, &mut bytes.filled_mut()[range.clone()])?;
                if place == Place::Alone && !self.remake {
                    let frame = start..self.compressed.len();
                    self.chunks.push(Framed { frame, inner_offset, facts: stored.facts.clone() });
                    self.finish();
                    return Ok(());
                }
                self.compressed.truncate(start);
                stored.facts.clone()
            }
            None => Facts::of(&bytes.filled()[range]),
        };
        self.chunks.push(Framed { frame: 0..0, inner_offset, facts });
        if place == Place::Alone { self.close(bytes) } else { Ok(()) }
    }

    /// Makes the frame that is open, if there is something in it.
    fn close(&mut self, bytes: &Buffer) -> Result<()> {
        let headers = self.closed == self.chunks.len();
        if self.open.is_empty() || (headers && self.press.headers == Headers::Leave) {
            self.finish();
            return Ok(());
        }
        let start = self.compressed.len();
        self.add(&bytes.filled()[self.open.clone()])?;
        for chunk in &mut self.chunks[self.closed..] {
            chunk.frame = start..self.compressed.len();
        }
        self.finish();
        Ok(())
    }

    fn finish(&mut self) {
        self.open = self.open.end..self.open.end;
        self.closed = self.chunks.len();
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

    /// Appends a frame that was made before, and decodes it into `bytes`, if somebody wants those.
    fn fetch(&mut self, stored: &Stored, place: Place, bytes: &mut [u8]) -> Result<()> {
        let missing = || Error::Spool(std::io::ErrorKind::NotFound.into());
        let FrameFile { file, codec, decode } = self.press.stored.ok_or_else(missing)?;
        let start = self.compressed.len();
        self.compressed.resize(start + stored.length as usize, 0);
        let frame = &mut self.compressed[start..];
        file.read_exact_at(frame, stored.offset).map_err(Error::Spool)?;
        if decode || place != Place::Alone { codec.decompress(frame, bytes) } else { Ok(()) }
    }
}

impl Facts {
    fn of(bytes: &[u8]) -> Self {
        Self {
            digest: Digest::sha256(bytes),
            checksum: Checksum::of(bytes),
            zeros: bytes.iter().all(|byte| *byte == 0),
        }
    }
}
