//! One tar entry, byte for byte: every field can be right, spelled oddly, or wrong.

use std::ops::Range;

/// The modification time of every entry that says nothing else: 2023-11-14T22:13:20Z.
pub const MTIME: i64 = 1_700_000_000;

/// The size of a tar block.
pub(crate) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MODIFIED: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPEFLAG: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const USER: Range<usize> = 265..297;
const GROUP: Range<usize> = 297..329;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const GNU_ACCESSED: Range<usize> = 345..357;
const GNU_CHANGED: Range<usize> = 357..369;
const GNU_SPARSE: usize = 386;
const GNU_SPARSE_MORE: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;

/// Which dialect an entry's header is written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// A ustar header; what it cannot hold goes into a PAX header before it.
    #[default]
    Pax,
    /// A GNU header; long names in `L` and `K` entries, large and negative numbers in base 256.
    /// What only PAX can say (xattrs, fractions of a second) still goes into a PAX header.
    Gnu,
    /// A ustar header and nothing else; writing an entry that does not fit panics.
    Ustar,
    /// A header from before ustar: no magic, no owner names, no devices, no prefix.
    V7,
}

/// How a sparse file is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sparse {
    /// Typeflag `S` with the map in the header and in extension blocks.
    Gnu,
    /// PAX records `GNU.sparse.offset` and `GNU.sparse.numbytes`, once per extent.
    Pax00,
    /// One PAX record `GNU.sparse.map`.
    Pax01,
    /// The map as text before the data.
    Pax10,
}

/// A tar entry in the making: sensible defaults, every field replaceable.
///
/// Paths are written exactly as given: a directory wants its trailing slash from the caller.
#[derive(Debug, Clone)]
pub struct Entry {
    format: Format,
    typeflag: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    payload: Vec<u8>,
    claimed_size: Option<i64>,
    mode: i64,
    uid: i64,
    gid: i64,
    user: Vec<u8>,
    group: Vec<u8>,
    modified: (i64, u32),
    accessed: Option<(i64, u32)>,
    changed: Option<(i64, u32)>,
    device: (i64, i64),
    records: Vec<u8>,
    raw_records: Option<Vec<u8>>,
    patches: Vec<(usize, Vec<u8>)>,
    base256: bool,
    wrong_checksum: bool,
    padding: Option<u8>,
}

impl Entry {
    /// Starts an entry of any type; `typeflag` is written as it is, known or not.
    pub fn new(typeflag: u8, path: impl AsRef<[u8]>) -> Entry {
        Entry {
            format: Format::Pax,
            typeflag,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            payload: Vec::new(),
            claimed_size: None,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: Vec::new(),
            group: Vec::new(),
            modified: (MTIME, 0),
            accessed: None,
            changed: None,
            device: (0, 0),
            records: Vec::new(),
            raw_records: None,
            patches: Vec::new(),
            base256: false,
            wrong_checksum: false,
            padding: Some(0),
        }
    }

    /// A regular file of mode 0644.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Entry {
        Entry::new(b'0', path).payload(content)
    }

    /// A directory of mode 0755.
    pub fn dir(path: impl AsRef<[u8]>) -> Entry {
        Entry::new(b'5', path).mode(0o755)
    }

    /// A symbolic link of mode 0777.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
        Entry::new(b'2', path).link(target).mode(0o777)
    }

    /// A hard link.
    pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
        Entry::new(b'1', path).link(target)
    }

    /// A character device.
    pub fn character(path: impl AsRef<[u8]>, major: i64, minor: i64) -> Entry {
        Entry::new(b'3', path).device(major, minor)
    }

    /// A block device.
    pub fn block(path: impl AsRef<[u8]>, major: i64, minor: i64) -> Entry {
        Entry::new(b'4', path).device(major, minor)
    }

    /// A named pipe.
    pub fn fifo(path: impl AsRef<[u8]>) -> Entry {
        Entry::new(b'6', path)
    }

    /// A sparse file of `size` bytes in which only `extents` (offset, bytes) are stored.
    ///
    /// Many readers insist that all but the last extent are whole blocks, and that a hole at the end is
    /// followed by an empty extent at `size`.
    pub fn sparse(form: Sparse, path: impl AsRef<[u8]>, size: u64, extents: &[(u64, &[u8])]) -> Entry {
        let path = path.as_ref();
        let stored: Vec<u8> = extents.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let map = extents.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64));
        match form {
            Sparse::Gnu => gnu_sparse(path, size, map.collect(), &stored),
            Sparse::Pax00 => map.fold(
                Entry::file(path, stored)
                    .record("GNU.sparse.size", size.to_string())
                    .record("GNU.sparse.numblocks", extents.len().to_string()),
                |entry, (offset, length)| {
                    entry
                        .record("GNU.sparse.offset", offset.to_string())
                        .record("GNU.sparse.numbytes", length.to_string())
                },
            ),
            Sparse::Pax01 => {
                let map: Vec<String> = map.map(|(offset, length)| format!("{offset},{length}")).collect();
                Entry::file("GNUSparseFile.0/sparse", stored)
                    .record("GNU.sparse.size", size.to_string())
                    .record("GNU.sparse.numblocks", extents.len().to_string())
                    .record("GNU.sparse.name", path)
                    .record("GNU.sparse.map", map.join(","))
            }
            Sparse::Pax10 => {
                let mut text = format!("{}\n", extents.len());
                map.for_each(|(offset, length)| text.push_str(&format!("{offset}\n{length}\n")));
                let mut payload = text.into_bytes();
                payload.resize(payload.len().next_multiple_of(BLOCK), 0);
                payload.extend(stored);
                Entry::file("GNUSparseFile.0/sparse", payload)
                    .record("GNU.sparse.major", "1")
                    .record("GNU.sparse.minor", "0")
                    .record("GNU.sparse.name", path)
                    .record("GNU.sparse.realsize", size.to_string())
            }
        }
    }

    /// Sets the dialect of the header.
    pub fn format(mut self, format: Format) -> Entry {
        self.format = format;
        self
    }

    /// Writes a GNU header.
    pub fn gnu(self) -> Entry {
        self.format(Format::Gnu)
    }

    /// Writes a plain ustar header; panics when built if the entry does not fit one.
    pub fn ustar(self) -> Entry {
        self.format(Format::Ustar)
    }

    /// Writes a header from before ustar.
    pub fn v7(self) -> Entry {
        self.format(Format::V7)
    }

    /// Replaces the type, as `b'\0'` for a regular file of old.
    pub fn typeflag(mut self, typeflag: u8) -> Entry {
        self.typeflag = typeflag;
        self
    }

    /// Sets the target of a link; on other types it is just a field that is not empty.
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Entry {
        self.link = target.as_ref().to_vec();
        self
    }

    /// Sets the bytes after the header, whatever the type.
    pub fn payload(mut self, bytes: impl AsRef<[u8]>) -> Entry {
        self.payload = bytes.as_ref().to_vec();
        self
    }

    /// Lets the header claim this size; the payload that follows stays what it is.
    pub fn claim_size(mut self, size: i64) -> Entry {
        self.claimed_size = Some(size);
        self
    }

    /// Takes mode, owner, times and further records from another entry.
    pub fn like(self, other: &Entry) -> Entry {
        Entry {
            format: self.format,
            typeflag: self.typeflag,
            path: self.path,
            link: self.link,
            payload: self.payload,
            claimed_size: self.claimed_size,
            ..other.clone()
        }
    }

    /// Sets the mode field, file type bits and all.
    pub fn mode(mut self, mode: i64) -> Entry {
        self.mode = mode;
        self
    }

    /// Sets the numeric owner.
    pub fn owner(mut self, uid: i64, gid: i64) -> Entry {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Sets the owner's names.
    pub fn names(mut self, user: impl AsRef<[u8]>, group: impl AsRef<[u8]>) -> Entry {
        self.user = user.as_ref().to_vec();
        self.group = group.as_ref().to_vec();
        self
    }

    /// Sets the modification time in whole seconds; negative is before 1970.
    pub fn mtime(self, seconds: i64) -> Entry {
        self.modified(seconds, 0)
    }

    /// Sets the modification time to `seconds` plus `nanoseconds`, so (-2, 500000000) is -1.5.
    pub fn modified(mut self, seconds: i64, nanoseconds: u32) -> Entry {
        self.modified = (seconds, nanoseconds);
        self
    }

    /// Sets the access time, in the header for GNU and as a PAX record otherwise.
    pub fn accessed(mut self, seconds: i64, nanoseconds: u32) -> Entry {
        self.accessed = Some((seconds, nanoseconds));
        self
    }

    /// Sets the change time, in the header for GNU and as a PAX record otherwise.
    pub fn changed(mut self, seconds: i64, nanoseconds: u32) -> Entry {
        self.changed = Some((seconds, nanoseconds));
        self
    }

    /// Sets the device numbers; on other types they are just fields that are not zero.
    pub fn device(mut self, major: i64, minor: i64) -> Entry {
        self.device = (major, minor);
        self
    }

    /// Adds an extended attribute as a `SCHILY.xattr.` record.
    pub fn xattr(self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Entry {
        let key = [b"SCHILY.xattr.", name.as_ref()].concat();
        self.record(key, value)
    }

    /// Adds a PAX record. It stands after the records the entry needs itself, so it wins over them.
    pub fn record(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Entry {
        self.records.extend(pax_record(key, value));
        self
    }

    /// Replaces the whole payload of the PAX header, well formed or not.
    pub fn raw_records(mut self, bytes: impl AsRef<[u8]>) -> Entry {
        self.raw_records = Some(bytes.as_ref().to_vec());
        self
    }

    /// Writes all numbers in base 256, also those that would fit in octal.
    pub fn base256(mut self) -> Entry {
        self.base256 = true;
        self
    }

    /// Overwrites header bytes before the checksum is taken.
    pub fn header_bytes(mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Entry {
        self.patches.push((offset, bytes.as_ref().to_vec()));
        self
    }

    /// Writes a checksum that is off by one.
    pub fn wrong_checksum(mut self) -> Entry {
        self.wrong_checksum = true;
        self
    }

    /// Fills the last block of the payload with this byte, not with zeros.
    pub fn padding(mut self, byte: u8) -> Entry {
        self.padding = Some(byte);
        self
    }

    /// Leaves the last block of the payload short.
    pub fn no_padding(mut self) -> Entry {
        self.padding = None;
        self
    }

    /// Returns the entry's bytes: extension headers, header, payload, padding.
    ///
    /// # Panics
    ///
    /// If a plain ustar or older header cannot hold a field.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut header = [0; BLOCK];
        let mut records = Vec::new();
        let mut long = Vec::new();
        let spill = |key: &str, value: &[u8], records: &mut Vec<u8>| match self.format {
            Format::Pax | Format::Gnu => records.extend(pax_record(key, value)),
            Format::Ustar | Format::V7 => {
                panic!("{key} does not fit into a header of format {:?}", self.format)
            }
        };

        if self.format == Format::Gnu {
            for (typeflag, text, field) in [(b'K', &self.link, LINK), (b'L', &self.path, NAME)] {
                if text.len() > field.len() {
                    long.extend(gnu_long(typeflag, text));
                }
                put(&mut header[field], text);
            }
        } else {
            match self.format {
                Format::V7 => (self.path.len() <= NAME.len()).then_some((0, 0)),
                _ => split_path(&self.path),
            }
            .filter(|_| self.format != Format::Pax || self.path.is_ascii())
            .map(|(prefix, name)| {
                put(&mut header[PREFIX], &self.path[..prefix]);
                put(&mut header[NAME], &self.path[name..]);
            })
            .unwrap_or_else(|| {
                spill("path", &self.path, &mut records);
                put(&mut header[NAME], &self.path);
            });
            if self.link.len() > LINK.len() || (self.format == Format::Pax && !self.link.is_ascii()) {
                spill("linkpath", &self.link, &mut records);
            }
            put(&mut header[LINK], &self.link);
        }

        let (modified, fraction) = self.modified;
        if fraction != 0 {
            spill("mtime", decimal(modified, fraction).as_bytes(), &mut records);
        }
        let size = self.claimed_size.unwrap_or(self.payload.len() as i64);
        for (field, key, value) in [
            (MODE, "mode", self.mode),
            (UID, "uid", self.uid),
            (GID, "gid", self.gid),
            (SIZE, "size", size),
            (MODIFIED, "mtime", modified),
        ] {
            let wide = self.base256 || self.format == Format::Gnu;
            if number(&mut header[field], value, self.base256, wide) {
                continue;
            }
            // PAX has no record for the mode; a mode this large must be asked for in base 256.
            assert_ne!(key, "mode", "mode {value:o} does not fit");
            if key != "mtime" || fraction == 0 {
                spill(key, value.to_string().as_bytes(), &mut records);
            }
        }
        if self.format != Format::V7 {
            let gnu = self.format == Format::Gnu;
            header[MAGIC].copy_from_slice(if gnu { b"ustar  \0" } else { b"ustar\x0000" });
            for (field, key, value) in [(USER, "uname", &self.user), (GROUP, "gname", &self.group)] {
                if value.len() > field.len() || (self.format == Format::Pax && !value.is_ascii()) {
                    spill(key, value, &mut records);
                }
                put(&mut header[field], value);
            }
            let special = matches!(self.typeflag, b'3' | b'4');
            for (field, value) in [(MAJOR, self.device.0), (MINOR, self.device.1)] {
                // Like GNU tar, leave the fields empty where they mean nothing.
                if special || value != 0 {
                    let fits = number(&mut header[field], value, self.base256, true);
                    assert!(fits, "device number {value} does not fit");
                }
            }
        }
        for (key, field, time) in
            [("atime", GNU_ACCESSED, self.accessed), ("ctime", GNU_CHANGED, self.changed)]
        {
            match time {
                Some((seconds, 0)) if self.format == Format::Gnu => {
                    number(&mut header[field], seconds, self.base256, true);
                }
                Some((seconds, fraction)) => {
                    spill(key, decimal(seconds, fraction).as_bytes(), &mut records);
                }
                None => {}
            }
        }

        header[TYPEFLAG] = self.typeflag;
        for (offset, bytes) in &self.patches {
            header[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        seal(&mut header, self.wrong_checksum);

        records.extend(&self.records);
        let records = self.raw_records.as_ref().unwrap_or(&records);
        let mut out = Vec::with_capacity(self.payload.len() + 4 * BLOCK);
        if !records.is_empty() || self.raw_records.is_some() {
            out.extend(extension(b'x', records));
        }
        out.extend(long);
        out.extend(header);
        out.extend(&self.payload);
        if let Some(byte) = self.padding {
            out.resize(out.len().next_multiple_of(BLOCK), byte);
        }
        out
    }
}

/// Returns one PAX record, with the length that counts itself.
pub fn pax_record(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (key, value) = (key.as_ref(), value.as_ref());
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Returns a PAX header of type `x` or `g` with these bytes as records.
pub(crate) fn extension(typeflag: u8, records: &[u8]) -> Vec<u8> {
    Entry::new(typeflag, "PaxHeaders/entry").ustar().payload(records).mtime(0).to_bytes()
}

/// Returns a GNU long name (`L`) or long link (`K`) entry.
pub(crate) fn gnu_long(typeflag: u8, text: &[u8]) -> Vec<u8> {
    Entry::new(typeflag, "././@LongLink").gnu().payload([text, b"\0"].concat()).mtime(0).to_bytes()
}

fn gnu_sparse(path: &[u8], size: u64, map: Vec<(u64, u64)>, stored: &[u8]) -> Entry {
    const IN_HEADER: usize = 4;
    const IN_EXTENSION: usize = 21;
    let pairs = |map: &[(u64, u64)]| -> Vec<u8> {
        map.iter()
            .flat_map(|(offset, length)| format!("{offset:011o}\0{length:011o}\0").into_bytes())
            .collect()
    };
    let (first, rest) = map.split_at(map.len().min(IN_HEADER));
    let blocks = rest.chunks(IN_EXTENSION).enumerate();
    let mut payload = Vec::new();
    for (position, extents) in blocks {
        let mut block = pairs(extents);
        block.resize(BLOCK, 0);
        block[IN_EXTENSION * 24] = u8::from((position + 1) * IN_EXTENSION < rest.len());
        payload.extend(block);
    }
    payload.extend(stored);
    Entry::new(b'S', path)
        .gnu()
        .payload(payload)
        .claim_size(stored.len() as i64)
        .header_bytes(GNU_SPARSE, pairs(first))
        .header_bytes(GNU_SPARSE_MORE, [u8::from(!rest.is_empty())])
        .header_bytes(GNU_REAL_SIZE.start, format!("{size:011o}\0"))
}

/// Finds where a path divides into prefix and name: `(end of prefix, start of name)`.
fn split_path(path: &[u8]) -> Option<(usize, usize)> {
    if path.len() <= NAME.len() {
        return Some((0, 0));
    }
    // The slash between the two is not stored; a slash at the end belongs to the name.
    let latest = (path.len() - 1).min(PREFIX.len() + 1);
    let slash = path[..latest].iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0)?;
    (path.len() - slash - 1 <= NAME.len()).then_some((slash, slash + 1))
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Writes a number in octal, or in base 256 where `wide` allows it; returns whether it fitted.
fn number(field: &mut [u8], value: i64, force_wide: bool, wide: bool) -> bool {
    let digits = field.len() - 1;
    let octal = format!("{value:0digits$o}");
    if !force_wide && value >= 0 && octal.len() == digits {
        field[..digits].copy_from_slice(octal.as_bytes());
        return true;
    }
    if !wide {
        put(field, "0".repeat(digits).as_bytes());
        return false;
    }
    let sign = if value < 0 { 0xff } else { 0 };
    let bytes = value.to_be_bytes();
    field.fill(sign);
    let length = field.len().min(bytes.len());
    let end = field.len();
    field[end - length..].copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] = if value < 0 { 0xff } else { 0x80 | (field[0] & 0x7f) };
    true
}

/// Spells a time as PAX does: the sign applies to the whole number, the fraction without trailing zeros.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Fills in the checksum: the sum of all bytes, the checksum's own counting as spaces.
fn seal(header: &mut [u8; BLOCK], wrong: bool) {
    header[CHECKSUM].fill(b' ');
    let sum: u32 = header.iter().copied().map(u32::from).sum::<u32>() + u32::from(wrong);
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
