//! Whole tars: entries, loose extension headers, raw bytes and every kind of end.

use crate::entry;
use crate::entry::BLOCK;
use crate::entry::Entry;

/// How an archive ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// After the last entry's padding.
    None,
    /// With this many zero blocks; two is what a tar should have.
    Blocks(usize),
    /// With two zero blocks and these bytes.
    Then(Vec<u8>),
}

/// Writes a tar of exactly the bytes asked for.
///
/// ```
/// use restow_testkit::{Entry, TarBuilder};
///
/// let tar = TarBuilder::new()
///     .dir("bin/")
///     .file("bin/busybox", b"...")
///     .hardlink("bin/sh", "bin/busybox")
///     .entry(Entry::file("bin/su", "...").mode(0o4755).xattr("user.note", "awkward"))
///     .finish();
/// assert_eq!(tar.len() % 512, 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
}

impl TarBuilder {
    /// Starts an empty tar.
    pub fn new() -> TarBuilder {
        TarBuilder::default()
    }

    /// Returns the offset at which the next entry will start.
    pub fn position(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Adds an entry.
    pub fn entry(self, entry: Entry) -> TarBuilder {
        self.raw(entry.to_bytes())
    }

    /// Adds entries in order.
    pub fn entries(self, entries: impl IntoIterator<Item = Entry>) -> TarBuilder {
        entries.into_iter().fold(self, TarBuilder::entry)
    }

    /// Adds a regular file.
    pub fn file(self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> TarBuilder {
        self.entry(Entry::file(path, content))
    }

    /// Adds a directory.
    pub fn dir(self, path: impl AsRef<[u8]>) -> TarBuilder {
        self.entry(Entry::dir(path))
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> TarBuilder {
        self.entry(Entry::symlink(path, target))
    }

    /// Adds a hard link.
    pub fn hardlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> TarBuilder {
        self.entry(Entry::hardlink(path, target))
    }

    /// Adds a character device.
    pub fn character(self, path: impl AsRef<[u8]>, major: i64, minor: i64) -> TarBuilder {
        self.entry(Entry::character(path, major, minor))
    }

    /// Adds a block device.
    pub fn block(self, path: impl AsRef<[u8]>, major: i64, minor: i64) -> TarBuilder {
        self.entry(Entry::block(path, major, minor))
    }

    /// Adds a named pipe.
    pub fn fifo(self, path: impl AsRef<[u8]>) -> TarBuilder {
        self.entry(Entry::fifo(path))
    }

    /// Adds a PAX header on its own, with well-formed records.
    pub fn pax(self, records: &[(&str, &str)]) -> TarBuilder {
        self.raw_pax(b'x', joined(records))
    }

    /// Adds a global PAX header.
    pub fn global_pax(self, records: &[(&str, &str)]) -> TarBuilder {
        self.raw_pax(b'g', joined(records))
    }

    /// Adds a PAX header of type `x` or `g` whose records are these bytes, well formed or not.
    pub fn raw_pax(self, typeflag: u8, records: impl AsRef<[u8]>) -> TarBuilder {
        self.raw(entry::extension(typeflag, records.as_ref()))
    }

    /// Adds a GNU long name (`L`) header on its own.
    pub fn long_name(self, path: impl AsRef<[u8]>) -> TarBuilder {
        self.raw(entry::gnu_long(b'L', path.as_ref()))
    }

    /// Adds a GNU long link (`K`) header on its own.
    pub fn long_link(self, target: impl AsRef<[u8]>) -> TarBuilder {
        self.raw(entry::gnu_long(b'K', target.as_ref()))
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> TarBuilder {
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    /// Adds zero blocks, where more entries are to follow them.
    pub fn zero_blocks(self, count: usize) -> TarBuilder {
        self.raw(vec![0; count * BLOCK])
    }

    /// Ends the tar with two zero blocks.
    pub fn finish(self) -> Vec<u8> {
        self.finish_with(End::Blocks(2))
    }

    /// Ends the tar in another way. For a cut one, take a slice of what this returns.
    pub fn finish_with(self, end: End) -> Vec<u8> {
        match end {
            End::None => self.bytes,
            End::Blocks(count) => self.zero_blocks(count).bytes,
            End::Then(bytes) => self.zero_blocks(2).raw(bytes).bytes,
        }
    }
}

fn joined(records: &[(&str, &str)]) -> Vec<u8> {
    records.iter().flat_map(|(key, value)| entry::pax_record(key, value)).collect()
}
