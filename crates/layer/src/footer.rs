//! The last bytes of a seekable layer, which say where its table of contents is.
//!
//! Two formats exist for zstd, each in a skippable frame (magic `50 2a 4d 18`, then the length of what follows, LE32).
//! All numbers are LE64; the type is 1.
//!
//! | bytes | stargz (40) | podman (64) |
//! |---|---|---|
//! | 0–7 | offset of the compressed table | the same |
//! | 8–15 | its compressed size | the same |
//! | 16–23 | its uncompressed size | the same |
//! | 24–31 | type | type |
//! | 32–39 | `GnUlInUx` | offset of the compressed tar-split |
//! | 40–55 | | its compressed and its uncompressed size |
//! | 56–63 | | `GNUlInUx` |
//!
//! For gzip the footer is an empty member, whose extra field (RFC 1952, 2.3.1.1) holds the offset in 16 lower-case
//! hexadecimal digits and `STARGZ`: in a subfield `SG` (51 bytes in all), or, before that was settled, bare (47 bytes).
//! A subfield `SG` that holds `STARGZEXTERNALTOC` (46 bytes) sends the reader to another blob.

use std::fmt;

use crate::{Error, Result};

/// How many bytes at the end of a blob [`parse`] wants to see: both zstd footers.
pub const TAIL: usize = PODMAN_SIZE + STARGZ_SIZE;

/// The length of the header of a skippable frame.
pub(crate) const SKIPPABLE_HEADER: u64 = 8;

const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const STARGZ_SIZE: usize = 48;
const STARGZ_MAGIC: &[u8] = b"GnUlInUx";
const PODMAN_SIZE: usize = 72;
const PODMAN_MAGIC: &[u8] = b"GNUlInUx";
/// The only type of table there is.
const TOC_TYPE: u64 = 1;

const GZIP_SIZE: usize = 51;
const LEGACY_GZIP_SIZE: usize = 47;
const EXTERNAL_SIZE: usize = 46;
const GZIP_MAGIC: &[u8] = b"STARGZ";

/// Where a compressed stream lies in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where it starts.
    pub offset: u64,
    /// How many bytes it takes in the blob.
    pub size: u64,
    /// How many bytes come out of it.
    pub uncompressed_size: u64,
}

impl Position {
    /// Reads what annotations say of a table of contents: `offset:size:uncompressed size:type`.
    pub fn parse_toc(text: &str) -> Result<Self> {
        match numbers(text)?[..] {
            [offset, size, uncompressed_size, TOC_TYPE] => Ok(Self { offset, size, uncompressed_size }),
            [_, _, _, kind] => {
                Err(Error::Footer(format!("position {text:?} has type {kind}, expected type {TOC_TYPE}")))
            }
            _ => Err(Error::Footer(format!("expected four numbers, found position {text:?}"))),
        }
    }

    /// Reads what annotations say of a tar-split: `offset:size:uncompressed size`.
    pub fn parse_tar_split(text: &str) -> Result<Self> {
        match numbers(text)?[..] {
            [offset, size, uncompressed_size] => Ok(Self { offset, size, uncompressed_size }),
            _ => Err(Error::Footer(format!("expected three numbers, found position {text:?}"))),
        }
    }

    /// Returns the form that [`parse_toc`](Self::parse_toc) reads.
    pub fn toc_annotation(&self) -> String {
        format!("{self}:{TOC_TYPE}")
    }

    /// Returns the form that [`parse_tar_split`](Self::parse_tar_split) reads.
    pub fn tar_split_annotation(&self) -> String {
        self.to_string()
    }

    /// Returns where it ends, if it lies as a skippable frame's content between `start` and `end`.
    pub(crate) fn end_within(&self, start: u64, end: u64) -> Result<u64> {
        let fits = |own_end: &u64| {
            self.size > 0
                && start.checked_add(SKIPPABLE_HEADER).is_some_and(|first| first <= self.offset)
                && *own_end <= end
        };
        self.offset.checked_add(self.size).filter(fits).ok_or_else(|| {
            Error::Footer(format!(
                "{} bytes at {} do not lie between bytes {start} and {end}",
                self.size, self.offset
            ))
        })
    }

    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..].copy_from_slice(&self.uncompressed_size.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self { offset: number(bytes, 0), size: number(bytes, 8), uncompressed_size: number(bytes, 16) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.offset, self.size, self.uncompressed_size)
    }
}

/// Reads decimal numbers between colons, and nothing that Go's `Sscanf` would forgive.
fn numbers(text: &str) -> Result<Vec<u64>> {
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
    let numbers = text.split(':').take(5).map(number).collect::<Option<_>>();
    numbers.ok_or_else(|| Error::Footer(format!("position {text:?} is not made of decimal numbers")))
}

fn number(bytes: &[u8], start: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[start..start + 8]);
    u64::from_le_bytes(number)
}

/// What the end of a blob says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Footer {
    /// A layer of zstd frames.
    Zstd {
        /// The compressed table of contents.
        toc: Position,
        /// The compressed tar-split, where podman's footer names one.
        tar_split: Option<Position>,
        /// Whether podman's footer is there.
        podman: bool,
        /// Where the first footer starts.
        start: u64,
    },
    /// A layer of gzip members, the last one but the footer holding the table of contents in a tar.
    Gzip {
        /// Where that member starts.
        toc_offset: u64,
        /// Where the footer starts.
        start: u64,
    },
    /// A layer of gzip members whose table of contents is in another blob.
    ExternalToc {
        /// Where the footer starts.
        start: u64,
    },
}

/// Reads the footer out of the last [`TAIL`] bytes of a blob, or out of the whole blob if it is shorter.
///
/// Returns `None` if nothing there looks like a footer, and an error if something does but is none.
pub fn parse(tail: &[u8], blob_size: u64) -> Result<Option<Footer>> {
    if tail.ends_with(STARGZ_MAGIC) || tail.ends_with(PODMAN_MAGIC) {
        return parse_zstd(tail, blob_size).map(Some);
    }
    let longest = &tail[tail.len().saturating_sub(GZIP_SIZE)..];
    if longest.windows(GZIP_MAGIC.len()).any(|window| window == GZIP_MAGIC) {
        return parse_gzip(tail, blob_size).map(Some);
    }
    Ok(None)
}

/// Tells whether the footers of a zstd layer, of so many bytes together, end with stargz's.
pub(crate) fn is_stargz(size: u64) -> bool {
    size == STARGZ_SIZE as u64 || size == TAIL as u64
}

fn parse_zstd(tail: &[u8], blob_size: u64) -> Result<Footer> {
    let (stargz, before) = match strip(tail, STARGZ_SIZE, STARGZ_MAGIC)? {
        Some((content, before)) => (Some(content), before),
        None => (None, tail),
    };
    // Behind a table that is read through the last footer, podman's may be missing.
    let podman =
        strip(before, PODMAN_SIZE, PODMAN_MAGIC).or_else(|error| stargz.map_or(Err(error), |_| Ok(None)))?;

    let mut start = blob_size.checked_sub((tail.len() - before.len()) as u64);
    let mut found = None;
    let mut tar_split = None;
    for content in [stargz, podman.map(|(content, _)| content)].into_iter().flatten() {
        let toc = Position::from_bytes(content);
        let kind = number(content, 24);
        if kind != TOC_TYPE {
            return Err(Error::Footer(format!("type {kind}, expected type {TOC_TYPE}")));
        }
        if let Some(other) = found.filter(|other| *other != toc) {
            return Err(Error::Footer(format!(
                "one puts the table of contents at {other}, the other at {toc}"
            )));
        }
        found = Some(toc);
        if content.len() + SKIPPABLE_HEADER as usize == PODMAN_SIZE {
            let position = Position::from_bytes(&content[32..]);
            tar_split = (position.offset != 0).then_some(position);
            start = start.and_then(|start| start.checked_sub(PODMAN_SIZE as u64));
        }
    }
    let (Some(toc), Some(start)) = (found, start) else {
        return Err(Error::Footer("it is longer than the blob".into()));
    };
    let toc_end = toc.end_within(0, start)?;
    if let Some(tar_split) = tar_split {
        tar_split.end_within(toc_end, start)?;
    }
    Ok(Footer::Zstd { toc, tar_split, podman: podman.is_some(), start })
}

/// Takes a skippable frame of `size` bytes that ends in `magic` off the end of `tail`.
fn strip<'a>(tail: &'a [u8], size: usize, magic: &[u8]) -> Result<Option<(&'a [u8], &'a [u8])>> {
    if !tail.ends_with(magic) {
        return Ok(None);
    }
    let split = tail.len().checked_sub(size).ok_or_else(|| Error::Footer("it is cut off".into()))?;
    let (before, footer) = tail.split_at(split);
    let (header, content) = footer.split_at(SKIPPABLE_HEADER as usize);
    if header != skippable_header(content.len() as u32) {
        return Err(Error::Footer("it is not in a skippable frame of its own".into()));
    }
    Ok(Some((content, before)))
}

fn parse_gzip(tail: &[u8], blob_size: u64) -> Result<Footer> {
    if tail.ends_with(&external()) {
        return Ok(Footer::ExternalToc { start: blob_size.saturating_sub(EXTERNAL_SIZE as u64) });
    }
    for (size, digits) in [(GZIP_SIZE, 16..32), (LEGACY_GZIP_SIZE, 12..28)] {
        let Some(footer) = tail.len().checked_sub(size).map(|split| &tail[split..]) else { continue };
        let Some(toc_offset) = hexadecimal(&footer[digits]) else { continue };
        // Every byte of a footer is settled, so there is no second way to write it.
        if footer != gzip(toc_offset) && footer != legacy_gzip(toc_offset) {
            continue;
        }
        let start = blob_size.saturating_sub(size as u64);
        if toc_offset >= start {
            let problem =
                format!("the table of contents would start at byte {toc_offset}, the footer at {start}");
            return Err(Error::Footer(problem));
        }
        return Ok(Footer::Gzip { toc_offset, start });
    }
    Err(Error::Footer("it is not laid out as one of eStargz".into()))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| match digit {
        b'0'..=b'9' => Some(value << 4 | u64::from(digit - b'0')),
        b'a'..=b'f' => Some(value << 4 | u64::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// Returns the header of a skippable frame of `length` bytes.
pub(crate) fn skippable_header(length: u32) -> [u8; SKIPPABLE_HEADER as usize] {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&SKIPPABLE_MAGIC);
    header[4..].copy_from_slice(&length.to_le_bytes());
    header
}

/// Returns the length of the skippable frame that `header` starts, or `None` if it starts none.
pub(crate) fn skippable_length(header: [u8; SKIPPABLE_HEADER as usize]) -> Option<u64> {
    let [kind, magic @ .., a, b, c, d] = header;
    let skippable = kind & 0xf0 == SKIPPABLE_MAGIC[0] && magic == SKIPPABLE_MAGIC[1..];
    skippable.then(|| u32::from_le_bytes([a, b, c, d]).into())
}

/// Returns the last frame of a zstd layer for containerd's reader.
pub(crate) fn stargz(toc: Position) -> [u8; STARGZ_SIZE] {
    let mut frame = [0; STARGZ_SIZE];
    frame[..8].copy_from_slice(&skippable_header(STARGZ_SIZE as u32 - 8));
    frame[8..32].copy_from_slice(&toc.to_bytes());
    frame[32..40].copy_from_slice(&TOC_TYPE.to_le_bytes());
    frame[40..].copy_from_slice(STARGZ_MAGIC);
    frame
}

/// Returns the last frame of a zstd layer as podman's tools write it.
pub(crate) fn podman(toc: Position, tar_split: Position) -> [u8; PODMAN_SIZE] {
    let mut frame = [0; PODMAN_SIZE];
    frame[..8].copy_from_slice(&skippable_header(PODMAN_SIZE as u32 - 8));
    frame[8..32].copy_from_slice(&toc.to_bytes());
    frame[32..40].copy_from_slice(&TOC_TYPE.to_le_bytes());
    frame[40..64].copy_from_slice(&tar_split.to_bytes());
    frame[64..].copy_from_slice(PODMAN_MAGIC);
    frame
}

/// Returns the last member of an eStargz layer.
pub(crate) fn gzip(toc_offset: u64) -> Vec<u8> {
    empty_member(&subfield(format!("{toc_offset:016x}STARGZ").as_bytes()))
}

/// Returns the last member of a layer of the format that came before eStargz.
pub(crate) fn legacy_gzip(toc_offset: u64) -> Vec<u8> {
    empty_member(format!("{toc_offset:016x}STARGZ").as_bytes())
}

/// Returns the last member of an eStargz layer without a table of contents.
pub(crate) fn external() -> Vec<u8> {
    empty_member(&subfield(b"STARGZEXTERNALTOC"))
}

fn subfield(content: &[u8]) -> Vec<u8> {
    [b"SG", &(content.len() as u16).to_le_bytes()[..], content].concat()
}

/// Lays a gzip member out by hand: what a compressor makes of no bytes differs between versions.
fn empty_member(extra: &[u8]) -> Vec<u8> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    const EMPTY_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
    const CHECKSUM_AND_SIZE: [u8; 8] = [0; 8];
    [&HEADER[..], &(extra.len() as u16).to_le_bytes(), extra, &EMPTY_BLOCK, &CHECKSUM_AND_SIZE].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOC: Position = Position { offset: 0x12345, size: 100, uncompressed_size: 400 };
    const TAR_SPLIT: Position = Position { offset: 0x123b1, size: 50, uncompressed_size: 200 };
    const BLOB: u64 = 0x20000;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
        digits.chunks(2).map(|pair| hexadecimal(pair).unwrap() as u8).collect()
    }

    fn problem(result: Result<Option<Footer>>) -> String {
        match result {
            Err(Error::Footer(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn footers_have_the_bytes_of_their_specifications() {
        let stargz_bytes = hex(
            "502a4d1828000000 4523010000000000 6400000000000000 9001000000000000 0100000000000000 476e556c496e5578",
        );
        let podman_bytes =
            hex("502a4d1840000000 4523010000000000 6400000000000000 9001000000000000 0100000000000000
             b123010000000000 3200000000000000 c800000000000000 474e556c496e5578"
                .replace('\n', "")
                .as_str());
        assert_eq!(stargz(TOC).to_vec(), stargz_bytes);
        assert_eq!(podman(TOC, TAR_SPLIT).to_vec(), podman_bytes);
        assert_eq!(
            gzip(0x12345),
            [
                &hex("1f8b0804 00000000 00 ff 1a00 5347 1600"),
                &b"0000000000012345STARGZ"[..],
                &hex("010000ffff"),
                &[0; 8]
            ]
            .concat()
        );
        assert_eq!(gzip(0).len(), GZIP_SIZE);
        assert_eq!(legacy_gzip(0).len(), LEGACY_GZIP_SIZE);
        assert_eq!(external().len(), EXTERNAL_SIZE);
    }

    #[test]
    fn a_footer_is_read_back() {
        let both = [&podman(TOC, TAR_SPLIT)[..], &stargz(TOC)].concat();
        let no_tar_split = podman(TOC, Position { offset: 0, size: 0, uncompressed_size: 0 });
        let zstd = |tar_split, podman, size| Footer::Zstd { toc: TOC, tar_split, podman, start: BLOB - size };
        for (bytes, footer) in [
            (stargz(TOC).to_vec(), zstd(None, false, 48)),
            (podman(TOC, TAR_SPLIT).to_vec(), zstd(Some(TAR_SPLIT), true, 72)),
            (no_tar_split.to_vec(), zstd(None, true, 72)),
            (both, zstd(Some(TAR_SPLIT), true, 120)),
            (gzip(0x12345), Footer::Gzip { toc_offset: 0x12345, start: BLOB - 51 }),
            (legacy_gzip(0x12345), Footer::Gzip { toc_offset: 0x12345, start: BLOB - 47 }),
            (external(), Footer::ExternalToc { start: BLOB - 46 }),
        ] {
            assert_eq!(parse(&bytes, BLOB).unwrap(), Some(footer));
            let tail = [vec![0xaa; TAIL - bytes.len()], bytes].concat();
            assert_eq!(parse(&tail, BLOB).unwrap(), Some(footer));
        }
    }

    #[test]
    fn a_blob_that_ends_like_any_other_has_no_footer() {
        for tail in [&[][..], &[0; TAIL], b"GnUlInU", b"STARG"] {
            assert_eq!(parse(tail, tail.len() as u64).unwrap(), None);
        }
    }

    #[test]
    fn a_footer_that_is_cut_off_is_refused() {
        for whole in [&stargz(TOC)[..], &podman(TOC, TAR_SPLIT), &gzip(1), &legacy_gzip(1), &external()] {
            for start in 1..whole.len() {
                let tail = &whole[start..];
                assert!(!matches!(parse(tail, tail.len() as u64), Ok(Some(_))), "{start} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_position_outside_the_blob_is_refused() {
        let size = 1000;
        let start = size - 48;
        for (offset, length) in [
            (0, 1),
            (7, 1),
            (8, 0),
            (8, start - 7),
            (start, 1),
            (size, 1),
            (u64::MAX, 1),
            (8, u64::MAX),
            (8, u64::MAX - 7),
            (1 << 63, 1 << 63),
        ] {
            let bytes = stargz(Position { offset, size: length, uncompressed_size: 1 });
            assert!(problem(parse(&bytes, size)).contains("do not lie between"), "{offset} {length}");
        }
        let first = Position { offset: 8, size: 100, uncompressed_size: 400 };
        for (offset, length) in [(8, 1), (115, 1), (116, u64::MAX), (u64::MAX, 2), (116, 1000)] {
            let bytes = podman(first, Position { offset, size: length, uncompressed_size: 1 });
            assert!(problem(parse(&bytes, size)).contains("do not lie between"), "{offset} {length}");
        }
        for offset in [size - 46, size, 1 << 63, u64::MAX] {
            for bytes in [gzip(offset), legacy_gzip(offset)] {
                assert!(problem(parse(&bytes, size)).contains("would start at"), "{offset}");
            }
        }
    }

    #[test]
    fn a_footer_longer_than_the_blob_it_ends_is_refused() {
        for bytes in [&stargz(TOC)[..], &podman(TOC, TAR_SPLIT), &gzip(0), &legacy_gzip(0)] {
            assert!(parse(bytes, 10).is_err());
        }
    }

    #[test]
    fn another_type_of_table_is_refused() {
        for kind in [0, 2, u8::MAX] {
            let mut bytes = stargz(TOC);
            bytes[32] = kind;
            assert_eq!(problem(parse(&bytes, BLOB)), format!("type {kind}, expected type 1"));
        }
    }

    #[test]
    fn two_footers_must_agree() {
        let other = Position { size: 99, ..TOC };
        let bytes = [&podman(other, TAR_SPLIT)[..], &stargz(TOC)].concat();
        assert!(problem(parse(&bytes, BLOB)).contains("the other at"));
    }

    #[test]
    fn a_gzip_footer_with_any_other_byte_is_refused() {
        let good = gzip(0x12345);
        for (position, byte) in [
            (3, 0),
            (9, 3),
            (10, 25),
            (12, b'G'),
            (14, 21),
            (16, b'+'),
            (16, b'-'),
            (31, b'g'),
            (20, b'A'),
            (38, 0),
            (50, 1),
        ] {
            let mut bad = good.clone();
            bad[position] = byte;
            assert!(problem(parse(&bad, BLOB)).contains("not laid out"), "{position}");
        }
    }

    #[test]
    fn positions_in_annotations_are_four_or_three_plain_numbers() {
        assert_eq!(Position::parse_toc("74565:100:400:1").unwrap(), TOC);
        assert_eq!(TOC.toc_annotation(), "74565:100:400:1");
        assert_eq!(Position::parse_tar_split("74673:50:200").unwrap(), TAR_SPLIT);
        assert_eq!(TAR_SPLIT.tar_split_annotation(), "74673:50:200");
        for text in [
            "",
            "1:2",
            "1:2:3",
            "1:2:3:2",
            "1:2:3:1:5",
            "1:2:3:1:5:6:7",
            "-1:2:3:1",
            "+1:2:3:1",
            "0x1:2:3:1",
            " 1:2:3:1",
            "1:2:3:1 ",
            "1::3:1",
            "18446744073709551616:2:3:1",
        ] {
            assert!(Position::parse_toc(text).is_err(), "{text:?}");
        }
        for text in ["", "1", "1:2", "1:2:3:4", "1:2:-3", "1:2:"] {
            assert!(Position::parse_tar_split(text).is_err(), "{text:?}");
        }
    }
}
