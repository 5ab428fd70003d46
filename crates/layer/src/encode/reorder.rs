//! Moves files to the front without ever holding the tar.
//!
//! The first pass compresses every chunk into a file of frames, and writes down each entry's header bytes, compressed
//! too. Then all names are known, and the new order with them. The second pass reads entries in that order and decodes
//! the chunks, for the DiffID of the new order needs their bytes. Where a chunk has a frame of its own, its frame is
//! taken as it is: it is compressed once. Where headers share it, it is made anew, and the file holds frames of a codec
//! that is quick. Header bytes are always compressed anew. The second pass cuts batches by the rules of the first, so
//! the result is what encoding the reordered tar would give.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use restow_oci::{Digest, Digester, Limits};

use super::batch::{Facts, Framed, Frames, Item, Stored};
use super::cut::Cutter;
use super::diff::Diff;
use super::gather::ChunkIndex;
use crate::buffer::Buffer;
use crate::codec::{End, TocPlace};
use crate::error::{Error, Result};
use crate::landmark::{self, Landmark};
use crate::listing::{Listing, Role};
use crate::names::{NameIndex, Names};
use crate::spool::{Packed, Packer};
use crate::tar::{BLOCK, Header, TarReader};
use crate::tarsplit::Checksum;
use crate::workers::Memory;

/// Two zero blocks end an archive.
const END: u64 = End::LEAST;

/// Bytes of trailing data in one item, as in the first pass.
const TRAILING: usize = 256 << 10;

/// The first pass: collects what the second one needs.
pub(super) struct Collector<'a> {
    /// Sees each header.
    entry: &'a mut (dyn FnMut(&Header) + Send),
    /// Where the chunks are, for those who want to know before the second pass.
    index: Option<&'a mut ChunkIndex>,
    frames: File,
    position: u64,
    records: Packer,
    trailing: Packer,
    diff: Diff,
    current: Option<Record>,
    /// The size of the current entry's content.
    size: u64,
    /// Hashes it, if it comes in several chunks.
    whole: Option<Digester>,
    names: Names,
    landmarks: BTreeMap<u32, Role>,
    /// Whether entries have to stay in the scope of a global header.
    scoped: bool,
    entries: u32,
}

/// What the first pass leaves.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) frames: File,
    records: Packed,
    trailing: Packed,
    pub(super) source_diff_id: Digest,
    /// The digest of the tar as it was collected: the source without a table of contents.
    pub(super) diff_id: Digest,
    pub(super) names: NameIndex,
    landmarks: BTreeMap<u32, Role>,
    scoped: bool,
}

/// What comes first.
pub(super) struct Order {
    pub(super) entries: Vec<u32>,
    /// Paths that are not there.
    pub(super) missing: Vec<String>,
    /// Whether there would be such entries if they could leave their places.
    pub(super) refused: bool,
}

/// An entry as it waits between the passes.
#[derive(Debug, Default)]
struct Record {
    header: Vec<u8>,
    padding: Vec<u8>,
    digest: Option<Digest>,
    chunks: Vec<(u64, Stored)>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        spool_directory: &Path,
        limits: &Limits,
        entry: &'a mut (dyn FnMut(&Header) + Send),
        index: Option<&'a mut ChunkIndex>,
    ) -> Result<Self> {
        Ok(Self {
            entry,
            index,
            frames: tempfile::tempfile_in(spool_directory).map_err(Error::Spool)?,
            position: 0,
            records: Packer::new(spool_directory)?,
            trailing: Packer::new(spool_directory)?,
            diff: Diff::new(),
            current: None,
            size: 0,
            whole: None,
            names: Names::new(limits),
            landmarks: BTreeMap::new(),
            scoped: false,
            entries: 0,
        })
    }

    /// Keeps the frames of a batch, which are those of its chunks only, and returns the memory they were in.
    pub(super) fn add(&mut self, frames: Frames) -> Result<Memory> {
        self.frames.write_all(&frames.compressed).map_err(Error::Spool)?;
        let start = self.position;
        self.position += frames.compressed.len() as u64;
        self.diff.add(&frames.batch);
        let plain = frames.batch.bytes;
        let mut chunks = frames.chunks.into_iter();
        for item in frames.batch.items {
            let bytes = &plain.filled()[item.range()];
            match item {
                Item::Entry { start, .. } => {
                    self.pad(&bytes[..start.header.padding]);
                    self.finish_entry()?;
                    self.list(&start.listing, start.header.offset)?;
                    self.scoped |= start.header.opens_scope;
                    (self.entry)(&start.header);
                    if let Some(index) = &mut self.index {
                        index.entry();
                    }
                    let header = bytes[start.header.padding..].to_vec();
                    self.current = Some(Record { header, ..Record::default() });
                    self.size = start.header.size;
                }
                Item::Chunk { .. } => {
                    let Framed { frame, facts, .. } = chunks.next().ok_or(Error::NotSeekable)?;
                    let record = self.current.as_mut().ok_or(Error::NotSeekable)?;
                    let stored =
                        Stored { offset: start + frame.start as u64, length: frame.len() as u64, facts };
                    let size = bytes.len() as u64;
                    if let Some(index) = &mut self.index {
                        index.chunk(stored.offset, stored.length, size);
                    }
                    record.chunks.push((size, stored));
                    if size < self.size {
                        self.whole.get_or_insert_with(Digester::sha256).update(bytes);
                    }
                }
                Item::Trailing { padding, .. } => {
                    self.pad(&bytes[..padding]);
                    self.trailing.write(&bytes[padding..])?;
                }
            }
        }
        Ok(Memory { plain, compressed: frames.compressed })
    }

    fn pad(&mut self, padding: &[u8]) {
        if let Some(record) = &mut self.current {
            record.padding.extend_from_slice(padding);
        }
    }

    fn list(&mut self, listing: &Listing, offset: u64) -> Result<()> {
        self.names.add(listing, offset)?;
        if listing.role != Role::Content {
            self.landmarks.insert(self.entries, listing.role);
        }
        self.entries += 1;
        Ok(())
    }

    fn finish_entry(&mut self) -> Result<()> {
        let Some(mut record) = self.current.take() else { return Ok(()) };
        record.digest = match (self.whole.take(), record.chunks.as_slice()) {
            (Some(digester), _) => Some(digester.finish()),
            (None, [(_, only)]) => Some(only.facts.digest.clone()),
            (None, _) => None,
        };
        record.write(&mut self.records)
    }

    pub(super) fn finish(mut self) -> Result<Collected> {
        self.finish_entry()?;
        let (source_diff_id, tar) = self.diff.finish();
        Ok(Collected {
            frames: self.frames,
            records: self.records.finish()?,
            trailing: self.trailing.finish()?,
            source_diff_id,
            diff_id: tar.digester.finish(),
            names: self.names.finish(),
            landmarks: self.landmarks,
            scoped: self.scoped,
        })
    }
}

impl Collected {
    /// Returns how many zeros end the archive, for a table to stand before.
    pub(super) fn end(&mut self) -> Result<u64> {
        let mut end = End::default();
        if self.trailing.size <= End::MOST {
            let mut bytes = Vec::new();
            self.trailing.read()?.read_to_end(&mut bytes).map_err(Error::Spool)?;
            end.add(&bytes);
        } else {
            end.exceed();
        }
        Ok(end.size())
    }

    /// Returns the entries to move to the front, in their new order, and the paths that are not there.
    pub(super) fn order(&self, prioritized: &[String]) -> Order {
        let (mut entries, missing) = self.names.order(prioritized);
        // They go wherever something moves.
        entries.retain(|position| !self.landmarks.contains_key(position));
        // What a global header says holds for what comes after it, in this order.
        let refused = self.scoped && !entries.is_empty();
        if refused {
            entries.clear();
        }
        Order { entries, missing, refused }
    }

    /// Tells whether the tar becomes another one than was collected.
    pub(super) fn changes(&self, order: &[u32], landmark: Landmark) -> bool {
        landmark == Landmark::Always || !order.is_empty() || !self.leaving(order, landmark).is_empty()
    }

    /// Returns the entries that are left out.
    fn leaving(&self, order: &[u32], landmark: Landmark) -> BTreeSet<u32> {
        let landmarks = self.landmarks.iter();
        let landmarks = landmarks.filter(|(_, role)| !order.is_empty() || role.leaves(landmark));
        let mut leaving: BTreeSet<u32> = landmarks.map(|(position, _)| *position).collect();
        if !order.is_empty() {
            // An old version further back would replace the one that was moved.
            leaving.extend(self.names.replaced());
        }
        leaving
    }

    /// The second pass: sends the entries in their new order, those of `order` first, and `apart` from the others if they
    /// are compressed otherwise.
    pub(super) fn replay(
        mut self,
        order: &[u32],
        landmark: Landmark,
        limits: &Limits,
        apart: bool,
        cutter: &mut Cutter<'_>,
    ) -> Result<()> {
        let changed = self.changes(order, landmark);
        let mut leave = self.leaving(order, landmark);
        self.names = NameIndex::default();
        let mut writer = Replay { cutter, limits, owed: Vec::new(), expected: 0 };

        let mut moved = self.moved(order)?;
        writer.cutter.set_prioritized(apart)?;
        for position in order {
            if let Some(record) = moved.remove(position) {
                writer.record(record)?;
            }
        }
        writer.cutter.set_prioritized(false)?;
        match landmark {
            Landmark::Auto | Landmark::Always if !order.is_empty() => writer.landmark(landmark::PREFETCH)?,
            Landmark::Always => writer.landmark(landmark::NO_PREFETCH)?,
            Landmark::Auto | Landmark::Never => {}
        }
        leave.extend(order);
        let mut position = 0;
        let mut records = Records(self.records.read()?);
        while let Some(record) = records.next()? {
            if !leave.contains(&position) {
                writer.record(record)?;
            }
            position += 1;
        }
        if writer.cutter.layout.toc == TocPlace::InTar {
            return writer.open_end();
        }
        let size = self.trailing.size;
        writer.trailing(self.trailing.read()?, size, changed)
    }

    /// Reads the records of the entries to be moved.
    fn moved(&mut self, order: &[u32]) -> Result<BTreeMap<u32, Record>> {
        let wanted: BTreeSet<u32> = order.iter().copied().collect();
        let mut moved = BTreeMap::new();
        let mut position = 0;
        let mut records = Records(self.records.read()?);
        while moved.len() < wanted.len()
            && let Some(record) = records.next()?
        {
            if wanted.contains(&position) {
                moved.insert(position, record);
            }
            position += 1;
        }
        Ok(moved)
    }
}

/// Writes entries in their new order.
struct Replay<'c, 'a> {
    cutter: &'c mut Cutter<'a>,
    limits: &'c Limits,
    /// Padding of the last entry, as far as the source has it.
    owed: Vec<u8>,
    /// The padding it should have.
    expected: usize,
}

impl Replay<'_, '_> {
    fn record(&mut self, record: Record) -> Result<()> {
        self.complete();
        self.cutter.bytes().append(&record.header);
        let header = parse(&record.header, self.limits)?;
        self.expected = header.size.wrapping_neg() as usize % BLOCK;
        self.owed = record.padding;
        self.cutter.entry(header, record.digest)?;
        for (size, stored) in record.chunks {
            self.cutter.stored_chunk(size as usize, stored)?;
        }
        Ok(())
    }

    fn landmark(&mut self, name: &str) -> Result<()> {
        self.complete();
        self.expected = BLOCK - landmark::CONTENT.len();
        self.cutter.landmark(name)
    }

    /// Appends the padding owed, to its full length: something follows it now.
    fn complete(&mut self) {
        self.owed.resize(self.expected, 0);
        self.cutter.bytes().append(&self.owed);
        self.owed.clear();
        self.expected = 0;
    }

    /// Completes the padding of the last entry: another one follows.
    fn open_end(mut self) -> Result<()> {
        let padding = self.expected;
        self.complete();
        self.cutter.trailing(padding)
    }

    fn trailing(mut self, mut trailing: impl Read, size: u64, changed: bool) -> Result<()> {
        let mut first = vec![0; size.min(END) as usize];
        trailing.read_exact(&mut first).map_err(Error::Spool)?;
        if changed {
            self.complete();
            first.resize(END as usize, 0);
        } else {
            self.cutter.bytes().append(&self.owed);
        }
        self.cutter.bytes().append(&first);
        self.cutter.trailing(0)?;
        let mut left = size.saturating_sub(END);
        while left > 0 {
            let mut piece = vec![0; left.min(TRAILING as u64) as usize];
            trailing.read_exact(&mut piece).map_err(Error::Spool)?;
            left -= piece.len() as u64;
            self.cutter.bytes().append(&piece);
            self.cutter.trailing(0)?;
        }
        Ok(())
    }
}

fn parse(block: &[u8], limits: &Limits) -> Result<Header> {
    TarReader::new(block, limits).next(&mut Buffer::default())?.ok_or(Error::NotSeekable)
}

impl Record {
    fn write(&self, out: &mut Packer) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.header.len() + 256);
        put(&mut bytes, &self.header);
        put(&mut bytes, &self.padding);
        put(&mut bytes, self.digest.as_ref().map_or("", Digest::as_str).as_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        for (size, stored) in &self.chunks {
            for number in [*size, stored.offset, stored.length] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            put(&mut bytes, stored.facts.digest.as_str().as_bytes());
            bytes.extend_from_slice(&stored.facts.checksum.to_bytes());
            bytes.push(u8::from(stored.facts.zeros));
        }
        out.write(&bytes)
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads back what [`Record::write`] wrote.
struct Records<R>(R);

impl<R: Read> Records<R> {
    fn next(&mut self) -> Result<Option<Record>> {
        let mut length = [0; 4];
        match self.0.read(&mut length[..1]).map_err(Error::Spool)? {
            0 => return Ok(None),
            _ => self.0.read_exact(&mut length[1..]).map_err(Error::Spool)?,
        }
        let header = self.bytes(u32::from_le_bytes(length))?;
        let padding = self.text()?;
        let digest = self.text()?;
        let count = u32::from_le_bytes(self.array()?);
        let mut chunks = Vec::new();
        for _ in 0..count {
            let size = u64::from_le_bytes(self.array()?);
            let offset = u64::from_le_bytes(self.array()?);
            let length = u64::from_le_bytes(self.array()?);
            let digest = self.text()?;
            let checksum = Checksum::from_bytes(self.array()?);
            let [zeros] = self.array()?;
            let facts = Facts { digest: self.digest(&digest)?, checksum, zeros: zeros != 0 };
            chunks.push((size, Stored { offset, length, facts }));
        }
        let digest = if digest.is_empty() { None } else { Some(self.digest(&digest)?) };
        Ok(Some(Record { header, padding, digest, chunks }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(Error::Spool)?;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<Vec<u8>> {
        let length = u32::from_le_bytes(self.array()?);
        self.bytes(length)
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.0.read_exact(&mut bytes).map_err(Error::Spool)?;
        Ok(bytes)
    }

    fn digest(&self, text: &[u8]) -> Result<Digest> {
        let damaged = || Error::Spool(std::io::ErrorKind::InvalidData.into());
        std::str::from_utf8(text).ok().and_then(|text| Digest::parse(text).ok()).ok_or_else(damaged)
    }
}
