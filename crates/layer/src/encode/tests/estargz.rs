//! eStargz layers, taken apart with nothing but the format's description.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use flate2::bufread::GzDecoder;
use restow_testkit::compress::{gzip, zstd};
use restow_testkit::plain::{self, PlainEntry};
use restow_testkit::{End, Entry as TarEntry, TarBuilder, TarOptions, random_tar};

use super::random::{Model, list};
use super::*;
use crate::toc::{Entry, EntryKind, Parser, TAR_NAME};
use crate::{
    Depth, Estargz, Hints, NO_PREFETCH_LANDMARK, Reader, Recompression, Timestamp, VerifyOptions, path,
    recompress, verify,
};

const LEVEL: i32 = 6;

/// A layer taken apart.
pub(super) struct Layer {
    /// What any gzip decoder finds in the blob.
    pub(super) tar: Vec<u8>,
    /// The table of contents.
    pub(super) entries: Vec<Entry>,
    /// The uncompressed bytes of each member but those of table and footer, by where it starts.
    pub(super) members: BTreeMap<u64, Vec<u8>>,
}

impl Layer {
    /// Returns the entry of a name.
    fn entry(&self, name: &str) -> &Entry {
        self.entries.iter().find(|entry| entry.name == name && entry.kind != EntryKind::Chunk).unwrap()
    }
}

/// Returns what each member holds, by where it starts.
fn members(blob: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut members = BTreeMap::new();
    let mut rest = blob;
    while !rest.is_empty() {
        let start = (blob.len() - rest.len()) as u64;
        let mut decoder = GzDecoder::new(rest);
        let mut bytes = Vec::new();
        decoder.read_to_end(&mut bytes).unwrap();
        members.insert(start, bytes);
        rest = decoder.into_inner();
    }
    members
}

/// Takes apart a blob, and the table's if it has one of its own, and holds every part against the others.
pub(super) fn inspect(encoded: &mut Encoded, blob: &[u8], options: &Options, least: u64) -> Layer {
    let mut members = members(blob);
    let (footer_start, footer) = members.pop_last().unwrap();
    assert_eq!(footer, b"");
    let footer = &blob[footer_start as usize..];
    let mut table = Vec::new();
    match &mut encoded.toc_blob {
        None => {
            let toc_offset = *members.last_key_value().unwrap().0;
            let offset = format!("{toc_offset:016x}STARGZ");
            let expected = [
                &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0][..],
                b"SG\x16\0",
                offset.as_bytes(),
                &[1, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0],
            ];
            assert_eq!(footer, expected.concat());
        }
        Some(toc) => {
            let external =
                b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC\x01\0\0\xff\xff\0\0\0\0\0\0\0\0";
            assert_eq!(footer, external);
            toc.read().unwrap().read_to_end(&mut table).unwrap();
            assert_eq!((toc.size(), toc.digest()), (table.len() as u64, Digest::sha256(&table)));
        }
    }
    let tar = plain::gunzip(blob).unwrap();
    assert_eq!(encoded.size, blob.len() as u64);
    assert_eq!(encoded.uncompressed_size, tar.len() as u64);
    assert_eq!(encoded.diff_id, Digest::sha256(&tar));
    assert_eq!(tar.len() % 512, 0);
    assert!(tar.ends_with(&[0; 1024]));

    let mut listed = plain::list(&tar);
    let toc_tar = match encoded.toc_blob {
        None => {
            assert_eq!(listed.pop().unwrap().name(), TAR_NAME);
            members.pop_last().unwrap().1
        }
        Some(_) => plain::gunzip(&table).unwrap(),
    };
    let file = TarEntry::file(TAR_NAME, plain::content(&toc_tar, TAR_NAME).unwrap()).mode(0).mtime(0);
    assert!(plain::list(&toc_tar) == plain::list(&TarBuilder::new().entry(file).finish()));
    assert_eq!(toc_tar[..512], crate::tar::plain_header(TAR_NAME, plain::list(&toc_tar)[0].size));
    let json = plain::content(&toc_tar, TAR_NAME).unwrap();
    let end = &toc_tar[512 + json.len().next_multiple_of(512)..];
    assert!(end.len() >= 1024 && end.iter().all(|byte| *byte == 0));
    assert_eq!(encoded.toc_digest, Digest::sha256(json));
    let annotations = [
        (annotations::STARGZ_TOC_DIGEST, encoded.toc_digest.to_string()),
        (annotations::STARGZ_UNCOMPRESSED_SIZE, tar.len().to_string()),
        (annotations::STARGZ_PREFETCH, encoded.prefetch_size.to_string()),
    ];
    let annotations: BTreeMap<_, _> = annotations.map(|(key, value)| (key.to_string(), value)).into();
    assert_eq!(encoded.lazy_annotations, annotations);
    assert!(encoded.partial_annotations.is_err());

    let mut parser = Parser::new(json, &Limits::default()).unwrap();
    let entries: Vec<Entry> = std::iter::from_fn(|| parser.next_entry().unwrap()).collect();
    assert_eq!(parser.finish().unwrap(), None);
    assert_eq!(encoded.entries, listed.len() as u64);
    check(&tar, &listed, &entries, &members, options.chunk_size.max(1), least);
    read_back(encoded, blob, &table, &listed, &tar);
    Layer { tar, entries, members }
}

/// Holds the table against a plain reading of the tar, and each chunk against its member.
fn check(
    tar: &[u8],
    listed: &[PlainEntry],
    entries: &[Entry],
    members: &BTreeMap<u64, Vec<u8>>,
    chunk_size: u64,
    least: u64,
) {
    let mut last = HashMap::new();
    for (index, plain) in listed.iter().enumerate() {
        last.insert(path::clean(&plain.name()), index);
    }
    let mut begun = Vec::new();
    let mut entries = entries.iter();
    let (mut users, mut groups) = (BTreeMap::new(), BTreeMap::new());
    for ((index, plain), content) in listed.iter().enumerate().zip(plain::contents(tar)) {
        let name = plain.name();
        if last[&path::clean(&name)] != index {
            continue;
        }
        let entry = entries.next().unwrap();
        assert_eq!(without_place(entry), expected(plain, content, chunk_size, &mut users, &mut groups));
        let mut place = 0;
        for (number, chunk) in content.chunks(chunk_size as usize).enumerate() {
            let entry = if number == 0 { entry } else { entries.next().unwrap() };
            if number > 0 {
                let full = chunk.len() as u64 == chunk_size;
                let further = Entry {
                    name: name.clone(),
                    kind: EntryKind::Chunk,
                    chunk_offset: place,
                    chunk_size: if full { chunk_size } else { 0 },
                    chunk_digest: Some(Digest::sha256(chunk)),
                    ..Entry::default()
                };
                assert_eq!(without_place(entry), further);
            }
            let member = &members[&entry.offset];
            let inner = entry.inner_offset as usize;
            assert!(&member[inner..inner + chunk.len()] == chunk, "{name:?} is not where it should be");
            let landmark = [PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK].contains(&path::clean(&name).as_str());
            if least == 0 || landmark {
                assert_eq!(entry.inner_offset, 0, "{name:?} does not begin a member");
            }
            if entry.inner_offset == 0 {
                begun.push((entry.offset, landmark));
            } else {
                assert!(entry.inner_offset < least || member.len() as u64 <= chunk_size + (1 << 20));
            }
            place += chunk.len() as u64;
        }
    }
    assert_eq!(entries.next(), None);
    // A member that a chunk begins comes after one that was large enough.
    for (offset, landmark) in begun {
        if let Some((_, before)) = members.range(..offset).next_back() {
            assert!(landmark || before.len() as u64 >= least, "a member of {} bytes", before.len());
        }
    }
}

fn without_place(entry: &Entry) -> Entry {
    Entry { offset: 0, inner_offset: 0, ..entry.clone() }
}

/// Returns what the table should say of an entry, but for its place.
fn expected(
    plain: &PlainEntry,
    content: &[u8],
    chunk_size: u64,
    users: &mut BTreeMap<i64, String>,
    groups: &mut BTreeMap<i64, String>,
) -> Entry {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let once = |said: &mut BTreeMap<i64, String>, number, name: String| {
        let known = said.get(&number) == Some(&name);
        if !known && !name.is_empty() {
            said.insert(number, name.clone());
        }
        if known { String::new() } else { name }
    };
    let (seconds, nanoseconds) = plain.modified;
    let modified = Timestamp::new(seconds, nanoseconds).unwrap();
    let kind =
        [EntryKind::Regular, EntryKind::Hardlink, EntryKind::Symlink, EntryKind::Char, EntryKind::Block]
            .into_iter()
            .chain([EntryKind::Dir, EntryKind::Fifo])
            .nth(usize::from(plain.kind - b'0'))
            .unwrap();
    let device = matches!(kind, EntryKind::Char | EntryKind::Block);
    let link = matches!(kind, EntryKind::Symlink | EntryKind::Hardlink);
    let first = content.chunks(chunk_size as usize).next();
    Entry {
        name: plain.name(),
        kind,
        size: if kind == EntryKind::Regular { plain.size } else { 0 },
        modified: Some(modified.round()).filter(|_| seconds != 0),
        link_name: if link { text(&plain.link) } else { String::new() },
        mode: plain.mode,
        uid: plain.uid,
        gid: plain.gid,
        user_name: once(users, plain.uid, text(&plain.user)),
        group_name: once(groups, plain.gid, text(&plain.group)),
        device_major: if device { plain.device.0 } else { 0 },
        device_minor: if device { plain.device.1 } else { 0 },
        xattrs: plain.xattrs.iter().map(|(key, value)| (text(key), value.clone())).collect(),
        digest: (kind == EntryKind::Regular).then(|| Digest::sha256(content)),
        chunk_size: if plain.size >= chunk_size && plain.kind == b'0' { chunk_size } else { 0 },
        chunk_digest: first.map(Digest::sha256),
        ..Entry::default()
    }
}

/// Reads the layer with this crate's own readers, by the table and as a whole.
fn read_back(encoded: &Encoded, blob: &[u8], table: &[u8], listed: &[PlainEntry], tar: &[u8]) {
    let mut hints = Hints::from_annotations(&encoded.lazy_annotations).unwrap();
    hints.external_toc = encoded.toc_blob.is_some().then(|| table.to_vec());
    let blob = blob.to_vec();
    if !listed.is_empty() {
        let reader = Reader::open(blob.clone(), &hints, &lenient()).unwrap();
        for plain in listed.iter().filter(|plain| plain.kind == b'0') {
            // What a later entry replaces is not found.
            let node = reader.lookup(&path::clean(&plain.name())).unwrap();
            if node.digest.as_ref() == Some(&plain.content) {
                let mut content = Vec::new();
                reader.read_file(node).unwrap().read_to_end(&mut content).unwrap();
                assert_eq!(Digest::sha256(&content), plain.content);
            }
        }
    }
    for depth in [Depth::Toc, Depth::Full] {
        let diff_id = Some(Digest::sha256(tar));
        let options = VerifyOptions { hints: hints.clone(), diff_id, depth, limits: lenient() };
        let verified = verify(&blob, &options, &TWO_WORKERS).unwrap();
        assert_eq!(verified.chunks, encoded.chunks);
    }
}

fn run(codec: Estargz, tar: &[u8], options: &Options) -> (Encoded, Vec<u8>) {
    run_codec(&codec, tar, options, 2).unwrap()
}

/// All shapes the format has.
fn codecs() -> [Estargz; 4] {
    let plain = Estargz::new(LEVEL);
    let shared = plain.min_chunk_size(3000);
    [plain, shared, plain.external_toc(), shared.external_toc()]
}

pub(super) fn least(codec: &Estargz) -> u64 {
    match codec.layout().placement {
        Placement::Along { least } => least,
        Placement::Apart => unreachable!(),
    }
}

#[test]
fn a_layer_is_laid_out_as_the_format_says() {
    let tar = sample().finish();
    for source in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let (mut encoded, blob) = run(Estargz::new(LEVEL), &source, &options());
        assert_eq!(encoded.source_diff_id, Digest::sha256(&tar));
        let layer = inspect(&mut encoded, &blob, &options(), 0);
        let names = plain::names(&layer.tar);
        let expected =
            [vec![NO_PREFETCH_LANDMARK.to_string()], plain::names(&tar), vec![TAR_NAME.to_string()]];
        assert_eq!(names, expected.concat());
        // Headers alone; the landmark; two files in chunks with what follows each of them.
        assert_eq!(layer.members.len() as u64, 1 + encoded.chunks);
        assert_eq!((encoded.entries, encoded.chunks), (12, 1 + 1 + 3 + 2 + 3));
        assert_eq!(encoded.prefetch_size, 0);
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let many = (0..150).map(|index| TarEntry::file(format!("many/{index}"), pattern(index * 41)));
    let tar = sample().entries(many).finish();
    for codec in codecs() {
        for options in [options(), prioritized(&["many/7", "usr/bin/alias"])] {
            let (mut one, blob) = run_codec(&codec, &tar, &options, 1).unwrap();
            inspect(&mut one, &blob, &options, least(&codec));
            for threads in [2, 8] {
                let (other, other_blob) = run_codec(&codec, &tar, &options, threads).unwrap();
                assert!(other == one && other_blob == blob);
            }
        }
    }
}

#[test]
fn moving_files_gives_what_encoding_the_moved_tar_gives() {
    let source =
        sample().entries((0..100).map(|index| TarEntry::file(format!("z{index}"), pattern(index * 99))));
    let source = source.finish();
    let wanted = prioritized(&["z99", "usr/bin/alias", "z1"]);
    for codec in &codecs()[2..] {
        let codec = *codec;
        let (mut moved, blob) = run(codec, &source, &wanted);
        let layer = inspect(&mut moved, &blob, &wanted, least(&codec));
        assert_eq!((moved.moved, moved.prefetch_size), (6, layer.entry(PREFETCH_LANDMARK).offset));
        // What has to keep its tar keeps the landmark that came with it.
        let (straight, straight_blob) = run(codec, &layer.tar, &Options { keep_diff_id: true, ..options() });
        assert!(straight_blob == blob);
        assert_eq!(straight.prefetch_size, moved.prefetch_size);
    }
}

#[test]
fn a_layer_keeps_its_tar_or_is_refused() {
    let options = Options { keep_diff_id: true, ..options() };
    let codec = Estargz::new(LEVEL).external_toc();
    for seed in 0..20 {
        let tar = random_tar(seed, &TarOptions { largest_file: 3000, ..TarOptions::default() });
        let (mut encoded, blob) = run(codec, &gzip(&tar), &options);
        assert_eq!(
            (&encoded.diff_id, &encoded.source_diff_id),
            (&Digest::sha256(&tar), &Digest::sha256(&tar))
        );
        assert!(inspect(&mut encoded, &blob, &options, 0).tar == tar);
    }
    let tar = sample().finish();
    let converted = run(Estargz::new(LEVEL), &tar, &self::options()).1;
    let moving = Options { prioritized: vec!["exact".into()], ..options.clone() };
    let landmark = Options { landmark: Landmark::Always, ..options.clone() };
    for (codec, source, options) in [
        (codec, &converted, &options),
        (codec, &tar, &moving),
        (codec, &tar, &landmark),
        (Estargz::new(LEVEL), &tar, &options),
    ] {
        let error = run_codec(&codec, source, options, 2).unwrap_err();
        assert!(error.is_unlistable() && error.to_string().contains("its tar would change"), "{error}");
    }
}

#[test]
fn small_files_share_members() {
    let tar =
        TarBuilder::new().entries((0..100).map(|index| TarEntry::file(format!("f{index}"), pattern(100))));
    let tar = tar.finish();
    let alone = run(Estargz::new(LEVEL), &tar, &options());
    let (mut encoded, blob) = run(Estargz::new(LEVEL).min_chunk_size(10_000), &tar, &options());
    let layer = inspect(&mut encoded, &blob, &options(), 10_000);
    // A file and its header take 1024 bytes; the landmark has a member of its own, and so have the headers before it.
    assert_eq!(layer.members.len(), 2 + 10);
    assert_eq!(encoded.chunks, 101);
    assert!(blob.len() < alone.1.len());
}

#[test]
fn headers_without_files_are_cut_in_bounded_memory() {
    let empty = (0..3000).map(|index| TarEntry::file(format!("f{index}"), ""));
    let tar = TarBuilder::new().file("first", "payload").entries(empty).file("last", "payload").finish();
    let (mut encoded, blob) = run(Estargz::new(LEVEL), &tar, &options());
    let layer = inspect(&mut encoded, &blob, &options(), 0);
    let largest = layer.members.values().map(Vec::len).max().unwrap();
    assert!((1 << 20..(1 << 20) + 2048).contains(&largest), "{largest}");
}

#[test]
fn large_files_and_large_tails_pass_through() {
    let tar = TarBuilder::new()
        .entry(TarEntry::file("big", pattern(9 << 20)))
        .file("small", "s")
        .finish_with(restow_testkit::End::Blocks(40_000));
    for codec in [Estargz::new(LEVEL), Estargz::new(LEVEL).external_toc()] {
        for list in [&[][..], &["small"]] {
            let options = Options { chunk_size: DEFAULT_CHUNK_SIZE, ..prioritized(list) };
            let (mut encoded, blob) = run(codec, &tar, &options);
            let layer = inspect(&mut encoded, &blob, &options, least(&codec));
            assert_eq!(encoded.source_diff_id, Digest::sha256(&tar));
            // Where the table comes last, nothing is kept of what followed the source's last file.
            assert_eq!(layer.tar.len() > 18 << 20, encoded.toc_blob.is_some());
        }
    }
}

#[test]
fn any_layer_is_encoded_as_the_model_says_and_twice_is_once() {
    let mut encoded_layers = 0;
    for seed in 0..60 {
        let mut random = restow_testkit::Random::new(seed);
        let tar_options = TarOptions {
            duplicates: seed % 3 == 0,
            largest_file: *random.pick(&[100, 3000, 20_000]),
            prefixes: &["", "./", "/", "../"],
            ..TarOptions::default()
        };
        let tar = random_tar(seed, &tar_options);
        let entries = plain::list(&tar);
        let codec = *random.pick(&codecs());
        let chunk_size = *random.pick(&[700, 4096, DEFAULT_CHUNK_SIZE]);
        let prioritized = list(&mut random, &entries);
        let options = Options { chunk_size, prioritized, limits: lenient(), ..options() };
        let (mut encoded, blob) = match run_codec(&codec, &tar, &options, 1) {
            Ok(result) => result,
            // A later version of a link's target.
            Err(error) if error.is_unlistable() && seed % 3 == 0 => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        encoded_layers += 1;
        let (again, again_blob) = run(codec, &tar, &options);
        assert!(again == encoded && again_blob == blob, "seed {seed}");
        let layer = inspect(&mut encoded, &blob, &options, least(&codec));
        let (mut expected, moved) = Model::new(&entries).expect(&options.prioritized);
        if moved == 0 {
            let landmark = [&landmark::header(NO_PREFETCH_LANDMARK)[..], &[0x0f], &[0; 511]].concat();
            expected.splice(..0, plain::list(&landmark));
        }
        let mut found = plain::list(&layer.tar);
        found.retain(|entry| entry.name() != TAR_NAME);
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!((encoded.moved, &encoded.source_diff_id), (moved as u64, &Digest::sha256(&tar)));

        // Whatever was done before leaves no trace.
        assert!(run(codec, &blob, &options).1 == blob, "seed {seed}: twice");
        let plainly = run_with(&tar, &options, 2).unwrap();
        assert!(run_with(&blob, &options, 2).unwrap().1 == plainly.1, "seed {seed}: and back");
        assert!(run(codec, &plainly.1, &options).1 == blob, "seed {seed}: from zstd:chunked");
    }
    assert!(encoded_layers > 40, "{encoded_layers}");
}

#[test]
fn a_tar_that_was_padded_is_itself_again_when_the_table_goes() {
    let workers = Workers::new(2).unwrap();
    for (end, comes_back) in [
        (End::Blocks(2), true),
        // GNU tar fills records of 20 blocks, or as many as it is told.
        (End::Blocks(17), true),
        (End::Blocks(2048), true),
        // More than a reader of the table passes over, less than an archive should end with, or something else.
        (End::Blocks(2049), false),
        (End::Blocks(1), false),
        (End::None, false),
        (End::Then(b"x".to_vec()), false),
    ] {
        let tar = TarBuilder::new().dir("d/").file("d/f", pattern(700)).file("last", "l");
        let tar = tar.finish_with(end.clone());
        for prioritized in [vec![], vec!["gone".to_string()]] {
            let options = Options { prioritized, ..options() };
            let (encoded, blob) = run(Estargz::new(LEVEL), &tar, &options);
            let read = Reader::open(&blob[..], &Hints::default(), &options.limits).unwrap();
            assert_eq!(read.toc().entries().count(), 4);
            let verified = verify(&blob, &VerifyOptions::default(), &workers).unwrap();
            assert_eq!(verified.content.unwrap().diff_id, encoded.diff_id);
            let mut back = Vec::new();
            let done = recompress(&blob[..], &mut back, Recompression::None, true, &options.limits, &workers);
            assert_eq!(done.unwrap().diff_id == Digest::sha256(&tar), comes_back, "{end:?}");
            assert_eq!(back == tar, comes_back, "{end:?}");
            assert!(run(Estargz::new(LEVEL), &blob, &options).1 == blob, "{end:?}: twice");
        }
    }
}
