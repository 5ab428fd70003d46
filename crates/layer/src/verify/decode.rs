//! Decodes segments, many at a time.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;
use restow_oci::Limits;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::segment::{Job, Runs, Segment, Walker};
use crate::blob::{ReadAt, read_exact_at};
use crate::buffer::Buffer;
use crate::decompress::Format;
use crate::locate::Location;
use crate::workers::{Memory, Workers};
use crate::{Error, Result, zstdframe};

/// How many more bytes than expected a batch may decode to before it counts as large.
const TOLERANCE: u64 = 1 << 20;
/// How much room a decoder is given that does not know how much it needs.
const STEP: usize = 128 << 10;

/// Decodes jobs on any thread.
pub(super) struct Decoder<'a> {
    blob: &'a dyn ReadAt,
    format: Format,
    limits: &'a Limits,
    workers: &'a Workers,
    contexts: Mutex<Vec<DCtx<'static>>>,
}

/// What became of a job.
pub(super) enum Output {
    Decoded {
        memory: Memory,
        runs: Runs,
    },
    /// To be decoded piece by piece.
    Large(Vec<Segment>),
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        blob: &'a dyn ReadAt,
        location: &Location<'_>,
        limits: &'a Limits,
        workers: &'a Workers,
    ) -> Self {
        Self { blob, format: location.format, limits, workers, contexts: Mutex::default() }
    }

    pub(super) fn decode(&self, job: Job) -> Result<Output> {
        let segments = match job {
            Job::Large(segment) => return Ok(Output::Large(vec![segment])),
            Job::Batch(segments) => segments,
        };
        let mut memory = self.workers.memory();
        let mut runs = Runs::default();
        let whole = self.decode_batch(&segments, &mut memory, &mut runs)?;
        if whole {
            return Ok(Output::Decoded { memory, runs });
        }
        self.workers.recycle(memory);
        Ok(Output::Large(segments))
    }

    /// Returns whether the segments fit into bounded memory.
    fn decode_batch(&self, segments: &[Segment], memory: &mut Memory, runs: &mut Runs) -> Result<bool> {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(true) };
        let Memory { plain, compressed } = memory;
        compressed.resize((last.end - first.start) as usize, 0);
        read_exact_at(self.blob, compressed, first.start)?;
        let expected: u64 = segments.iter().map(Segment::expected).sum();
        let most = (expected + TOLERANCE) as usize;
        let mut decoding = Decoding { out: plain, most, limits: self.limits, offset: first.start };
        for segment in segments {
            let start = decoding.out.len();
            decoding.offset = segment.start;
            let frames =
                &compressed[(segment.start - first.start) as usize..(segment.end - first.start) as usize];
            let whole = match self.format {
                Format::Zstd => self.with_context(|context| decoding.zstd(context, frames)),
                _ => decoding.gzip(frames).map_err(|problem| Error::Compression {
                    format: "gzip",
                    offset: segment.start,
                    problem,
                }),
            }?;
            if !whole {
                return Ok(false);
            }
            let mut walker = Walker::new(segment);
            walker.add(&decoding.out.filled()[start..], runs)?;
            walker.finish()?;
        }
        Ok(true)
    }

    fn with_context<T>(&self, run: impl FnOnce(&mut DCtx<'static>) -> Result<T>) -> Result<T> {
        let idle = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut context = match idle {
            Some(context) => context,
            None => {
                let mut context = DCtx::create();
                let refused = |code| Error::Compressor { format: "zstd", problem: name(code) };
                let window = DParameter::WindowLogMax(self.limits.zstd_window_log);
                context.set_parameter(window).map_err(refused)?;
                context
            }
        };
        let result = run(&mut context);
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).push(context);
        result
    }
}

fn name(code: zstd_safe::ErrorCode) -> String {
    zstd_safe::get_error_name(code).to_string()
}

/// Where decoded bytes go. The methods return whether all did, before there were too many.
struct Decoding<'a> {
    out: &'a mut Buffer,
    /// How many bytes there may be in all.
    most: usize,
    limits: &'a Limits,
    /// Where the frames start in the blob.
    offset: u64,
}

impl Decoding<'_> {
    fn zstd(&mut self, context: &mut DCtx<'static>, frames: &[u8]) -> Result<bool> {
        let mut rest = frames;
        while !rest.is_empty() {
            let offset = self.offset + (frames.len() - rest.len()) as u64;
            if let Some(refusal) = zstdframe::refusal(rest, offset, self.limits) {
                return Err(refusal);
            }
            let corrupt = |problem| Error::Compression { format: "zstd", offset, problem };
            let length = zstd_safe::find_frame_compressed_size(rest).map_err(|code| corrupt(name(code)))?;
            let (frame, behind) = rest.split_at(length);
            rest = behind;
            let size = zstd_safe::get_frame_content_size(frame)
                .map_err(|_| corrupt("the frame's header is damaged".to_string()))?;
            let whole = match size {
                Some(size) => self.zstd_at_once(context, frame, size),
                None => self.zstd_in_steps(context, frame),
            };
            if !whole.map_err(corrupt)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn zstd_at_once(&mut self, context: &mut DCtx<'static>, frame: &[u8], size: u64) -> Result<bool, String> {
        if size > (self.most - self.out.len()) as u64 {
            return Ok(false);
        }
        let decoded = context.decompress(self.out.room(size as usize), frame).map_err(name)?;
        self.out.advance(decoded);
        Ok(true)
    }

    fn zstd_in_steps(&mut self, context: &mut DCtx<'static>, frame: &[u8]) -> Result<bool, String> {
        context.reset(ResetDirective::SessionOnly).map_err(name)?;
        let mut input = InBuffer::around(frame);
        loop {
            let room = STEP.min(self.most - self.out.len());
            if room == 0 {
                return Ok(false);
            }
            let mut output = OutBuffer::around(self.out.room(room));
            let left = context.decompress_stream(&mut output, &mut input).map_err(name)?;
            let decoded = output.pos();
            self.out.advance(decoded);
            if left == 0 {
                return Ok(true);
            }
            if decoded == 0 && input.pos == frame.len() {
                return Err("it ends too early".into());
            }
        }
    }

    fn gzip(&mut self, members: &[u8]) -> Result<bool, String> {
        let mut decoder = MultiGzDecoder::new(members);
        loop {
            // One byte more than there may be tells whether there are more.
            let room = STEP.min(self.most + 1 - self.out.len());
            let decoded = decoder.read(self.out.room(room)).map_err(|error| error.to_string())?;
            if decoded == 0 {
                return Ok(true);
            }
            self.out.advance(decoded);
            if self.out.len() > self.most {
                return Ok(false);
            }
        }
    }
}
