//! Takes a blob apart with nothing but the formats' descriptions, and holds every part against the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use restow_oci::{Digest, Limits, annotations};
use restow_testkit::plain::{self, PlainEntry};
use serde_json::Value;

use super::Encoded;
use crate::path;
use crate::toc::{Entry, EntryKind, Parser};

/// A layer taken apart.
pub(super) struct Layer {
    /// What any zstd decoder finds in the blob.
    pub(super) tar: Vec<u8>,
    /// The table of contents.
    pub(super) entries: Vec<Entry>,
    /// The uncompressed bytes of each frame.
    pub(super) frames: Vec<Vec<u8>>,
    /// The lines of the tar-split stream.
    pub(super) tar_split: Vec<u8>,
}

impl Layer {
    /// Returns the names in the table, chunks left out.
    pub(super) fn names(&self) -> Vec<&str> {
        let entries = self.entries.iter().filter(|entry| entry.kind != EntryKind::Chunk);
        entries.map(|entry| entry.name.as_str()).collect()
    }

    /// Returns the entry of a name.
    pub(super) fn entry(&self, name: &str) -> &Entry {
        self.entries.iter().find(|entry| entry.name == name && entry.kind != EntryKind::Chunk).unwrap()
    }
}

/// Takes apart a blob that was encoded with chunks of `chunk_size`.
pub(super) fn inspect(encoded: &Encoded, blob: &[u8], chunk_size: usize) -> Layer {
    let tar = plain::unzstd(blob).unwrap();
    assert_eq!(encoded.size, blob.len() as u64);
    assert_eq!(encoded.uncompressed_size, tar.len() as u64);
    assert_eq!(encoded.diff_id, Digest::sha256(&tar));

    let (frames, ends, tail) = frames(blob);
    assert!(frames.concat() == tar);
    let [compressed_toc, compressed_tar_split, podman, stargz] = tail[..] else {
        panic!("{} skippable frames", tail.len())
    };
    let json = plain::unzstd(compressed_toc).unwrap();
    let toc = [offset(blob, compressed_toc), compressed_toc.len() as u64, json.len() as u64, 1];
    assert_eq!((&encoded.toc_digest, encoded.toc_size), (&Digest::sha256(&json), json.len() as u64));
    let checksum = Digest::sha256(compressed_toc).to_string();
    let lazy = [
        (annotations::STARGZ_TOC_DIGEST, Digest::sha256(&json).to_string()),
        (annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM, checksum.clone()),
        (annotations::STARGZ_ZSTD_MANIFEST_POSITION, toc.map(|number| number.to_string()).join(":")),
        (annotations::STARGZ_UNCOMPRESSED_SIZE, tar.len().to_string()),
        (annotations::STARGZ_PREFETCH, encoded.prefetch_size.to_string()),
    ];
    let lazy = lazy.into_iter().filter(|_| encoded.entries > 0).map(|(key, value)| (key.to_string(), value));
    assert_eq!(encoded.lazy_annotations, lazy.collect());

    let tar_split = plain::unzstd(compressed_tar_split).unwrap();
    let split =
        [offset(blob, compressed_tar_split), compressed_tar_split.len() as u64, tar_split.len() as u64];
    if let Ok(partial) = &encoded.partial_annotations {
        assert_eq!(partial[annotations::PODMAN_MANIFEST_CHECKSUM], checksum);
        assert_eq!(position(&partial[annotations::PODMAN_MANIFEST_POSITION]), toc);
        assert_eq!(position(&partial[annotations::PODMAN_TARSPLIT_POSITION]), split);
        assert_eq!(partial.len(), 3);
    }
    assert_eq!(numbers(podman), [&toc[..], &split, &[u64::from_le_bytes(*b"GNUlInUx")]].concat());
    assert_eq!(numbers(stargz), [&toc[..], &[u64::from_le_bytes(*b"GnUlInUx")]].concat());

    let mut parser = Parser::new(&json[..], &Limits::default()).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = parser.next_entry().unwrap() {
        entries.push(entry);
    }
    assert_eq!(parser.finish().unwrap(), Some(Digest::sha256(compressed_tar_split)));
    assert!(!json.ends_with(b"\n"));
    let listed = plain::list(&tar);
    assert_eq!(encoded.entries, listed.len() as u64);
    let contents = reassemble(&tar_split, &listed, &tar);
    compare(&listed, &contents, &entries, &Frames { frames: &frames, ends: &ends }, chunk_size);
    Layer { tar, entries, frames, tar_split }
}

fn position(annotation: &str) -> Vec<u64> {
    annotation.split(':').map(|number| number.parse().unwrap()).collect()
}

fn offset(blob: &[u8], part: &[u8]) -> u64 {
    (part.as_ptr() as usize - blob.as_ptr() as usize) as u64
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|number| u64::from_le_bytes(number.try_into().unwrap())).collect()
}

/// Returns what the frames hold, where each starts and ends, and what is in the skippable ones behind them.
#[expect(clippy::type_complexity, reason = "three lists, taken apart at once")]
fn frames(blob: &[u8]) -> (Vec<Vec<u8>>, HashMap<u64, (usize, u64)>, Vec<&[u8]>) {
    let (mut frames, mut places, mut skippable) = (Vec::new(), HashMap::new(), Vec::new());
    let mut start = 0;
    while start < blob.len() {
        let length = zstd::zstd_safe::find_frame_compressed_size(&blob[start..]).unwrap();
        let frame = &blob[start..start + length];
        if frame.starts_with(&[0x50, 0x2a, 0x4d, 0x18]) {
            skippable.push(&frame[8..]);
        } else {
            assert!(skippable.is_empty(), "content behind the table of contents");
            places.insert(start as u64, (frames.len(), (start + length) as u64));
            frames.push(plain::unzstd(frame).unwrap());
        }
        start += length;
    }
    (frames, places, skippable)
}

struct Frames<'a> {
    frames: &'a [Vec<u8>],
    ends: &'a HashMap<u64, (usize, u64)>,
}

fn compare(
    listed: &[PlainEntry],
    contents: &[&[u8]],
    entries: &[Entry],
    frames: &Frames<'_>,
    chunk_size: usize,
) {
    let mut last = HashMap::new();
    for (index, plain) in listed.iter().enumerate() {
        last.insert(path::clean(&plain.name()), index);
    }
    let last: BTreeSet<usize> = last.into_values().collect();
    let (mut users, mut groups) = (BTreeMap::new(), BTreeMap::new());
    let mut entries = entries.iter().peekable();
    let mut end = 0;
    for index in last {
        let plain = &listed[index];
        let entry = entries.next().unwrap();
        let name = plain.name();
        let stamp = |time: Option<crate::Timestamp>| time.map(|time| (time.seconds(), time.nanoseconds()));
        let regular = plain.kind == b'0';
        assert_eq!(entry.name, name);
        assert_eq!(entry.kind.as_str(), kind(plain.kind), "{name:?}");
        if regular {
            assert_eq!(entry.size, plain.size, "{name:?}");
        }
        assert_eq!((entry.mode, entry.uid, entry.gid), (plain.mode, plain.uid, plain.gid), "{name:?}");
        assert_eq!(stamp(entry.modified), Some(plain.modified), "{name:?}");
        assert_eq!(stamp(entry.accessed), plain.accessed, "{name:?}");
        assert_eq!(stamp(entry.changed), plain.changed, "{name:?}");
        assert_eq!(entry.link_name.as_bytes(), plain.link, "{name:?}");
        assert_eq!((entry.device_major, entry.device_minor), plain.device, "{name:?}");
        let xattrs = entry.xattrs.iter().map(|(key, value)| (key.clone().into_bytes(), value.clone()));
        assert_eq!(xattrs.collect::<BTreeMap<_, _>>(), plain.xattrs, "{name:?}");
        for (said, number, name, expected) in [
            (&mut users, entry.uid, &entry.user_name, &plain.user),
            (&mut groups, entry.gid, &entry.group_name, &plain.group),
        ] {
            if !name.is_empty() {
                assert_ne!(said.insert(number, name.clone()).as_ref(), Some(name), "said twice");
            }
            if !expected.is_empty() {
                assert_eq!(said[&number].as_bytes(), expected);
            }
        }

        let content = contents[index];
        assert_eq!(entry.digest, regular.then(|| Digest::sha256(content)), "{name:?}");
        let mut place = 0;
        let chunks = content.chunks(chunk_size).count();
        for (index, chunk) in content.chunks(chunk_size).enumerate() {
            let entry = if index == 0 { entry } else { entries.next().unwrap() };
            assert_eq!(entry.name, name);
            assert_eq!(entry.kind == EntryKind::Chunk, index > 0);
            assert_eq!((entry.chunk_offset, entry.inner_offset), (place, 0));
            assert_eq!(entry.chunk_size, if chunks > 1 { chunk.len() as u64 } else { 0 });
            assert_eq!(entry.zeros, chunks > 1 && chunk.iter().all(|byte| *byte == 0));
            assert_eq!(entry.chunk_digest, Some(Digest::sha256(chunk)));
            let (frame, frame_end) = frames.ends[&entry.offset];
            assert!(frames.frames[frame] == chunk, "a frame of {name:?} holds something else");
            assert!(end <= entry.offset, "offsets do not ascend");
            end = frame_end;
            place += chunk.len() as u64;
        }
        if chunks == 0 {
            assert_eq!((entry.offset, &entry.chunk_digest), (0, &None));
        }
        assert_eq!(entry.end_offset, if chunks > 0 { end } else { 0 }, "{name:?}");
    }
    assert_eq!(entries.next(), None);
}

fn kind(typeflag: u8) -> &'static str {
    match typeflag {
        b'0' => "reg",
        b'1' => "hardlink",
        b'2' => "symlink",
        b'3' => "char",
        b'4' => "block",
        b'5' => "dir",
        b'6' => "fifo",
        other => panic!("typeflag {other}"),
    }
}

/// Puts the tar together as podman does: segments as they are, contents from elsewhere, held to their checksums.
/// Returns the contents.
fn reassemble<'a>(tar_split: &[u8], listed: &[PlainEntry], tar: &'a [u8]) -> Vec<&'a [u8]> {
    let mut contents = Vec::new();
    let mut assembled: Vec<u8> = Vec::new();
    let mut listed = listed.iter();
    let lines = tar_split.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n');
    for (position, line) in lines.enumerate() {
        let line: Value = serde_json::from_slice(line).unwrap();
        let payload = line["payload"].as_str().map(|payload| STANDARD.decode(payload).unwrap());
        assert_eq!(line["position"], position);
        if line["type"] == 2 {
            assembled.extend(payload.unwrap());
            continue;
        }
        assert_eq!(line["type"], 1);
        let plain = listed.next().unwrap();
        assert_eq!(line["name"], plain.name());
        assert_eq!(line["size"].as_u64().unwrap_or(0), plain.size);
        let content = &tar[assembled.len()..assembled.len() + plain.size as usize];
        assert_eq!(payload, (plain.size > 0).then(|| crc64(content).to_be_bytes().to_vec()));
        assert_eq!(Digest::sha256(content), plain.content);
        assembled.extend(content);
        contents.push(content);
    }
    assert!(listed.next().is_none());
    assert!(assembled == tar);
    contents
}

/// The checksum by its polynomial, a byte at a time.
fn crc64(bytes: &[u8]) -> u64 {
    static TABLE: LazyLock<[u64; 256]> = LazyLock::new(|| {
        std::array::from_fn(|byte| {
            (0..8).fold(byte as u64, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xd8 << 56 } else { crc >> 1 })
        })
    });
    !bytes.iter().fold(!0u64, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}
