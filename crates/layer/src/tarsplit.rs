//! The tar-split stream: what a tar holds besides the files' content, as podman reassembles tars from it.
//!
//! One JSON object a line. `{"type":2,"payload":…}` is a segment of raw bytes (padding and header blocks, in base64);
//! `{"type":1,"name":…,"size":…,"payload":…}` stands for a file's content, its payload the CRC-64 of it (ISO
//! polynomial, big-endian); `position` counts the lines. There is a file line for every header, whatever its size.
//!
//! podman decodes every segment by itself, after the padding of the file before it, and refuses one in which it finds
//! neither a header nor the end of an archive.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;

use crate::error::Result;
use crate::spool::{Packed, Packer};
use crate::tar::BLOCK;
use crate::toc::write_string;

/// The checksum of a file's content, which can be put together from those of its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checksum(u64);

impl Checksum {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(crc_fast::checksum(CrcAlgorithm::Crc64GoIso, bytes))
    }

    /// Returns the checksum of what `self` is of, followed by `length` bytes that `next` is of.
    pub(crate) fn then(self, next: Self, length: u64) -> Self {
        Self(crc_fast::checksum_combine(CrcAlgorithm::Crc64GoIso, self.0, next.0, length))
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

/// Why podman refuses a stream with a segment that it makes nothing of.
pub(crate) const NO_END: &str = "what follows its last entry is not the end of an archive";

/// The most bytes after the last entry that join into one segment.
const MOST_TRAILING: usize = 1 << 20;

/// Writes the stream.
pub(crate) struct TarSplit {
    packer: Packer,
    line: Vec<u8>,
    position: u64,
    /// What followed the last entry and is no segment yet.
    trailing: Vec<u8>,
    /// How many bytes of padding the next segment has to begin with.
    padding: usize,
    /// Whether podman would refuse a segment.
    refused: bool,
}

/// A stream that is complete.
pub(crate) struct Finished {
    pub(crate) packed: Packed,
    /// Why podman would refuse it.
    pub(crate) refusal: Option<&'static str>,
}

impl TarSplit {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            packer: Packer::new(directory)?,
            line: Vec::new(),
            position: 0,
            trailing: Vec::new(),
            padding: 0,
            refused: false,
        })
    }

    /// Adds padding and header blocks.
    pub(crate) fn segment(&mut self, bytes: &[u8]) -> Result<()> {
        self.flush()?;
        self.write(bytes)
    }

    /// Adds bytes that no header follows. What podman takes for no end of an archive joins the segment before.
    pub(crate) fn trailing(&mut self, bytes: &[u8]) -> Result<()> {
        if is_end(bytes) || self.trailing.len() + bytes.len() > MOST_TRAILING {
            self.flush()?;
        }
        self.trailing.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.trailing.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.trailing);
        self.refused |= !bytes.get(self.padding..).is_some_and(is_end);
        self.padding = 0;
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.line.extend_from_slice(b"{\"type\":2,\"payload\":\"");
        encode(bytes, &mut self.line);
        self.line.push(b'"');
        self.finish_line()
    }

    /// Adds a file, whose content the reader has from elsewhere.
    pub(crate) fn file(&mut self, name: &str, size: u64, checksum: Checksum) -> Result<()> {
        self.padding = size.wrapping_neg() as usize % BLOCK;
        self.line.extend_from_slice(b"{\"type\":1,\"name\":");
        write_string(name, &mut self.line);
        if size == 0 {
            self.line.extend_from_slice(b",\"payload\":null");
        } else {
            self.line.extend_from_slice(format!(",\"size\":{size},\"payload\":\"").as_bytes());
            encode(&checksum.to_bytes(), &mut self.line);
            self.line.push(b'"');
        }
        self.finish_line()
    }

    pub(crate) fn finish(mut self) -> Result<Finished> {
        self.flush()?;
        let refusal = self.refused.then_some(NO_END);
        Ok(Finished { packed: self.packer.finish()?, refusal })
    }

    fn finish_line(&mut self) -> Result<()> {
        self.line.extend_from_slice(format!(",\"position\":{}}}\n", self.position).as_bytes());
        self.position += 1;
        self.packer.write(&self.line)?;
        self.line.clear();
        Ok(())
    }
}

/// Tells whether Go's tar reader finds the end of an archive: no bytes, one block of zeros, or two and anything.
pub(crate) fn is_end(bytes: &[u8]) -> bool {
    let blocks = &bytes[..bytes.len().min(2 * BLOCK)];
    blocks.len().is_multiple_of(BLOCK) && blocks.iter().all(|byte| *byte == 0)
}

fn encode(bytes: &[u8], line: &mut Vec<u8>) {
    let start = line.len();
    line.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut line[start..]).unwrap_or(0);
    line.truncate(start + written);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_parts_join() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let (head, tail) = bytes.split_at(33_333);
        let joined = Checksum::of(head).then(Checksum::of(tail), tail.len() as u64);
        assert_eq!(joined, Checksum::of(&bytes));
        assert_eq!(Checksum::of(b"").then(Checksum::of(tail), tail.len() as u64), Checksum::of(tail));
    }

    #[test]
    fn the_checksum_is_the_one_of_the_go_standard_library() {
        // The check value of CRC-64/GO-ISO for the nine digits.
        assert_eq!(Checksum::of(b"123456789").to_bytes(), 0xb909_56c7_75a4_1001u64.to_be_bytes());
    }
}
