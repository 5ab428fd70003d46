//! The eStargz format, version 0.2: gzip members, as stargz-snapshotter reads them.
//!
//! ```text
//! gzip members                    the first of headers; then one from each chunk of a file up to the next
//! gzip( tar file of the TOC )     the last file of the layer's tar, and the end of the archive, with the source's padding
//! footer                          51 bytes: an empty member that says where the TOC's member starts
//! ```
//!
//! With its table elsewhere, the tar ends in the members, the blob in a footer of 46 bytes, and the table's tar file is
//! a gzip blob of its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use flate2::{Compression, GzBuilder};
use restow_oci::{MediaType, annotations};

use crate::codec::{Codec, Contents, Layout, Placement, Seal, TocPlace};
use crate::error::{Error, Result};
use crate::footer;
use crate::gzip;
use crate::spool::TocBlob;
use crate::toc::Dialect;

/// The version of the bytes this codec writes for given content and options. It changes whenever they do: with the
/// rules that place members, the spelling of the table, or the libraries that compress.
const FORMAT_VERSION: u32 = 3;

/// The level used when none is asked for: the fastest whose layers are no larger than those of Go's level 9, which
/// ctr-remote writes (205.3 MB against 208.4 MB of a 625 MB Debian image; level 4 gives 209.1 MB).
pub const DEFAULT_LEVEL: i32 = 5;

/// The highest level of the library that compresses the table, a stream where members are in memory.
const MOST_STREAMED: u32 = 9;

/// The eStargz codec.
#[derive(Debug, Clone, Copy)]
pub struct Estargz {
    level: i32,
    least: u64,
    table: TocPlace,
    prioritized: Option<i32>,
}

impl Estargz {
    /// Compresses at `level`, 1 to 12; every chunk begins a member.
    pub const fn new(level: i32) -> Self {
        Self { level, least: 0, table: TocPlace::InTar, prioritized: None }
    }

    /// Lets a chunk begin a member only if the one before has `bytes` bytes of the tar. Fewer members are smaller; a
    /// reader has to fetch and decode what comes before a chunk in its member.
    pub const fn min_chunk_size(self, bytes: u64) -> Self {
        Self { least: bytes, ..self }
    }

    /// Compresses the files that come first at a level of their own.
    pub const fn prioritized_level(self, level: i32) -> Self {
        Self { prioritized: Some(level), ..self }
    }

    /// Puts the table into a blob of its own: [`Encoded::toc_blob`](crate::Encoded::toc_blob).
    pub const fn external_toc(self) -> Self {
        Self { table: TocPlace::Apart, ..self }
    }

    /// Writes one member that holds all of `bytes`. Readers of the table read one member only.
    fn stream(&self, mut bytes: impl Read, out: &mut dyn Write) -> io::Result<u64> {
        let level = self.level.unsigned_abs().min(MOST_STREAMED);
        let mut counted = Counted { out, size: 0 };
        let mut encoder =
            GzBuilder::new().operating_system(0xff).write(&mut counted, Compression::new(level));
        io::copy(&mut bytes, &mut encoder)?;
        encoder.finish()?;
        Ok(counted.size)
    }
}

impl Codec for Estargz {
    fn media_type(&self) -> MediaType {
        MediaType::OCI_LAYER_GZIP
    }

    fn identity(&self) -> String {
        let Self { level, least, table, prioritized } = self;
        let prioritized = prioritized.map(|level| format!(" prioritized={level}")).unwrap_or_default();
        format!(
            "eStargz format={FORMAT_VERSION} {} level={level} least={least} table={table:?}{prioritized}",
            gzip::LIBRARY
        )
    }

    fn layout(&self) -> Layout {
        Layout {
            placement: Placement::Along { least: self.least },
            dialect: Dialect::Stargz,
            toc: self.table,
            // eStargz specification, "Prioritized Files and Landmark Files": one of the two must be there.
            landmark: true,
        }
    }

    fn compress(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        gzip::compress(self.level, bytes, out)
    }

    fn decompress(&self, frame: &[u8], out: &mut [u8]) -> Result<()> {
        gzip::decompress(frame, out)
    }

    fn prioritized(&self) -> Option<Box<dyn Codec>> {
        self.prioritized.map(|level| Box::new(Self { level, prioritized: None, ..*self }) as _)
    }

    fn seal(&self, contents: &mut Contents, position: u64, out: &mut dyn Write) -> Result<Seal> {
        let unwritten = |source| Error::Write { offset: position, source };
        let (size, footer, toc_blob) = match self.table {
            TocPlace::InTar | TocPlace::Hidden => {
                let size = self.stream(contents.tar_end()?, out).map_err(unwritten)?;
                (size, footer::gzip(position), None)
            }
            TocPlace::Apart => {
                let directory = contents.spool_directory.clone();
                let toc = TocBlob::write(&directory, |blob| {
                    self.stream(contents.toc_tar()?, blob).map(|_| ()).map_err(Error::Spool)
                })?;
                (0, footer::external(), Some(toc))
            }
        };
        out.write_all(&footer).map_err(unwritten)?;
        Ok(Seal {
            size: size + footer.len() as u64,
            lazy: BTreeMap::from([(
                annotations::STARGZ_TOC_DIGEST.into(),
                contents.toc_digest().to_string(),
            )]),
            partial: BTreeMap::new(),
            toc_blob,
        })
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    size: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
