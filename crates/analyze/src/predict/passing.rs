//! Files as they pass by while a layer is read.

use std::io::Read;
use std::ops::Range;

use restow_layer::Buffer;
use restow_layer::GatheredFile;
use restow_layer::TarReader;
use restow_oci::PredictionLimits;

use super::PREDICTORS;
use super::elf;

/// Bytes that are read at once.
const STEP: u64 = 1 << 20;
/// The longest first line that names an interpreter; Linux reads 256 bytes.
const SHEBANG: usize = 256;

/// A file that passes by: its start and, of a long program, one piece from further back.
#[derive(Debug)]
pub(crate) struct Passing<'a> {
    /// The clean path.
    pub(crate) path: &'a str,
    /// The size in bytes.
    pub(crate) size: u64,
    /// What is accepted of it.
    pub(crate) limits: &'a PredictionLimits,
    head: &'a [u8],
    piece: (u64, &'a [u8]),
}

impl<'a> Passing<'a> {
    /// A file of which all that is looked at is at its start.
    pub(crate) fn new(path: &'a str, size: u64, head: &'a [u8], limits: &'a PredictionLimits) -> Self {
        Self { path, size, limits, head, piece: (0, &[]) }
    }

    /// Returns the bytes of the range, if they were seen.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Option<&'a [u8]> {
        let slice = |bytes: &'a [u8], start: u64| {
            let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
            let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
            bytes.get(from..to)
        };
        slice(self.head, 0).or_else(|| slice(self.piece.1, self.piece.0))
    }

    /// Returns the start of the file.
    pub(crate) fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Returns the start of the file as text; what is none reads as if it were.
    pub(crate) fn text(&self) -> std::borrow::Cow<'a, str> {
        String::from_utf8_lossy(&self.head[..self.head.len().min(self.limits.text as usize)])
    }

    /// Returns what follows `#!` on the first line.
    pub(crate) fn shebang(&self) -> Option<&'a str> {
        let line = self.head.strip_prefix(b"#!")?;
        let line = &line[..line.len().min(SHEBANG)];
        let end = line.iter().position(|&byte| byte == b'\n').unwrap_or(line.len());
        std::str::from_utf8(&line[..end]).ok().map(str::trim)
    }

    /// Says whether the file's name ends in one of these, or it names one of these as its interpreter.
    pub(crate) fn is(&self, extensions: &[&str], interpreters: &[&str]) -> bool {
        extensions.iter().any(|extension| self.path.ends_with(extension))
            || self.shebang().is_some_and(|line| {
                let mut programs = line.split_ascii_whitespace().map(restow_layer::path::base);
                programs.any(|program| interpreters.iter().any(|name| program.starts_with(name)))
            })
    }
}

/// The content of a file, read from its start on.
pub(crate) trait Content {
    /// Appends at most `most` bytes of what comes next, and as many unless the content ends or it is easier to stop; 0 at
    /// the end.
    fn read(&mut self, bytes: &mut Buffer, most: u64) -> restow_layer::Result<u64>;

    /// Passes over at most `most` bytes, if that takes no reading, and returns how many.
    fn skip(&mut self, most: u64) -> u64;
}

impl<R: Read> Content for TarReader<R> {
    fn read(&mut self, bytes: &mut Buffer, most: u64) -> restow_layer::Result<u64> {
        self.read_payload(bytes, most)
    }

    fn skip(&mut self, _: u64) -> u64 {
        0
    }
}

impl Content for GatheredFile<'_> {
    fn read(&mut self, bytes: &mut Buffer, most: u64) -> restow_layer::Result<u64> {
        GatheredFile::read(self, bytes, most)
    }

    fn skip(&mut self, most: u64) -> u64 {
        GatheredFile::skip(self, most)
    }
}

/// Reads the start of the content and returns the note about it.
///
/// What is read is in `raw`, which is empty before; the rest of the content is still to be read.
pub(crate) fn note(
    path: &str,
    size: u64,
    content: &mut dyn Content,
    raw: &mut Buffer,
    limits: &PredictionLimits,
) -> restow_layer::Result<Option<Box<str>>> {
    fill(raw, limits.text, content)?;
    let mut start = 0;
    let mut head = raw.len();
    if elf::is(raw.filled()) {
        fill(raw, limits.program, content)?;
        head = raw.len();
        if let Some(range) = elf::piece(raw.filled(), limits).filter(|range| range.end > head as u64) {
            start = head as u64;
            while start < range.start {
                raw.truncate(head);
                let skipped = match content.skip(range.start - start) {
                    0 => content.read(raw, (range.start - start).min(STEP))?,
                    skipped => skipped,
                };
                if skipped == 0 {
                    break;
                }
                start += skipped;
            }
            raw.truncate(head);
            fill(raw, (range.end - start).saturating_add(head as u64), content)?;
        }
    }
    let (head, piece) = raw.filled().split_at(head);
    let file = Passing { path, size, limits, head, piece: (start, piece) };
    Ok(write(&file))
}

/// Reads on until there are `most` bytes, or no more.
fn fill(raw: &mut Buffer, most: u64, content: &mut dyn Content) -> restow_layer::Result<()> {
    while (raw.len() as u64) < most && content.read(raw, (most - raw.len() as u64).min(STEP))? > 0 {}
    Ok(())
}

/// Returns the note about a file: the line that names its interpreter, if there is one, then a predictor's words.
pub(crate) fn write(file: &Passing<'_>) -> Option<Box<str>> {
    let words = PREDICTORS.iter().find_map(|predictor| predictor.note(file));
    let note = match (file.shebang(), words) {
        (None, None) => return None,
        (None, Some(words)) => words,
        (Some(line), words) => format!("#!{line}\n{}", words.unwrap_or_default()),
    };
    (note.len() <= file.limits.note).then(|| note.into())
}

/// Returns the interpreter line of a note.
pub(crate) fn interpreter(note: &str) -> Option<&str> {
    note.strip_prefix("#!").map(|rest| rest.split('\n').next().unwrap_or(rest))
}
