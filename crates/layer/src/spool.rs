//! What waits until the end of a layer, compressed: in memory while it is small, in an unnamed file beyond.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use restow_oci::{Digest, Digester};
use tempfile::SpooledTempFile;
use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use crate::error::{Error, Result};

/// Bytes kept in memory.
const IN_MEMORY: usize = 4 << 20;

/// The zstd level of all of it. Tables of contents and tar-split streams, whose digests are noise and whose rest repeats
/// at short distance, came out smaller at it than at levels 2 to 5, in a fraction of the time of any that does better.
const LEVEL: i32 = 1;

/// Compresses what is written, and hashes the result.
pub(crate) struct Packer {
    encoder: Encoder<'static, Stored>,
    size: u64,
}

/// What a [`Packer`] holds in the end.
pub(crate) struct Packed {
    file: SpooledTempFile,
    /// The compressed size in bytes.
    pub(crate) stored_size: u64,
    /// The digest of the compressed bytes.
    pub(crate) stored_digest: Digest,
    /// The uncompressed size in bytes.
    pub(crate) size: u64,
}

struct Stored {
    file: SpooledTempFile,
    digest: Digester,
    size: u64,
}

impl Stored {
    fn new(directory: &Path) -> Self {
        let file = tempfile::spooled_tempfile_in(IN_MEMORY, directory);
        Self { file, digest: Digester::sha256(), size: 0 }
    }
}

impl Write for Stored {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Packer {
    /// Starts a zstd frame; what outgrows memory goes to an unnamed file in `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let encoder = Encoder::new(Stored::new(directory), LEVEL).map_err(Error::Spool)?;
        Ok(Self { encoder, size: 0 })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        self.encoder.write_all(bytes).map_err(Error::Spool)
    }

    pub(crate) fn finish(self) -> Result<Packed> {
        let stored = self.encoder.finish().map_err(Error::Spool)?;
        Ok(Packed {
            file: stored.file,
            stored_size: stored.size,
            stored_digest: stored.digest.finish(),
            size: self.size,
        })
    }
}

impl Packed {
    /// Returns the uncompressed bytes from the start.
    pub(crate) fn read(&mut self) -> Result<impl Read + '_> {
        self.file.seek(SeekFrom::Start(0)).map_err(Error::Spool)?;
        Decoder::new(&mut self.file).map_err(Error::Spool)
    }

    /// Returns the compressed bytes from the start.
    pub(crate) fn read_stored(&mut self) -> Result<impl Read + '_> {
        self.file.seek(SeekFrom::Start(0)).map_err(Error::Spool)?;
        Ok(&mut self.file)
    }
}

/// A table of contents in a blob of its own, waiting to be stored.
pub struct TocBlob(Stored);

impl TocBlob {
    /// Stores what `fill` writes; what outgrows memory goes to an unnamed file in `directory`.
    pub(crate) fn write(directory: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Self> {
        let mut stored = Stored::new(directory);
        fill(&mut stored)?;
        Ok(Self(stored))
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Returns the sha256 digest.
    pub fn digest(&self) -> Digest {
        self.0.digest.current()
    }

    /// Returns the bytes from the start.
    pub fn read(&mut self) -> Result<impl Read + '_> {
        self.0.file.seek(SeekFrom::Start(0)).map_err(Error::Spool)?;
        Ok(&mut self.0.file)
    }
}

impl PartialEq for TocBlob {
    fn eq(&self, other: &Self) -> bool {
        (self.size(), self.digest()) == (other.size(), other.digest())
    }
}

impl Eq for TocBlob {}

impl std::fmt::Debug for TocBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TocBlob").field("size", &self.size()).field("digest", &self.digest()).finish()
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed").field("stored_size", &self.stored_size).field("size", &self.size).finish()
    }
}
