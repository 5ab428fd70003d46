//! The zstd:chunked format, written so that containerd's and podman's readers both find what they need.
//!
//! ```text
//! zstd frames                     one per chunk of a file, one per run of header bytes
//! skippable( zstd(TOC) )          at TOC offset - 8
//! skippable( zstd(tar-split) )    for podman
//! skippable( podman's footer )    64 bytes
//! skippable( stargz's footer )    40 bytes: the end of the blob, where containerd's reader looks
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read, Write};
use std::ops::Range;

use restow_oci::{MediaType, annotations};
use zstd::zstd_safe::{CCtx, CParameter, DCtx};

use crate::codec::{Codec, Contents, Layout, Placement, Seal, TocPlace};
use crate::error::{Error, Result};
use crate::footer::{self, Position};
use crate::toc::Dialect;

/// The version of the bytes this codec writes for given content and options, and of what is told of them. It changes
/// whenever they do: with the rules that cut frames, the spelling of the table, or what podman is known to refuse.
pub const FORMAT_VERSION: u32 = 6;

/// The level used when none is asked for.
pub const DEFAULT_LEVEL: i32 = 3;

/// What the default level changes of zstd's level 3, by the size of what is compressed and by whether it is text.
///
/// In programs and pictures of some 100 KiB matches of four bytes pay, in text those of five; in megabytes of text they
/// cost more than they save below six. Larger tables find more in large files, and below 1 MiB too little for their
/// time. The files of Debian packages became 0.8 % smaller by it, a table of numbers of 2 MB by 17 %. A table of long
/// matches twice as large would save 0.08 % more, for which an image took 1.8 % longer.
const DEFAULT_TUNING: [Tuning; 4] = [
    Tuning { sizes: 16 << 10..128 << 10, text: false, parameters: &[CParameter::MinMatch(4)] },
    Tuning { sizes: 128 << 10..256 << 10, text: true, parameters: &[CParameter::MinMatch(5)] },
    Tuning {
        sizes: 1 << 20..usize::MAX,
        text: false,
        parameters: &[CParameter::WindowLog(22), CParameter::HashLog(17), CParameter::ChainLog(18)],
    },
    Tuning {
        sizes: 1 << 20..usize::MAX,
        text: true,
        parameters: &[
            CParameter::WindowLog(22),
            CParameter::HashLog(16),
            CParameter::ChainLog(16),
            CParameter::MinMatch(6),
        ],
    },
];

/// A row of the tuning.
struct Tuning {
    /// How many bytes what it is for has.
    sizes: Range<usize>,
    /// Whether it is for text, or for all else.
    text: bool,
    parameters: &'static [CParameter],
}

/// Bytes at the start that tell whether something is text: then none of them is zero.
const TELLING: usize = 4 << 10;

fn is_text(bytes: &[u8]) -> bool {
    !bytes[..bytes.len().min(TELLING)].contains(&0)
}

thread_local! {
    /// Contexts are costly to make and used by one thread at a time: each thread keeps its own, by level and row of
    /// the tuning.
    static COMPRESSORS: RefCell<BTreeMap<(i32, usize), CCtx<'static>>> = const { RefCell::new(BTreeMap::new()) };
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// The zstd:chunked codec.
#[derive(Debug, Clone, Copy)]
pub struct ZstdChunked {
    level: i32,
    prioritized: Option<i32>,
}

impl ZstdChunked {
    /// Compresses at `level`, 1 to 22.
    pub const fn new(level: i32) -> Self {
        Self { level, prioritized: None }
    }

    /// Compresses the files that come first at a level of their own.
    pub const fn prioritized_level(self, level: i32) -> Self {
        Self { prioritized: Some(level), ..self }
    }

    /// Returns the row of the tuning that applies.
    fn row(&self, bytes: &[u8]) -> usize {
        let applies = |row: &Tuning| {
            self.level == DEFAULT_LEVEL && row.sizes.contains(&bytes.len()) && row.text == is_text(bytes)
        };
        DEFAULT_TUNING.iter().position(applies).unwrap_or(DEFAULT_TUNING.len())
    }

    fn compressor(&self, row: usize) -> Result<CCtx<'static>> {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::CompressionLevel(self.level)).map_err(failed)?;
        let tuning = DEFAULT_TUNING.get(row).map_or(&[][..], |row| row.parameters);
        for parameter in tuning {
            context.set_parameter(*parameter).map_err(failed)?;
        }
        Ok(context)
    }
}

fn failed(code: usize) -> Error {
    Error::Compressor { format: "zstd", problem: zstd::zstd_safe::get_error_name(code).to_string() }
}

impl Codec for ZstdChunked {
    fn media_type(&self) -> MediaType {
        MediaType::OCI_LAYER_ZSTD
    }

    fn identity(&self) -> String {
        let prioritized = self.prioritized.map(|level| format!(" prioritized={level}")).unwrap_or_default();
        format!(
            "zstd:chunked format={FORMAT_VERSION} zstd={} level={}{prioritized}",
            zstd::zstd_safe::version_number(),
            self.level
        )
    }

    fn layout(&self) -> Layout {
        Layout {
            placement: Placement::Apart,
            dialect: Dialect::Superset,
            toc: TocPlace::Hidden,
            landmark: false,
        }
    }

    fn compress(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        let start = out.len() as u64;
        let mut cursor = io::Cursor::new(std::mem::take(out));
        cursor.set_position(start);
        let row = self.row(bytes);
        let compressed = COMPRESSORS.with_borrow_mut(|contexts| {
            let context = match contexts.entry((self.level, row)) {
                Entry::Occupied(context) => context.into_mut(),
                Entry::Vacant(place) => place.insert(self.compressor(row)?),
            };
            context.compress2(&mut cursor, bytes).map_err(failed)
        });
        *out = cursor.into_inner();
        compressed.map(|_| ())
    }

    fn decompress(&self, frame: &[u8], out: &mut [u8]) -> Result<()> {
        let decoded =
            DECOMPRESSOR.with_borrow_mut(|context| context.decompress(out, frame)).map_err(failed)?;
        if decoded != out.len() {
            let problem = format!("a frame of {} bytes decodes to {decoded}", out.len());
            return Err(Error::Compressor { format: "zstd", problem });
        }
        Ok(())
    }

    fn prioritized(&self) -> Option<Box<dyn Codec>> {
        self.prioritized.map(|level| Box::new(Self::new(level)) as _)
    }

    fn seal(&self, contents: &mut Contents, position: u64, out: &mut dyn Write) -> Result<Seal> {
        let Contents { toc, toc_digest, tar_split, .. } = contents;
        let tar_split = tar_split.as_mut().ok_or(Error::NotSeekable)?;
        let toc_position = Position {
            offset: position + footer::SKIPPABLE_HEADER,
            size: toc.stored_size,
            uncompressed_size: toc.size,
        };
        let split_position = Position {
            offset: toc_position.offset + toc_position.size + footer::SKIPPABLE_HEADER,
            size: tar_split.stored_size,
            uncompressed_size: tar_split.size,
        };
        let mut out = Counted { out, position };
        out.skippable(toc.stored_size, &mut toc.read_stored()?)?;
        out.skippable(tar_split.stored_size, &mut tar_split.read_stored()?)?;
        out.write(&footer::podman(toc_position, split_position))?;
        out.write(&footer::stargz(toc_position))?;
        Ok(Seal {
            size: out.position - position,
            lazy: BTreeMap::from([
                (annotations::STARGZ_TOC_DIGEST.into(), toc_digest.to_string()),
                (annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM.into(), toc.stored_digest.to_string()),
                (annotations::STARGZ_ZSTD_MANIFEST_POSITION.into(), toc_position.toc_annotation()),
            ]),
            partial: BTreeMap::from([
                (annotations::PODMAN_MANIFEST_CHECKSUM.into(), toc.stored_digest.to_string()),
                (annotations::PODMAN_MANIFEST_POSITION.into(), toc_position.toc_annotation()),
                (annotations::PODMAN_TARSPLIT_POSITION.into(), split_position.tar_split_annotation()),
            ]),
            toc_blob: None,
        })
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    position: u64,
}

impl Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|source| Error::Write { offset: self.position, source })?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes a frame that every zstd decoder skips.
    fn skippable(&mut self, size: u64, content: &mut dyn Read) -> Result<()> {
        let length = u32::try_from(size).map_err(|_| Error::Limit {
            what: "the size in bytes of a skippable frame",
            found: size,
            limit: u64::from(u32::MAX),
        })?;
        self.write(&footer::skippable_header(length))?;
        let copied = io::copy(content, &mut self.out)
            .map_err(|source| Error::Write { offset: self.position, source })?;
        self.position += copied;
        Ok(())
    }
}
