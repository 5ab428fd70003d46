use proptest::prelude::*;
use restow_testkit::compress::RawFrame;
use restow_testkit::{Entry as TarEntry, TarBuilder, TarOptions, mutate, random_tar, testdata};

use super::*;
use crate::forge::{Forged, compress, toc_tar};
use crate::reader::Reader;
use crate::toc::Entry;
use crate::{EncodeOptions, Timestamp, ZstdChunked, encode};

fn workers() -> Workers {
    Workers::new(2).unwrap()
}

fn check(blob: &[u8]) -> Result<Verified> {
    verify(&blob, &VerifyOptions::default(), &workers())
}

fn problem(blob: &[u8]) -> String {
    match check(blob) {
        Ok(verified) => panic!("{verified:?}"),
        Err(error) => error.to_string(),
    }
}

/// Changes a layer, and expects to be told.
fn refused(forged: &Forged, change: impl FnOnce(&mut Forged), expected: &str) {
    let mut changed = forged.clone();
    change(&mut changed);
    let problem = problem(&changed.seal());
    assert!(problem.contains(expected), "expected {expected:?}, found {problem:?}");
}

fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn tar() -> Vec<u8> {
    TarBuilder::new()
        .dir("d/")
        .entry(TarEntry::file("d/big", content(2500)).modified(1_700_000_000, 600_000_000).owner(7, 8))
        .entry(TarEntry::file("d/small", b"small").accessed(1, 2).changed(3, 4).xattr("user.x", b"\0\xff"))
        .file("empty", b"")
        .hardlink("again", "d/small")
        .symlink("link", "d/big")
        .character("null", 1, 3)
        .fifo("pipe")
        .finish()
}

fn zstd() -> Forged {
    Forged::new(Format::Zstd, &tar(), 1000)
}

fn gzip() -> Forged {
    Forged::new(Format::Gzip, &tar(), 1000)
}

#[test]
fn a_sound_layer_is_told_what_it_is() {
    for threads in [1, 2, 8] {
        let workers = Workers::new(threads).unwrap();
        let options = VerifyOptions { diff_id: Some(Digest::sha256(&tar())), ..VerifyOptions::default() };
        let verified = verify(&zstd().seal(), &options, &workers).unwrap();
        let content = VerifiedContent {
            diff_id: Digest::sha256(&tar()),
            uncompressed_size: tar().len() as u64,
            tar_split: true,
            partial_annotations: verified.content.clone().unwrap().partial_annotations,
        };
        let toc = zstd().toc();
        let lazy_annotations = verified.lazy_annotations.clone();
        let expected = Verified {
            format: Format::Zstd,
            toc_place: TocPlace::Hidden,
            entries: 8,
            chunks: 4,
            toc_digest: Digest::sha256(&toc),
            toc_size: toc.len() as u64,
            lazy_annotations,
            content: Some(content),
        };
        assert_eq!(verified, expected);
        let verified = verify(&gzip().seal(), &VerifyOptions::default(), &workers).unwrap();
        assert_eq!((verified.format, verified.entries, verified.chunks), (Format::Gzip, 8, 4));
    }
}

#[test]
fn a_layer_with_another_diff_id_is_refused() {
    let options = VerifyOptions { diff_id: Some(Digest::sha256(b"other")), ..VerifyOptions::default() };
    for blob in [zstd().seal(), gzip().seal()] {
        assert!(
            matches!(verify(&blob, &options, &workers()), Err(Error::Mismatch { what, .. }) if what == "the tar")
        );
    }
}

#[test]
fn a_table_that_lists_something_else_than_the_tar_is_refused() {
    let time = |seconds, nanoseconds| Timestamp::new(seconds, nanoseconds);
    let extra = || Entry { name: "extra".into(), kind: EntryKind::Dir, ..Entry::default() };
    let last = |forged: &Forged| forged.entries.len();
    for forged in [zstd(), gzip(), Forged { tar_split: None, ..zstd() }] {
        refused(&forged, |forged| drop(forged.entries.remove(0)), "name differs");
        refused(&forged, |forged| drop(forged.entries.pop()), "does not have it");
        refused(&forged, |forged| forged.entries.clear(), "does not have it");
        refused(&forged, |forged| forged.entries.insert(0, extra()), "name differs");
        refused(
            &forged,
            |forged| forged.entries.insert(last(forged), extra()),
            "\"extra\": the tar does not have it",
        );
        refused(&forged, |forged| forged.entries.swap(0, 5), "name differs");
        refused(&forged, |forged| forged.entry("d/").name = "d".into(), "name differs");
        refused(&forged, |forged| forged.entry("d/").kind = EntryKind::Fifo, "type differs");
        refused(&forged, |forged| forged.entry("empty").kind = EntryKind::Fifo, "type differs");
        refused(&forged, |forged| forged.entry("d/").mode ^= 1, "mode differs");
        refused(&forged, |forged| forged.entry("d/big").uid = 9, "owner differs");
        refused(&forged, |forged| forged.entry("d/big").gid = 9, "group differs");
        refused(&forged, |forged| forged.entry("d/").user_name = "eve".into(), "owner's name differs");
        refused(&forged, |forged| forged.entry("d/").group_name = "eve".into(), "group's name differs");
        refused(&forged, |forged| forged.entry("link").link_name = "x".into(), "link target differs");
        refused(&forged, |forged| forged.entry("again").link_name = "d/big".into(), "link target differs");
        refused(&forged, |forged| forged.entry("null").device_minor = 5, "device number differs");
        refused(&forged, |forged| forged.entry("d/").modified = time(1, 0), "modification time differs");
        refused(&forged, |forged| forged.entry("d/small").xattrs.clear(), "extended attributes differs");
        refused(&forged, |forged| forged.entry("empty").digest = Some(Digest::sha256(b"x")), "empty file");
    }
    for forged in [zstd(), Forged { tar_split: None, ..zstd() }] {
        refused(
            &forged,
            |forged| forged.entry("d/small").accessed = time(9, 9),
            "access or change time differs",
        );
        refused(
            &forged,
            |forged| forged.entry("d/small").changed = time(9, 9),
            "access or change time differs",
        );
    }
}

#[test]
fn podman_wants_every_field_and_others_what_the_kind_has() {
    let time = |seconds, nanoseconds| Timestamp::new(seconds, nanoseconds);
    let changes: [fn(&mut Forged); 6] = [
        |forged| forged.entry("d/big").modified = Timestamp::new(1_700_000_001, 0),
        |forged| forged.entry("d/small").accessed = None,
        |forged| forged.entry("d/small").changed = None,
        |forged| forged.entry("d/small").link_name = "x".into(),
        |forged| forged.entry("d/small").device_major = 1,
        |forged| forged.entry("again").size = 1,
    ];
    for change in changes {
        refused(&zstd(), change, "differs");
        let mut forged = Forged { tar_split: None, ..zstd() };
        change(&mut forged);
        check(&forged.seal()).unwrap();
    }
    // Ways to spell that there is no time.
    let tar = TarBuilder::new().entry(TarEntry::file("a", b"a").mtime(0)).finish();
    for no_time in [None, time(0, 0), time(-62_135_596_800, 0)] {
        let mut forged = Forged::new(Format::Zstd, &tar, 1000);
        forged.entry("a").modified = no_time;
        check(&forged.seal()).unwrap();
    }
}

fn file(name: &str, content: &str) -> TarEntry {
    TarEntry::file(name, content)
}

/// Tars in which names come again.
fn tars_with_duplicates() -> Vec<Vec<TarEntry>> {
    let dir = TarEntry::dir;
    vec![
        vec![file("f", "one"), file("f", "two")],
        vec![file("f", "same"), file("g", "g"), file("f", "same")],
        vec![file("f", "one"), dir("d/"), file("f", ""), file("h", "h"), file("f", "three")],
        vec![file("f", ""), file("g", ""), file("f", "")],
        vec![file("f", "one"), file("./f", "one"), file("g", "g")],
        vec![dir("d/"), dir("d/"), file("d/f", "f")],
        vec![dir("d/"), file("d/f", "f"), dir("d/").mode(0o700), dir("d/")],
        vec![file("again", "file"), dir("again/"), file("again/f", "f")],
        vec![dir("again"), dir("again/"), dir("./again")],
        vec![file("f", "f"), TarEntry::symlink("l", "f"), TarEntry::symlink("l", "g"), file("g", "g")],
        vec![dir("./"), dir("a/"), dir("b/"), dir("a/"), dir("b/"), dir("./"), file("last", "last")],
    ]
}

#[test]
fn the_encoder_lists_the_last_of_equal_names_and_that_is_verified() {
    let codec = ZstdChunked::new(3);
    let in_parts = ["one", "two"].map(|text| file("f", &text.repeat(5000)));
    for entries in tars_with_duplicates().into_iter().chain([in_parts.to_vec()]) {
        let tar = TarBuilder::new().entries(entries.clone()).finish();
        let options = EncodeOptions { chunk_size: 5000, ..EncodeOptions::new(tempfile::env::temp_dir()) };
        let mut blob = Vec::new();
        let encoded = encode(&tar[..], &mut blob, &codec, &options, &workers()).unwrap();
        let verified = check(&blob).unwrap();
        let content = verified.content.unwrap();
        assert!(verified.entries < entries.len() as u64 && content.tar_split);
        assert_eq!((content.diff_id.clone(), content.diff_id), (encoded.diff_id, Digest::sha256(&tar)));
    }
}

#[test]
fn a_table_may_leave_out_what_a_later_entry_replaces_and_nothing_else() {
    for entries in tars_with_duplicates() {
        let tar = TarBuilder::new().entries(entries).finish();
        for forged in [Format::Zstd, Format::Gzip].map(|format| Forged::new(format, &tar, 1000)) {
            let all = &forged.entries;
            let mut accepted = 0;
            for subset in 0..1_u32 << all.len() {
                let kept = |position: &usize| subset & (1 << position) != 0;
                // Files with content are apart from each other by where it is.
                let sound = all.iter().all(|entry| {
                    let path = crate::path::clean(&entry.name);
                    let of_path = |position: &usize| crate::path::clean(&all[*position].name) == path;
                    let last = (0..all.len()).rfind(of_path).unwrap();
                    let listed = (0..all.len()).filter(kept).rfind(of_path);
                    listed.is_some_and(|listed| all[listed] == all[last])
                });
                let entries = (0..all.len()).filter(kept).map(|position| all[position].clone()).collect();
                let result = check(&Forged { entries, ..forged.clone() }.seal());
                let names: Vec<_> = all.iter().map(|entry| &entry.name).collect();
                assert_eq!(result.is_ok(), sound, "{subset:b} of {names:?}: {result:?}");
                accepted += u32::from(sound);
                if let Err(error) = result {
                    assert!(matches!(error, Error::Disagreement { .. }), "{error}");
                }
            }
            assert!(accepted > 1);
        }
    }
}

#[test]
fn what_is_wrong_besides_entries_left_out_is_told() {
    let tar = (0..1000).fold(TarBuilder::new().file("f", b"first").dir("d/"), |tar, number| {
        tar.file(format!("{number}"), content(3000 + number))
    });
    let tar = tar.entry(TarEntry::dir("d/").mode(0o700)).file("f", b"last").finish();
    let mut forged = Forged::new(Format::Zstd, &tar, 10_000);
    forged.entries.drain(..2);
    check(&forged.seal()).unwrap();
    refused(&forged, |forged| forged.entry("700").mode = 1, "\"700\": the mode differs");
    refused(&forged, |forged| forged.entry("d/").mode = 1, "\"d/\": the mode differs");
    refused(&forged, |forged| drop(forged.entries.pop()), "\"f\": the name differs");
    let other = Some(Digest::sha256(b"other"));
    refused(&forged, |forged| forged.entry("900").chunk_digest = other.clone(), "the chunk at");
    refused(&forged, |forged| forged.entry("f").chunk_digest = other.clone(), "the chunk at");
    let lines = forged.tar_split.clone().unwrap();
    for (from, to, expected) in [
        (r#""name":"f""#, r#""name":"g""#, "name of a file differs"),
        (
            r#""name":"f","size":5,"payload":""#,
            r#""name":"f","size":5,"payload":"AAAA"#,
            "checksum of a file",
        ),
    ] {
        let lines = lines.replacen(from, to, 1);
        assert_ne!(Some(&lines), forged.tar_split.as_ref());
        refused(&forged, |forged| forged.tar_split = Some(lines), expected);
    }
}

#[test]
fn entries_left_out_are_remembered_in_bounded_memory() {
    let mut skipped = skipped::Skipped::default();
    let xattrs = [("user.x".to_string(), vec![0; 1 << 20])];
    let mut add = |number: usize| {
        let entry = Entry { name: "d".into(), xattrs: xattrs.clone().into(), ..Entry::default() };
        skipped.add(entry, number.to_string(), false, "problem".into())
    };
    let added = (0..100).take_while(|number| add(*number).is_ok()).count();
    assert!((10..64).contains(&added), "{added}");
}

#[test]
fn a_chunk_with_another_content_is_refused() {
    let other = || Some(Digest::sha256(b"other"));
    let sha512 = || Some(Digest::parse(&format!("sha512:{}", "a".repeat(128))).unwrap());
    for forged in [zstd(), gzip()] {
        refused(&forged, |forged| forged.chunk("d/big", 0).chunk_digest = other(), "the chunk at");
        refused(&forged, |forged| forged.chunk("d/big", 2).chunk_digest = other(), "the chunk at");
        refused(&forged, |forged| forged.entry("d/small").chunk_digest = other(), "the chunk at");
        refused(&forged, |forged| forged.entry("d/small").digest = other(), "the chunk at");
        refused(&forged, |forged| forged.entry("d/big").digest = other(), "a file in parts has digest");
        refused(&forged, |forged| forged.chunk("d/big", 1).chunk_digest = None, "no sha256 digest");
        refused(&forged, |forged| forged.entry("d/big").digest = None, "no sha256 digest");
        refused(&forged, |forged| forged.chunk("d/big", 1).chunk_digest = sha512(), "no sha256 digest");
    }
    for digests in [(true, false), (false, true)] {
        let mut forged = zstd();
        let small = forged.entry("d/small");
        small.digest = small.digest.take().filter(|_| digests.0);
        small.chunk_digest = small.chunk_digest.take().filter(|_| digests.1);
        check(&forged.seal()).unwrap();
    }
}

#[test]
fn zeros_are_zeros() {
    let tar =
        TarBuilder::new().file("holes", [vec![0; 1000], content(1000), vec![0; 1000]].concat()).finish();
    let mut forged = Forged::new(Format::Zstd, &tar, 1000);
    for zeros in [0, 2] {
        forged.chunk("holes", zeros).zeros = true;
    }
    check(&forged.seal()).unwrap();
    refused(&forged, |forged| forged.chunk("holes", 1).zeros = true, "other bytes than the zeros");
}

#[test]
fn content_must_lie_where_the_table_puts_it() {
    // The digests are right, but of bytes that are not what the tar calls the content.
    let tar = TarBuilder::new().file("a", vec![b'a'; 2000]).file("b", b"b").finish();
    let forged = {
        let mut forged = Forged::new(Format::Zstd, &tar, 10_000);
        forged.frames.clear();
        forged.frame(&mut tar.clone());
        forged.entries[0].inner_offset = 512;
        forged.entries[1].inner_offset = 512 + 2048 + 512;
        forged.entries.iter_mut().for_each(|entry| entry.offset = 0);
        forged
    };
    check(&forged.seal()).unwrap();
    let move_to = |inner_offset: u64| {
        let bytes = &tar[inner_offset as usize..inner_offset as usize + 2000];
        let digest = Some(Digest::sha256(bytes));
        move |forged: &mut Forged| {
            forged.entries[0].inner_offset = inner_offset;
            forged.entries[0].digest = digest.clone();
            forged.entries[0].chunk_digest = digest;
        }
    };
    for inner_offset in [0, 511, 513, 560] {
        refused(&forged, move_to(inner_offset), "the content is not where the table puts it");
    }
    for (inner_offset, expected) in [(tar.len() as u64, "ends beyond"), (1 << 62, "the content is not where")]
    {
        let change = |forged: &mut Forged| forged.entries[1].inner_offset = inner_offset;
        refused(&forged, change, expected);
    }
    // A chunk that continues elsewhere.
    let mut forged = Forged::new(Format::Zstd, &tar, 1000);
    forged.entries[1].inner_offset = 1;
    assert!(check(&forged.seal()).is_err());
}

#[test]
fn a_size_that_both_sides_do_not_share_is_refused() {
    let digest = |bytes: &[u8]| Some(Digest::sha256(bytes));
    // Shorter than the tar says: the rest of the content would be taken for headers.
    for forged in [zstd(), gzip()] {
        refused(
            &forged,
            |forged| {
                let small = forged.entry("d/small");
                (small.size, small.digest, small.chunk_digest) = (4, digest(b"smal"), None);
            },
            "size differs",
        );
    }
    refused(&zstd(), |forged| forged.entry("d/small").size = 6, "the chunk at");
    refused(&zstd(), |forged| forged.entry("d/small").size = 60_000, "ends beyond");
}

#[test]
fn frames_must_be_whole_where_the_table_cuts_them() {
    for forged in [zstd(), gzip()] {
        for shift in [-1, 1, 5] {
            let change = |forged: &mut Forged| {
                let small = forged.entry("d/small");
                small.offset = small.offset.checked_add_signed(shift).unwrap();
            };
            refused(&forged, change, "stream is corrupt near");
        }
        refused(&forged, |forged| forged.frames.truncate(forged.frames.len() - 1), "");
        let middle = forged.frames.len() / 2;
        refused(&forged, |forged| forged.frames[middle] ^= 1, "");
    }
}

#[test]
fn nothing_but_skippable_frames_follows_the_payload() {
    let skippable = |length: u32, content: &[u8]| [&footer::skippable_header(length)[..], content].concat();
    let with = |before_footer| Forged { tar_split: None, before_footer, ..zstd() };
    check(&with(skippable(3, b"abc")).seal()).unwrap();
    let hidden = TarBuilder::new().file("hidden", b"hidden").finish();
    for before_footer in [
        compress(Format::Zstd, &hidden),
        [skippable(3, b"abc"), compress(Format::Zstd, b"x")].concat(),
        skippable(u32::MAX, b""),
        skippable(4, b"abc"),
        b"abc".to_vec(),
    ] {
        assert!(problem(&with(before_footer).seal()).contains("is no skippable frame"));
    }
    assert!(problem(&with(skippable(0, b"").repeat(20)).seal()).contains("more than 16 skippable frames"));
    let gzip = |before_footer| Forged { before_footer, ..gzip() }.seal();
    assert!(check(&gzip(compress(Format::Gzip, &hidden))).is_err());
    assert!(check(&gzip(b"abc".to_vec())).is_err());
}

#[test]
fn frames_before_the_first_file_belong_to_the_tar() {
    let more = TarBuilder::new().file("hidden", b"hidden").zero_blocks(0).finish();
    let mut forged = zstd();
    forged.frames = [compress(Format::Zstd, &more), forged.frames.clone()].concat();
    let shift = compress(Format::Zstd, &more).len() as u64;
    forged.entries.iter_mut().filter(|entry| entry.offset > 0).for_each(|entry| entry.offset += shift);
    assert!(check(&forged.seal()).is_err());
}

#[test]
fn the_tar_split_stream_is_the_tar_without_its_files() {
    let forged = zstd();
    let lines = forged.tar_split.clone().unwrap();
    let edit = |from: &str, to: &str| {
        assert!(lines.contains(from), "{from}");
        let lines = lines.replacen(from, to, 1);
        move |forged: &mut Forged| forged.tar_split = Some(lines)
    };
    let without_last = lines.trim_end().rsplit_once('\n').unwrap().0.to_string() + "\n";
    let small = r#"{"type":1,"name":"d/small","size":5,"payload":""#;
    for (change, expected) in [
        (edit("d/small", "d/smell"), "name of a file differs"),
        (edit(r#""size":5"#, r#""size":4"#), "size of a file differs"),
        (edit(r#""size":5"#, r#""size":1152921504606846976"#), "size of a file differs"),
        (edit(r#""size":5"#, r#""size":-5"#), "invalid value"),
        (edit(r#""size":5"#, r#""size":5.0"#), "invalid type"),
        (edit(small, &format!("{small}AAAA")), "checksum of a file differs"),
        (edit(r#""payload":null"#, r#""payload":"AA==""#), "checksum of a file differs"),
        (edit(r#""position":3"#, r#""position":4"#), "position 4"),
        (edit(r#""type":1"#, r#""type":3"#), "no type 3"),
        (edit(r#""type":2,"payload":"Z"#, r#""type":2,"payload":"A"#), "segment differs"),
        (edit(r#""type":2,"payload":"Z"#, r#""type":2,"payload":"*"#), "Invalid symbol"),
        (edit(r#""name":"d/small""#, r#""name":"d/small","name_raw":"eA==""#), "no name, or two"),
        (edit(r#""name":"d/small","#, ""), "no name, or two"),
        (edit(r#""name":"d/small""#, r#""Name":"d/small""#), "unknown field"),
        (edit(r#""name":"d/small""#, r#""name":"d/small","name":"d/small""#), "duplicate field"),
        (edit(small, "{"), "line"),
        (edit(&lines, ""), "missing"),
        (edit(&lines, lines.trim_end()), "cut off"),
        (edit(&lines, &without_last), "missing"),
        (edit(&lines, &(lines.clone() + &lines)), "position 0"),
        (edit(&lines, &(lines.clone() + "{\"type\":2,\"payload\":\"AA==\",\"position\":16}\n")), "position"),
    ] {
        refused(&forged, change, expected);
    }
    // Other ways to say the same.
    for (from, to) in [
        (r#""name":"d/small""#, r#""name_raw":"ZC9zbWFsbA==""#),
        (r#""name":"empty","payload":null"#, r#""name":"empty","payload":"""#),
        (r#""name":"empty","payload":null"#, r#""name":"empty","size":0"#),
    ] {
        let mut changed = forged.clone();
        edit(from, to)(&mut changed);
        assert!(check(&changed.seal()).unwrap().content.unwrap().tar_split);
    }
}

#[test]
fn the_table_vouches_for_the_tar_split_stream() {
    let other = Some(Digest::sha256(b"other"));
    refused(
        &zstd(),
        |forged| forged.tar_split_digest = other.clone(),
        "compressed tar-split stream has digest",
    );
    let named = Forged { tar_split: None, tar_split_digest: other, ..zstd() };
    assert!(problem(&named.seal()).contains("cannot be found"));
    // What is in the frame is no zstd.
    let mut blob = zstd().seal();
    let footer = blob.len() - 120;
    let offset = u64::from_le_bytes(blob[footer + 40..footer + 48].try_into().unwrap()) as usize;
    blob[offset..offset + 4].copy_from_slice(b"\x1f\x8b\x08\0");
    assert!(check(&blob).is_err());
}

#[test]
fn a_tar_split_stream_that_the_table_does_not_name_is_nobodys_concern() {
    let forged = zstd();
    let toc = Forged { tar_split: None, ..forged.clone() }.toc();
    let reason = "it has no tar-split stream that its table of contents vouches for";
    for lines in [forged.tar_split.clone().unwrap(), "old\n".into(), String::new()] {
        let blob = Forged { tar_split: Some(lines), ..forged.clone() }.seal_with(&toc);
        let content = check(&blob).unwrap().content.unwrap();
        assert_eq!((content.tar_split, content.partial_annotations), (false, Err(reason.to_string())));
    }
}

#[test]
fn what_the_encoder_would_refuse_is_sound_and_for_nobody_to_read_in_parts() {
    let links = TarBuilder::new().file("a", b"a").hardlink("l", "gone");
    let below = TarBuilder::new().file("f", b"").file("f/g", b"g");
    for (tar, reason) in [(links, "which this layer does not have"), (below, "which is not a directory")] {
        for format in [Format::Zstd, Format::Gzip] {
            let verified = check(&Forged::new(format, &tar.clone().finish(), 1000).seal()).unwrap();
            let lazy = verified.lazy_annotations.unwrap_err();
            assert!(lazy.contains(reason), "{lazy}");
            let partial = verified.content.unwrap().partial_annotations.unwrap_err();
            assert!(format == Format::Gzip || partial == lazy, "{partial}");
        }
    }
}

#[test]
fn a_layer_too_large_when_decoded_is_refused() {
    let limits = Limits { uncompressed_size: tar().len() as u64 - 1, ..Limits::default() };
    for blob in [zstd().seal(), gzip().seal()] {
        let options = VerifyOptions { limits: limits.clone(), ..VerifyOptions::default() };
        assert!(matches!(verify(&blob, &options, &workers()), Err(Error::Limit { .. })));
    }
}

#[test]
fn a_frame_that_readers_cannot_decode_is_refused() {
    let tar = TarBuilder::new().dir("d/").finish();
    let with = |frame: Vec<u8>| Forged { frames: frame, ..Forged::new(Format::Zstd, &tar, 1000) };
    check(&with(RawFrame::new().store(&tar)).seal()).unwrap();
    check(&with(RawFrame::new().window_log(27).store(&tar)).seal()).unwrap();
    check(&with(RawFrame::new().single_segment(tar.len() as u64).store(&tar)).seal()).unwrap();
    for (frame, expected) in [
        (RawFrame::new().window_log(28).store(&tar), "window"),
        (RawFrame::new().window_log(31).content_size(tar.len() as u64).store(&tar), "window"),
        (RawFrame::new().dictionary(5).store(&tar), "dictionary"),
        (RawFrame::new().content_size(tar.len() as u64 + 1).store(&tar), "corrupt"),
        (RawFrame::new().content_size(1 << 60).store(&tar), "corrupt"),
        (RawFrame::new().single_segment(1 << 60).store(&tar), "window"),
        (RawFrame::new().store(&tar)[..100].to_vec(), "corrupt"),
        ([RawFrame::new().store(&tar), b"more".to_vec()].concat(), "corrupt"),
    ] {
        refused(&with(frame), |_| {}, expected);
    }
}

#[test]
fn segments_of_any_size_are_decoded_in_bounded_memory() {
    let zeros = vec![0; 18 << 20];
    let many = (0..30_000).fold(TarBuilder::new(), |tar, number| tar.dir(format!("{number:0>100}/")));
    for (tar, chunk_size) in [
        (TarBuilder::new().file("zeros", &zeros).file("more", b"more").finish(), usize::MAX),
        (TarBuilder::new().file("zeros", &zeros).file("more", b"more").finish(), 17 << 20),
        (many.file("last", b"last").finish(), 1000),
    ] {
        for format in [Format::Zstd, Format::Gzip] {
            let mut forged = Forged::new(format, &tar, chunk_size);
            let toc = if format == Format::Gzip { toc_tar(&forged.toc()) } else { Vec::new() };
            let diff_id = Digest::sha256(&[&tar[..], &toc].concat());
            assert_eq!(check(&forged.seal()).unwrap().content.unwrap().diff_id, diff_id);
            if let Some(file) = forged.entries.iter_mut().find(|entry| entry.name == "zeros") {
                file.digest = Some(Digest::sha256(b"other"));
                assert!(check(&forged.seal()).is_err());
            }
        }
    }
}

#[test]
fn the_first_thing_wrong_is_reported_by_any_number_of_threads() {
    let tar = (0..3000).fold(TarBuilder::new(), |tar, number| tar.file(format!("{number}"), content(number)));
    let mut forged = Forged::new(Format::Zstd, &tar.finish(), 1000);
    forged.entry("1700").mode = 1;
    forged.entry("2900").chunk_digest = Some(Digest::sha256(b"other"));
    let blob = forged.seal();
    for threads in [1, 2, 8] {
        let error = verify(&blob, &VerifyOptions::default(), &Workers::new(threads).unwrap()).unwrap_err();
        assert!(error.to_string().contains("\"1700\": the mode differs"), "{error}");
    }
}

#[test]
fn the_table_alone_can_be_checked() {
    let options = VerifyOptions { depth: Depth::Toc, ..VerifyOptions::default() };
    let mut forged = zstd();
    forged.entry("d/").mode = 1;
    let verified = verify(&forged.seal(), &options, &workers()).unwrap();
    assert_eq!((verified.entries, verified.chunks, verified.content), (8, 4, None));
    let [mut chunk, mut place, mut size] = [(); 3].map(|()| forged.clone());
    chunk.chunk("d/big", 2).chunk_offset = 1;
    place.entry("d/small").offset += 1;
    size.entry("d/small").size = 6;
    for (changed, expected) in [
        (chunk, "a chunk at 1 follows 2000"),
        (place, "no frame starts at byte"),
        (size, "holds 5 bytes, fewer than the 6"),
    ] {
        let error = verify(&changed.seal(), &options, &workers()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut forged = gzip();
    verify(&forged.seal(), &options, &workers()).unwrap();
    forged.entry("d/small").offset += 1;
    let error = verify(&forged.seal(), &options, &workers()).unwrap_err().to_string();
    assert!(error.contains("no member starts at byte"), "{error}");
}

#[test]
fn what_the_encoder_writes_is_verified() {
    let codec = ZstdChunked::new(3);
    for seed in 0..20 {
        let tar = random_tar(seed, &TarOptions::default());
        let options = EncodeOptions { chunk_size: 5000, ..EncodeOptions::new(tempfile::env::temp_dir()) };
        let mut blob = Vec::new();
        let encoded = match encode(&tar[..], &mut blob, &codec, &options, &workers()) {
            Err(error) if error.is_unlistable() => continue,
            other => other.unwrap(),
        };
        let mut known = vec![Hints::from_annotations(&encoded.lazy_annotations).unwrap()];
        known.extend(
            encoded.partial_annotations.ok().map(|partial| Hints::from_annotations(&partial).unwrap()),
        );
        for hints in known {
            let options =
                VerifyOptions { hints, diff_id: Some(encoded.diff_id.clone()), ..VerifyOptions::default() };
            let verified = verify(&blob, &options, &workers()).unwrap();
            assert_eq!((verified.entries, verified.chunks), (encoded.entries, encoded.chunks));
            assert_eq!(Some(&verified.toc_digest), Some(&encoded.toc_digest));
            assert!(verified.content.unwrap().tar_split);
        }
    }
}

/// Opens a damaged layer and reads all that can be read of it. Anything may come of it but a panic.
fn read_everything(blob: Vec<u8>, workers: &Workers) {
    let _ = verify(&blob, &VerifyOptions::default(), workers);
    let Ok(reader) = Reader::open(blob, &Hints::default(), &Limits::default()) else { return };
    for node in reader.toc().entries() {
        for chunk in node.chunks() {
            let _ = reader.read_chunk(&chunk);
        }
        let Ok(mut file) = reader.read_file(node) else { continue };
        let _ = std::io::copy(&mut file, &mut std::io::sink());
    }
}

/// Small layers made by other tools, and one with everything in it.
fn victims() -> Vec<Vec<u8>> {
    let golden = ["zstdchunked", "podman-zstdchunked", "estargz"].map(|name| testdata("golden").join(name));
    let blobs = golden.iter().flat_map(|root| std::fs::read_dir(root.join("blobs/sha256")).unwrap());
    let blobs = blobs.map(|blob| std::fs::read(blob.unwrap().path()).unwrap());
    let small = |blob: &Vec<u8>| blob.len() < 100_000 && check(blob).is_ok();
    blobs.filter(small).chain([zstd().seal(), gzip().seal()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damage_is_never_a_panic(seed: u64, flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        let workers = workers();
        for blob in victims() {
            read_everything(mutate(&blob, seed), &workers);
            let mut flipped = blob.clone();
            for (position, byte) in &flips {
                // Most of the structure is at the end.
                let tail = flipped.len().min(4096);
                let start = flipped.len() - tail;
                let position = if byte & 1 == 0 { position.index(flipped.len()) } else { start + position.index(tail) };
                flipped[position] = *byte;
            }
            read_everything(flipped, &workers);
        }
    }

    #[test]
    fn a_damaged_table_is_never_a_panic(seed: u64) {
        let workers = workers();
        for forged in [zstd(), gzip()] {
            let json = mutate(&forged.toc(), seed);
            read_everything(forged.seal_with(&json), &workers);
        }
    }
}
