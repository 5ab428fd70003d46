//! A tar stream read entry by entry, with every byte of it accounted for.
//!
//! The rules are those of Go's `archive/tar`, which containerd, podman and the eStargz tools read layers with: what
//! they would read differently must not be read here. Where Go is lenient in a way that hides an ambiguity (a
//! global header between another extended header and its entry, repeated keys) this reader refuses.

mod block;
mod pax;
mod sparse;

use std::collections::BTreeMap;
use std::io::Read;

use restow_oci::Limits;

pub(crate) use self::block::plain_header;
pub use self::sparse::{Content, Extent, Map, Sparse};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::path;

/// The unit tar streams are made of: headers are one block, payloads are padded to whole blocks.
pub(crate) const BLOCK: usize = 512;

/// How many extended headers of the largest size may stand before an entry: `x`, `g`, `K` and `L`.
const EXTENSIONS: u64 = 4;

/// How many payload bytes are asked of the stream at once, so that no claimed size is allocated before it arrives.
const STEP: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file (typeflags `0`, NUL and `7`).
    Regular,
    /// A second name of a file in the same layer.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A sparse file (GNU `S`, or a regular file with GNU.sparse extended records): its payload is not its content.
    Sparse,
    /// Any other typeflag.
    Other(u8),
}

/// A point in time as a tar records it: any second that fits, the nanoseconds counting up from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds since that second.
    pub nanoseconds: u32,
}

/// The metadata of one entry, extended headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Where the entry's first header block starts, in tar bytes.
    pub offset: u64,
    /// How many of the bytes that [`TarReader::next`] appended first are padding of the entry before.
    pub padding: usize,
    /// The name as recorded.
    pub name: Vec<u8>,
    /// The link target as recorded.
    pub link_name: Vec<u8>,
    /// What the entry is.
    pub kind: Kind,
    /// The typeflag as recorded.
    pub typeflag: u8,
    /// Bytes of payload that follow; 0 for kinds that have none, whatever the header says.
    pub size: u64,
    /// The size as recorded, also for kinds without payload.
    pub recorded_size: u64,
    /// How the payload of a sparse file becomes its content, unless in a way that is not known.
    pub sparse: Option<Sparse>,
    /// Mode bits as recorded.
    pub mode: i64,
    /// Numeric owner.
    pub uid: i64,
    /// Numeric group.
    pub gid: i64,
    /// Owner's name.
    pub user_name: Vec<u8>,
    /// Group's name.
    pub group_name: Vec<u8>,
    /// Modification time.
    pub modified: Time,
    /// Access time, where recorded.
    pub accessed: Option<Time>,
    /// Change time, where recorded.
    pub changed: Option<Time>,
    /// Device major number as recorded, whatever the kind.
    pub device_major: i64,
    /// Device minor number as recorded, whatever the kind.
    pub device_minor: i64,
    /// Extended attributes (`SCHILY.xattr.*` records).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether a global extended header (typeflag `g`) stands among the header bytes. Its records are not applied.
    pub follows_global: bool,
    /// Whether such a header says anything of the entries after it: anything but a comment.
    pub opens_scope: bool,
}

impl Header {
    /// Returns the name as [`text`](crate::path::text()).
    pub fn display_name(&self) -> String {
        path::text(&self.name).into_owned()
    }

    /// Returns the size of the content: of a sparse file with its holes.
    pub fn content_size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.size, |sparse| sparse.size)
    }
}

/// Reads the entries of a tar stream and hands out its bytes, none lost and none invented.
///
/// [`next`](Self::next), [`read_payload`](Self::read_payload) and [`read_trailing`](Self::read_trailing) append the
/// bytes they consume to a buffer: concatenated in order they are the stream.
#[derive(Debug)]
pub struct TarReader<R> {
    source: R,
    limits: Limits,
    /// Tar bytes consumed.
    position: u64,
    /// Where the current entry starts.
    entry: u64,
    /// Payload bytes of the current entry not yet consumed.
    remaining: u64,
    /// Padding after the current payload.
    padding: usize,
    entries: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads a tar from `source`, which delivers uncompressed bytes.
    pub fn new(source: R, limits: &Limits) -> Self {
        Self {
            source,
            limits: limits.clone(),
            position: 0,
            entry: 0,
            remaining: 0,
            padding: 0,
            entries: 0,
            ended: false,
        }
    }

    /// Returns how many tar bytes have been consumed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the stream behind the tar.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Returns the stream behind the tar, for what else is known of it.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    /// Moves to the next entry and appends its header blocks, after any payload left unread and the padding.
    /// (A payload may be long: to pass over it in bounded memory, read it in steps.)
    ///
    /// Returns `None` at the end of the archive; then what was appended last is padding and end-of-archive blocks,
    /// and [`read_trailing`](Self::read_trailing) gives what may follow. A stream that ends without
    /// end-of-archive blocks, or inside the padding of the last entry, is accepted as it is by every reader.
    pub fn next(&mut self, raw: &mut Buffer) -> Result<Option<Header>> {
        while self.remaining > 0 {
            self.read_payload(raw, STEP)?;
        }
        if self.ended {
            return Ok(None);
        }
        let padding = self.fill(raw, self.padding as u64)?;
        if padding < self.padding {
            self.ended = true;
            return Ok(None);
        }
        self.padding = 0;
        self.read_header(raw, padding)
    }

    /// Appends up to `most` bytes of the current entry's payload and returns how many; 0 at its end.
    pub fn read_payload(&mut self, raw: &mut Buffer, most: u64) -> Result<u64> {
        let wanted = self.remaining.min(most);
        let found = self.fill(raw, wanted)? as u64;
        self.remaining -= found;
        if found < wanted {
            let problem = format!("the tar ends {} bytes before the end of its content", self.remaining);
            return Err(malformed(self.entry, None, problem));
        }
        Ok(found)
    }

    /// Appends the padding behind the current entry's payload, which must have been read to its end.
    pub fn read_padding(&mut self, raw: &mut Buffer) -> Result<()> {
        let found = self.fill(raw, self.padding as u64)?;
        self.ended |= found < self.padding;
        self.padding = 0;
        Ok(())
    }

    /// Appends up to `most` bytes of what follows the end of the archive and returns how many; 0 at the stream's end.
    pub fn read_trailing(&mut self, raw: &mut Buffer, most: u64) -> Result<u64> {
        self.fill(raw, most).map(|found| found as u64)
    }

    /// Starts reading the content of the entry that `header` was returned for last, of which nothing has been read.
    pub fn content(&mut self, header: &Header) -> Result<Content<'_, R>> {
        Content::new(self, header)
    }

    /// Reads past what is left of the current entry's payload, with `scratch` to read into.
    pub fn skip_payload(&mut self, scratch: &mut Buffer) -> Result<()> {
        scratch.truncate(0);
        while self.read_payload(scratch, STEP)? > 0 {
            scratch.truncate(0);
        }
        Ok(())
    }

    /// Reads past what follows the end of the archive, to the stream's end: only there has all of it been verified.
    pub fn finish(&mut self, scratch: &mut Buffer) -> Result<()> {
        scratch.truncate(0);
        while self.read_trailing(scratch, STEP)? > 0 {
            scratch.truncate(0);
        }
        Ok(())
    }

    fn read_header(&mut self, raw: &mut Buffer, padding: usize) -> Result<Option<Header>> {
        let offset = self.position;
        let mut extended: Option<pax::Records> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        let (mut follows_global, mut opens_scope) = (false, false);
        loop {
            let block_offset = self.position;
            let Some(block) = self.read_block(raw)? else {
                if extended.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(malformed(offset, None, "an extended header has no entry after it"));
                }
                return Ok(None);
            };
            let malformed = |problem| malformed(block_offset, None, problem);
            let mut fields = block::parse(&block).map_err(malformed)?;
            // They may come again and again, and all are held.
            let found = block_offset - offset;
            let limit =
                self.limits.tar_extension_size.saturating_add(BLOCK as u64).saturating_mul(EXTENSIONS);
            if found > limit {
                let what = "the size in bytes of the extended headers of a tar entry";
                return Err(Error::TarLimit { offset, entry: None, what, found, limit });
            }
            match fields.typeflag {
                b'x' => {
                    let text = self.read_special(raw, fields.size, block_offset)?;
                    extended = Some(pax::parse(&text).map_err(malformed)?);
                }
                b'g' => {
                    if extended.is_some() || long_name.is_some() || long_link.is_some() {
                        let problem = "a global header stands between an extended header and its entry";
                        return Err(malformed(problem.into()));
                    }
                    let text = self.read_special(raw, fields.size, block_offset)?;
                    let records = pax::parse(&text).map_err(malformed)?;
                    if let Some(key) = records.changes_structure() {
                        return Err(Error::Unlistable {
                            offset: block_offset,
                            entry: None,
                            problem: format!("a global header sets {key:?} for all entries after it"),
                        });
                    }
                    follows_global = true;
                    opens_scope |= records.describe();
                }
                b'L' => long_name = Some(until_nul(self.read_special(raw, fields.size, block_offset)?)),
                b'K' => long_link = Some(until_nul(self.read_special(raw, fields.size, block_offset)?)),
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.tar_entries {
                        return Err(Error::TarLimit {
                            offset,
                            entry: Some(String::from_utf8_lossy(&fields.name).into_owned()),
                            what: "the number of tar entries",
                            found: self.entries,
                            limit: self.limits.tar_entries,
                        });
                    }
                    self.read_sparse_map(raw, &mut fields, offset)?;
                    let header = merge(fields, extended, long_name, long_link, offset)?;
                    self.entry = offset;
                    self.remaining = header.size;
                    self.padding = (header.size.wrapping_neg() % BLOCK as u64) as usize;
                    return Ok(Some(Header { padding, follows_global, opens_scope, ..header }));
                }
            }
        }
    }

    /// Reads a header block, or the end: two blocks of zeros, one at the stream's end, or none.
    fn read_block(&mut self, raw: &mut Buffer) -> Result<Option<[u8; BLOCK]>> {
        for zero_blocks in 0..2 {
            let offset = self.position;
            let start = raw.len();
            let found = self.fill(raw, BLOCK as u64)?;
            if found == 0 {
                break;
            }
            let Ok(block) = <[u8; BLOCK]>::try_from(&raw.filled()[start..]) else {
                let problem = format!("the tar ends after {found} bytes of a 512-byte header");
                return Err(malformed(offset, None, problem));
            };
            if block.iter().any(|byte| *byte != 0) {
                if zero_blocks > 0 {
                    return Err(malformed(offset, None, "a single end-of-archive block is followed by data"));
                }
                return Ok(Some(block));
            }
        }
        self.ended = true;
        Ok(None)
    }

    /// Reads the blocks in which the map of a GNU sparse file goes on; the size in the header does not count them.
    fn read_sparse_map(&mut self, raw: &mut Buffer, fields: &mut block::Fields, entry: u64) -> Result<()> {
        let mut continues = fields.sparse_map_continues;
        let offset = self.position;
        while continues {
            let start = raw.len();
            if self.fill(raw, BLOCK as u64)? < BLOCK {
                return Err(malformed(offset, None, "the tar ends inside the map of a sparse file"));
            }
            let block = &raw.filled()[start..];
            continues = block[block::SPARSE_MAP_CONTINUES] != 0;
            if let Some(Sparse { map: Map::Extents(extents), .. }) = &mut fields.sparse {
                block::add_sparse_parts(&block[..block::SPARSE_MAP_CONTINUES], extents)
                    .map_err(|problem| malformed(offset, None, problem))?;
            }
            let (found, limit) = (self.position - offset, self.limits.tar_extension_size);
            if found > limit {
                return Err(Error::TarLimit {
                    offset: entry,
                    entry: Some(String::from_utf8_lossy(&fields.name).into_owned()),
                    what: "the size in bytes of a sparse file's map",
                    found,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Reads the payload of an extended header, appending it and its padding.
    fn read_special(&mut self, raw: &mut Buffer, size: u64, offset: u64) -> Result<Vec<u8>> {
        if size > self.limits.tar_extension_size {
            return Err(Error::TarLimit {
                offset,
                entry: None,
                what: "the size in bytes of an extended tar header",
                found: size,
                limit: self.limits.tar_extension_size,
            });
        }
        let start = raw.len();
        let padded = size.next_multiple_of(BLOCK as u64);
        if (self.fill(raw, padded)? as u64) < padded {
            return Err(malformed(offset, None, "the tar ends inside an extended header"));
        }
        Ok(raw.filled()[start..start + size as usize].to_vec())
    }

    /// Appends up to `wanted` bytes and returns how many there were; fewer only at the stream's end.
    fn fill(&mut self, raw: &mut Buffer, wanted: u64) -> Result<usize> {
        let mut found = 0u64;
        while found < wanted {
            let room = raw.room((wanted - found).min(STEP) as usize);
            let read = match self.source.read(room) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(crate::decompress::into_error(error, self.position)),
            };
            raw.advance(read);
            found += read as u64;
            self.position += read as u64;
        }
        Ok(found as usize)
    }
}

/// Applies the extended headers to the fields of the last block, in Go's order: records, then long names.
fn merge(
    fields: block::Fields,
    extended: Option<pax::Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    offset: u64,
) -> Result<Header> {
    let mut header = Header {
        offset,
        padding: 0,
        name: fields.name,
        link_name: fields.link_name,
        kind: Kind::Regular,
        typeflag: fields.typeflag,
        size: 0,
        recorded_size: fields.size,
        sparse: fields.sparse,
        mode: fields.mode,
        uid: fields.uid,
        gid: fields.gid,
        user_name: fields.user_name,
        group_name: fields.group_name,
        modified: Time { seconds: fields.modified, nanoseconds: 0 },
        accessed: fields.accessed.map(|seconds| Time { seconds, nanoseconds: 0 }),
        changed: fields.changed.map(|seconds| Time { seconds, nanoseconds: 0 }),
        device_major: fields.device_major,
        device_minor: fields.device_minor,
        xattrs: BTreeMap::new(),
        follows_global: false,
        opens_scope: false,
    };
    let mut sparse = header.typeflag == b'S';
    let mut said_of_sparse = Vec::new();
    if let Some(mut records) = extended {
        said_of_sparse = std::mem::take(&mut records.sparse);
        sparse |= !said_of_sparse.is_empty();
        records
            .apply(&mut header)
            .map_err(|problem| malformed(offset, Some(header.display_name()), problem))?;
    }
    if let Some(name) = long_name.filter(|name| !name.is_empty()) {
        header.name = name;
    }
    if let Some(link) = long_link.filter(|link| !link.is_empty()) {
        header.link_name = link;
    }
    sparse::apply(&said_of_sparse, &mut header)
        .map_err(|problem| malformed(offset, Some(header.display_name()), problem))?;
    header.kind = match header.typeflag {
        _ if sparse => Kind::Sparse,
        // A V7 tar has no directory typeflag and marks one by a trailing slash.
        0 if header.name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::Regular,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Character,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => Kind::Other(other),
    };
    // Kinds that have no content have none whatever the header says.
    header.size = match (header.kind, header.typeflag) {
        (Kind::Directory, _) | (_, b'1'..=b'6') => 0,
        _ => header.recorded_size,
    };
    Ok(header)
}

fn malformed(offset: u64, entry: Option<String>, problem: impl Into<String>) -> Error {
    Error::Tar { offset, entry, problem: problem.into() }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests;
