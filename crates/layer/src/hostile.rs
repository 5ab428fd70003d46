//! Tables of contents and footers that lie: rows 61 to 82 of the list of bad inputs, on every format there is.
//!
//! A row says what is done to a sound layer, and who has to refuse the result: whoever opens it, whoever reads its files,
//! or whoever compares it with its tar. Whatever a table says, a conversion reads the tar.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use restow_oci::{Digest, Limits, annotations};
use restow_testkit::{End, Entry as TarEntry, TarBuilder, plain};
use serde_json::{Value, json};

use crate::decompress::{Format, into_error};
use crate::footer::{self, Footer, Position};
use crate::forge::{Forged, compress};
use crate::toc::{Entry, EntryKind};
use crate::{
    Depth, EncodeOptions, Hints, Reader, Result, VerifyOptions, Workers, ZstdChunked, encode, verify,
};

/// A format, as its own tools write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// zstd:chunked with the footer of stargz's tools.
    Containerd,
    /// zstd:chunked with podman's footer, which its reader ignores for the annotations.
    Podman,
    /// zstd:chunked with both.
    Both,
    Estargz,
    /// eStargz with the footer of old.
    Legacy,
    /// eStargz with its table in a blob of its own.
    External,
}

use Shape::{Both, Containerd, Estargz, External, Legacy, Podman};

const ALL: &[Shape] = &[Containerd, Podman, Both, Estargz, Legacy, External];
const ZSTD: &[Shape] = &[Containerd, Podman, Both];
const GZIP: &[Shape] = &[Estargz, Legacy, External];
const WITH_TAR_SPLIT: &[Shape] = &[Podman, Both];

/// A layer, and what its descriptor says of it.
#[derive(Clone)]
struct Layer {
    blob: Vec<u8>,
    hints: Hints,
}

/// What is done to a layer.
enum Damage {
    /// A part of it before it is put together.
    Parts(fn(&mut Forged)),
    /// The table.
    Json(fn(&mut Value)),
    /// The table, when it is text; several kinds of it.
    Text(fn(&str) -> Vec<String>),
    /// The whole; several kinds of it.
    Whole(fn(Shape, &Layer) -> Vec<Layer>),
    /// The annotations of its descriptor; several kinds of them.
    Annotations(&'static [&'static [(&'static str, &'static str)]]),
}

use Damage::{Annotations, Json, Parts, Text, Whole};

/// Who has to refuse a layer. Whoever reads every byte of it refuses it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Opening,
    Reading,
    Comparing,
}

use By::{Comparing, Opening, Reading};

struct Case {
    row: u32,
    name: &'static str,
    shapes: &'static [Shape],
    damage: Damage,
    by: By,
    /// What is said of it.
    says: &'static str,
}

const fn case(
    row: u32,
    name: &'static str,
    shapes: &'static [Shape],
    damage: Damage,
    by: By,
    says: &'static str,
) -> Case {
    Case { row, name, shapes, damage, by, says }
}

const OTHER: &str = "sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa";
const SHA512: &str = concat!(
    "sha512:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
);

const NOT_CUT: &str = "the footer is not valid: it is not laid out";

fn cases() -> Vec<Case> {
    vec![
        case(61, "a blob shorter than its footer", ALL, Whole(tails), Opening, ""),
        case(
            61,
            "a footer that is cut off",
            &[Containerd, Both, Estargz, Legacy, External],
            Whole(cut),
            Opening,
            "",
        ),
        // podman's reader never looks at it.
        case(61, "a footer that is cut off", &[Podman], Whole(cut), Comparing, ""),
        case(62, "a gzip footer with another byte", GZIP, Whole(other_bytes), Opening, NOT_CUT),
        case(62, "a zstd footer of another length", ZSTD, Whole(other_length), Opening, "skippable frame"),
        case(
            63,
            "a table before, in or behind everything",
            &[Containerd, Podman, Both, Estargz, Legacy],
            Whole(elsewhere),
            Opening,
            "",
        ),
        case(
            64,
            "a table whose end no number can say",
            ZSTD,
            Whole(overflowing),
            Opening,
            "do not lie between",
        ),
        case(
            64,
            "a table said to be smaller",
            ZSTD,
            Parts(|layer| layer.toc_size_lie = -1),
            Opening,
            "the table of",
        ),
        case(
            64,
            "a table said to be larger",
            ZSTD,
            Parts(|layer| layer.toc_size_lie = 1),
            Opening,
            "bytes, expected",
        ),
        case(
            64,
            "a table said to be huge",
            ZSTD,
            Parts(|layer| layer.toc_size_lie = 1 << 40),
            Opening,
            "more than",
        ),
        case(65, "a table of another type", ZSTD, Whole(other_types), Opening, "expected type 1"),
        case(
            65,
            "the magic of the other dialect",
            &[Containerd, Podman],
            Whole(other_dialect),
            Opening,
            "skippable frame",
        ),
        case(
            65,
            "a magic that nobody knows",
            &[Containerd, Both, Estargz, Legacy, External],
            Whole(no_magic),
            Opening,
            "no table of contents",
        ),
        case(66, "a table that is a bomb", ALL, Parts(bomb), Opening, "the table of contents"),
        case(66, "a bomb that says it is none", ZSTD, Parts(hidden_bomb), Opening, "the table of contents"),
        case(
            67,
            "a table that is no document, or more than one",
            ALL,
            Text(other_documents),
            Opening,
            "the table of contents is not valid",
        ),
        case(
            68,
            "a table that is not vouched for",
            ALL,
            Whole(other_digest),
            Opening,
            "table of contents has digest",
        ),
        case(
            69,
            "chunks at one place",
            ALL,
            Parts(|layer| layer.entry("d/small").offset = layer.chunk("d/big", 2).offset),
            Opening,
            "overlaps or precedes",
        ),
        case(
            69,
            "chunks in another order",
            ALL,
            Parts(|layer| layer.entry("d/small").offset = 0),
            Opening,
            "overlaps or precedes",
        ),
        case(
            69,
            "a chunk beyond the payload",
            ALL,
            Parts(|layer| layer.entry("d/small").offset = layer.frames.len() as u64),
            Opening,
            "is not before byte",
        ),
        case(
            69,
            "a chunk beyond any blob",
            ALL,
            Parts(|layer| layer.entry("d/small").offset = 1 << 63),
            Opening,
            "is not before byte",
        ),
        case(
            69,
            "a chunk before the blob",
            ALL,
            Json(|toc| toc["entries"][4]["offset"] = json!(-1)),
            Opening,
            "invalid value",
        ),
        case(
            69,
            "a chunk inside another's frame",
            ALL,
            Parts(|layer| layer.entry("d/small").offset -= 1),
            Reading,
            "",
        ),
        case(
            70,
            "a gap between chunks",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).chunk_offset += 1),
            Opening,
            "a chunk at 1001 follows 1000",
        ),
        case(
            70,
            "chunks that overlap",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).chunk_offset -= 1),
            Opening,
            "a chunk at 999 follows 1000",
        ),
        case(
            70,
            "a chunk beyond the file",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).chunk_size = 1501),
            Opening,
            "where 1500 are missing",
        ),
        case(
            70,
            "a chunk beyond any file",
            ALL,
            Parts(|layer| layer.chunk("d/big", 0).chunk_size = 1 << 62),
            Opening,
            "where 2500 are missing",
        ),
        case(
            70,
            "chunks that are too few",
            ALL,
            Parts(|layer| layer.entry("d/big").size = 1 << 62),
            Opening,
            "",
        ),
        case(
            70,
            "a chunk of less than nothing",
            ALL,
            Json(|toc| toc["entries"][2]["chunkSize"] = json!(-1)),
            Opening,
            "invalid value",
        ),
        case(
            71,
            "a chunk before any file",
            ALL,
            Parts(|layer| layer.entries.insert(0, chunk("d/"))),
            Opening,
            "follows no regular file",
        ),
        case(
            71,
            "a chunk of a directory",
            ALL,
            Parts(|layer| layer.entries.insert(1, chunk("d/"))),
            Opening,
            "follows no regular file",
        ),
        case(
            71,
            "a chunk of another file",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).name = "d/small".into()),
            Opening,
            "another file",
        ),
        case(
            72,
            "a chunk without a digest",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).chunk_digest = None),
            Reading,
            "no sha256 digest",
        ),
        case(72, "a file without a digest", ALL, Parts(without_digest), Reading, "no sha256 digest"),
        case(
            72,
            "a digest that is not sha256",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).chunk_digest = digest(SHA512)),
            Reading,
            "no sha256 digest",
        ),
        case(
            72,
            "a digest that is none",
            ALL,
            Json(|toc| toc["entries"][4]["chunkDigest"] = json!("sha256:../../etc")),
            Opening,
            "sha256:../../etc",
        ),
        case(
            73,
            "a chunk with another digest",
            ALL,
            Parts(|layer| layer.chunk("d/big", 1).chunk_digest = digest(OTHER)),
            Reading,
            "the chunk at",
        ),
        case(
            73,
            "a file with another digest",
            ALL,
            Parts(|layer| layer.entry("d/big").digest = digest(OTHER)),
            Reading,
            "the file \"d/big\"",
        ),
        case(
            74,
            "a file that the table hides",
            ALL,
            Parts(|layer| drop(layer.entries.pop())),
            Comparing,
            "\"pipe\": the table does not have it",
        ),
        case(
            74,
            "a file that the tar hides",
            ALL,
            Parts(|layer| layer.entries.push(entry("extra", EntryKind::Dir))),
            Comparing,
            "the table of contents and the tar differ",
        ),
        case(
            74,
            "a file that is another one",
            ALL,
            Parts(|layer| layer.entry("d/small").mode ^= 0o4000),
            Comparing,
            "\"d/small\": the mode differs",
        ),
        case(
            75,
            "a name that comes again",
            ALL,
            Parts(|layer| layer.entries.push(entry("./pipe", EntryKind::Fifo))),
            Comparing,
            "the table of contents and the tar differ",
        ),
        case(
            75,
            "a hard link that leads to itself",
            ALL,
            Parts(|layer| layer.entry("again").link_name = "./again".into()),
            Opening,
            "in a circle",
        ),
        case(
            75,
            "a file in a file",
            ALL,
            Parts(|layer| layer.entry("d/").kind = EntryKind::Fifo),
            Opening,
            "is not a directory",
        ),
        case(
            76,
            "a chunk behind the end of its frame",
            ALL,
            Parts(|layer| layer.entry("d/small").inner_offset = 1 << 20),
            Reading,
            "ends before the chunk in it",
        ),
        case(
            76,
            "a chunk behind the end of any frame",
            ALL,
            Parts(|layer| layer.entry("d/small").inner_offset = u64::MAX),
            Opening,
            "beyond any frame",
        ),
        case(
            77,
            "zeros that are none",
            ALL,
            Json(|toc| toc["entries"][2]["chunkType"] = json!("zeros")),
            Comparing,
            "other bytes than the zeros",
        ),
        case(
            78,
            "a descriptor for both readers",
            ALL,
            Annotations(FOR_BOTH),
            Opening,
            "the annotations of containerd's and of podman's reader",
        ),
        case(79, "a position that is none", ALL, Annotations(POSITIONS), Opening, ""),
        case(
            80,
            "no tar-split stream",
            WITH_TAR_SPLIT,
            Parts(without_tar_split),
            Comparing,
            "cannot be found",
        ),
        case(
            80,
            "a tar-split stream that is not vouched for",
            WITH_TAR_SPLIT,
            Parts(|layer| layer.tar_split_digest = digest(OTHER)),
            Comparing,
            "compressed tar-split stream has digest",
        ),
        case(80, "a tar-split stream that is no zstd", WITH_TAR_SPLIT, Whole(gzip_tar_split), Comparing, ""),
        case(
            80,
            "a line that is cut off",
            WITH_TAR_SPLIT,
            Parts(|layer| split(layer, |lines| lines.trim_end_matches("}\n").into())),
            Comparing,
            "the tar-split stream is not valid",
        ),
        case(
            80,
            "a line that is missing",
            WITH_TAR_SPLIT,
            Parts(|layer| split(layer, |lines| lines.replacen("\"position\":3", "\"position\":4", 1))),
            Comparing,
            "position 4",
        ),
        case(
            80,
            "a line of another type",
            WITH_TAR_SPLIT,
            Parts(|layer| split(layer, |lines| lines.replacen("\"type\":1", "\"type\":3", 1))),
            Comparing,
            "no type 3",
        ),
        case(
            80,
            "a checksum that is wrong",
            WITH_TAR_SPLIT,
            Parts(|layer| {
                split(layer, |lines| {
                    lines.replacen("\"size\":5,\"payload\":\"", "\"size\":5,\"payload\":\"AAAA", 1)
                })
            }),
            Comparing,
            "checksum of a file differs",
        ),
        case(
            80,
            "a name that is another one",
            WITH_TAR_SPLIT,
            Parts(|layer| {
                split(layer, |lines| lines.replacen("\"name\":\"pipe\"", "\"name_raw\":\"cGlwZf8=\"", 1))
            }),
            Comparing,
            "name of a file differs",
        ),
        case(
            81,
            "a tar-split stream of a file of an exabyte",
            WITH_TAR_SPLIT,
            Parts(|layer| {
                split(layer, |lines| lines.replacen("\"size\":5", "\"size\":1152921504606846976", 1))
            }),
            Comparing,
            "size of a file differs",
        ),
        case(82, "a table of another layer, or no table", &[External], Whole(other_tables), Opening, ""),
    ]
}

const FOR_BOTH: &[&[(&str, &str)]] =
    &[&[(annotations::STARGZ_TOC_DIGEST, OTHER), (annotations::PODMAN_MANIFEST_CHECKSUM, OTHER)]];

const POSITIONS: &[&[(&str, &str)]] = &[
    &[(annotations::PODMAN_MANIFEST_POSITION, "1:2")],
    &[(annotations::PODMAN_MANIFEST_POSITION, "-1:2:3:1")],
    &[(annotations::PODMAN_MANIFEST_POSITION, "0x1:2:3:1")],
    &[(annotations::STARGZ_ZSTD_MANIFEST_POSITION, " 1:2:3:1")],
    &[(annotations::STARGZ_ZSTD_MANIFEST_POSITION, "1:2:3:1:5")],
    &[(annotations::STARGZ_ZSTD_MANIFEST_POSITION, "1:2:3:2")],
    &[(annotations::PODMAN_TARSPLIT_POSITION, "1:2:3:4")],
    &[(annotations::PODMAN_TARSPLIT_POSITION, "18446744073709551616:2:3")],
];

fn digest(text: &str) -> Option<Digest> {
    Some(Digest::parse(text).unwrap())
}

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry { name: name.into(), kind, ..Entry::default() }
}

fn chunk(name: &str) -> Entry {
    Entry { chunk_size: 1, offset: 1, ..entry(name, EntryKind::Chunk) }
}

fn without_digest(layer: &mut Forged) {
    let small = layer.entry("d/small");
    (small.digest, small.chunk_digest) = (None, None);
}

fn without_tar_split(layer: &mut Forged) {
    (layer.tar_split, layer.tar_split_digest) = (None, digest(OTHER));
}

fn split(layer: &mut Forged, change: impl FnOnce(&str) -> String) {
    let before = layer.tar_split.take().unwrap();
    let after = change(&before);
    assert_ne!(before, after);
    layer.tar_split = Some(after);
}

fn bomb(layer: &mut Forged) {
    layer.behind_toc = vec![b' '; 2 << 20];
}

fn hidden_bomb(layer: &mut Forged) {
    bomb(layer);
    layer.toc_size_lie = -(2 << 20);
}

fn other_documents(table: &str) -> Vec<String> {
    let replaced = |from: &str, to: &str| {
        assert!(table.contains(from), "{from}");
        table.replacen(from, to, 1)
    };
    let deep = format!("\"x\":{}{},\"version\"", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        String::new(),
        "[]".into(),
        table[..table.len() / 2].into(),
        table[..table.len() - 1].into(),
        format!("{table}{{}}"),
        format!("{table}\0"),
        replaced("\"version\":1", "\"version\":2"),
        replaced("\"version\":1", "\"version\":1.0"),
        replaced("\"version\":1", "\"version\":\"1\""),
        replaced("\"version\":1", "\"version\":1,\"version\":1"),
        replaced("\"version\":1", "\"Version\":1"),
        replaced("\"version\":1,", ""),
        replaced("\"version\"", &deep),
        replaced("\"size\":5", "\"size\":5,\"size\":5"),
        replaced("\"size\":5", "\"size\":1e400"),
        replaced("\"size\":5", "\"size\":5.0"),
        replaced("\"size\":5", "\"size\":\"5\""),
        replaced("\"type\":\"fifo\"", "\"type\":\"file\""),
        replaced("\"entries\":[", "\"entries\":{"),
    ]
}

/// The end of a layer alone, of every length up to that of all footers and some more.
fn tails(_shape: Shape, layer: &Layer) -> Vec<Layer> {
    (0..200).map(|length| with(layer, &layer.blob[layer.blob.len() - length..])).collect()
}

fn with(layer: &Layer, blob: &[u8]) -> Layer {
    Layer { blob: blob.to_vec(), ..layer.clone() }
}

fn cut(shape: Shape, layer: &Layer) -> Vec<Layer> {
    // Without stargz's footer, what has both is a layer as podman's tools write it. Podman's is not needed.
    let most = footer_size(shape) - usize::from(matches!(shape, Both | Podman));
    (1..=most).map(|length| with(layer, &layer.blob[..layer.blob.len() - length])).collect()
}

fn footer_size(shape: Shape) -> usize {
    match shape {
        Containerd | Both => 48,
        Podman => 72,
        Estargz => 51,
        Legacy => 47,
        External => 46,
    }
}

/// Puts other bytes into the footer.
fn patched(shape: Shape, layer: &Layer, position: usize, bytes: &[u8]) -> Layer {
    let mut layer = layer.clone();
    let start = layer.blob.len() - footer_size(shape) + position;
    layer.blob[start..start + bytes.len()].copy_from_slice(bytes);
    layer
}

fn other_bytes(shape: Shape, layer: &Layer) -> Vec<Layer> {
    // Where the field starts, and the offset in it.
    let (field, digits): (usize, &[usize]) = match shape {
        Estargz => (12, &[16, 20, 31]),
        Legacy => (12, &[12, 20, 27]),
        _ => (12, &[]),
    };
    let mut all: Vec<_> = [3, 9, 10, 11].map(|at| patched(shape, layer, at, &[77])).into();
    if shape != Legacy {
        all.extend([field, field + 1, field + 2, field + 3].map(|at| patched(shape, layer, at, &[77])));
    }
    for at in digits {
        all.extend([b"+", b"-", b"g", b"A", b" ", b"\0"].map(|byte| patched(shape, layer, *at, byte)));
    }
    all.push(patched(shape, layer, footer_size(shape) - 1, &[1]));
    all
}

fn other_length(shape: Shape, layer: &Layer) -> Vec<Layer> {
    [0, 39, 41, 63, 65, 255].map(|length| patched(shape, layer, 4, &[length])).into()
}

/// Returns where the table is said to be.
fn position(layer: &Layer) -> Position {
    match footer::parse(&layer.blob[layer.blob.len().saturating_sub(footer::TAIL)..], layer.blob.len() as u64)
    {
        Ok(Some(Footer::Zstd { toc, .. })) => toc,
        other => panic!("{other:?}"),
    }
}

/// Says something else of where the table is, in all places.
fn moved(shape: Shape, layer: &Layer, toc: Position) -> Layer {
    let mut layer = layer.clone();
    layer.hints.toc = layer.hints.toc.map(|_| toc);
    let numbers = [toc.offset, toc.size, toc.uncompressed_size].map(u64::to_le_bytes).concat();
    let mut layer = patched(shape, &layer, 8, &numbers);
    if shape == Both {
        let podman = layer.blob.len() - 48 - 72 + 8;
        layer.blob[podman..podman + numbers.len()].copy_from_slice(&numbers);
    }
    layer
}

fn elsewhere(shape: Shape, layer: &Layer) -> Vec<Layer> {
    let size = layer.blob.len() as u64;
    let footer = size - footer_size(shape) as u64;
    let offsets = [0, 1, 100, size / 2, footer - 1, footer, size - 1, size, 1 << 63, u64::MAX];
    let elsewhere = |offset: u64| match shape {
        Estargz | Legacy => {
            let footer = if shape == Estargz { footer::gzip(offset) } else { footer::legacy_gzip(offset) };
            patched(shape, layer, 0, &footer)
        }
        _ => moved(shape, layer, Position { offset, ..position(layer) }),
    };
    offsets.map(elsewhere).into()
}

fn overflowing(shape: Shape, layer: &Layer) -> Vec<Layer> {
    let toc = position(layer);
    let sizes = [u64::MAX, u64::MAX - toc.offset + 1, 1 << 63, layer.blob.len() as u64];
    sizes.map(|size| moved(shape, layer, Position { size, ..toc })).into()
}

fn other_types(shape: Shape, layer: &Layer) -> Vec<Layer> {
    [0, 2, 255].map(|kind| patched(shape, layer, 32, &[kind])).into()
}

fn other_dialect(shape: Shape, layer: &Layer) -> Vec<Layer> {
    let magic = if shape == Podman { b"GnUlInUx" } else { b"GNUlInUx" };
    vec![patched(shape, layer, footer_size(shape) - 8, magic)]
}

fn no_magic(shape: Shape, layer: &Layer) -> Vec<Layer> {
    let at = match shape {
        Estargz => 32,
        Legacy => 28,
        External => 16,
        _ => footer_size(shape) - 8,
    };
    vec![patched(shape, layer, at, b"GRATS!")]
}

fn other_digest(shape: Shape, layer: &Layer) -> Vec<Layer> {
    let hints = layer.hints.clone();
    let mut all = vec![Hints { toc_digest: digest(OTHER), ..hints.clone() }];
    if ZSTD.contains(&shape) {
        all.push(Hints { stored_toc_digest: digest(OTHER), ..hints });
    }
    all.into_iter().map(|hints| Layer { hints, ..layer.clone() }).collect()
}

fn gzip_tar_split(_shape: Shape, layer: &Layer) -> Vec<Layer> {
    let tail = &layer.blob[layer.blob.len() - footer::TAIL..];
    let Ok(Some(Footer::Zstd { tar_split: Some(position), .. })) =
        footer::parse(tail, layer.blob.len() as u64)
    else {
        panic!("there is a tar-split stream");
    };
    let mut layer = layer.clone();
    layer.blob[position.offset as usize..][..4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
    vec![layer]
}

fn other_tables(_shape: Shape, layer: &Layer) -> Vec<Layer> {
    let other = TarBuilder::new().file("other", "other").finish();
    let table =
        |external_toc| Layer { hints: Hints { external_toc, ..layer.hints.clone() }, ..layer.clone() };
    vec![
        table(None),
        table(Some(Vec::new())),
        table(Some(b"no gzip".to_vec())),
        table(Some(compress(Format::Gzip, &other))),
        table(Some(compress(Format::Gzip, b"no tar"))),
        table(Some(Forged::new(Format::Gzip, &other, 1000).seal_external().1)),
    ]
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// The tar of all layers. In eStargz the table ends it.
fn tar(shape: Shape) -> Vec<u8> {
    let open_end = matches!(shape, Estargz | Legacy);
    TarBuilder::new()
        .dir("d/")
        .file("d/big", content(2500))
        .entry(TarEntry::file("d/small", b"small").owner(7, 8))
        .file("empty", b"")
        .entry(TarEntry::hardlink("again", "d/small").owner(7, 8))
        .symlink("link", "d/big")
        .character("null", 1, 3)
        .fifo("pipe")
        .finish_with(End::Blocks(if open_end { 0 } else { 2 }))
}

fn sound(shape: Shape) -> Forged {
    let format = if ZSTD.contains(&shape) { Format::Zstd } else { Format::Gzip };
    let forged = Forged::new(format, &tar(shape), 1000);
    if shape == Containerd { Forged { tar_split: None, ..forged } } else { forged }
}

/// Puts a layer together as its tools do, and its descriptor.
fn seal(shape: Shape, forged: &Forged, json: &[u8]) -> Layer {
    let mut blob = forged.seal_with(json);
    let mut hints = Hints { toc_digest: Some(Digest::sha256(json)), ..Hints::default() };
    match shape {
        Containerd | Both | Estargz => {}
        Legacy => {
            blob.truncate(blob.len() - 51);
            blob.extend(footer::legacy_gzip(forged.frames.len() as u64));
        }
        External => {
            let (external, _) = forged.seal_external();
            hints.external_toc = Some(compress(Format::Gzip, &crate::forge::toc_tar(json)));
            blob = external;
        }
        Podman => {
            let toc_start = forged.frames.len() as u64 + footer::SKIPPABLE_HEADER;
            let stored = compress(Format::Zstd, json);
            let size = json.len().checked_add_signed(forged.toc_size_lie as isize).unwrap() as u64;
            let toc = Position { offset: toc_start, size: stored.len() as u64, uncompressed_size: size };
            blob.truncate(blob.len() - 48);
            if forged.tar_split.is_none() {
                blob.extend(footer::podman(toc, Position { offset: 0, size: 0, uncompressed_size: 0 }));
            }
            let Ok(Some(Footer::Zstd { tar_split, .. })) =
                footer::parse(&blob[blob.len() - footer::TAIL..], blob.len() as u64)
            else {
                panic!("there is a footer");
            };
            hints = Hints {
                toc: Some(toc),
                tar_split,
                stored_toc_digest: Some(Digest::sha256(&stored)),
                ..Hints::default()
            };
        }
    }
    Layer { blob, hints }
}

impl Damage {
    /// Returns the layers that come of it.
    fn done_to(&self, shape: Shape) -> Vec<Layer> {
        let mut forged = sound(shape);
        let table = |forged: &Forged| serde_json::from_slice::<Value>(&forged.toc()).unwrap();
        match self {
            Parts(change) => {
                change(&mut forged);
                vec![seal(shape, &forged, &forged.toc())]
            }
            Json(change) => {
                let mut table = table(&forged);
                change(&mut table);
                vec![seal(shape, &forged, table.to_string().as_bytes())]
            }
            Text(change) => {
                let texts = change(&table(&forged).to_string());
                texts.iter().map(|text| seal(shape, &forged, text.as_bytes())).collect()
            }
            Whole(change) => change(shape, &seal(shape, &forged, &forged.toc())),
            Annotations(_) => vec![seal(shape, &forged, &forged.toc())],
        }
    }

    /// Tells whether the layer still has a sound tar that a conversion has to find.
    fn spares_the_tar(&self) -> bool {
        matches!(self, Parts(_) | Json(_) | Text(_))
    }
}

fn limits() -> Limits {
    // So that a bomb need not be large.
    Limits { toc_size: 1 << 20, streamed_toc_size: 1 << 20, ..Limits::default() }
}

fn open(layer: &Layer) -> Result<Reader<Vec<u8>>> {
    Reader::open(layer.blob.clone(), &layer.hints, &limits())
}

fn read_all(reader: &Reader<Vec<u8>>) -> Result<()> {
    for node in reader.toc().entries().filter(|node| node.kind == EntryKind::Regular) {
        let mut file = reader.read_file(node)?;
        let read = file.read_to_end(&mut Vec::new());
        read.map_err(|error| into_error(error, 0))?;
    }
    Ok(())
}

fn check(layer: &Layer, depth: Depth, workers: &Workers) -> Result<()> {
    let options =
        VerifyOptions { hints: layer.hints.clone(), depth, limits: limits(), ..VerifyOptions::default() };
    verify(&layer.blob, &options, workers).map(drop)
}

/// Converts a layer, and returns what its tar has become.
fn converted(layer: &Layer, workers: &Workers) -> Result<Vec<u8>> {
    let mut blob = Vec::new();
    let options = EncodeOptions { limits: limits(), ..EncodeOptions::new(tempfile::env::temp_dir()) };
    encode(&layer.blob[..], &mut blob, &ZstdChunked::new(1), &options, workers)?;
    Ok(plain::unzstd(&blob).unwrap())
}

#[test]
fn layers_that_nobody_damaged_are_accepted() {
    let workers = Workers::new(1).unwrap();
    for &shape in ALL {
        let forged = sound(shape);
        let layer = seal(shape, &forged, &forged.toc());
        read_all(&open(&layer).unwrap()).unwrap();
        for depth in [Depth::Toc, Depth::Full] {
            check(&layer, depth, &workers).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
        }
        assert_eq!(plain::list(&converted(&layer, &workers).unwrap()), plain::list(&tar(shape)), "{shape:?}");
    }
}

#[test]
fn tables_and_footers_that_lie_are_refused_in_every_format() {
    let workers = Workers::new(2).unwrap();
    for Case { row, name, shapes, damage, by, says } in &cases() {
        for &shape in *shapes {
            let what = format!("row {row}, {name}, {shape:?}");
            if let Annotations(all) = damage {
                for pairs in *all {
                    let pairs = pairs.iter().map(|(key, value)| ((*key).to_string(), (*value).to_string()));
                    let error = Hints::from_annotations(&pairs.collect()).unwrap_err().to_string();
                    assert!(error.contains(says), "{what}: {error}");
                }
            }
            for (number, layer) in damage.done_to(shape).iter().enumerate() {
                let what = format!("{what}, {number}");
                let tar = converted(layer, &workers);
                if damage.spares_the_tar() {
                    assert_eq!(plain::list(&tar.unwrap()), plain::list(&self::tar(shape)), "{what}");
                }
                if matches!(damage, Annotations(_)) {
                    continue;
                }
                let _ = check(layer, Depth::Toc, &workers);
                let full = check(layer, Depth::Full, &workers);
                let refused = match (by, open(layer)) {
                    (Opening, opened) => opened.map(drop),
                    (_, Err(error)) => panic!("{what}: {error}"),
                    (Reading, Ok(reader)) => read_all(&reader),
                    (Comparing, Ok(_)) => {
                        full.as_ref().map(drop).map_err(|error| crate::Error::Toc(error.to_string()))
                    }
                };
                let problem = refused.expect_err(&what).to_string();
                assert!(problem.contains(says), "{what}: {problem}");
                assert!(full.is_err(), "{what}");
            }
        }
    }
}

#[test]
fn every_row_is_tried_on_every_format_that_knows_it() {
    let mut tried: BTreeMap<u32, BTreeSet<Shape>> = BTreeMap::new();
    for case in cases() {
        tried.entry(case.row).or_default().extend(case.shapes);
    }
    assert!(tried.keys().copied().eq(61..=82));
    for (row, shapes) in tried {
        let expected: &[Shape] = match row {
            63 => &[Containerd, Podman, Both, Estargz, Legacy],
            64 => ZSTD,
            80 | 81 => WITH_TAR_SPLIT,
            82 => &[External],
            _ => ALL,
        };
        assert_eq!(shapes, expected.iter().copied().collect(), "row {row}");
    }
}
