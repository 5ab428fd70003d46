//! The seam where a format plugs in: how it compresses a frame, and how it closes a layer.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;

use restow_oci::{Digest, Digester, MediaType};

use crate::error::Result;
use crate::spool::{Packed, TocBlob};
use crate::tar::{BLOCK, plain_header};
use crate::toc::{Dialect, TAR_NAME};

/// How a format compresses the frames of a layer and what it puts behind them.
///
/// Frames are cut by the encoder, by content and options alone, and must not depend on each other: they are
/// compressed on many threads, moved, and read one at a time.
pub trait Codec: Debug + Send + Sync {
    /// Returns the media type of the layers it makes.
    fn media_type(&self) -> MediaType;

    /// Names everything that decides its bytes: the format, the version of its output, its options.
    fn identity(&self) -> String;

    /// Returns how it lays a layer out.
    fn layout(&self) -> Layout;

    /// Appends a frame that holds `bytes` and nothing else.
    fn compress(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// Decodes a frame that [`compress`](Self::compress) made of as many bytes as `out` has.
    fn decompress(&self, frame: &[u8], out: &mut [u8]) -> Result<()>;

    /// Returns the codec that makes the frames of the files that come first, if it is another one. Its frames are decoded
    /// by this one, too.
    fn prioritized(&self) -> Option<Box<dyn Codec>> {
        None
    }

    /// Writes what follows the frames, which end at `position` of the blob.
    fn seal(&self, contents: &mut Contents, position: u64, out: &mut dyn Write) -> Result<Seal>;
}

/// How a format lays a layer out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What shares a frame.
    pub placement: Placement,
    /// How the table of contents is spelled.
    pub dialect: Dialect,
    /// Where the table is.
    pub toc: TocPlace,
    /// Whether a layer has a landmark even if nothing was moved, unless it is to have none.
    pub landmark: bool,
}

/// Where a table of contents is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TocPlace {
    /// In the blob, where decoders of the tar do not see it.
    Hidden,
    /// In the tar: its last file, before the end of the archive.
    InTar,
    /// In a blob of its own.
    Apart,
}

/// What shares a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// A chunk has a frame of its own; so have the headers and the padding between two.
    Apart,
    /// A chunk begins a frame, and what follows it up to the next chunk goes into it as well.
    Along {
        /// How many bytes of the tar a frame has at least before another chunk begins the next one. A landmark always
        /// begins one.
        least: u64,
    },
}

/// What a codec seals a layer with.
#[derive(Debug)]
pub struct Contents {
    /// The table of contents.
    pub(crate) toc: Packed,
    /// The digest of its JSON.
    pub(crate) toc_digest: Digest,
    /// The tar-split stream, unless the dialect has no use for it.
    pub(crate) tar_split: Option<Packed>,
    /// The tar so far.
    pub(crate) tar: Tar,
    /// How many zeros end the archive, where the table is its last file.
    pub(crate) end: u64,
    /// Where temporary files are made.
    pub(crate) spool_directory: PathBuf,
}

/// What ends a tar archive: zeros, often more of them than the two blocks that must be there. A table that becomes the
/// last file keeps them behind it, so that the tar is the old one again when the table goes.
#[derive(Debug, Default)]
pub(crate) struct End {
    found: u64,
    /// Whether there is something else, or too much, which goes.
    other: bool,
}

impl End {
    /// Two zero blocks.
    pub(crate) const LEAST: u64 = 2 * BLOCK as u64;
    /// The largest record that tools fill up. A reader of the table's tar has to pass over it.
    pub(crate) const MOST: u64 = 1 << 20;

    /// Adds bytes that stand behind the last entry's padding.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.found += bytes.len() as u64;
        self.other |= self.found > Self::MOST || bytes.iter().any(|byte| *byte != 0);
    }

    /// Says that there are more of them than are kept.
    pub(crate) fn exceed(&mut self) {
        self.other = true;
    }

    /// Returns how many zeros the archive is ended with.
    pub(crate) fn size(&self) -> u64 {
        if self.other { Self::LEAST } else { self.found.max(Self::LEAST) }
    }
}

/// The digest and the size in bytes of a tar that may not be complete.
#[derive(Debug)]
pub(crate) struct Tar {
    pub(crate) digester: Digester,
    pub(crate) size: u64,
}

impl Contents {
    /// Returns the digest of the table's JSON.
    pub fn toc_digest(&self) -> &Digest {
        &self.toc_digest
    }

    /// Returns the size of the table's JSON, in bytes.
    pub fn toc_size(&self) -> u64 {
        self.toc.size
    }

    /// Returns the table's JSON.
    pub fn toc(&mut self) -> Result<impl Read + '_> {
        self.toc.read()
    }

    /// Returns the table as it waits until the layer is sealed, which is compressed by zstd: the size in bytes, the digest and
    /// the bytes.
    pub fn stored_toc(&mut self) -> Result<(u64, Digest, impl Read + '_)> {
        let (size, digest) = (self.toc.stored_size, self.toc.stored_digest.clone());
        Ok((size, digest, self.toc.read_stored()?))
    }

    /// Returns a tar of the table alone.
    pub fn toc_tar(&mut self) -> Result<impl Read + '_> {
        toc_tar(&mut self.toc, End::LEAST)
    }

    /// Returns the table as the last file of the layer's tar, and the end of the archive. What is read of it counts as
    /// part of the tar.
    pub fn tar_end(&mut self) -> Result<impl Read + '_> {
        Ok(Counted { bytes: toc_tar(&mut self.toc, self.end)?, tar: &mut self.tar })
    }
}

fn toc_tar(toc: &mut Packed, end: u64) -> Result<impl Read + '_> {
    let padding = toc.size.wrapping_neg() % BLOCK as u64;
    let header = plain_header(TAR_NAME, toc.size);
    Ok(Cursor::new(header).chain(toc.read()?).chain(io::repeat(0).take(padding + end)))
}

struct Counted<'a, R> {
    bytes: R,
    tar: &'a mut Tar,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.read(buffer)?;
        self.tar.digester.update(&buffer[..length]);
        self.tar.size += length as u64;
        Ok(length)
    }
}

/// What the end of a layer says to those who find it by its descriptor.
#[derive(Debug, PartialEq, Eq)]
pub struct Seal {
    /// Bytes written behind the frames.
    pub size: u64,
    /// Annotations by which containerd's readers find and verify the table.
    pub lazy: BTreeMap<String, String>,
    /// Annotations by which podman's reader does, if the format has something for it. Never both on one descriptor:
    /// podman refuses that.
    pub partial: BTreeMap<String, String>,
    /// The table of contents, where it is a blob of its own.
    pub toc_blob: Option<TocBlob>,
}
