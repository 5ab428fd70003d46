//! Puts frames into a blob in order, and writes down what was put where.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Write};
use std::path::Path;

use restow_oci::{Digest, Digester, Limits};

use super::batch::{Framed, Frames, Item, Start};
use super::diff::Diff;
use crate::codec::Tar;
use crate::error::{Error, Result};
use crate::listing::Role;
use crate::names::{NameIndex, Names};
use crate::spool::{Packed, Packer};
use crate::tarsplit::{Checksum, TarSplit};
use crate::toc::{Dialect, Entry, EntryKind, Parser, Writer};
use crate::workers::Memory;

/// Bytes of a table's text that are compressed at once.
const TEXT: usize = 64 << 10;

/// Writes the frames of a layer and collects its table of contents and tar-split stream.
pub(super) struct Assembler<'a> {
    output: &'a mut (dyn Write + Send),
    position: u64,
    diff: Diff,
    toc: Table,
    tar_split: Option<TarSplit>,
    current: Option<File>,
    names: Names,
    listed: Listed,
    /// Entries at the front that were moved there.
    moved: u64,
}

/// What there is to say of the entries written.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) entries: u64,
    pub(super) chunks: u64,
    /// Those that are not the first of their file.
    pub(super) further_chunks: u64,
    /// Where the region to be fetched first ends, in blob bytes.
    pub(super) prefetch_size: u64,
    /// Why podman would refuse the layer.
    pub(super) refusal: Option<String>,
}

/// A layer whose frames are written.
pub(super) struct Assembled {
    pub(super) position: u64,
    pub(super) source_diff_id: Digest,
    pub(super) tar: Tar,
    pub(super) table: Table,
    pub(super) names: NameIndex,
    pub(super) tar_split: Option<Packed>,
    pub(super) listed: Listed,
}

/// An entry whose content is still coming.
struct File {
    start: Box<Start>,
    /// Hashes the whole content; a file of one chunk has the chunk's digest.
    digest: Option<Digester>,
    checksum: Checksum,
    size: u64,
    chunks: Vec<Chunk>,
}

struct Chunk {
    offset: u64,
    end: u64,
    inner_offset: u64,
    size: u64,
    digest: Digest,
    zeros: bool,
}

impl<'a> Assembler<'a> {
    /// Writes to `output`, and the table as `spelling` says; the first `moved` entries are those to be fetched first.
    pub(super) fn new(
        output: &'a mut (dyn Write + Send),
        spelling: Spelling,
        spool_directory: &Path,
        limits: &Limits,
        moved: u64,
        diff: Diff,
    ) -> Result<Self> {
        let tar_split = spelling.dialect == Dialect::Superset;
        Ok(Self {
            output,
            position: 0,
            diff,
            toc: Table::new(spelling, spool_directory)?,
            tar_split: tar_split.then(|| TarSplit::new(spool_directory)).transpose()?,
            current: None,
            names: Names::new(limits),
            listed: Listed::default(),
            moved,
        })
    }

    /// Adds a batch and its frames, and returns the memory they were in.
    pub(super) fn add(&mut self, frames: Frames) -> Result<Memory> {
        self.output
            .write_all(&frames.compressed)
            .map_err(|source| Error::Write { offset: self.position, source })?;
        let start = self.position;
        self.position += frames.compressed.len() as u64;
        self.diff.add(&frames.batch);
        let bytes = frames.batch.bytes;
        let mut chunks = frames.chunks.into_iter();
        for item in frames.batch.items {
            match item {
                Item::Entry { range, start } => {
                    self.finish_entry()?;
                    self.segment(&bytes.filled()[range])?;
                    self.names.add(&start.listing, start.header.offset)?;
                    self.current = Some(File::new(start));
                }
                Item::Chunk { range, .. } => {
                    let framed = chunks.next().ok_or(Error::NotSeekable)?;
                    let file = self.current.as_mut().ok_or(Error::NotSeekable)?;
                    file.add(&bytes.filled()[range], start, framed);
                }
                Item::Trailing { range, .. } => {
                    self.finish_entry()?;
                    if let Some(tar_split) = &mut self.tar_split {
                        tar_split.trailing(&bytes.filled()[range])?;
                    }
                }
            }
        }
        Ok(Memory { plain: bytes, compressed: frames.compressed })
    }

    /// Ends the frames.
    pub(super) fn finish(mut self) -> Result<Assembled> {
        self.finish_entry()?;
        let tar_split = self.tar_split.map(TarSplit::finish).transpose()?;
        let refusal = tar_split.as_ref().and_then(|tar_split| tar_split.refusal);
        self.listed.refusal = self.listed.refusal.or(refusal.map(str::to_owned));
        let (source_diff_id, tar) = self.diff.finish();
        Ok(Assembled {
            position: self.position,
            source_diff_id,
            tar,
            table: self.toc,
            names: self.names.finish(),
            tar_split: tar_split.map(|tar_split| tar_split.packed),
            listed: self.listed,
        })
    }

    fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        self.tar_split.as_mut().map_or(Ok(()), |tar_split| tar_split.segment(bytes))
    }

    fn finish_entry(&mut self) -> Result<()> {
        let Some(file) = self.current.take() else { return Ok(()) };
        if let Some(tar_split) = &mut self.tar_split {
            tar_split.file(&file.start.listing.entry.name, file.size, file.checksum)?;
        }
        let listed = &mut self.listed;
        listed.entries += 1;
        listed.chunks += file.chunks.len() as u64;
        listed.further_chunks += file.chunks.len().saturating_sub(1) as u64;
        if let (None, Some(refusal)) = (&listed.refusal, file.start.listing.refusal) {
            listed.refusal = Some(format!("{refusal} ({})", file.start.listing.entry.name));
        }
        if let Some(last) = file.chunks.last()
            && listed.entries <= self.moved
        {
            listed.prefetch_size = last.end;
        }
        if let (Role::Landmark, Some(first)) = (file.start.listing.role, file.chunks.first()) {
            listed.prefetch_size = first.offset;
        }
        self.toc.add(file)
    }
}

impl File {
    fn new(start: Box<Start>) -> Self {
        Self { start, digest: None, checksum: Checksum::default(), size: 0, chunks: Vec::new() }
    }

    /// Adds a chunk of a batch whose frames start at byte `start` of the blob.
    fn add(&mut self, bytes: &[u8], start: u64, framed: Framed) {
        let Framed { frame, inner_offset, facts } = framed;
        let whole = self.start.header.size == bytes.len() as u64;
        if !whole && self.start.digest.is_none() {
            self.digest.get_or_insert_with(Digester::sha256).update(bytes);
        }
        let length = bytes.len() as u64;
        self.checksum =
            if self.chunks.is_empty() { facts.checksum } else { self.checksum.then(facts.checksum, length) };
        self.size += length;
        self.chunks.push(Chunk {
            offset: start + frame.start as u64,
            end: start + frame.end as u64,
            inner_offset,
            size: length,
            digest: facts.digest,
            zeros: facts.zeros,
        });
    }

    /// Returns the digest of the content: known, of the only chunk, or of all chunks.
    fn digest(&mut self) -> Digest {
        match (self.start.digest.take(), self.digest.take(), self.chunks.as_slice()) {
            (Some(digest), _, _) => digest,
            (None, Some(digester), _) => digester.finish(),
            (None, None, [only]) => only.digest.clone(),
            (None, None, _) => Digest::sha256(b""),
        }
    }
}

/// How a table of contents is spelled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spelling {
    pub(super) dialect: Dialect,
    /// The size of a full chunk.
    pub(super) chunk_size: u64,
}

/// The table of contents, growing.
pub(super) struct Table {
    spelling: Spelling,
    packer: Packer,
    digest: Digester,
    writer: Writer,
    text: Vec<u8>,
    owners: Owners,
}

impl Table {
    fn new(spelling: Spelling, spool_directory: &Path) -> Result<Self> {
        Ok(Self {
            spelling,
            packer: Packer::new(spool_directory)?,
            digest: Digester::sha256(),
            writer: Writer::new(spelling.dialect),
            text: Vec::new(),
            owners: Owners::default(),
        })
    }

    fn add(&mut self, mut file: File) -> Result<()> {
        let digest = file.digest();
        let mut entry = file.start.listing.entry;
        self.owners.shorten(&mut entry);
        let name = entry.name.clone();
        let count = file.chunks.len();
        if entry.kind == EntryKind::Regular {
            entry.digest = Some(digest);
        }
        if let (Some(first), Some(last)) = (file.chunks.first(), file.chunks.last()) {
            entry.end_offset = last.end;
            self.describe(&mut entry, first, count == 1, count > 1);
        }
        self.writer.entry(&entry, &mut self.text);
        let mut chunk_offset = 0;
        for (index, pair) in file.chunks.windows(2).enumerate() {
            let [previous, chunk] = pair else { continue };
            chunk_offset += previous.size;
            let mut entry =
                Entry { name: name.clone(), kind: EntryKind::Chunk, chunk_offset, ..Entry::default() };
            self.describe(&mut entry, chunk, index + 2 == count, true);
            self.writer.entry(&entry, &mut self.text);
            if self.text.len() >= TEXT {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn describe(&self, entry: &mut Entry, chunk: &Chunk, last: bool, in_parts: bool) {
        entry.offset = chunk.offset;
        entry.inner_offset = chunk.inner_offset;
        entry.chunk_digest = Some(chunk.digest.clone());
        let sized = match self.spelling.dialect {
            Dialect::Superset => in_parts,
            // What is left out reaches to the end of the file (estargz.go, `appendTar`).
            Dialect::Stargz => !last || chunk.size >= self.spelling.chunk_size,
        };
        if sized {
            entry.chunk_size = chunk.size;
        }
        entry.zeros = in_parts && chunk.zeros;
    }

    /// Ends the document, and returns its digest with it.
    pub(super) fn finish(mut self, tar_split_digest: Option<&Digest>) -> Result<(Packed, Digest)> {
        let writer = std::mem::replace(&mut self.writer, Writer::new(self.spelling.dialect));
        writer.finish(tar_split_digest, &mut self.text);
        self.flush()?;
        Ok((self.packer.finish()?, self.digest.finish()))
    }

    fn flush(&mut self) -> Result<()> {
        self.digest.update(&self.text);
        self.packer.write(&self.text)?;
        self.text.clear();
        Ok(())
    }
}

/// Copies a table of contents without the entries at the given positions, and their chunks.
pub(super) fn without(
    mut table: Packed,
    positions: &BTreeSet<u32>,
    spelling: Spelling,
    spool_directory: &Path,
    limits: &Limits,
) -> Result<(Packed, Digest)> {
    let mut copy = Table::new(spelling, spool_directory)?;
    let mut parser = Parser::new(BufReader::new(table.read()?), limits)?;
    let mut said = Owners::default();
    let mut next = 0;
    let mut keep = true;
    while let Some(mut entry) = parser.next_entry()? {
        if entry.kind != EntryKind::Chunk {
            keep = !positions.contains(&next);
            next += 1;
            // The entry that named an owner may be one that goes.
            said.complete(&mut entry);
            if keep {
                copy.owners.shorten(&mut entry);
            }
        }
        if keep {
            copy.writer.entry(&entry, &mut copy.text);
            copy.flush()?;
        }
    }
    copy.finish(parser.finish()?.as_ref())
}

/// The names last given for each number: a table repeats them only when they change.
#[derive(Default)]
struct Owners {
    users: BTreeMap<i64, String>,
    groups: BTreeMap<i64, String>,
}

impl Owners {
    /// Takes out the names that were given before.
    fn shorten(&mut self, entry: &mut Entry) {
        for (said, number, name) in self.both(entry) {
            if said.get(&number) == Some(name) {
                name.clear();
            } else if !name.is_empty() {
                said.insert(number, name.clone());
            }
        }
    }

    /// Puts them in again.
    fn complete(&mut self, entry: &mut Entry) {
        for (said, number, name) in self.both(entry) {
            if name.is_empty() {
                *name = said.get(&number).cloned().unwrap_or_default();
            } else {
                said.insert(number, name.clone());
            }
        }
    }

    fn both<'a>(
        &'a mut self,
        entry: &'a mut Entry,
    ) -> [(&'a mut BTreeMap<i64, String>, i64, &'a mut String); 2] {
        [
            (&mut self.users, entry.uid, &mut entry.user_name),
            (&mut self.groups, entry.gid, &mut entry.group_name),
        ]
    }
}
