//! Cuts a tar stream into batches, and settles which chunks begin a frame.
//!
//! A batch ends at the first item after [`BATCH`] bytes. Where chunks take along what follows them, it ends before the
//! first chunk after [`BATCH`] bytes that begins a frame, or after as many bytes of headers alone. When [`DROPPED`] bytes
//! were left out, it ends at once.

use std::io::Read;

use restow_oci::{Digest, Limits};

use super::Chunking;
use super::batch::{BATCH, Batch, DROPPED, Item, Place, Start, Stored};
use super::boundaries::Boundaries;
use crate::buffer::Buffer;
use crate::codec::{End, Layout, Placement, TocPlace};
use crate::error::{Error, Result};
use crate::landmark::{self, Landmark};
use crate::listing::{self, Listing, Role};
use crate::tar::{BLOCK, Header, TarReader};
use crate::workers::Workers;

/// Two zero blocks end an archive.
const END: usize = End::LEAST as usize;

/// Bytes of a file that are searched for the ends of chunks at once.
const STEP: u64 = 256 << 10;

/// Bytes of trailing data in one item.
const TRAILING: u64 = 256 << 10;

/// Chunks of a file that follow its content. They are held until the file ends, and content that is made for it has one in
/// 512 bytes; files of as many otherwise have some 4 GiB.
const CHUNKS: u32 = 1 << 16;

/// Sends a batch, with the memory it holds.
pub(super) type Send<'a> = &'a mut dyn FnMut(Batch, usize) -> Result<()>;

/// Gathers items into batches. The tar's bytes are appended to [`bytes`](Self::bytes), then named by an item.
pub(super) struct Cutter<'a> {
    batch: Batch,
    send: Send<'a>,
    workers: &'a Workers,
    limits: &'a Limits,
    pub(super) layout: Layout,
    /// The end of the bytes that have been named.
    named: usize,
    /// How many bytes of the source the batch leaves out.
    dropped: usize,
    /// Where the frame that is open starts, if chunks take along what follows them.
    frame: usize,
    /// Where the last chunk ended.
    chunk_end: usize,
    /// Whether the last entry is a landmark.
    landmark: bool,
    /// Where the chunk goes that has begun.
    place: Place,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(layout: Layout, limits: &'a Limits, workers: &'a Workers, send: Send<'a>) -> Self {
        Self {
            batch: Batch::new(workers.memory()),
            send,
            workers,
            limits,
            layout,
            named: 0,
            dropped: 0,
            frame: 0,
            chunk_end: 0,
            landmark: false,
            place: Place::Alone,
        }
    }

    /// Returns where tar bytes are to be appended.
    pub(super) fn bytes(&mut self) -> &mut Buffer {
        &mut self.batch.bytes
    }

    /// Says that what follows is, or is not, part of the files that come first. What comes before is a batch of its own.
    pub(super) fn set_prioritized(&mut self, prioritized: bool) -> Result<()> {
        if prioritized != self.batch.prioritized {
            if self.named > 0 {
                self.send()?;
            }
            self.batch.prioritized = prioritized;
        }
        Ok(())
    }

    /// Names the padding and the header blocks that were appended.
    pub(super) fn entry(&mut self, header: Header, digest: Option<Digest>) -> Result<()> {
        let listing = listing::list(&header, self.limits)?;
        self.listed(header, listing, digest)
    }

    fn listed(&mut self, header: Header, listing: Listing, digest: Option<Digest>) -> Result<()> {
        let range = self.named..self.batch.bytes.len();
        self.landmark = matches!(listing.role, Role::Landmark | Role::NoPrefetchLandmark);
        self.push(Item::Entry { range, start: Box::new(Start { header, listing, digest }) })
    }

    /// Gets ready for a chunk that is appended next.
    pub(super) fn begin_chunk(&mut self) -> Result<()> {
        let Placement::Along { least } = self.layout.placement else { return Ok(()) };
        let open = (self.batch.bytes.len() - self.frame) as u64;
        self.place = Place::Inside;
        if open > 0 && (open >= least || self.landmark) {
            if self.batch.bytes.len() >= BATCH {
                self.send()?;
            }
            self.place = Place::First;
            self.frame = self.batch.bytes.len();
        }
        Ok(())
    }

    /// Names the chunk that was appended.
    pub(super) fn chunk(&mut self) -> Result<()> {
        self.push_chunk(None)
    }

    fn push_chunk(&mut self, stored: Option<Stored>) -> Result<()> {
        let range = self.named..self.batch.bytes.len();
        self.chunk_end = range.end;
        self.push(Item::Chunk { range, place: self.place, stored })
    }

    /// Names the first `size` of the bytes that were appended a chunk.
    fn chunk_of(&mut self, size: usize) -> Result<()> {
        let range = self.named..self.named + size;
        self.chunk_end = range.end;
        self.push(Item::Chunk { range, place: Place::Alone, stored: None })
    }

    /// Makes room for a chunk of `size` bytes that is decoded from the frame file.
    pub(super) fn stored_chunk(&mut self, size: usize, stored: Stored) -> Result<()> {
        self.begin_chunk()?;
        self.batch.bytes.room(size);
        self.batch.bytes.advance(size);
        self.push_chunk(Some(stored))
    }

    /// Names what was appended after the last entry, of which the first `padding` bytes belong to that entry.
    pub(super) fn trailing(&mut self, padding: usize) -> Result<()> {
        let range = self.named..self.batch.bytes.len();
        self.push(Item::Trailing { range, padding })
    }

    /// Appends a landmark.
    pub(super) fn landmark(&mut self, name: &str) -> Result<()> {
        let start = self.batch.bytes.len();
        let block = landmark::header(name);
        self.batch.bytes.append(&block);
        self.batch.inserted.push(start..self.batch.bytes.len());
        let header = TarReader::new(&block[..], self.limits).next(&mut Buffer::default())?;
        self.entry(header.ok_or(Error::NotSeekable)?, None)?;
        self.begin_chunk()?;
        let start = self.batch.bytes.len();
        self.batch.bytes.append(&landmark::CONTENT);
        self.batch.inserted.push(start..self.batch.bytes.len());
        self.chunk()
    }

    /// Appends zero bytes that the source does not have, without naming them.
    pub(super) fn insert_zeros(&mut self, count: usize) {
        let start = self.batch.bytes.len();
        self.batch.bytes.append(&vec![0; count]);
        self.batch.inserted.push(start..self.batch.bytes.len());
    }

    /// Takes back the bytes after `length`, which stay part of the source only.
    ///
    /// What was appended before and has no name yet is padding of the last entry that is kept.
    fn drop_after(&mut self, length: usize) -> Result<()> {
        let dropped = self.batch.bytes.filled()[length..].to_vec();
        self.batch.bytes.truncate(length);
        self.dropped += dropped.len();
        self.batch.dropped.push((length, dropped));
        if self.dropped < DROPPED {
            return Ok(());
        }
        self.trailing(length - self.named)?;
        self.send()
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.send()
    }

    fn push(&mut self, item: Item) -> Result<()> {
        self.named = item.range().end;
        if !item.range().is_empty() {
            self.batch.items.push(item);
        }
        let full = match self.layout.placement {
            Placement::Apart => self.named >= BATCH,
            Placement::Along { .. } => self.named - self.chunk_end >= BATCH,
        };
        if full { self.send() } else { Ok(()) }
    }

    /// Sends the batch. What was appended and has no name yet begins the next one.
    fn send(&mut self) -> Result<()> {
        let mut batch = std::mem::replace(&mut self.batch, Batch::new(self.workers.memory()));
        self.batch.prioritized = batch.prioritized;
        self.batch.bytes.append(&batch.bytes.filled()[self.named..]);
        batch.bytes.truncate(self.named);
        // Frames may be as large as what they are made of.
        let memory = batch.bytes.len() * 2 + self.dropped;
        (self.named, self.dropped, self.frame, self.chunk_end) = (0, 0, 0, 0);
        (self.send)(batch, memory)
    }
}

/// Cuts a whole tar. Bytes stay as they are, except that a table of contents of eStargz is left out, and landmarks
/// as `landmark` says; `None` keeps them all. Where another table comes last in the tar, the end of the archive is left
/// out too. Returns how many zeros are to end the archive there.
pub(super) fn cut<R: Read>(
    tar: &mut TarReader<R>,
    chunk_size: u64,
    chunking: Chunking,
    landmark: Option<Landmark>,
    cutter: &mut Cutter<'_>,
) -> Result<u64> {
    let mut changed = landmark == Some(Landmark::Always);
    if changed {
        cutter.landmark(landmark::NO_PREFETCH)?;
        cutter.insert_zeros(BLOCK - landmark::CONTENT.len());
    }
    // The padding that the last entry should have, and does not have yet.
    let mut padding = 0;
    loop {
        let start = cutter.bytes().len();
        let Some(mut header) = tar.next(cutter.bytes())? else {
            return match cutter.layout.toc {
                TocPlace::InTar => open_end(tar, cutter, start + padding),
                TocPlace::Hidden | TocPlace::Apart => {
                    end(tar, cutter, start + padding, changed).map(|()| End::LEAST)
                }
            };
        };
        let listing = listing::list(&header, cutter.limits)?;
        if landmark.map_or(listing.role == Role::Toc, |landmark| listing.role.leaves(landmark)) {
            changed = true;
            cutter.drop_after(start + header.padding)?;
            discard(tar, cutter)?;
            padding = 0;
            continue;
        }
        let size = header.size;
        padding = size.wrapping_neg() as usize % BLOCK;
        // Some may have been kept from before entries that are left out.
        header.padding += start - cutter.named;
        cutter.listed(header, listing, None)?;
        match chunking {
            Chunking::Fixed => {
                let mut left = size;
                while left > 0 {
                    cutter.begin_chunk()?;
                    left -= tar.read_payload(cutter.bytes(), chunk_size.max(1))?;
                    cutter.chunk()?;
                }
            }
            Chunking::Content => cut_by_content(tar, chunk_size.max(1), cutter)?,
        }
    }
}

/// Cuts a file into chunks that follow its content, of `most` bytes at the most. What comes after [`CHUNKS`] of them is
/// cut into chunks of `most` bytes.
fn cut_by_content<R: Read>(tar: &mut TarReader<R>, most: u64, cutter: &mut Cutter<'_>) -> Result<()> {
    let (mut boundaries, mut ends) = (Boundaries::new(), Vec::new());
    let (mut read, mut named) = (0, 0);
    let mut found = 0;
    loop {
        let start = cutter.bytes().len();
        let more = tar.read_payload(cutter.bytes(), STEP.min(most))?;
        boundaries.add(&cutter.bytes().filled()[start..], &mut ends);
        read += more;
        if more == 0 {
            boundaries.finish(&mut ends);
        }
        for end in ends.drain(..) {
            let last = more == 0 && end == read;
            if end == named || found == CHUNKS && !last {
                continue;
            }
            found += 1;
            while named < end {
                let size = most.min(end - named);
                cutter.chunk_of(size as usize)?;
                named += size;
            }
        }
        // What has as many bytes as a chunk may have is one, whatever follows.
        while read - named >= most {
            cutter.chunk_of(most as usize)?;
            named += most;
        }
        if more == 0 {
            return Ok(());
        }
    }
}

/// Reads the rest of an entry that is left out.
fn discard<R: Read>(tar: &mut TarReader<R>, cutter: &mut Cutter<'_>) -> Result<()> {
    loop {
        let start = cutter.bytes().len();
        let read = tar.read_payload(cutter.bytes(), TRAILING)?;
        if read == 0 {
            tar.read_padding(cutter.bytes())?;
        }
        cutter.drop_after(start)?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// Copies what follows the last entry, whose padding should end at byte `padded` of the batch; where the tar changes
/// anyhow, missing padding and end blocks are added.
fn end<R: Read>(tar: &mut TarReader<R>, cutter: &mut Cutter<'_>, padded: usize, changed: bool) -> Result<()> {
    let found = cutter.bytes().len();
    if changed {
        cutter.insert_zeros((padded + END).saturating_sub(found));
    }
    let padding = padded.min(cutter.bytes().len()) - cutter.named;
    cutter.trailing(padding)?;
    while tar.read_trailing(cutter.bytes(), TRAILING)? > 0 {
        cutter.trailing(0)?;
    }
    Ok(())
}

/// Completes the padding of the last entry, which should end at byte `padded` of the batch, and leaves out the rest:
/// another entry follows. Returns how many zeros are to end the archive behind that.
fn open_end<R: Read>(tar: &mut TarReader<R>, cutter: &mut Cutter<'_>, padded: usize) -> Result<u64> {
    let found = cutter.bytes().len();
    let mut end = End::default();
    if found < padded {
        cutter.insert_zeros(padded - found);
    } else {
        end.add(&cutter.bytes().filled()[padded..]);
        cutter.drop_after(padded)?;
    }
    let padding = cutter.bytes().len() - cutter.named;
    cutter.trailing(padding)?;
    loop {
        let start = cutter.bytes().len();
        if tar.read_trailing(cutter.bytes(), TRAILING)? == 0 {
            return Ok(end.size());
        }
        end.add(&cutter.bytes().filled()[start..]);
        cutter.drop_after(start)?;
    }
}

#[cfg(test)]
mod tests {
    use restow_testkit::TarBuilder;

    use super::*;
    use crate::toc::Dialect;

    #[test]
    fn content_decides_over_a_bounded_number_of_chunks() {
        let size = 100_000;
        let content = [&[0; 1024][..], b"x"].concat().repeat(40_000);
        let tar = TarBuilder::new().file("f", &content).finish();
        let limits = Limits::default();
        let workers = Workers::new(1).unwrap();
        let layout = Layout {
            placement: Placement::Apart,
            dialect: Dialect::Superset,
            toc: TocPlace::Hidden,
            landmark: false,
        };
        let mut found = Vec::new();
        let mut send = |batch: Batch, _| {
            let chunks = batch.items.iter().filter(|item| matches!(item, Item::Chunk { .. }));
            found.extend(chunks.map(|item| item.range().len() as u64));
            Ok(())
        };
        let mut cutter = Cutter::new(layout, &limits, &workers, &mut send);
        cut(&mut TarReader::new(&tar[..], &limits), size, Chunking::Content, None, &mut cutter).unwrap();
        cutter.finish().unwrap();

        let (by_content, fixed) = found.split_at(CHUNKS as usize);
        assert!(by_content.iter().copied().eq([1024, 1].into_iter().cycle().take(CHUNKS as usize)));
        let (last, full) = fixed.split_last().unwrap();
        assert!(full.iter().all(|chunk| *chunk == size) && *last <= size, "{fixed:?}");
        assert_eq!(found.iter().sum::<u64>(), content.len() as u64);
    }
}
