//! The decoded tar in order: its digest, and the digests of files in parts.

use std::io::Read;

use crossbeam_channel::Sender;
use restow_oci::{Digest, Digester, Limits};

use super::segment::{Part, Run, Runs, Segment, Walker};
use crate::blob::ReadAt;
use crate::decompress::{Format, into_error};
use crate::frames::Frames;
use crate::locate::{Location, expect_digest};
use crate::{Error, Result};

/// Bytes of a large segment that are decoded at once.
const STEP: usize = 256 << 10;

/// What the comparison needs of the tar.
pub(super) enum Piece {
    Runs(Runs),
    /// The tar has been decoded to its end.
    End,
}

/// Takes the tar in order.
pub(super) struct Stream<'a> {
    blob: &'a dyn ReadAt,
    format: Format,
    limits: &'a Limits,
    digester: Digester,
    size: u64,
    limit: u64,
    /// Hashes a file that is in parts.
    file: Option<Digester>,
    pieces: Option<Sender<Piece>>,
    step: Vec<u8>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        blob: &'a dyn ReadAt,
        location: &Location<'_>,
        limits: &'a Limits,
        limit: u64,
        pieces: Sender<Piece>,
    ) -> Self {
        Self {
            blob,
            format: location.format,
            limits,
            digester: Digester::sha256(),
            size: 0,
            limit,
            file: None,
            pieces: Some(pieces),
            step: Vec::new(),
        }
    }

    /// Adds bytes whose chunks have been checked.
    pub(super) fn add(&mut self, bytes: &[u8], runs: Runs) -> Result<()> {
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            let what = "the uncompressed size in bytes of the layer";
            return Err(Error::Limit { what, found: self.size, limit: self.limit });
        }
        let mut position = 0;
        for run in &runs.runs {
            position += match run {
                Run::Headers(length) => *length,
                Run::Payload { length, part, end } => {
                    self.add_payload(&bytes[position..position + length], part, end.is_some())?;
                    *length
                }
            };
        }
        let given_up = |_| Error::Workers("the comparison was given up".into());
        self.pieces.as_ref().map_or(Ok(()), |pieces| pieces.send(Piece::Runs(runs)).map_err(given_up))
    }

    fn add_payload(&mut self, bytes: &[u8], part: &Part, ends: bool) -> Result<()> {
        if *part == Part::Whole {
            return Ok(());
        }
        // The first chunk may come in pieces; the last of the file before has taken its digester.
        let file = self.file.get_or_insert_with(Digester::sha256);
        file.update(bytes);
        if let (Part::Last(expected), true) = (part, ends)
            && let Some(digester) = self.file.take()
        {
            expect_digest(&digester.finish(), expected, || "a file in parts".into())?;
        }
        Ok(())
    }

    /// Decodes a segment of any size and adds it.
    pub(super) fn decode(&mut self, segment: &Segment) -> Result<()> {
        let mut frames = Frames::new(self.format, self.blob, segment.start, segment.end, self.limits)?;
        let mut walker = Walker::new(segment);
        let mut step = std::mem::take(&mut self.step);
        step.resize(STEP, 0);
        loop {
            let length = frames.read(&mut step).map_err(|error| into_error(error, segment.start))?;
            if length == 0 {
                break;
            }
            let mut runs = Runs::default();
            walker.add(&step[..length], &mut runs)?;
            self.add(&step[..length], runs)?;
        }
        self.step = step;
        walker.finish()
    }

    /// Lets the comparison know that nothing more will come.
    pub(super) fn hang_up(&mut self) {
        self.pieces = None;
    }

    /// Returns the digest and the size of the tar.
    pub(super) fn finish(self) -> (Digest, u64) {
        (self.digester.finish(), self.size)
    }
}
