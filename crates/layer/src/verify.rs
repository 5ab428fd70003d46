//! Reads a seekable layer back and holds it to everything it says of itself.
//!
//! ```text
//! table of contents → segments ──▶ workers: decode, hash chunks ──▶ DiffID, digests of files in parts ─┐
//! table of contents, tar-split ──────────────────────────────────▶ compared with the tar, entry by entry ◀┘
//! ```
//!
//! The table cuts the blob into segments, each of which must decode on its own and hold its chunks where the table
//! puts them. Joined they are the tar, which says what else the table must say. Memory is bounded by the segments
//! under way and a few bytes for each name; neither the tar nor the table is ever held as a whole.

mod compare;
mod decode;
mod segment;
mod skipped;
mod stream;
mod tar_split;

use std::collections::BTreeMap;
use std::thread;

use crossbeam_channel::bounded;
use restow_oci::{Digest, Limits, annotations};

use self::compare::{Comparison, Feed, Obstacles};
use self::decode::{Decoder, Output};
use self::segment::Segments;
use self::stream::{Piece, Stream};
use crate::blob::{ReadAt, read_exact_at};
use crate::codec::TocPlace;
use crate::decompress::Format;
use crate::footer::{self, SKIPPABLE_HEADER};
use crate::listing::{WHOLE_FORMAT, too_large_a_table};
use crate::locate::{Hints, Location, TocFacts, check_digest, expect_digest};
use crate::toc::{Chunk, Entry, EntryKind, Plan};
use crate::workers::Workers;
use crate::{Error, Result, landmark, path};

/// Pieces of the tar that wait to be compared. They hold header bytes only.
const WAITING_PIECES: usize = 8;

/// Skippable frames that may follow the payload: as many as both dialects have, and some for others.
const SKIPPABLE_FRAMES: usize = 16;

/// How a gzip member starts: the magic number, and the only method there is.
const GZIP_MEMBER: [u8; 3] = [0x1f, 0x8b, 8];

/// The largest header of a zstd frame.
const FRAME_HEADER: usize = 18;

/// How much of a layer is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// The table of contents: its digest, that it is sound in itself, and that frames start where it says.
    Toc,
    /// Every byte.
    #[default]
    Full,
}

/// What to hold a layer to.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// What the layer's descriptor says of its table of contents.
    pub hints: Hints,
    /// The digest of the tar, as the image's configuration has it.
    pub diff_id: Option<Digest>,
    /// How much to read.
    pub depth: Depth,
    /// How much of anything is accepted.
    pub limits: Limits,
}

/// What a layer was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Whether it is made of gzip members or of zstd frames.
    pub format: Format,
    /// Where its table of contents is.
    pub toc_place: TocPlace,
    /// Entries of the table, but for the further chunks of files.
    pub entries: u64,
    /// Chunks of all files.
    pub chunks: u64,
    /// The sha256 digest of the table's JSON.
    pub toc_digest: Digest,
    /// The size of the JSON in bytes.
    pub toc_size: u64,
    /// What containerd's readers find and verify the table by, as [`encode`](crate::encode()) would write it, or why they
    /// could not use it whatever the descriptor said. All that it takes a full reading to know is left out.
    pub lazy_annotations: Result<BTreeMap<String, String>, String>,
    /// What only reading everything tells.
    pub content: Option<VerifiedContent>,
}

/// What reading every byte of a layer tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedContent {
    /// The digest of the tar.
    pub diff_id: Digest,
    /// The size of the tar in bytes.
    pub uncompressed_size: u64,
    /// Whether the layer has a tar-split stream that the table vouches for, and that is the tar without its files.
    pub tar_split: bool,
    /// What podman's reader finds and verifies the table by, or why it reads the layer whole.
    pub partial_annotations: Result<BTreeMap<String, String>, String>,
}

/// Verifies a layer, or says what is wrong with it.
///
/// The table must list what the tar has, in the same order. It may leave out entries that a later one of the same path
/// replaces, as it must where readers take a path to have one entry.
pub fn verify(blob: &dyn ReadAt, options: &VerifyOptions, workers: &Workers) -> Result<Verified> {
    // The table is read entry by entry, so it may be larger than one that is kept.
    let limits = Limits { toc_size: options.limits.streamed_toc_size, ..options.limits.clone() };
    let options = &VerifyOptions { limits, ..options.clone() };
    let location = Location::find(blob, &options.hints, &options.limits)?;
    let layer = Layer { blob, location: &location, options };
    let mut counts = Counts::default();
    let (facts, content, unlistable) = match options.depth {
        Depth::Toc => (layer.read_toc(&mut counts, |_, chunk| layer.check_frame(chunk))?, None, None),
        Depth::Full => {
            let (facts, content, unlistable) = layer.read_all(&mut counts, workers)?;
            (facts, Some(content), unlistable)
        }
    };
    let Counts { entries, chunks, prefetch_size, .. } = counts;
    let lazy_annotations = match (location.lazy_annotations(blob)?, unlistable) {
        (None, _) => Err("it does not end with the footer that is looked for".into()),
        (Some(_), Some(problem)) => Err(problem),
        (Some(_), None) if entries == 0 => Ok(BTreeMap::new()),
        (Some(mut annotations), None) => {
            annotations.insert(annotations::STARGZ_TOC_DIGEST.into(), facts.digest.to_string());
            annotations.insert(annotations::STARGZ_PREFETCH.into(), prefetch_size.to_string());
            if let Some(VerifiedContent { uncompressed_size: size, .. }) = &content {
                annotations.insert(annotations::STARGZ_UNCOMPRESSED_SIZE.into(), size.to_string());
            }
            Ok(annotations)
        }
    };
    Ok(Verified {
        format: location.format,
        toc_place: location.toc_place(),
        entries,
        chunks,
        toc_digest: facts.digest,
        toc_size: facts.size,
        lazy_annotations,
        content,
    })
}

#[derive(Default)]
struct Counts {
    entries: u64,
    chunks: u64,
    /// Those that are not the first of their file.
    further_chunks: u64,
    /// Where the landmark is, if there is one.
    prefetch_size: u64,
}

#[derive(Clone, Copy)]
struct Layer<'a> {
    blob: &'a dyn ReadAt,
    location: &'a Location<'a>,
    options: &'a VerifyOptions,
}

impl Layer<'_> {
    /// Reads the table once, checking it, and passes on each entry and the chunk it describes.
    fn read_toc(
        &self,
        counts: &mut Counts,
        mut visit: impl FnMut(&Entry, Option<Chunk>) -> Result<()>,
    ) -> Result<TocFacts> {
        let mut toc = self.location.open_toc(self.blob, &self.options.limits)?;
        let mut plan = Plan::new(self.location.payload_end);
        while let Some(entry) = toc.parser.next_entry()? {
            let chunk = plan.add(&entry)?;
            let further = u64::from(entry.kind == EntryKind::Chunk);
            counts.entries += 1 - further;
            counts.further_chunks += further;
            counts.chunks += u64::from(chunk.is_some());
            if let Some(chunk) = chunk.as_ref().filter(|_| path::clean(&entry.name) == landmark::PREFETCH) {
                counts.prefetch_size = chunk.offset;
            }
            visit(&entry, chunk)?;
        }
        plan.complete()?;
        toc.finish()
    }

    /// Reads every byte. Also returns why nobody finds all entries by the table.
    fn read_all(
        &self,
        counts: &mut Counts,
        workers: &Workers,
    ) -> Result<(TocFacts, VerifiedContent, Option<String>)> {
        let Self { blob, location, options } = *self;
        if location.format == Format::Zstd {
            self.check_skippable_frames()?;
        }
        let (sender, receiver) = bounded(WAITING_PIECES);
        let comparison = Comparison::new(blob, location, &options.limits)?;
        let limit = options.limits.expanded_size(blob.size());
        let mut stream = Stream::new(blob, location, &options.limits, limit, sender.clone());
        let decoder = Decoder::new(blob, location, &options.limits, workers);
        let mut facts = None;
        let (run, compared) = thread::scope(|threads| {
            let comparing = threads.spawn(move || comparison.run(Feed::new(receiver)));
            let run = workers.run(
                |send| {
                    let mut segments = Segments::new(location, send);
                    let found = self.read_toc(counts, |entry, chunk| segments.add(entry, chunk))?;
                    facts = Some(found);
                    segments.finish()
                },
                |job| decoder.decode(job),
                |output| match output {
                    Output::Decoded { memory, runs } => {
                        stream.add(memory.plain.filled(), runs)?;
                        workers.recycle(memory);
                        Ok(())
                    }
                    Output::Large(segments) => segments.iter().try_for_each(|segment| stream.decode(segment)),
                },
            );
            match run {
                // Not taken only if the comparison has ended, which it does with an error of its own.
                Ok(()) => drop(sender.send(Piece::End)),
                Err(_) => stream.hang_up(),
            }
            drop(sender);
            (run, comparing.join())
        });
        // The comparison is behind the decoding: what it finds is nearer to the start of the layer.
        let Obstacles { refusal, unlistable } =
            match compared.map_err(|_| Error::Workers("the comparing thread panicked".into()))? {
                Compared::Failed(error) => return Err(error),
                Compared::Passed(obstacles) => run.map(|()| obstacles)?,
                Compared::GaveUp => run.map(|()| Obstacles::default())?,
            };
        let facts = facts.ok_or(Error::NotSeekable)?;
        let (diff_id, uncompressed_size) = stream.finish();
        if let Some(expected) = &options.diff_id {
            expect_digest(&diff_id, expected, || "the tar".into())?;
        }
        let tar_split = self.check_tar_split(&facts)?;
        let Counts { entries, further_chunks, .. } = *counts;
        let too_large = || too_large_a_table(facts.size, entries, further_chunks, &options.limits);
        let refusal = refusal.or_else(too_large);
        let partial_annotations = match location.partial_annotations(blob)? {
            _ if location.format == Format::Gzip => Err(WHOLE_FORMAT.into()),
            Some(annotations) if tar_split => refusal.map_or(Ok(annotations), Err),
            _ => Err("it has no tar-split stream that its table of contents vouches for".into()),
        };
        let content = VerifiedContent { diff_id, uncompressed_size, tar_split, partial_annotations };
        Ok((facts, content, unlistable))
    }

    /// Checks that a member or a frame starts where a chunk should, and that a frame has room for it if it says how much
    /// it holds. It may hold more: stargz's tools put the padding and the next headers behind the chunk.
    fn check_frame(&self, chunk: Option<Chunk>) -> Result<()> {
        let Some(chunk) = chunk.filter(|chunk| chunk.inner_offset == 0) else { return Ok(()) };
        let mut header = [0; FRAME_HEADER];
        let length = self.blob.size().saturating_sub(chunk.offset).min(header.len() as u64) as usize;
        read_exact_at(self.blob, &mut header[..length], chunk.offset)?;
        if self.location.format == Format::Gzip {
            let offset = chunk.offset;
            let nothing = || Error::Toc(format!("no member starts at byte {offset}, where a chunk should"));
            return header.starts_with(&GZIP_MEMBER).then_some(()).ok_or_else(nothing);
        }
        match zstd::zstd_safe::get_frame_content_size(&header[..length]) {
            Ok(size) if size.is_none_or(|size| size >= chunk.size) => Ok(()),
            Ok(Some(size)) => Err(Error::Toc(format!(
                "the frame at byte {} holds {size} bytes, fewer than the {} of its chunk",
                chunk.offset, chunk.size
            ))),
            _ => Err(Error::Toc(format!("no frame starts at byte {}, where a chunk should", chunk.offset))),
        }
    }

    /// Checks that what follows the frames of the tar is hidden from every decoder.
    fn check_skippable_frames(&self) -> Result<()> {
        let size = self.blob.size();
        let mut position = self.location.payload_end;
        for _ in 0..SKIPPABLE_FRAMES {
            if position == size {
                return Ok(());
            }
            let mut header = [0; SKIPPABLE_HEADER as usize];
            read_exact_at(self.blob, &mut header, position)?;
            let end = footer::skippable_length(header)
                .and_then(|length| position.checked_add(SKIPPABLE_HEADER)?.checked_add(length))
                .filter(|end| *end <= size);
            let what =
                || Error::Footer(format!("at byte {position}, behind the payload, is no skippable frame"));
            position = end.ok_or_else(what)?;
        }
        Err(Error::Footer(format!(
            "there are more than {SKIPPABLE_FRAMES} skippable frames behind the payload"
        )))
    }

    /// Checks the digest of the tar-split stream that was compared, if the table names one.
    fn check_tar_split(&self, facts: &TocFacts) -> Result<bool> {
        match (&facts.tar_split_digest, &self.location.tar_split) {
            (None, _) => Ok(false),
            (Some(_), None) => Err(Error::Toc("it names a tar-split stream that cannot be found".into())),
            (Some(expected), Some(position)) => {
                check_digest(self.blob, position, expected, "the compressed tar-split stream")?;
                Ok(true)
            }
        }
    }
}

/// How the comparison of table and tar ended.
enum Compared {
    /// They agree, which does not mean that everyone can use them.
    Passed(Obstacles),
    Failed(Error),
    /// The tar broke off because decoding it failed.
    GaveUp,
}

#[cfg(test)]
mod tests;
