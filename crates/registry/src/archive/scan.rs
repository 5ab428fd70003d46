//! The entries of a tar: their names and where their contents lie.
//!
//! Only what tools write into archives of layouts is understood: ustar headers, PAX `path` and `size`, GNU
//! long names.

use std::fmt;
use std::path::Path;

use restow_content::Blob;
use restow_oci::Limits;

use crate::Error;
use crate::Result;

const BLOCK: u64 = 512;

/// An entry, whose name is without `./` at its start.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Where the header starts.
    pub(super) header: u64,
    /// Where the content starts.
    pub(super) data: u64,
    pub(super) size: u64,
    /// Where a link leads.
    pub(super) link: String,
}

impl Entry {
    pub(super) fn error(&self, path: &Path, problem: String) -> Error {
        Error::Archive { path: path.to_owned(), offset: self.header, problem }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
    Special,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::File => "regular file",
            Kind::Directory => "directory",
            Kind::Link => "link",
            Kind::Special => "special file",
        })
    }
}

/// Visits the entries of `tar` in their order.
pub(super) fn entries(
    path: &Path,
    tar: &dyn Blob,
    limits: &Limits,
    visit: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let mut header = 0;
    let mut extension = Extension::default();
    for _ in 0..=limits.nodes {
        let error = |problem: &str| Error::Archive {
            path: path.to_owned(),
            offset: header,
            problem: problem.to_owned(),
        };
        // Some writers leave out the blocks of zeros at the end.
        if header == tar.size() {
            return if extension.is_empty() { Ok(()) } else { Err(error("an extension without its entry")) };
        }
        if tar.size() - header < BLOCK {
            return Err(error("the archive ends in a header"));
        }
        let block = bytes(path, tar, header, BLOCK)?;
        if is_zero(&block) {
            let next = header + BLOCK;
            // Some readers go on after one block of zeros, and would find another archive.
            return match tar.size() - next < BLOCK || is_zero(&bytes(path, tar, next, BLOCK)?) {
                true => Ok(()),
                false => Err(error("a single block of zeros does not end an archive")),
            };
        }
        if header == 0 && (block.starts_with(&[0x1f, 0x8b]) || block.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])) {
            return Err(error("the archive is compressed, which is not supported yet by this version,"));
        }
        if !checksum_holds(&block) {
            return Err(error(if header == 0 { "the file is not a tar" } else { "a header is damaged" }));
        }
        let size = number(&block[124..136]).ok_or_else(|| error("a size is malformed"))?;
        let kind = block[156];
        let own_size = match kind {
            // No content, whatever the header says.
            b'1'..=b'6' => 0,
            // Extensions describe themselves.
            b'x' | b'g' | b'L' | b'K' => size,
            _ => extension.size.unwrap_or(size),
        };
        let data = header + BLOCK;
        let end = data.checked_add(own_size).filter(|&end| end <= tar.size());
        let end = end.ok_or_else(|| error("the archive ends in an entry"))?;
        if matches!(kind, b'x' | b'L') {
            if own_size > limits.tar_extension_size {
                return Err(error("an extension is too large"));
            }
            let content = bytes(path, tar, data, own_size)?;
            extension.read(kind, &content).ok_or_else(|| error("an extension is malformed"))?;
        } else if !matches!(kind, b'g' | b'K') {
            let Extension { long_name, name, .. } = std::mem::take(&mut extension);
            let name = long_name.or(name).unwrap_or_else(|| own_name(&block));
            let mut name = String::from_utf8_lossy(&name).into_owned();
            while let Some(rest) = name.strip_prefix("./") {
                name = rest.to_owned();
            }
            let kind = match kind {
                0 | b'0' | b'7' => Kind::File,
                b'5' => Kind::Directory,
                b'1' | b'2' => Kind::Link,
                _ => Kind::Special,
            };
            let link = String::from_utf8_lossy(until_nul(&block[157..257])).into_owned();
            visit(Entry { name, kind, header, data, size: own_size, link })?;
        }
        // The last entry may lack its padding.
        header = end.next_multiple_of(BLOCK).min(tar.size());
    }
    Err(Error::TooMany { what: path.display().to_string(), limit: limits.nodes })
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Reads `size` bytes of the archive at `offset`.
pub(super) fn bytes(path: &Path, tar: &dyn Blob, offset: u64, size: u64) -> Result<Vec<u8>> {
    let failed = |offset, problem: String| Error::Archive { path: path.to_owned(), offset, problem };
    let length = usize::try_from(size).map_err(|error| failed(offset, error.to_string()))?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let at = offset + filled as u64;
        match tar.read_at(&mut bytes[filled..], at) {
            Ok(0) => return Err(failed(at, "the archive has shrunk".to_owned())),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(at, error.to_string())),
        }
    }
    Ok(bytes)
}

/// What extension headers say of the entry that follows them.
#[derive(Default)]
struct Extension {
    /// GNU's long name, which comes before the one of PAX.
    long_name: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extension {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.name.is_none() && self.size.is_none()
    }

    fn read(&mut self, kind: u8, content: &[u8]) -> Option<()> {
        if kind == b'L' {
            self.long_name = Some(until_nul(content).to_vec());
            return Some(());
        }
        // Of several PAX headers the last one counts, as a whole.
        (self.name, self.size) = (None, None);
        let mut rest = content;
        while !rest.is_empty() {
            let space = rest.iter().position(|&byte| byte == b' ')?;
            let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
            let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                _ if value.is_empty() => {}
                b"path" => self.name = Some(value.to_vec()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                _ => {}
            }
            rest = &rest[length..];
        }
        Some(())
    }
}

/// Returns the name that the header itself holds.
fn own_name(block: &[u8]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
        [prefix, name].join(&b'/')
    } else {
        name.to_vec()
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Parses a number: octal digits between spaces and NULs, or GNU's big-endian form. A negative one is
/// malformed here.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let start = u64::from(field[0] & 0x7f);
        return field[1..]
            .iter()
            .try_fold(start, |value, &byte| value.checked_mul(256).map(|value| value | u64::from(byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// Compares the checksum with the sum of the header's bytes, its own field taken as spaces.
fn checksum_holds(block: &[u8]) -> bool {
    let own = 148..156;
    let bytes = || {
        block.iter().enumerate().map(|(position, &byte)| if own.contains(&position) { b' ' } else { byte })
    };
    let unsigned: u64 = bytes().map(u64::from).sum();
    // Some old writers added signed bytes.
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    let found = number(&block[own.clone()]);
    found == Some(unsigned) || found.is_some_and(|found| i64::try_from(found) == Ok(signed))
}
