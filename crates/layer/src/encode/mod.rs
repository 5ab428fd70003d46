//! Encodes a layer: one pass over its compressed bytes, work on many threads, the same result on any number of them.
//!
//! ```text
//! source → decompress → tar reader → cutter ──batches──▶ workers ──frames──▶ assembler → output
//!                                                                      └───▶ collector → (reordered) cutter → …
//! ```
//!
//! [`cut`] decides what is a frame, [`batch`] compresses, [`assemble`] writes frames, table of contents and
//! tar-split stream. With files to move, [`reorder`] stands between two such passes; [`gather`] lets the order depend on
//! what the first one finds.

mod assemble;
mod batch;
mod boundaries;
mod cut;
mod diff;
mod gather;
mod reorder;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use restow_oci::{Digest, Limits, annotations};

use self::assemble::{Assembled, Assembler, Listed, Spelling};
use self::batch::{FrameFile, Headers, Press};
use self::cut::Cutter;
use self::diff::Diff;
use self::gather::ChunkIndex;
pub use self::gather::{Gathered, GatheredFile, GatheredFiles, gather, gather_files};
use self::reorder::{Collected, Collector, Order};
use crate::codec::{Codec, Contents, End, Layout, Placement, TocPlace};
use crate::decompress::{Decompress, Format, decompress};
use crate::error::{Error, Result};
use crate::landmark::Landmark;
use crate::listing::{WHOLE_FORMAT, too_large_a_table};
use crate::names::NameIndex;
use crate::spool::TocBlob;
use crate::tar::{Header, TarReader};
use crate::toc::Dialect;
use crate::workers::Workers;
use crate::zstdchunked::ZstdChunked;

/// Bytes of a file in one chunk, which is what a reader fetches and verifies at once, unless asked otherwise.
pub const DEFAULT_CHUNK_SIZE: u64 = 4 << 20;

/// What besides the tar decides the bytes of a layer, and where to put what does not fit in memory.
#[derive(Debug, Clone)]
pub struct EncodeOptions {
    /// The most bytes of a file in one chunk; 0 counts as 1.
    pub chunk_size: u64,
    /// Where the chunks of a file end.
    pub chunking: Chunking,
    /// Paths to move to the front, in this order. Any spelling of a path will do.
    pub prioritized: Vec<String>,
    /// When there is a landmark.
    pub landmark: Landmark,
    /// Whether it is an error when the tar changes. A landmark is then not added unless [`landmark`](Self::landmark) says
    /// so.
    pub keep_diff_id: bool,
    /// Whether every frame is decoded as soon as it is made, and compared with what it was made of.
    pub check_frames: bool,
    /// What is accepted of the source.
    pub limits: Limits,
    /// Where unnamed temporary files are made: compressed frames of a layer in which files move, and a table of
    /// contents that outgrows memory.
    pub spool_directory: PathBuf,
}

impl EncodeOptions {
    /// Moves nothing, with temporary files in `spool_directory`.
    pub fn new(spool_directory: impl Into<PathBuf>) -> Self {
        Self {
            chunk_size: DEFAULT_CHUNK_SIZE,
            chunking: Chunking::default(),
            prioritized: Vec::new(),
            landmark: Landmark::Auto,
            keep_diff_id: false,
            check_frames: true,
            limits: Limits::default(),
            spool_directory: spool_directory.into(),
        }
    }
}

/// Where the chunks of a file end. Readers take either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Chunking {
    /// After as many bytes as a chunk may have.
    #[default]
    Fixed,
    /// Where podman's writer ends them, which its content decides: after 64 KiB on average, and around zeros. What a file
    /// has in common with another is in chunks that both have. What a file has after 65,536 of them is cut as by
    /// [`Fixed`](Self::Fixed). Formats whose chunks take along what follows them are
    /// cut as by [`Fixed`](Self::Fixed).
    Content,
}

/// A layer that has been written.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The compression the source had.
    pub source_format: Format,
    /// The digest of the source's tar.
    pub source_diff_id: Digest,
    /// The digest of the tar that was written; the source's where nothing was moved, left out or added.
    pub diff_id: Digest,
    /// The size of the tar that was written, in bytes.
    pub uncompressed_size: u64,
    /// The size of the blob, in bytes.
    pub size: u64,
    /// The digest of the table of contents.
    pub toc_digest: Digest,
    /// The size of its JSON, in bytes.
    pub toc_size: u64,
    /// What containerd's readers find the table by, the prefetch size among it. Nothing where there are no entries: they
    /// want a root, and unpack such a layer if they are told nothing.
    pub lazy_annotations: BTreeMap<String, String>,
    /// What podman's reader finds the table by, or why there is no such thing or it would refuse the layer.
    pub partial_annotations: Result<BTreeMap<String, String>, String>,
    /// Tar entries.
    pub entries: u64,
    /// Chunks of files.
    pub chunks: u64,
    /// Entries moved to the front.
    pub moved: u64,
    /// Paths that were to be moved and are not there.
    pub missing: Vec<String>,
    /// Whether nothing was moved though there was something to move, since the tar has a global extended header: what it
    /// says holds for the entries that come after it.
    pub order_refused: bool,
    /// The first hard link that says another mode, owner, time or attributes than its file, if the limits admit such links.
    /// Whoever unpacks the layer goes by the last entry of a file; readers of the table go by the file's own.
    pub diverging_link: Option<String>,
    /// Bytes from the start of the blob that are worth fetching first.
    pub prefetch_size: u64,
    /// The table of contents, where the format puts it into a blob of its own.
    pub toc_blob: Option<TocBlob>,
}

/// Encodes the layer in `source`, compressed in any supported way, into `output`.
///
/// `source` is read to its end. On an error what was written to `output` is of no use. The digest of the blob is for
/// the output to take.
pub fn encode(
    source: impl Read,
    output: &mut (dyn Write + Send),
    codec: &dyn Codec,
    options: &EncodeOptions,
    workers: &Workers,
) -> Result<Encoded> {
    let mut tar = TarReader::new(decompress(source, &options.limits)?, &options.limits);
    let encoder = Encoder::new(codec, options, workers);
    let encoded = if options.prioritized.is_empty() {
        encoder.stream(tar, output)
    } else {
        let collected = encoder.collect(&mut tar, &mut |_| (), None)?;
        encoder.arrange(collected, &options.prioritized, tar.source().format(), output)
    };
    encoder.checked(encoded?)
}

/// How chunks wait for their order where their frames are made anew: a quarter of the time that gzip takes goes into it.
const WAITING: ZstdChunked = ZstdChunked::new(1);

/// How a layer is laid out between two passes.
const WAITING_LAYOUT: Layout = Layout {
    placement: Placement::Apart,
    dialect: Dialect::Superset,
    toc: TocPlace::Hidden,
    landmark: false,
};

/// The files that come first.
struct Front {
    moved: u64,
    /// Paths that were to be among them and are not there.
    missing: Vec<String>,
}

struct Encoder<'a> {
    codec: &'a dyn Codec,
    layout: Layout,
    landmark: Landmark,
    options: &'a EncodeOptions,
    workers: &'a Workers,
}

impl<'e> Encoder<'e> {
    fn new(codec: &'e dyn Codec, options: &'e EncodeOptions, workers: &'e Workers) -> Self {
        let layout = codec.layout();
        let landmark = match options.landmark {
            Landmark::Auto if layout.landmark && !options.keep_diff_id => Landmark::Always,
            landmark => landmark,
        };
        Self { codec, layout, landmark, options, workers }
    }

    /// Refuses what a table cannot say.
    fn check(&self, names: &NameIndex) -> Result<()> {
        names.check()?;
        if self.options.limits.diverging_links { Ok(()) } else { names.check_looks() }
    }

    /// Holds the result to what was asked for.
    fn checked(&self, encoded: Encoded) -> Result<Encoded> {
        if self.options.keep_diff_id && encoded.diff_id != encoded.source_diff_id {
            return Err(Error::NewDiffId {
                source_diff_id: encoded.source_diff_id,
                diff_id: encoded.diff_id,
            });
        }
        Ok(encoded)
    }

    /// Returns how the frames of the result are made.
    fn press<'a>(&'a self, stored: Option<FrameFile<'a>>) -> Press<'a> {
        let Self { codec, workers, options, .. } = *self;
        let headers = match self.layout.placement {
            Placement::Apart => Headers::Runs,
            Placement::Along { .. } => Headers::Along,
        };
        Press { codec, prioritized: None, workers, headers, check: options.check_frames, stored }
    }

    /// Returns the codec of the chunks that wait between two passes.
    fn waiting(&self) -> &dyn Codec {
        match self.layout.placement {
            Placement::Apart => self.codec,
            Placement::Along { .. } => &WAITING,
        }
    }

    /// Returns the same for those who outlive the encoder; `codec` is its own.
    fn waiting_shared(&self, codec: &Arc<dyn Codec>) -> Arc<dyn Codec> {
        match self.layout.placement {
            Placement::Apart => codec.clone(),
            Placement::Along { .. } => Arc::new(WAITING),
        }
    }

    fn chunking(&self) -> Chunking {
        match self.layout.placement {
            Placement::Apart => self.options.chunking,
            Placement::Along { .. } => Chunking::Fixed,
        }
    }

    fn spelling(&self) -> Spelling {
        Spelling { dialect: self.layout.dialect, chunk_size: self.options.chunk_size }
    }

    /// Encodes in the order of the source, in one pass.
    fn stream<R: Read>(
        &self,
        mut tar: TarReader<Decompress<R>>,
        output: &mut (dyn Write + Send),
    ) -> Result<Encoded> {
        let Options { chunk_size, limits, spool_directory, .. } = self.options;
        let mut assembler =
            Assembler::new(&mut *output, self.spelling(), spool_directory, limits, 0, Diff::new())?;
        let mut end = End::LEAST;
        self.workers.run(
            |send| {
                let mut cutter = Cutter::new(self.layout, limits, self.workers, send);
                end = cut::cut(&mut tar, *chunk_size, self.chunking(), Some(self.landmark), &mut cutter)?;
                cutter.finish()
            },
            |batch| batch.compress(self.press(None)),
            |frames| assembler.add(frames).map(|memory| self.workers.recycle(memory)),
        )?;
        let assembled = assembler.finish()?;
        let front = Front { moved: 0, missing: Vec::new() };
        self.seal(assembled, tar.source().format(), front, end, output)
    }

    /// The first of two passes, between which the order becomes known: compresses the files. `entry` sees each header.
    fn collect<R: Read>(
        &self,
        tar: &mut TarReader<Decompress<R>>,
        entry: &mut (dyn FnMut(&Header) + Send),
        index: Option<&mut ChunkIndex>,
    ) -> Result<Collected> {
        let Options { chunk_size, limits, spool_directory, .. } = self.options;
        let waiting = Press { codec: self.waiting(), headers: Headers::Leave, ..self.press(None) };
        let mut collector = Collector::new(spool_directory, limits, entry, index)?;
        self.workers.run(
            |send| {
                let mut cutter = Cutter::new(WAITING_LAYOUT, limits, self.workers, send);
                cut::cut(tar, *chunk_size, self.chunking(), None, &mut cutter)?;
                cutter.finish()
            },
            |batch| batch.compress(waiting),
            |frames| collector.add(frames).map(|memory| self.workers.recycle(memory)),
        )?;
        let collected = collector.finish()?;
        self.check(&collected.names)?;
        Ok(collected)
    }

    /// The second: puts the files in order.
    fn arrange(
        &self,
        mut collected: Collected,
        prioritized: &[String],
        source_format: Format,
        output: &mut (dyn Write + Send),
    ) -> Result<Encoded> {
        let Options { limits, spool_directory, .. } = self.options;
        let Order { entries: order, missing, refused } = collected.order(prioritized);
        let [source_diff_id, diff_id] = [&collected.source_diff_id, &collected.diff_id].map(Digest::clone);

        let file = &collected.frames.try_clone().map_err(Error::Spool)?;
        let first = self.codec.prioritized();
        let moved = order.len() as u64;
        let end = if self.layout.toc == TocPlace::InTar { collected.end()? } else { End::LEAST };
        // The frames of a tar that stays as it is need not be decoded: its digest is known.
        let decode = self.layout.toc == TocPlace::InTar || collected.changes(&order, self.landmark);
        let diff = if decode { Diff::of_result() } else { Diff::known() };
        let stored = FrameFile { file, codec: self.waiting(), decode };
        let press = Press { prioritized: first.as_deref(), ..self.press(Some(stored)) };
        let mut assembler =
            Assembler::new(&mut *output, self.spelling(), spool_directory, limits, moved, diff)?;
        self.workers.run(
            |send| {
                let mut cutter = Cutter::new(self.layout, limits, self.workers, send);
                collected.replay(&order, self.landmark, limits, first.is_some(), &mut cutter)?;
                cutter.finish()
            },
            |batch| batch.compress(press),
            |frames| assembler.add(frames).map(|memory| self.workers.recycle(memory)),
        )?;
        let assembled = assembler.finish()?;
        let encoded = self.seal(assembled, source_format, Front { moved, missing }, end, output)?;
        let diff_id = if decode { encoded.diff_id } else { diff_id };
        Ok(Encoded { source_diff_id, diff_id, order_refused: refused, ..encoded })
    }

    /// Writes what follows the frames.
    fn seal(
        &self,
        assembled: Assembled,
        source_format: Format,
        Front { moved, missing }: Front,
        end: u64,
        output: &mut (dyn Write + Send),
    ) -> Result<Encoded> {
        let Options { limits, spool_directory, .. } = self.options;
        self.check(&assembled.names)?;
        let replaced = assembled.names.replaced();
        let mut listed = assembled.listed;
        listed.refusal = listed.refusal.or_else(|| assembled.names.refusal());
        let tar_split = assembled.tar_split;
        let (mut toc, mut toc_digest) =
            assembled.table.finish(tar_split.as_ref().map(|tar_split| &tar_split.stored_digest))?;
        if !replaced.is_empty() {
            (toc, toc_digest) = assemble::without(toc, replaced, self.spelling(), spool_directory, limits)?;
        }
        let too_large = |found, unit, limit| {
            if found > limit { Err(Error::TocSize { found, unit, limit }) } else { Ok(()) }
        };
        too_large(toc.size, "bytes", limits.streamed_toc_size)?;
        let Listed { entries, further_chunks, .. } = listed;
        too_large(entries.saturating_add(further_chunks), "entries", limits.tar_entries)?;
        let toc_size = toc.size;
        let refused = || too_large_a_table(toc_size, entries, further_chunks, limits);
        listed.refusal = listed.refusal.or_else(refused);
        let mut contents = Contents {
            toc,
            toc_digest: toc_digest.clone(),
            tar_split,
            tar: assembled.tar,
            end,
            spool_directory: spool_directory.clone(),
        };
        let seal = self.codec.seal(&mut contents, assembled.position, output)?;
        let tar = contents.tar;
        if seal.partial.is_empty() {
            listed.refusal = Some(WHOLE_FORMAT.into());
        }
        let mut lazy_annotations = BTreeMap::new();
        if listed.entries > 0 {
            lazy_annotations = seal.lazy;
            lazy_annotations.insert(annotations::STARGZ_UNCOMPRESSED_SIZE.into(), tar.size.to_string());
            lazy_annotations.insert(annotations::STARGZ_PREFETCH.into(), listed.prefetch_size.to_string());
        }
        Ok(Encoded {
            source_format,
            source_diff_id: assembled.source_diff_id,
            diff_id: tar.digester.finish(),
            uncompressed_size: tar.size,
            size: assembled.position + seal.size,
            toc_digest,
            toc_size,
            lazy_annotations,
            partial_annotations: listed.refusal.map_or(Ok(seal.partial), Err),
            entries: listed.entries,
            chunks: listed.chunks,
            moved,
            missing,
            order_refused: false,
            diverging_link: assembled.names.diverging_link(),
            prefetch_size: listed.prefetch_size,
            toc_blob: seal.toc_blob,
        })
    }
}

use EncodeOptions as Options;

#[cfg(test)]
mod tests;
