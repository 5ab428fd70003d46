//! Sparse files: which parts of them a tar holds, and their content with the holes between.
//!
//! | form | map | name and size |
//! |---|---|---|
//! | typeflag `S` | in the header block and those behind it | of the header |
//! | PAX 0.0 | `GNU.sparse.offset` and `numbytes`, once for each part | `GNU.sparse.size` |
//! | PAX 0.1 | `GNU.sparse.map`, numbers with commas between | `GNU.sparse.name` and `size` |
//! | PAX 1.0 | lines of text before the parts, filled up to a block | `GNU.sparse.name` and `realsize` |

use std::collections::VecDeque;
use std::io::Read;

use super::pax::decimal;
use super::{BLOCK, Header, TarReader, malformed};
use crate::buffer::Buffer;
use crate::error::{Error, Result};

/// Bytes of content that are handed out at once.
const STEP: usize = 256 << 10;

static ZEROS: [u8; STEP] = [0; STEP];

/// How the payload of a sparse file becomes its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// The size of the content in bytes, holes and all.
    pub size: u64,
    /// Which parts of it the payload holds.
    pub map: Map,
}

/// Which parts of a sparse file the payload holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Map {
    /// These, one after another.
    Extents(Vec<Extent>),
    /// What the payload says before the first of them (PAX 1.0).
    InPayload,
}

/// A part of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where in the content it starts.
    pub offset: u64,
    /// How many bytes it has.
    pub size: u64,
}

impl Extent {
    fn end(self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Applies the records about a sparse file to a header that has all else. Of equal ones the last counts, as for Go. What is
/// of no known version leaves the header as it is.
pub(super) fn apply(records: &[(Vec<u8>, Vec<u8>)], header: &mut Header) -> Result<(), String> {
    let last = |wanted: &[u8]| {
        let found = records.iter().rev().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.as_slice()).filter(|value| !value.is_empty())
    };
    let map = match (last(b"major"), last(b"minor")) {
        (Some(b"1"), Some(b"0")) => Map::InPayload,
        (Some(b"0"), Some(b"0" | b"1")) => Map::Extents(extents(records)?),
        (None, None) if records.iter().any(|(key, _)| matches!(&key[..], b"map" | b"offset")) => {
            Map::Extents(extents(records)?)
        }
        _ => return Ok(()),
    };
    if let Some(name) = last(b"name") {
        header.name = name.to_vec();
    }
    let size = match last(b"size").or_else(|| last(b"realsize")) {
        Some(text) => decimal(text).ok_or("the size of the sparse file is not a number")?,
        None => header.recorded_size,
    };
    header.sparse = Some(Sparse { size, map });
    Ok(())
}

/// Reads a map that lies in the records.
fn extents(records: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Extent>, String> {
    let mut numbers = Vec::new();
    for (key, value) in records {
        match (&key[..], numbers.len() % 2) {
            (b"offset", 0) | (b"numbytes", 1) => numbers.push(value.as_slice()),
            (b"offset" | b"numbytes", _) => return Err("the map of the sparse file is out of order".into()),
            _ => {}
        }
    }
    let map = records.iter().rev().find(|(key, value)| key == b"map" && !value.is_empty());
    if let (Some((_, map)), true) = (map, numbers.is_empty()) {
        numbers = map.split(|byte| *byte == b',').collect();
    }
    pairs(numbers.into_iter().map(decimal))
}

fn pairs(numbers: impl Iterator<Item = Option<u64>>) -> Result<Vec<Extent>, String> {
    let numbers: Option<Vec<u64>> = numbers.collect();
    let numbers = numbers.ok_or("the map of the sparse file is not made of numbers")?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("the map of the sparse file ends within a part".into());
    }
    Ok(pairs.iter().map(|[offset, size]| Extent { offset: *offset, size: *size }).collect())
}

/// The content of an entry as it comes out of the payload, holes of a sparse file as zeros.
#[derive(Debug)]
pub struct Content<'a, R> {
    tar: &'a mut TarReader<R>,
    /// Parts of the content that are still to come from the payload.
    extents: VecDeque<Extent>,
    piece: Buffer,
    position: u64,
    size: u64,
}

impl<'a, R: Read> Content<'a, R> {
    pub(super) fn new(tar: &'a mut TarReader<R>, header: &Header) -> Result<Self> {
        let size = header.content_size();
        let limit = tar.limits.uncompressed_size;
        if size > limit {
            let what = "the size in bytes of a sparse file";
            let entry = Some(header.display_name());
            return Err(Error::TarLimit { offset: header.offset, entry, what, found: size, limit });
        }
        let mut content = Self { tar, extents: VecDeque::new(), piece: Buffer::default(), position: 0, size };
        let extents = match header.sparse.as_ref().map(|sparse| &sparse.map) {
            None => vec![Extent { offset: 0, size }],
            Some(Map::Extents(extents)) => extents.clone(),
            Some(Map::InPayload) => content.read_map()?,
        };
        content.check(&extents)?;
        content.extents = extents.into();
        Ok(content)
    }

    /// Returns the next bytes of the content; none at its end.
    pub fn piece(&mut self) -> Result<&[u8]> {
        while self.extents.front().is_some_and(|extent| extent.end() <= self.position) {
            self.extents.pop_front();
        }
        let next = self.extents.front().copied().unwrap_or(Extent { offset: self.size, size: 0 });
        if self.position < next.offset {
            let length = (next.offset - self.position).min(STEP as u64);
            self.position += length;
            return Ok(&ZEROS[..length as usize]);
        }
        self.piece.truncate(0);
        let wanted = (next.end() - self.position).min(STEP as u64);
        let found = self.tar.read_payload(&mut self.piece, wanted)?;
        if found < wanted {
            return Err(self.problem("the map of the sparse file wants more than there is"));
        }
        self.position += found;
        Ok(self.piece.filled())
    }

    /// Reads the map before the content: how many parts there are, then two numbers for each, a line each. It is filled up
    /// to a block.
    fn read_map(&mut self) -> Result<Vec<Extent>> {
        let mut text = Buffer::default();
        let mut ended = 0;
        loop {
            if self.tar.read_payload(&mut text, BLOCK as u64)? < BLOCK as u64 {
                return Err(self.problem("the map of the sparse file ends early"));
            }
            let (found, limit) = (text.len() as u64, self.tar.limits.tar_extension_size);
            if found > limit {
                let what = "the size in bytes of a sparse file's map";
                return Err(Error::TarLimit { offset: self.tar.entry, entry: None, what, found, limit });
            }
            ended += text.filled()[text.len() - BLOCK..].iter().filter(|byte| **byte == b'\n').count() as u64;
            let mut lines = text.filled().split(|byte| *byte == b'\n');
            let numbers = lines.next().and_then(decimal).and_then(|parts| parts.checked_mul(2));
            let numbers = numbers.ok_or_else(|| self.problem("the map of the sparse file has no length"))?;
            if ended > numbers {
                let numbers = lines.take(numbers as usize).map(decimal);
                return pairs(numbers).map_err(|problem| self.problem(problem));
            }
        }
    }

    /// Checks that parts come in their order and lie within the file.
    fn check(&self, extents: &[Extent]) -> Result<()> {
        let mut end = 0;
        for extent in extents {
            if extent.offset < end || extent.offset.checked_add(extent.size).is_none_or(|end| end > self.size)
            {
                return Err(self.problem("the map of the sparse file is out of order, or leads out of it"));
            }
            end = extent.end();
        }
        Ok(())
    }

    fn problem(&self, problem: impl Into<String>) -> Error {
        malformed(self.tar.entry, None, problem)
    }
}
