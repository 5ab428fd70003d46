//! Which bytes of the blob belong to which bytes of a file, checked as the entries come.

use std::fmt;

use restow_oci::Digest;

use super::{Entry, EntryKind};
use crate::{Error, Result, path};

/// A piece of a regular file, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the blob the frame or member starts that holds it.
    pub offset: u64,
    /// How many uncompressed bytes of that frame or member come before it.
    pub inner_offset: u64,
    /// Where in the file it starts.
    pub file_offset: u64,
    /// How many bytes of the file it is.
    pub size: u64,
    /// Its digest; that of the file for an only chunk without one of its own.
    pub digest: Option<Digest>,
    /// Whether it is said to hold nothing but zeros.
    pub zeros: bool,
}

impl Chunk {
    /// Reads the chunk that `entry` of a file of `file_size` bytes describes. Sizes that were left out are filled in.
    pub(super) fn of(entry: &Entry, file_size: u64) -> Self {
        let rest = file_size.saturating_sub(entry.chunk_offset);
        let size = if entry.chunk_size == 0 { rest } else { entry.chunk_size };
        let only = entry.chunk_offset == 0 && size == file_size;
        let file_digest = if only { entry.digest.as_ref() } else { None };
        Self {
            offset: entry.offset,
            inner_offset: entry.inner_offset,
            file_offset: entry.chunk_offset,
            size,
            digest: entry.chunk_digest.as_ref().or(file_digest).cloned(),
            zeros: entry.zeros,
        }
    }
}

/// Follows the entries of a table and holds them against each other.
///
/// The chunks of each file must cover it without gap or overlap; offsets must ascend, where two chunks do not share a
/// frame; and everything must lie before `end`, where the payload of the layer ends.
#[derive(Debug)]
pub(crate) struct Plan {
    end: u64,
    file: Option<File>,
    /// Where the frame of the last chunk starts, and where in it the chunk ends.
    last: Option<(u64, u64)>,
    /// Where the last file with content says that it ends.
    file_end: u64,
}

/// The last regular file.
#[derive(Debug)]
struct File {
    name: String,
    size: u64,
    covered: u64,
}

impl Plan {
    pub(crate) fn new(end: u64) -> Self {
        Self { end, file: None, last: None, file_end: 0 }
    }

    /// Takes the next entry and returns the chunk that it describes, if it is one or starts with one.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<Option<Chunk>> {
        match entry.kind {
            EntryKind::Chunk => self.continues(entry)?,
            EntryKind::Regular => {
                self.complete()?;
                self.file = Some(File { name: entry.name.clone(), size: entry.size, covered: 0 });
                if entry.size == 0 {
                    return Ok(None);
                }
            }
            _ => {
                self.complete()?;
                self.file = None;
                return Ok(None);
            }
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        let chunk = Chunk::of(entry, file.size);
        if chunk.file_offset != file.covered {
            return Err(problem(
                entry,
                format_args!("a chunk at {} follows {} bytes", chunk.file_offset, file.covered),
            ));
        }
        // Neither can be 0: an only chunk has the size of its file, and a further one was asked for by what is missing.
        if chunk.size > file.size - file.covered {
            let missing = file.size - file.covered;
            return Err(problem(
                entry,
                format_args!("a chunk of {} bytes, where {missing} are missing", chunk.size),
            ));
        }
        file.covered += chunk.size;
        self.place(entry, &chunk)?;
        Ok(Some(chunk))
    }

    /// Checks that the last file was complete.
    pub(crate) fn complete(&self) -> Result<()> {
        match &self.file {
            Some(file) if file.covered < file.size => Err(Error::Toc(format!(
                "{:?}: the chunks cover {} of {} bytes",
                file.name, file.covered, file.size
            ))),
            _ => Ok(()),
        }
    }

    fn continues(&self, entry: &Entry) -> Result<()> {
        match &self.file {
            Some(file) if file.covered == file.size => {
                Err(problem(entry, "a chunk beyond the end of the file"))
            }
            Some(file) if file.name == entry.name || path::clean(&file.name) == path::clean(&entry.name) => {
                Ok(())
            }
            Some(file) => {
                Err(problem(entry, format_args!("a chunk of another file follows {:?}", file.name)))
            }
            None => Err(problem(entry, "a chunk that follows no regular file")),
        }
    }

    /// Checks where the chunk lies in the blob.
    fn place(&mut self, entry: &Entry, chunk: &Chunk) -> Result<()> {
        let inner_end = chunk.inner_offset.checked_add(chunk.size);
        let inner_end = inner_end.ok_or_else(|| problem(entry, "the chunk ends beyond any frame"))?;
        let follows = self.last.is_none_or(|(offset, end)| match chunk.offset.cmp(&offset) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => chunk.inner_offset >= end,
            std::cmp::Ordering::Greater => true,
        });
        if !follows {
            return Err(problem(
                entry,
                format_args!("the chunk at byte {} overlaps or precedes the one before", chunk.offset),
            ));
        }
        if chunk.offset >= self.end {
            return Err(problem(
                entry,
                format_args!("the chunk at byte {} is not before byte {}", chunk.offset, self.end),
            ));
        }
        self.last = Some((chunk.offset, inner_end));
        self.bound(entry, chunk)
    }

    /// Checks the end that files of podman's dialect state.
    fn bound(&mut self, entry: &Entry, chunk: &Chunk) -> Result<()> {
        if entry.kind == EntryKind::Regular {
            if chunk.offset < self.file_end {
                let end = self.file_end;
                return Err(problem(
                    entry,
                    format_args!("it starts at byte {} inside the file that ends at {end}", chunk.offset),
                ));
            }
            self.file_end = entry.end_offset;
        }
        let inside = self.file_end == 0 || (chunk.offset < self.file_end && self.file_end <= self.end);
        if !inside {
            let end = self.file_end;
            return Err(problem(
                entry,
                format_args!("a chunk at byte {} of a file that ends at byte {end}", chunk.offset),
            ));
        }
        Ok(())
    }
}

fn problem(entry: &Entry, problem: impl fmt::Display) -> Error {
    Error::Toc(format!("{:?}: {problem}", entry.name))
}
