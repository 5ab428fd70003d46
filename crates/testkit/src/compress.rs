//! gzip members and zstd frames, whole and broken. To truncate, take a slice; to add garbage, append.

use std::io::Write;
use std::ops::Range;

use flate2::Compression;
use flate2::Crc;
use flate2::write::DeflateEncoder;

/// First bytes of streams that are neither gzip nor zstd nor tar, by the name of their format.
pub const FOREIGN_MAGIC: [(&str, &[u8]); 5] = [
    ("xz", b"\xfd7zXZ\0"),
    ("bzip2", b"BZh9"),
    ("lz4", b"\x04\x22\x4d\x18"),
    ("lzma", b"\x5d\0\0\x80\0"),
    ("zstd 0.7", b"\x27\xb5\x2f\xfd"),
];

/// Compresses as one gzip member at level 6.
pub fn gzip(data: impl AsRef<[u8]>) -> Vec<u8> {
    Gzip::new().compress(data)
}

/// Compresses as one gzip member per piece; `cuts` are ascending offsets into `data`.
pub fn gzip_members(data: impl AsRef<[u8]>, cuts: &[usize]) -> Vec<u8> {
    pieces(data.as_ref(), cuts).flat_map(gzip).collect()
}

/// Returns this many empty gzip members.
pub fn gzip_empty_members(count: usize) -> Vec<u8> {
    gzip([]).repeat(count)
}

/// One gzip member with chosen header fields and trailer.
#[derive(Debug, Clone, Default)]
pub struct Gzip {
    level: Option<u32>,
    extra: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    comment: Option<Vec<u8>>,
    header_crc: bool,
    wrong_crc: bool,
    wrong_size: bool,
}

impl Gzip {
    const FHCRC: u8 = 2;
    const FEXTRA: u8 = 4;
    const FNAME: u8 = 8;
    const FCOMMENT: u8 = 16;

    /// A member with the bare header.
    pub fn new() -> Gzip {
        Gzip::default()
    }

    /// Sets the level; 0 stores.
    pub fn level(mut self, level: u32) -> Gzip {
        self.level = Some(level);
        self
    }

    /// Adds an extra field; its length is written in front.
    pub fn extra(mut self, bytes: impl AsRef<[u8]>) -> Gzip {
        self.extra = Some(bytes.as_ref().to_vec());
        self
    }

    /// Adds a file name, ended by a NUL.
    pub fn name(mut self, name: impl AsRef<[u8]>) -> Gzip {
        self.name = Some(name.as_ref().to_vec());
        self
    }

    /// Adds a comment, ended by a NUL.
    pub fn comment(mut self, comment: impl AsRef<[u8]>) -> Gzip {
        self.comment = Some(comment.as_ref().to_vec());
        self
    }

    /// Adds the checksum of the header.
    pub fn header_crc(mut self) -> Gzip {
        self.header_crc = true;
        self
    }

    /// Spoils the CRC32 in the trailer.
    pub fn wrong_crc(mut self) -> Gzip {
        self.wrong_crc = true;
        self
    }

    /// Spoils the size in the trailer.
    pub fn wrong_size(mut self) -> Gzip {
        self.wrong_size = true;
        self
    }

    /// Returns the header alone.
    pub fn header(&self) -> Vec<u8> {
        let flags = [
            (self.header_crc, Gzip::FHCRC),
            (self.extra.is_some(), Gzip::FEXTRA),
            (self.name.is_some(), Gzip::FNAME),
            (self.comment.is_some(), Gzip::FCOMMENT),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |sum, (_, flag)| sum | flag);
        let mut header = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255];
        if let Some(extra) = &self.extra {
            let length = u16::try_from(extra.len()).expect("an extra field is at most 65535 bytes long");
            header.extend(length.to_le_bytes());
            header.extend(extra);
        }
        for text in [&self.name, &self.comment].into_iter().flatten() {
            header.extend(text);
            header.push(0);
        }
        if self.header_crc {
            let crc = crc32(&header).to_le_bytes();
            header.extend(&crc[..2]);
        }
        header
    }

    /// Returns the member that holds `data`.
    pub fn compress(&self, data: impl AsRef<[u8]>) -> Vec<u8> {
        let data = data.as_ref();
        let level = Compression::new(self.level.unwrap_or(6));
        let mut encoder = DeflateEncoder::new(self.header(), level);
        encoder.write_all(data).expect("writing to memory succeeds");
        let mut member = encoder.finish().expect("writing to memory succeeds");
        member.extend((crc32(data) ^ u32::from(self.wrong_crc)).to_le_bytes());
        member.extend(((data.len() as u32) ^ u32::from(self.wrong_size)).to_le_bytes());
        member
    }
}

/// Compresses as one zstd frame at level 3, with a checksum.
pub fn zstd(data: impl AsRef<[u8]>) -> Vec<u8> {
    zstd_at(3, data)
}

/// Compresses as one zstd frame at a level, with a checksum. The frame's last four bytes are the checksum.
pub fn zstd_at(level: i32, data: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level).expect("the level is valid");
    encoder.include_checksum(true).expect("the parameter is valid");
    encoder.write_all(data.as_ref()).expect("writing to memory succeeds");
    encoder.finish().expect("writing to memory succeeds")
}

/// Compresses as one zstd frame per piece; `cuts` are ascending offsets into `data`.
pub fn zstd_frames(data: impl AsRef<[u8]>, cuts: &[usize]) -> Vec<u8> {
    pieces(data.as_ref(), cuts).flat_map(zstd).collect()
}

/// Returns a skippable zstd frame; `kind` (0 to 15) selects its magic.
pub fn skippable(kind: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [skippable_header(kind, payload.len() as u32).as_slice(), payload].concat()
}

/// Returns the first eight bytes of a skippable frame that claims a length.
pub fn skippable_header(kind: u8, length: u32) -> Vec<u8> {
    [[0x50 | (kind & 0xf), 0x2a, 0x4d, 0x18], length.to_le_bytes()].concat()
}

/// A zstd frame of uncompressed blocks behind a header of any content.
///
/// With nothing set, the window is 128 KiB and content size, dictionary and checksum are absent.
#[derive(Debug, Clone, Default)]
pub struct RawFrame {
    window_log: Option<u8>,
    content_size: Option<u64>,
    single_segment: bool,
    dictionary: Option<u32>,
}

impl RawFrame {
    const BLOCK: usize = 128 << 10;

    /// A frame with the bare header.
    pub fn new() -> RawFrame {
        RawFrame::default()
    }

    /// Sets the window to 2 to the power of this; 10 to 41.
    pub fn window_log(mut self, log: u8) -> RawFrame {
        self.window_log = Some(log);
        self
    }

    /// Claims a content size, in the eight-byte form.
    pub fn content_size(mut self, size: u64) -> RawFrame {
        self.content_size = Some(size);
        self
    }

    /// Claims a content size as a single segment, in which the size is the window.
    pub fn single_segment(mut self, size: u64) -> RawFrame {
        self.single_segment = true;
        self.content_size(size)
    }

    /// Names a dictionary without which the frame is not to be decoded.
    pub fn dictionary(mut self, id: u32) -> RawFrame {
        self.dictionary = Some(id);
        self
    }

    /// Returns the header alone.
    pub fn header(&self) -> Vec<u8> {
        let descriptor = (if self.content_size.is_some() { 3 << 6 } else { 0 })
            | (u8::from(self.single_segment) << 5)
            | (if self.dictionary.is_some() { 3 } else { 0 });
        let mut header = vec![0x28, 0xb5, 0x2f, 0xfd, descriptor];
        if !self.single_segment {
            header.push((self.window_log.unwrap_or(17) - 10) << 3);
        }
        header.extend(self.dictionary.map(u32::to_le_bytes).iter().flatten());
        header.extend(self.content_size.map(u64::to_le_bytes).iter().flatten());
        header
    }

    /// Returns a frame that stores `data`.
    pub fn store(&self, data: impl AsRef<[u8]>) -> Vec<u8> {
        let data = data.as_ref();
        self.blocks(0, data.len(), |range| data[range].to_vec())
    }

    /// Returns a frame that repeats a byte: four bytes of frame for each 128 KiB.
    pub fn repeat(&self, byte: u8, length: usize) -> Vec<u8> {
        self.blocks(1, length, |_| vec![byte])
    }

    fn blocks(&self, kind: usize, length: usize, body: impl Fn(Range<usize>) -> Vec<u8>) -> Vec<u8> {
        let mut frame = self.header();
        for start in (0..length.max(1)).step_by(RawFrame::BLOCK) {
            let end = length.min(start + RawFrame::BLOCK);
            frame.extend(block_header(end == length, kind, end - start));
            frame.extend(body(start..end));
        }
        frame
    }
}

fn block_header(last: bool, kind: usize, size: usize) -> Vec<u8> {
    let word = usize::from(last) | (kind << 1) | (size << 3);
    word.to_le_bytes()[..3].to_vec()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn pieces<'a>(data: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(data.len()));
    starts.zip(ends).map(|(start, end)| &data[start..end])
}
