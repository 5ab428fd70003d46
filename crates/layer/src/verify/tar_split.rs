//! Reads the tar-split stream while the tar that it must reassemble to is read.

use std::io::{BufRead, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use restow_oci::Limits;
use serde::Deserialize;

use crate::blob::ReadAt;
use crate::decompress::{Format, into_error};
use crate::footer::Position;
use crate::frames::Frames;
use crate::tar::BLOCK;
use crate::tarsplit::{Checksum, NO_END, is_end};
use crate::toc::Text;
use crate::{Error, Result};

/// The most bytes in a line: all that the headers of one entry may have, in base64, several times over.
const MAX_LINE: u64 = 32 << 20;

/// A line of the stream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    name: Option<String>,
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(borrow)]
    payload: Option<Text<'a>>,
    position: u64,
}

/// A line that stands for a file.
struct File {
    name: Vec<u8>,
    size: u64,
    checksum: Vec<u8>,
}

/// What a line was; a segment is in the buffer for it.
enum Found {
    Segment,
    File(File),
}

/// Takes what the tar holds and finds it in the stream.
pub(super) struct TarSplitReader<'a> {
    lines: BufReader<Frames<'a>>,
    line: Vec<u8>,
    /// Lines read.
    position: u64,
    /// Bytes read.
    size: u64,
    expected_size: u64,
    /// The rest of a segment.
    segment: Vec<u8>,
    consumed: usize,
    /// A file that has been read and not been asked for.
    pending: Option<File>,
    /// How many bytes of padding the next segment begins with.
    padding: usize,
    /// Whether a segment after the last file does not begin with the end of an archive.
    no_end: bool,
}

impl<'a> TarSplitReader<'a> {
    pub(super) fn new(blob: &'a dyn ReadAt, position: Position, limits: &Limits) -> Result<Self> {
        let frames =
            Frames::new(Format::Zstd, blob, position.offset, position.offset + position.size, limits)?;
        Ok(Self {
            lines: BufReader::with_capacity(64 << 10, frames),
            line: Vec::new(),
            position: 0,
            size: 0,
            expected_size: position.uncompressed_size,
            segment: Vec::new(),
            consumed: 0,
            pending: None,
            padding: 0,
            no_end: false,
        })
    }

    /// Takes bytes of the tar that are no file's content, which must come next.
    pub(super) fn expect_segment(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.consumed == self.segment.len() && !self.next_segment()? {
                return Err(self.problem("bytes of the tar are missing"));
            }
            let rest = &self.segment[self.consumed..];
            let length = rest.len().min(bytes.len());
            if rest[..length] != bytes[..length] {
                return Err(self.problem("a segment differs from the tar"));
            }
            self.consumed += length;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Takes a file of the tar, which must come next.
    pub(super) fn expect_file(&mut self, name: &[u8], size: u64, checksum: Checksum) -> Result<()> {
        if self.consumed < self.segment.len() || self.next_segment()? {
            return Err(self.problem("a segment has bytes that the tar does not have"));
        }
        let Some(file) = self.pending.take() else {
            return Err(self.problem("a file of the tar is missing"));
        };
        if file.name != name {
            return Err(self.problem("the name of a file differs"));
        }
        if file.size != size {
            return Err(self.problem("the size of a file differs"));
        }
        let expected: &[u8] = if size == 0 { &[] } else { &checksum.to_bytes() };
        if file.checksum != expected {
            return Err(self.problem("the checksum of a file differs"));
        }
        Ok(())
    }

    /// Ends the stream with the tar, and returns why podman would refuse it all the same.
    pub(super) fn finish(mut self) -> Result<Option<&'static str>> {
        if self.consumed < self.segment.len() || self.next_segment()? || self.pending.is_some() {
            return Err(self.problem("there is more than the tar has"));
        }
        if self.size != self.expected_size {
            let (found, expected) = (self.size, self.expected_size);
            return Err(Error::TarSplit(format!("it has {found} bytes, expected {expected}")));
        }
        Ok(self.no_end.then_some(NO_END))
    }

    /// Reads the next segment and returns whether there is one; a file is left pending.
    fn next_segment(&mut self) -> Result<bool> {
        while self.pending.is_none() {
            let mut text = std::mem::take(&mut self.line);
            let found = self.next_line(&mut text);
            self.line = text;
            match found? {
                None => return Ok(false),
                Some(Found::Segment) if self.segment.is_empty() => {}
                Some(Found::Segment) => {
                    // podman decodes each by itself: it must hold a header, before a file, or an end.
                    self.no_end |= !self.segment.get(self.padding..).is_some_and(is_end);
                    self.padding = 0;
                    return Ok(true);
                }
                Some(Found::File(file)) => {
                    self.no_end = false;
                    self.padding = file.size.wrapping_neg() as usize % BLOCK;
                    self.pending = Some(file);
                }
            }
        }
        Ok(false)
    }

    fn next_line(&mut self, text: &mut Vec<u8>) -> Result<Option<Found>> {
        text.clear();
        let read = self.lines.by_ref().take(MAX_LINE).read_until(b'\n', text);
        let read = read.map_err(|error| into_error(error, 0))?;
        if read == 0 {
            return Ok(None);
        }
        self.size += read as u64;
        if text.last() != Some(&b'\n') {
            return Err(self.problem("it is cut off, or too long"));
        }
        let line: Line<'_> =
            serde_json::from_slice(text).map_err(|error| self.problem(&error.to_string()))?;
        if line.position != self.position {
            return Err(self.problem(&format!("it has position {}", line.position)));
        }
        self.position += 1;
        let payload = line.payload.as_ref().map_or("", |payload| &payload.0);
        match line.kind {
            1 => Ok(Some(Found::File(File {
                checksum: STANDARD.decode(payload).map_err(|error| self.problem(&error.to_string()))?,
                size: line.size,
                name: self.name(line)?,
            }))),
            2 => {
                self.segment.clear();
                self.consumed = 0;
                let decoded = STANDARD.decode_vec(payload, &mut self.segment);
                decoded.map_err(|error| self.problem(&error.to_string()))?;
                Ok(Some(Found::Segment))
            }
            kind => Err(self.problem(&format!("there is no type {kind}"))),
        }
    }

    fn name(&self, line: Line<'_>) -> Result<Vec<u8>> {
        match (line.name, line.name_raw.map(|name| STANDARD.decode(name))) {
            (Some(name), None) => Ok(name.into_bytes()),
            (None, Some(Ok(name))) => Ok(name),
            _ => Err(self.problem("a file has no name, or two")),
        }
    }

    fn problem(&self, problem: &str) -> Error {
        Error::TarSplit(format!("line {}: {problem}", self.position))
    }
}
