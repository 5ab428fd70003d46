//! An independent reading of tars and streams, simple enough to be believed: the oracle of other crates' tests.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use restow_oci::Digest;

use crate::entry::BLOCK;

/// What a tar says about one path, in the order of the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainEntry {
    /// The path as written, slashes and all.
    pub path: Vec<u8>,
    /// The typeflag, with the old and the contiguous regular file as `b'0'`.
    pub kind: u8,
    /// The size; 0 for types without content.
    pub size: u64,
    /// The mode as a number.
    pub mode: i64,
    /// The owner.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// The owner's name.
    pub user: Vec<u8>,
    /// The group's name.
    pub group: Vec<u8>,
    /// Seconds since 1970 and nanoseconds to add to them.
    pub modified: (i64, u32),
    /// The access time, if any.
    pub accessed: Option<(i64, u32)>,
    /// The change time, if any.
    pub changed: Option<(i64, u32)>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Major and minor device number.
    pub device: (i64, i64),
    /// Extended attributes, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The digest of the content; for a sparse file, of what is stored.
    pub content: Digest,
}

impl PlainEntry {
    /// Returns the path for people: what is not UTF-8 is replaced.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Lists a tar: PAX and GNU headers folded into their entries, global PAX headers left out, as Go reads it.
///
/// # Panics
///
/// If the tar is not well formed.
pub fn list(tar: &[u8]) -> Vec<PlainEntry> {
    walk(tar).map(|(entry, _)| entry).collect()
}

/// Returns the paths of a tar in order.
///
/// # Panics
///
/// If the tar is not well formed.
pub fn names(tar: &[u8]) -> Vec<String> {
    walk(tar).map(|(entry, _)| entry.name()).collect()
}

/// Returns the stored bytes of each entry in order.
///
/// # Panics
///
/// If the tar is not well formed.
pub fn contents(tar: &[u8]) -> Vec<&[u8]> {
    walk(tar).map(|(_, content)| content).collect()
}

/// Returns the content of the last entry with exactly this path.
///
/// # Panics
///
/// If the tar is not well formed.
pub fn content<'a>(tar: &'a [u8], path: &str) -> Option<&'a [u8]> {
    walk(tar).filter(|(entry, _)| entry.path == path.as_bytes()).last().map(|(_, content)| content)
}

/// Decompresses all members of a gzip stream.
pub fn gunzip(bytes: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes.as_ref()).read_to_end(&mut out)?;
    Ok(out)
}

/// Decompresses all frames of a zstd stream; skippable ones give nothing.
pub fn unzstd(bytes: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
    zstd::decode_all(bytes.as_ref())
}

/// Decompresses gzip or zstd by its first bytes; anything else is returned as it is.
pub fn decompress(bytes: impl AsRef<[u8]>) -> io::Result<Vec<u8>> {
    let bytes = bytes.as_ref();
    match bytes {
        [0x1f, 0x8b, ..] => gunzip(bytes),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => unzstd(bytes),
        _ => Ok(bytes.to_vec()),
    }
}

/// Iterates over the entries and their stored bytes.
fn walk(tar: &[u8]) -> impl Iterator<Item = (PlainEntry, &[u8])> {
    let mut position = 0;
    std::iter::from_fn(move || next(tar, &mut position))
}

fn next<'a>(tar: &'a [u8], position: &mut usize) -> Option<(PlainEntry, &'a [u8])> {
    let mut records = BTreeMap::new();
    let (mut long_name, mut long_link) = (None, None);
    loop {
        let header = tar.get(*position..*position + BLOCK)?;
        if header.iter().all(|byte| *byte == 0) {
            return None;
        }
        check(header, *position);
        *position += BLOCK;
        let mut take = |size: i64| {
            let start = *position;
            let end = start + usize::try_from(size).expect("a size is not negative");
            *position = end.next_multiple_of(BLOCK);
            tar.get(start..end).unwrap_or_else(|| panic!("the payload at byte {start} is cut off"))
        };
        let size = number(&header[124..136]);
        match header[156] {
            b'x' => records = parse_records(take(size)),
            b'g' => drop(take(size)),
            b'L' => long_name = Some(text(take(size))),
            b'K' => long_link = Some(text(take(size))),
            _ => {
                let mut entry = describe(header, &records);
                entry.path = long_name.unwrap_or(entry.path);
                entry.link = long_link.unwrap_or(entry.link);
                let directory = entry.kind == b'\0' && entry.path.ends_with(b"/");
                entry.kind = match entry.kind {
                    _ if directory => b'5',
                    b'\0' | b'7' => b'0',
                    other => other,
                };
                // These have no content, whatever their size says.
                if matches!(entry.kind, b'1'..=b'6') {
                    entry.size = 0;
                }
                if entry.kind == b'S' {
                    skip_sparse_map(header, tar, &mut *position);
                }
                let start = *position;
                let end = start + entry.size as usize;
                let content = tar.get(start..end).unwrap_or_else(|| panic!("{} is cut off", entry.name()));
                *position = end.next_multiple_of(BLOCK);
                entry.content = Digest::sha256(content);
                return Some((entry, content));
            }
        }
    }
}

fn describe(header: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) -> PlainEntry {
    let gnu = &header[257..265] == b"ustar  \0";
    let ustar = &header[257..263] == b"ustar\0";
    let record = |key: &str| records.get(key.as_bytes()).filter(|value| !value.is_empty());
    let words = |key: &str, field: &[u8]| record(key).cloned().unwrap_or_else(|| text(field));
    let figure = |key: &str, field: &[u8]| {
        record(key).map_or_else(
            || number(field),
            |value| std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).expect("a number"),
        )
    };
    let gnu_time = |field: &[u8]| (gnu && field[0] != 0).then(|| (number(field), 0));
    let mut path = text(&header[..100]);
    if ustar && header[345] != 0 {
        path = [text(&header[345..500]), path].join(&b'/');
    }
    PlainEntry {
        path: record("path").cloned().unwrap_or(path),
        kind: header[156],
        size: u64::try_from(figure("size", &header[124..136])).expect("a size is not negative"),
        mode: number(&header[100..108]),
        uid: figure("uid", &header[108..116]),
        gid: figure("gid", &header[116..124]),
        user: if gnu || ustar { words("uname", &header[265..297]) } else { words("uname", b"") },
        group: if gnu || ustar { words("gname", &header[297..329]) } else { words("gname", b"") },
        modified: record("mtime").map_or_else(|| (number(&header[136..148]), 0), |value| time(value)),
        accessed: record("atime").map(|value| time(value)).or_else(|| gnu_time(&header[345..357])),
        changed: record("ctime").map(|value| time(value)).or_else(|| gnu_time(&header[357..369])),
        link: words("linkpath", &header[157..257]),
        device: if gnu || ustar { (number(&header[329..337]), number(&header[337..345])) } else { (0, 0) },
        xattrs: records
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone())))
            .collect(),
        content: Digest::sha256(b""),
    }
}

fn check(header: &[u8], position: usize) {
    let spaced =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let sum: i64 = spaced.map(i64::from).sum();
    assert_eq!(number(&header[148..156]), sum, "the checksum of the header at byte {position} is wrong");
}

/// Splits `length key=value\n` records; a later one replaces an earlier one of the same key.
fn parse_records(mut bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').expect("a record has a length");
        let length: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).expect("a length");
        let (record, rest) = bytes.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").expect("a record ends its line");
        let equals = record.iter().position(|byte| *byte == b'=').expect("a record has a key");
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = rest;
    }
    records
}

fn skip_sparse_map(header: &[u8], tar: &[u8], position: &mut usize) {
    let mut more = header[482];
    while more != 0 {
        more = tar[*position + 504];
        *position += BLOCK;
    }
}

fn text(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Reads octal among spaces and NULs, or base 256.
fn number(field: &[u8]) -> i64 {
    if field[0] & 0x80 != 0 {
        // The first bit marks the form, the second is the sign.
        let first = i64::from(field[0] & 0x7f) - if field[0] & 0x40 != 0 { 0x80 } else { 0 };
        return field[1..].iter().fold(first, |sum, byte| (sum << 8) | i64::from(*byte));
    }
    let digits: String = field.iter().map(|byte| char::from(*byte)).collect();
    let digits = digits.trim_matches(['\0', ' ']);
    if digits.is_empty() { 0 } else { i64::from_str_radix(digits, 8).expect("an octal number") }
}

/// Reads a PAX time, dropping what is finer than a nanosecond.
fn time(value: &[u8]) -> (i64, u32) {
    let value = std::str::from_utf8(value).expect("a time is text");
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let seconds: i64 = whole.parse().expect("seconds");
    let fraction: u32 = format!("{fraction:0<9.9}").parse().expect("a fraction");
    if whole.starts_with('-') && fraction > 0 {
        (seconds - 1, 1_000_000_000 - fraction)
    } else {
        (seconds, fraction)
    }
}
