//! The seam where a format plugs in: how it compresses a frame, and how it closes a layer.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Read, Write};

use restow_oci::{Digest, MediaType};

use crate::error::Result;
use crate::spool::Packed;

/// How a format compresses the frames of a layer and what it puts behind them.
///
/// Frames are cut by the encoder, by content and options alone, and must not depend on each other: they are
/// compressed on many threads, moved, and read one at a time.
pub trait Codec: Debug + Send + Sync {
    /// Returns the media type of the layers it makes.
    fn media_type(&self) -> MediaType;

    /// Names everything that decides its bytes: the format, the version of its output, its options.
    fn identity(&self) -> String;

    /// Appends a frame that holds `bytes` and nothing else.
    fn compress(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// Decodes a frame that [`compress`](Self::compress) made of as many bytes as `out` has.
    fn decompress(&self, frame: &[u8], out: &mut [u8]) -> Result<()>;

    /// Writes what follows the frames, which end at `position` of the blob.
    fn seal(&self, contents: Contents, position: u64, out: &mut dyn Write) -> Result<Seal>;
}

/// What a codec seals a layer with.
#[derive(Debug)]
pub struct Contents {
    /// The table of contents.
    pub(crate) toc: Packed,
    /// The digest of its JSON.
    pub(crate) toc_digest: Digest,
    /// The tar-split stream.
    pub(crate) tar_split: Packed,
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
}

/// What the end of a layer says to those who find it by its descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Bytes written behind the frames.
    pub size: u64,
    /// Annotations by which containerd's readers find and verify the table.
    pub lazy: BTreeMap<String, String>,
    /// Annotations by which podman's reader does. Never both on one descriptor: podman refuses that.
    pub partial: BTreeMap<String, String>,
}
