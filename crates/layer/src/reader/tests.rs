use std::collections::BTreeMap;
use std::fs;

use restow_oci::annotations;
use restow_testkit::{Entry as TarEntry, TarBuilder, testdata};

use super::*;
use crate::footer::Position;
use crate::forge::{Forged, compress, toc_tar};
use crate::toc::{Dialect, Entry, Writer};

fn open(blob: Vec<u8>) -> Result<Reader<Vec<u8>>> {
    open_with(blob, &Hints::default())
}

fn open_with(blob: Vec<u8>, hints: &Hints) -> Result<Reader<Vec<u8>>> {
    Reader::open(blob, hints, &Limits::default())
}

fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn tar() -> Vec<u8> {
    TarBuilder::new()
        .dir("d/")
        .file("d/big", content(2500))
        .file("d/small", b"small")
        .file("empty", b"")
        .hardlink("again", "./d/small")
        .hardlink("d/again", "again")
        .symlink("link", "d/big")
        .finish()
}

fn zstd() -> Forged {
    Forged::new(Format::Zstd, &tar(), 1000)
}

fn gzip() -> Forged {
    Forged::new(Format::Gzip, &tar(), 1000)
}

fn read(reader: &Reader<Vec<u8>>, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = reader.read_file(reader.lookup(name).unwrap())?;
    file.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| into_error(error, 0))
}

#[test]
fn files_and_links_are_read_from_layers_of_every_kind() {
    let external = gzip().seal_external();
    let external_toc = Hints { external_toc: Some(external.1), ..Hints::default() };
    let legacy = {
        let mut blob = gzip().seal();
        blob.truncate(blob.len() - 51);
        blob.extend(crate::footer::legacy_gzip(gzip().frames.len() as u64));
        blob
    };
    for (blob, hints) in [
        (zstd().seal(), &Hints::default()),
        (Forged { tar_split: None, ..zstd() }.seal(), &Hints::default()),
        (gzip().seal(), &Hints::default()),
        (legacy, &Hints::default()),
        (external.0, &external_toc),
    ] {
        let reader = open_with(blob, hints).unwrap();
        assert_eq!(read(&reader, "/d/big").unwrap(), content(2500));
        assert_eq!(read(&reader, "./d/small/").unwrap(), b"small");
        assert_eq!(read(&reader, "empty").unwrap(), b"");
        assert_eq!(read(&reader, "again").unwrap(), b"small");
        assert_eq!(read(&reader, "d/again").unwrap(), b"small");
        assert_eq!(reader.lookup("d/again").unwrap().target().path(), "d/small");
        assert!(reader.lookup("missing").is_none());
        assert_eq!(reader.toc().entries().count(), 7);
        let big = reader.lookup("d/big").unwrap();
        let chunks: Vec<Chunk> = big.chunks().collect();
        assert_eq!(chunks.iter().map(|chunk| chunk.size).collect::<Vec<_>>(), [1000, 1000, 500]);
        assert_eq!(reader.read_chunk(&chunks[1]).unwrap(), content(2500)[1000..2000]);
        assert!(matches!(reader.read_file(reader.lookup("d").unwrap()), Err(Error::Toc(_))));
        assert!(matches!(reader.read_file(reader.lookup("link").unwrap()), Err(Error::Toc(_))));
    }
}

#[test]
fn a_layer_without_footer_is_found_by_its_annotations() {
    let blob = Forged { tar_split: None, ..zstd() }.seal();
    let footer = blob.len() - 48;
    let number = |at: usize| u64::from_le_bytes(blob[footer + at..footer + at + 8].try_into().unwrap());
    let toc = Position { offset: number(8), size: number(16), uncompressed_size: number(24) };
    let bare = blob[..footer].to_vec();
    assert!(matches!(open(bare.clone()), Err(Error::NotSeekable)));
    let at = |toc| Hints { toc: Some(toc), ..Hints::default() };
    assert_eq!(read(&open_with(bare.clone(), &at(toc)).unwrap(), "d/small").unwrap(), b"small");
    for wrong in [
        Position { offset: toc.offset - 1, ..toc },
        Position { offset: 0, ..toc },
        Position { offset: u64::MAX, ..toc },
        Position { size: toc.size + 1, ..toc },
        Position { size: toc.size - 1, ..toc },
        Position { size: u64::MAX, ..toc },
    ] {
        assert!(matches!(open_with(bare.clone(), &at(wrong)), Err(Error::Footer(_))), "{wrong:?}");
        assert!(matches!(open_with(blob.clone(), &at(wrong)), Err(Error::Footer(_))), "{wrong:?}");
    }
    assert!(matches!(open_with(gzip().seal(), &at(toc)), Err(Error::Footer(_))));
}

#[test]
fn what_is_no_seekable_layer_is_refused() {
    for blob in [vec![], vec![0; 10], tar(), compress(Format::Zstd, &tar()), compress(Format::Gzip, &tar())] {
        assert!(matches!(open(blob), Err(Error::NotSeekable)));
    }
    let blob = zstd().seal();
    for length in [1, 7, 8, 40, 47, 48, 72, 119] {
        assert!(open(blob[blob.len() - length..].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn a_table_of_another_size_than_announced_is_refused() {
    for lie in [-1, 1, 1000] {
        assert!(open(Forged { toc_size_lie: lie, ..zstd() }.seal()).is_err(), "{lie}");
    }
    // The claim alone is enough to refuse it.
    let bomb = Forged { toc_size_lie: 1 << 40, ..zstd() }.seal();
    assert!(matches!(open(bomb), Err(Error::Limit { .. })));
}

#[test]
fn a_table_larger_than_allowed_is_refused_however_it_is_packed() {
    let padded = |mut forged: Forged| {
        forged.behind_toc = vec![b' '; 1 << 20];
        forged.toc_size_lie = if forged.format == Format::Zstd { -(1 << 20) } else { 0 };
        forged
    };
    let external = padded(gzip()).seal_external();
    let external_toc = Hints { external_toc: Some(external.1), ..Hints::default() };
    for (blob, hints) in [
        (padded(zstd()).seal(), &Hints::default()),
        (padded(gzip()).seal(), &Hints::default()),
        (external.0, &external_toc),
    ] {
        let limits = Limits { toc_size: 1 << 20, ..Limits::default() };
        let opened = Reader::open(blob, hints, &limits);
        assert!(matches!(
            opened,
            Err(Error::Limit { what: "the size in bytes of the table of contents", .. })
        ));
    }
}

#[test]
fn a_table_of_too_many_entries_is_not_held() {
    // A directory; a file of two chunks; one with two attributes: six in all.
    let tar = TarBuilder::new()
        .dir("d/")
        .file("d/f", content(1500))
        .entry(TarEntry::file("d/x", "").xattr("user.a", "1").xattr("user.b", "2"))
        .finish();
    for format in [Format::Gzip, Format::Zstd] {
        let blob = Forged::new(format, &tar, 1000).seal();
        let open = |toc_entries| {
            let limits = Limits { toc_entries, ..Limits::default() };
            Reader::open(&blob, &Hints::default(), &limits).map(|reader| reader.toc().entries().count())
        };
        assert_eq!(open(6).unwrap(), 3);
        let error = open(5).unwrap_err();
        assert!(matches!(error, Error::Limit { found: 6, limit: 5, .. }), "{error}");
    }
}

#[test]
fn nothing_follows_the_table() {
    for mut forged in [zstd(), gzip()] {
        forged.behind_toc = b"{}".to_vec();
        assert!(matches!(open(forged.seal()), Err(Error::Toc(_))));
    }
    let json = gzip().toc();
    let tar = toc_tar(&json);
    for (tar, expected) in [
        (TarBuilder::new().file("other.json", &json).finish(), "does not start with"),
        (TarBuilder::new().finish(), "does not start with"),
        (TarBuilder::new().symlink(crate::toc::TAR_NAME, "x").finish(), "does not start with"),
        (
            TarBuilder::new().file(crate::toc::TAR_NAME, &json).file("more", b"").finish(),
            "more than the file",
        ),
        ([&tar[..], b"x"].concat(), "behind its tar"),
        ([tar.clone(), vec![0; 2 << 20]].concat(), "behind its tar"),
    ] {
        let external_toc = Some(compress(Format::Gzip, &tar));
        let opened = open_with(gzip().seal_external().0, &Hints { external_toc, ..Hints::default() });
        assert!(
            matches!(&opened, Err(Error::Toc(problem)) if problem.contains(expected)),
            "{expected}: {opened:?}"
        );
    }
}

#[test]
fn a_table_with_another_digest_is_refused() {
    let other = Some(Digest::sha256(b"other"));
    for forged in [zstd(), gzip()] {
        let toc_digest = Some(Digest::sha256(&forged.toc()));
        let reader =
            open_with(forged.seal(), &Hints { toc_digest: toc_digest.clone(), ..Hints::default() }).unwrap();
        assert_eq!(Some(reader.toc_digest()), toc_digest.as_ref());
        let opened = open_with(forged.seal(), &Hints { toc_digest: other.clone(), ..Hints::default() });
        assert!(matches!(opened, Err(Error::Mismatch { .. })));
    }
    let compressed = Some(Digest::sha256(&compress(Format::Zstd, &zstd().toc())));
    open_with(zstd().seal(), &Hints { stored_toc_digest: compressed, ..Hints::default() }).unwrap();
    let opened = open_with(zstd().seal(), &Hints { stored_toc_digest: other, ..Hints::default() });
    assert!(matches!(opened, Err(Error::Mismatch { .. })));
}

#[test]
fn the_table_of_another_image_is_refused() {
    let (blob, toc) = gzip().seal_external();
    let toc_digest = Some(Digest::sha256(&gzip().toc()));
    let other = Forged::new(Format::Gzip, &TarBuilder::new().file("other", b"other").finish(), 1000)
        .seal_external()
        .1;
    let given = |external_toc| {
        open_with(blob.clone(), &Hints { external_toc, toc_digest: toc_digest.clone(), ..Hints::default() })
    };
    given(Some(toc)).unwrap();
    assert!(matches!(given(Some(other)), Err(Error::Mismatch { .. })));
    assert!(matches!(given(None), Err(Error::Toc(_))));
    assert!(given(Some(b"no gzip".to_vec())).is_err());
}

#[test]
fn annotations_are_read_strictly_and_only_those_of_one_reader() {
    let digest = Digest::sha256(b"");
    let hints = |pairs: &[(&str, &str)]| {
        Hints::from_annotations(
            &pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        )
    };
    let stargz = hints(&[
        (annotations::STARGZ_TOC_DIGEST, digest.as_str()),
        (annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM, digest.as_str()),
        (annotations::STARGZ_ZSTD_MANIFEST_POSITION, "1:2:3:1"),
    ]);
    let position = Position { offset: 1, size: 2, uncompressed_size: 3 };
    let stargz = stargz.unwrap();
    assert_eq!(
        (stargz.toc, stargz.toc_digest, stargz.stored_toc_digest),
        (Some(position), Some(digest.clone()), Some(digest.clone()))
    );
    let podman = hints(&[
        (annotations::PODMAN_MANIFEST_CHECKSUM, digest.as_str()),
        (annotations::PODMAN_MANIFEST_POSITION, "1:2:3:1"),
        (annotations::PODMAN_TARSPLIT_POSITION, "1:2:3"),
    ])
    .unwrap();
    assert_eq!((podman.toc, podman.tar_split, podman.toc_digest), (Some(position), Some(position), None));
    assert_eq!(podman.stored_toc_digest, Some(digest.clone()));
    assert!(hints(&[]).unwrap().toc.is_none());
    for wrong in [
        &[
            (annotations::STARGZ_TOC_DIGEST, digest.as_str()),
            (annotations::PODMAN_MANIFEST_CHECKSUM, digest.as_str()),
        ][..],
        &[(annotations::STARGZ_TOC_DIGEST, "sha256:../../x")],
        &[(annotations::PODMAN_MANIFEST_CHECKSUM, "")],
        &[(annotations::PODMAN_MANIFEST_POSITION, "1:2")],
        &[(annotations::STARGZ_ZSTD_MANIFEST_POSITION, "-1:2:3:1")],
        &[(annotations::PODMAN_TARSPLIT_POSITION, "0x1:2:3")],
    ] {
        assert!(hints(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn content_without_a_sha256_digest_is_not_read() {
    let sha512 = Digest::parse(&format!("sha512:{}", "a".repeat(128))).unwrap();
    for digest in [None, Some(sha512)] {
        let mut forged = zstd();
        forged.chunk("d/big", 1).chunk_digest = digest.clone();
        forged.entry("d/small").digest = None;
        forged.entry("d/small").chunk_digest = digest;
        let reader = open(forged.seal()).unwrap();
        for name in ["d/big", "d/small"] {
            assert!(matches!(read(&reader, name), Err(Error::Unverifiable { .. })), "{name}");
        }
    }
}

#[test]
fn content_with_another_digest_is_refused() {
    let other = Some(Digest::sha256(b"other"));
    let mut forged = zstd();
    forged.chunk("d/big", 1).chunk_digest = other.clone();
    forged.entry("d/small").digest = other.clone();
    forged.entry("empty").digest = other;
    let reader = open(forged.seal()).unwrap();
    for name in ["d/big", "d/small", "empty"] {
        assert!(matches!(read(&reader, name), Err(Error::Mismatch { .. })), "{name}");
    }
    let chunks: Vec<Chunk> = reader.lookup("d/big").unwrap().chunks().collect();
    assert!(reader.read_chunk(&chunks[0]).is_ok());
    assert!(matches!(reader.read_chunk(&chunks[1]), Err(Error::Mismatch { .. })));
}

/// A layer of these files in one frame, as a minimal chunk size makes them.
fn shared(format: Format) -> (Forged, Vec<u8>) {
    let tar = TarBuilder::new().file("a", b"first").file("b", content(3000)).finish();
    let mut forged = Forged::new(format, &tar, 1000);
    forged.frames.clear();
    forged.tar_split = None;
    forged.frame(&mut tar.clone());
    for (position, inner_offset) in [512, 1536, 2536, 3536].into_iter().enumerate() {
        forged.entries[position].offset = 0;
        forged.entries[position].inner_offset = inner_offset;
    }
    (forged, tar)
}

#[test]
fn chunks_that_share_a_frame_are_found_inside_it() {
    for format in [Format::Zstd, Format::Gzip] {
        let (forged, _) = shared(format);
        let reader = open(forged.seal()).unwrap();
        assert_eq!(read(&reader, "a").unwrap(), b"first");
        assert_eq!(read(&reader, "b").unwrap(), content(3000));
        for (inner_offset, limit) in [(1 << 20, false), (u64::MAX / 2, true)] {
            let (mut forged, _) = shared(format);
            forged.entries[3].inner_offset = inner_offset;
            let failed = read(&open(forged.seal()).unwrap(), "b");
            assert!(
                matches!(&failed, Err(Error::Limit { .. }) if limit)
                    || matches!(&failed, Err(Error::Toc(_)) if !limit),
                "{failed:?}"
            );
        }
    }
}

#[test]
fn no_memory_is_taken_for_sizes_that_are_only_claimed() {
    for size in [1 << 20, 1 << 40, 1 << 62, u64::MAX] {
        let mut forged = zstd();
        forged.entry("d/small").size = size;
        let reader = open(forged.seal()).unwrap();
        assert!(read(&reader, "d/small").is_err(), "{size}");
        let chunk = reader.lookup("d/small").unwrap().chunks().next().unwrap();
        assert!(reader.read_chunk(&chunk).is_err(), "{size}");
    }
    let mut forged = zstd();
    forged.chunk("d/big", 0).size = 1 << 62;
    assert!(matches!(open(forged.seal()), Err(Error::Toc(_))));
}

fn listed(entries: Vec<Entry>) -> Result<Reader<Vec<u8>>> {
    open(Forged { entries, tar_split: None, ..zstd() }.seal())
}

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry { name: name.into(), kind, ..Entry::default() }
}

fn hard_link(name: &str, target: &str) -> Entry {
    Entry { link_name: target.into(), ..entry(name, EntryKind::Hardlink) }
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let file = || entry("file", EntryKind::Regular);
    for (entries, expected) in [
        (vec![hard_link("a", "missing")], "is missing"),
        (vec![hard_link("a", "")], "is missing"),
        (vec![hard_link("a", "a")], "in a circle"),
        (vec![hard_link("a", "./b"), hard_link("b", "/c"), hard_link("c", "a/")], "in a circle"),
        (vec![file(), hard_link("x", "a"), hard_link("a", "b"), hard_link("b", "a")], "in a circle"),
        (vec![entry("d/", EntryKind::Dir), hard_link("a", "d")], "to a directory"),
        // The last entry of a name counts.
        (vec![file(), hard_link("a", "file"), hard_link("file", "a")], "in a circle"),
    ] {
        let opened = listed(entries);
        assert!(
            matches!(&opened, Err(Error::Toc(problem)) if problem.contains(expected)),
            "{expected}: {opened:?}"
        );
    }
}

#[test]
fn a_long_chain_of_links_is_followed() {
    let mut entries = vec![entry("0", EntryKind::Symlink)];
    entries.extend((1..100_000).map(|number| hard_link(&number.to_string(), &(number - 1).to_string())));
    entries.reverse();
    let reader = listed(entries).unwrap();
    assert_eq!(reader.lookup("99999").unwrap().target().path(), "0");
}

#[test]
fn the_last_of_equal_names_counts() {
    let mut entries =
        vec![entry("a", EntryKind::Regular), entry("./a/", EntryKind::Dir), entry("a/b", EntryKind::Fifo)];
    entries.extend(vec![entry("x", EntryKind::Regular); 100_000]);
    entries.push(entry("/x", EntryKind::Char));
    let reader = listed(entries).unwrap();
    assert_eq!(reader.lookup("a").unwrap().kind, EntryKind::Dir);
    assert_eq!(reader.lookup("x").unwrap().kind, EntryKind::Char);
}

#[test]
fn names_are_sound() {
    let deep = "a/".repeat(256);
    let long = "a".repeat(4097);
    for (entries, expected) in [
        (vec![entry("a", EntryKind::Regular), entry("a/b", EntryKind::Dir)], "not a directory"),
        (vec![entry("a", EntryKind::Fifo), entry("a/b/c/d", EntryKind::Dir)], "not a directory"),
        (vec![entry("a/b", EntryKind::Dir), entry("a", EntryKind::Regular)], "not a directory"),
        (vec![entry("./", EntryKind::Regular)], "root is not a directory"),
        (vec![entry("", EntryKind::Symlink)], "root is not a directory"),
        (vec![entry("a/..", EntryKind::Regular)], "root is not a directory"),
        (vec![entry(&deep, EntryKind::Dir)], "components"),
        (vec![entry(&long, EntryKind::Dir)], "length"),
    ] {
        let problem = listed(entries).unwrap_err().to_string();
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
    listed(vec![entry("./", EntryKind::Dir), entry("a", EntryKind::Symlink), entry("a/b", EntryKind::Dir)])
        .unwrap();
}

#[test]
fn what_the_plan_refuses_is_not_opened() {
    let mut forged = zstd();
    forged.chunk("d/big", 2).offset = 1;
    assert!(matches!(open(forged.seal()), Err(Error::Toc(_))));
}

/// The digest of an eStargz layer's table is known to its readers, so it must not matter who writes the table.
#[test]
fn tables_of_other_tools_are_written_again_to_the_byte() {
    for name in
        ["estargz", "estargz-minchunk", "estargz-prioritized", "zstdchunked", "zstdchunked-prioritized"]
    {
        let mut layers = 0;
        for blob in fs::read_dir(testdata("golden").join(name).join("blobs/sha256")).unwrap() {
            let Ok(reader) = open(fs::read(blob.unwrap().path()).unwrap()) else { continue };
            layers += 1;
            let mut writer = Writer::new(Dialect::Stargz);
            let mut json = Vec::new();
            reader.toc().all_entries().for_each(|entry| writer.entry(entry, &mut json));
            writer.finish(None, &mut json);
            assert_eq!(&Digest::sha256(&json), reader.toc_digest(), "{name}");
        }
        assert_eq!(layers, 2, "{name}");
    }
}

#[test]
fn annotations_of_no_seekable_layer_are_no_hints() {
    let hints = Hints::from_annotations(&BTreeMap::from([("other".into(), "x".into())])).unwrap();
    assert!(open_with(zstd().seal(), &hints).is_ok());
}
