//! The parts of a blob that decode on their own, and which of their bytes are whose.

use restow_oci::{Algorithm, Digest, Digester};

use crate::codec::TocPlace;
use crate::locate::{Location, expect_digest};
use crate::tarsplit::Checksum;
use crate::toc::{Chunk, Entry, EntryKind};
use crate::{Error, Result};

/// Bytes, compressed or not, after which a batch of segments is complete.
const BATCH: u64 = 1 << 20;
/// Bytes of headers and padding that a file usually has.
const HEADERS: u64 = 2 << 10;
/// Bytes, compressed or not, beyond which a segment is decoded piece by piece.
const LARGE: u64 = 16 << 20;

/// Whole frames or members: from where one chunk starts to where the next one does.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) payloads: Vec<Payload>,
}

/// A chunk inside a segment.
#[derive(Debug)]
pub(super) struct Payload {
    /// Where it starts in the uncompressed segment.
    start: u64,
    end: u64,
    /// The digests it must have: its own, and that of its file if it is the only chunk.
    digests: [Option<Digest>; 2],
    zeros: bool,
    part: Part,
}

/// Which part of its file a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Middle,
    /// With the digest of the file.
    Last(Digest),
}

impl Segment {
    /// Returns how many bytes it should decode to: its chunks, and the headers of one file.
    pub(super) fn expected(&self) -> u64 {
        self.payloads.last().map_or(0, |payload| payload.end).saturating_add(HEADERS)
    }

    pub(super) fn compressed(&self) -> u64 {
        self.end - self.start
    }

    fn is_large(&self) -> bool {
        self.compressed() > LARGE || self.expected() > LARGE
    }
}

/// Segments that are decoded together.
#[derive(Debug)]
pub(super) enum Job {
    /// They follow each other.
    Batch(Vec<Segment>),
    Large(Segment),
}

/// Takes a job and the bytes of memory it will hold.
type Send<'a> = dyn FnMut(Job, usize) -> Result<()> + 'a;

/// Cuts a layer into segments as its table of contents is read.
pub(super) struct Segments<'a> {
    location: &'a Location<'a>,
    send: &'a mut Send<'a>,
    current: Segment,
    batch: Vec<Segment>,
    batch_size: u64,
    file: Option<(u64, Option<Digest>)>,
}

impl<'a> Segments<'a> {
    pub(super) fn new(location: &'a Location<'a>, send: &'a mut Send<'a>) -> Self {
        let current = Segment { start: 0, end: 0, payloads: Vec::new() };
        Self { location, send, current, batch: Vec::new(), batch_size: 0, file: None }
    }

    /// Takes the next entry and its chunk, if it has one.
    pub(super) fn add(&mut self, entry: &Entry, chunk: Option<Chunk>) -> Result<()> {
        if entry.kind == EntryKind::Regular {
            self.file = Some((entry.size, entry.digest.clone()));
        }
        let Some(chunk) = chunk else { return Ok(()) };
        let payload = self.payload(entry, &chunk)?;
        if chunk.offset > self.current.start {
            self.close(chunk.offset)?;
        }
        self.current.payloads.push(payload);
        Ok(())
    }

    /// Sends what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        self.close(self.location.payload_end)?;
        if self.location.toc_place() == TocPlace::InTar {
            self.close(self.location.footer_start)?;
        }
        self.flush()
    }

    fn payload(&self, entry: &Entry, chunk: &Chunk) -> Result<Payload> {
        let verifiable = |digest: &Digest| digest.algorithm() == Algorithm::Sha256;
        let unverifiable = |what: &str| Error::Unverifiable { what: format!("{what} of {:?}", entry.name) };
        let (size, file_digest) = self.file.clone().unwrap_or_default();
        let part = match (chunk.file_offset, chunk.file_offset + chunk.size == size) {
            (0, true) => Part::Whole,
            (0, false) => Part::First,
            (_, false) => Part::Middle,
            (_, true) => {
                Part::Last(file_digest.clone().filter(verifiable).ok_or_else(|| unverifiable("the content"))?)
            }
        };
        let own = chunk.digest.clone().filter(verifiable);
        let own = own.ok_or_else(|| unverifiable(&format!("the chunk at blob byte {}", chunk.offset)))?;
        let whole = file_digest.filter(|_| part == Part::Whole);
        // The plan has checked the sum.
        let end = chunk.inner_offset + chunk.size;
        Ok(Payload { start: chunk.inner_offset, end, digests: [Some(own), whole], zeros: chunk.zeros, part })
    }

    fn close(&mut self, end: u64) -> Result<()> {
        let next = Segment { start: end, end, payloads: Vec::new() };
        let mut segment = std::mem::replace(&mut self.current, next);
        segment.end = end;
        if segment.compressed() == 0 {
            return Ok(());
        }
        if segment.is_large() {
            self.flush()?;
            return (self.send)(Job::Large(segment), 0);
        }
        self.batch_size += segment.compressed() + segment.expected();
        self.batch.push(segment);
        if self.batch_size >= BATCH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.batch_size) as usize;
        (self.send)(Job::Batch(std::mem::take(&mut self.batch)), bytes)
    }
}

/// What consecutive bytes of the tar are.
#[derive(Debug)]
pub(super) enum Run {
    /// No file's content.
    Headers(usize),
    /// Content of a chunk, perhaps not all of it.
    Payload { length: usize, part: Part, end: Option<ChunkEnd> },
}

/// What is known of a chunk once it has been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkEnd {
    pub(super) size: u64,
    pub(super) checksum: Checksum,
}

/// Runs in order, and the bytes that are no file's content.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) runs: Vec<Run>,
    pub(super) headers: Vec<u8>,
}

/// Goes through the bytes of a segment and checks its chunks.
pub(super) struct Walker<'a> {
    segment: &'a Segment,
    /// The chunk that comes next, or that is being read.
    next: usize,
    position: u64,
    chunk: Option<OpenChunk>,
}

struct OpenChunk {
    digester: Digester,
    checksum: Checksum,
    size: u64,
}

impl<'a> Walker<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Self { segment, next: 0, position: 0, chunk: None }
    }

    /// Takes the next bytes of the segment.
    pub(super) fn add(&mut self, mut bytes: &[u8], runs: &mut Runs) -> Result<()> {
        while !bytes.is_empty() {
            let payload = self.segment.payloads.get(self.next);
            let (inside, boundary) = match payload {
                None => (None, u64::MAX),
                Some(payload) if self.position < payload.start => (None, payload.start),
                Some(payload) => (Some(payload), payload.end),
            };
            let length = usize::try_from(boundary - self.position).unwrap_or(usize::MAX).min(bytes.len());
            let (run, rest) = bytes.split_at(length);
            bytes = rest;
            self.position += length as u64;
            match inside {
                None => runs.add_headers(run),
                Some(payload) => {
                    let end = self.add_payload(payload, run)?;
                    runs.runs.push(Run::Payload { length, part: payload.part.clone(), end });
                }
            }
        }
        Ok(())
    }

    /// Ends the segment.
    pub(super) fn finish(self) -> Result<()> {
        if self.next < self.segment.payloads.len() {
            let (start, found) = (self.segment.start, self.position);
            let problem = format!("a chunk in the frame at byte {start} ends beyond the {found} bytes in it");
            return Err(Error::Toc(problem));
        }
        Ok(())
    }

    fn add_payload(&mut self, payload: &Payload, bytes: &[u8]) -> Result<Option<ChunkEnd>> {
        if payload.zeros && bytes.iter().any(|byte| *byte != 0) {
            return Err(Error::Toc(format!(
                "{} has other bytes than the zeros it is said to have",
                self.name(payload)
            )));
        }
        let length = bytes.len() as u64;
        let checksum = Checksum::of(bytes);
        let mut open = match self.chunk.take() {
            Some(open) => OpenChunk { checksum: open.checksum.then(checksum, length), ..open },
            None => OpenChunk { digester: Digester::sha256(), checksum, size: 0 },
        };
        open.digester.update(bytes);
        open.size += length;
        if self.position < payload.end {
            self.chunk = Some(open);
            return Ok(None);
        }
        let actual = open.digester.finish();
        for expected in payload.digests.iter().flatten() {
            expect_digest(&actual, expected, || self.name(payload))?;
        }
        self.next += 1;
        Ok(Some(ChunkEnd { size: open.size, checksum: open.checksum }))
    }

    fn name(&self, payload: &Payload) -> String {
        match payload.start {
            0 => format!("the chunk at blob byte {}", self.segment.start),
            inside => format!("the chunk at byte {inside} of the frame at blob byte {}", self.segment.start),
        }
    }
}

impl Runs {
    fn add_headers(&mut self, bytes: &[u8]) {
        self.headers.extend_from_slice(bytes);
        match self.runs.last_mut() {
            Some(Run::Headers(length)) => *length += bytes.len(),
            _ => self.runs.push(Run::Headers(bytes.len())),
        }
    }
}
