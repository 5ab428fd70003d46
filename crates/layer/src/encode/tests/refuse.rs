//! What cannot be encoded, what podman would not take, and awkward things that can be.

use restow_testkit::{Entry, Sparse, TarBuilder};

use super::*;
use crate::{Hints, VerifyOptions, verify};

fn refused(tar: &[u8]) -> Error {
    let errors = [options(), prioritized(&["gone"]), prioritized(&["zz"])]
        .map(|options| run_with(tar, &options, 2).unwrap_err());
    // Whether files are to be moved makes no difference.
    assert_eq!(errors[0].to_string(), errors[1].to_string());
    assert_eq!(errors[0].to_string(), errors[2].to_string());
    let [error, ..] = errors;
    error
}

#[test]
fn what_a_table_of_contents_cannot_express_is_refused_with_entry_and_byte() {
    let slash = "/";
    let deep = "d/".repeat(255) + "f";
    let long = "n".repeat(4097);
    for (entries, offset, name, problem) in [
        (vec![Entry::file(b"f\xff", "").gnu()], 0, None, "its name is not UTF-8, as JSON must be"),
        (
            vec![Entry::symlink("s", b"t\xff").gnu()],
            0,
            Some("s"),
            "its link target is not UTF-8, as JSON must be",
        ),
        (
            vec![Entry::file("f", "").names(b"u\xff", "g").gnu()],
            0,
            Some("f"),
            "its owner's name is not UTF-8, as JSON must be",
        ),
        (
            vec![Entry::file("f", "").names("u", b"g\xff").gnu()],
            0,
            Some("f"),
            "its group's name is not UTF-8, as JSON must be",
        ),
        (
            vec![Entry::file("f", "").xattr(b"user.\xff", "")],
            0,
            Some("f"),
            "its extended attribute's name is not UTF-8, as JSON must be",
        ),
        (vec![Entry::file("../f", "")], 0, Some("../f"), "its name goes through a parent directory"),
        (vec![Entry::file("a/../f", "")], 0, Some("a/../f"), "its name goes through a parent directory"),
        (vec![Entry::file("", "")], 0, Some(""), "its name is empty"),
        (vec![Entry::file("./", "")], 0, Some("./"), "it is a regular file whose name ends with a slash"),
        (vec![Entry::symlink(slash, "t")], 0, Some("/"), "it is the root and not a directory"),
        (vec![Entry::file("f/", "")], 0, Some("f/"), "it is a regular file whose name ends with a slash"),
        (vec![Entry::file(".wh.", "")], 0, Some(".wh."), "it is a whiteout of no name"),
        (vec![Entry::file("d/.wh..", "")], 0, Some("d/.wh.."), "it is a whiteout of no name"),
        (vec![Entry::file("d/.wh...", "")], 0, Some("d/.wh..."), "it is a whiteout of no name"),
        (
            vec![Entry::file("f", "").typeflag(b'V')],
            0,
            Some("f"),
            "its typeflag 'V' is not one that images use",
        ),
        (
            vec![Entry::file("a", "x"), Entry::sparse(Sparse::Gnu, "s", 512, &[(0, &[1])])],
            1024,
            Some("s"),
            "it is a sparse file",
        ),
        (vec![Entry::sparse(Sparse::Pax01, "s", 512, &[(0, &[1])])], 0, Some("s"), "it is a sparse file"),
        (
            vec![Entry::file("f", "").mtime(253_402_300_800)],
            0,
            Some("f"),
            "its modification time lies outside the years 0 to 9999",
        ),
        (
            vec![Entry::file("f", "").mtime(-62_167_219_201)],
            0,
            Some("f"),
            "its modification time lies outside the years 0 to 9999",
        ),
        (
            vec![Entry::file("f", "").accessed(1 << 60, 0)],
            0,
            Some("f"),
            "its access time lies outside the years 0 to 9999",
        ),
        (
            vec![Entry::file("f", "").changed(i64::MIN, 0)],
            0,
            Some("f"),
            "its change time lies outside the years 0 to 9999",
        ),
        (
            vec![Entry::file(&deep, "")],
            0,
            Some(&deep),
            "its name has 256 components, more than the limit of 255",
        ),
        (
            vec![Entry::file(&long, "")],
            0,
            Some(&long),
            "its name has 4097 bytes, more than the limit of 4096",
        ),
        (
            vec![Entry::symlink("s", &long)],
            0,
            Some("s"),
            "its link target has 4097 bytes, more than the limit of 4096",
        ),
        (
            vec![Entry::hardlink("l", "../gone")],
            0,
            Some("l"),
            "it is a hard link to \"gone\", which this layer does not have",
        ),
        (
            vec![Entry::file("a", "x"), Entry::hardlink("l", "./l")],
            1024,
            Some("l"),
            "it is a hard link to \"l\", which is itself",
        ),
        (
            vec![Entry::hardlink("l", "t"), Entry::file("t", "")],
            0,
            Some("l"),
            "it is a hard link to \"t\", which comes later in the tar",
        ),
        (
            vec![Entry::file("x", ""), Entry::hardlink("a", "b"), Entry::hardlink("b", "a")],
            512,
            Some("a"),
            "it is a hard link to \"b\", which comes later in the tar",
        ),
        (
            vec![Entry::dir("d/"), Entry::hardlink("l", "d")],
            512,
            Some("l"),
            "it is a hard link to \"d\", which is a directory",
        ),
        (
            // What the link names is the first of them, what the table would find is the second.
            vec![Entry::file("t", "1"), Entry::hardlink("l", "t"), Entry::file("t", "2")],
            1024,
            Some("l"),
            "it is a hard link to \"t\", which comes later in the tar",
        ),
        (
            vec![Entry::file("f", ""), Entry::file("f/g", "")],
            512,
            Some("f/g"),
            "it lies below \"f\", which is not a directory",
        ),
        (
            vec![Entry::dir("d/"), Entry::dir("d/e/"), Entry::file("d", "")],
            512,
            Some("d/e"),
            "it lies below \"d\", which is not a directory",
        ),
    ] {
        let tar = TarBuilder::new().entries(entries).entry(Entry::file("zz", "")).finish();
        let error = refused(&tar);
        assert!(error.is_unlistable(), "{error:?}");
        let Error::Unlistable { offset: found, entry, problem: said } = error else { panic!() };
        assert_eq!((found, said.as_str()), (offset, problem));
        if name.is_some() {
            assert_eq!(entry.as_deref(), name, "{problem}");
        }
    }
}

#[test]
fn names_and_owners_of_a_mebibyte_and_paths_of_a_hundred_thousand_directories_are_refused() {
    let million = "n".repeat(1 << 20);
    for entry in [Entry::file(&million, ""), Entry::file("f", "").record("uname", &million)] {
        let error = refused(&TarBuilder::new().entry(entry).finish());
        assert!(matches!(error, Error::TarLimit { offset: 0, limit: 0x10_0000, .. }), "{error}");
    }
    let just = "n".repeat((1 << 20) - 100);
    let deep = "d/".repeat(100_000);
    for (name, limits, problem) in [
        (&just, Limits::default(), "bytes, more than the limit of 4096"),
        (&deep, Limits::default(), "bytes, more than the limit of 4096"),
        (
            &deep,
            Limits { path_length: 1 << 20, ..Limits::default() },
            "components, more than the limit of 255",
        ),
    ] {
        let tar = TarBuilder::new().entry(Entry::new(b'5', name)).finish();
        let error = run_with(&tar, &Options { limits, ..options() }, 2).unwrap_err();
        assert!(error.is_unlistable() && error.to_string().ends_with(problem), "{problem}");
    }
}

#[test]
fn damaged_sources_are_refused_and_never_look_unlistable() {
    let tar = sample().finish();
    let packed = restow_testkit::compress::gzip(&tar);
    for (source, message) in [
        (tar[..tar.len() - 1024 - 500].to_vec(), "tar entry at byte "),
        (packed[..packed.len() - 1].to_vec(), "the gzip stream is corrupt near blob byte "),
        ([packed, vec![0]].concat(), "the gzip stream is corrupt near blob byte "),
        (vec![0; 3], "tar entry at byte 0: the tar ends after 3 bytes of a 512-byte header"),
        (pattern(600), "tar entry at byte 0: "),
    ] {
        let error = refused(&source);
        assert!(error.to_string().starts_with(message), "{error}");
        assert!(!error.is_unlistable());
    }
}

#[test]
fn limits_hold() {
    let tar = sample().finish();
    let run = |limits: Limits| run_with(&tar, &Options { limits, ..options() }, 2).map(|_| ());
    // 11 entries, and 5 chunks that are not the first of their file.
    run(Limits { tar_entries: 16, ..Limits::default() }).unwrap();
    let error = run(Limits { tar_entries: 15, ..Limits::default() }).unwrap_err();
    assert!(
        matches!(error, Error::TocSize { found: 16, unit: "entries", limit: 15 }) && error.is_unlistable()
    );
    let error = run(Limits { tar_entries: 10, ..Limits::default() }).unwrap_err();
    assert!(matches!(error, Error::TarLimit { entry: Some(name), .. } if name == "null"));
    let error = run(Limits { uncompressed_size: 1000, ..Limits::default() }).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }));
    let error = run(Limits { streamed_toc_size: 100, ..Limits::default() }).unwrap_err();
    assert!(matches!(error, Error::TocSize { unit: "bytes", limit: 100, .. }) && error.is_unlistable());
}

#[test]
fn a_table_larger_than_podman_accepts_is_written_but_not_for_podman() {
    let tar = TarBuilder::new()
        .dir("d/")
        .file("d/tool", pattern(2500))
        .hardlink("alias", "d/tool")
        .symlink("link", "d")
        .file("zeros", vec![0; 3000])
        .finish();
    let size = run(&tar, &options()).0.toc_size;
    let undivided = Options { chunk_size: 5000, ..options() };
    let smaller = run(&tar, &undivided).0.toc_size;
    let (fewer_chunks, fewer_entries) = (
        "larger chunks make it smaller",
        "it becomes smaller only if the files are spread over several layers",
    );
    for (options, size, limit, remedy) in [
        (options(), size, size - 1, fewer_chunks),
        (options(), size, 100, fewer_entries),
        (undivided, smaller, smaller - 1, fewer_entries),
    ] {
        let limits = Limits { podman_toc_size: limit, ..Limits::default() };
        let (encoded, blob) = run(&tar, &Options { limits: limits.clone(), ..options });
        let refusal = format!(
            "its table of contents has {size} bytes, more than the {limit} that podman reads; {remedy}"
        );
        assert_eq!(encoded.partial_annotations, Err(refusal));
        assert_eq!(verified(&blob, limits).partial_annotations, encoded.partial_annotations);
    }
}

fn verified(blob: &[u8], limits: Limits) -> crate::VerifiedContent {
    let options = VerifyOptions { limits, ..VerifyOptions::default() };
    verify(&blob, &options, &TWO_WORKERS).unwrap().content.unwrap()
}

#[test]
fn a_layer_without_entries_is_one_for_podman_alone() {
    for tar in [TarBuilder::new().finish(), vec![0; 512], vec![0; 10_240]] {
        for options in [options(), prioritized(&["gone"])] {
            let (encoded, blob) = run(&tar, &options);
            let layer = inspect(&encoded, &blob, 1000);
            assert!(layer.tar == tar && encoded.lazy_annotations.is_empty());
            let hints = Hints::from_annotations(encoded.partial_annotations.as_ref().unwrap()).unwrap();
            let options = VerifyOptions { hints, ..VerifyOptions::default() };
            let verified = verify(&blob, &options, &TWO_WORKERS).unwrap();
            assert_eq!(verified.lazy_annotations, Ok(encoded.lazy_annotations));
            assert_eq!(verified.content.unwrap().partial_annotations, encoded.partial_annotations);
        }
    }
}

#[test]
fn what_podman_would_refuse_is_said_with_its_reason() {
    for (tar, reason) in [
        (
            TarBuilder::new().global_pax(&[("comment", "c")]).file("f", ""),
            "it has a global extended header (f)",
        ),
        (
            TarBuilder::new().file("a", "").entry(Entry::file("f", "x").typeflag(b'7')),
            "it has an entry of typeflag 7 (f)",
        ),
        (
            TarBuilder::new().file("t", "").entry(Entry::hardlink("l", "t").claim_size(5)),
            "it has a link, directory or device with a size (l)",
        ),
        (
            TarBuilder::new().entry(Entry::dir("d/").claim_size(5)),
            "it has a link, directory or device with a size (d/)",
        ),
        (
            TarBuilder::new().entry(Entry::new(0, "d/").v7().claim_size(5)),
            "it has a link, directory or device with a size (d/)",
        ),
        (
            TarBuilder::new().entry(Entry::file("f", "").xattr("", "x")),
            "it has an extended attribute without a name (f)",
        ),
        (
            TarBuilder::new().dir("dev/").character("dev/null", 1, 3).fifo("pipe"),
            "it has a device or pipe outside of /dev, which podman would leave out (pipe)",
        ),
        (
            TarBuilder::new().dir("dev/").fifo("dev/pipe").entry(Entry::hardlink("l", "dev/pipe")),
            "it has a hard link to a device or pipe, \"l\"",
        ),
        (
            TarBuilder::new().file(".wh.f", "").file("f", ""),
            "it has an entry and a whiteout for the same name",
        ),
        (TarBuilder::new().file("f", "").file("./f", ""), "it has several entries of the same name"),
        (
            TarBuilder::new()
                .entry(Entry::dir(".wh..wh.plnk/"))
                .file(".wh..wh.plnk/1.2", "")
                .hardlink("l", ".wh..wh.plnk/1.2"),
            "it has an entry that AUFS left behind (.wh..wh.plnk/)",
        ),
        (
            TarBuilder::new().dir("d/").file("d/.wh..wh.x", ""),
            "it has an entry that AUFS left behind (d/.wh..wh.x)",
        ),
        (
            TarBuilder::new().file("d/e/f", "").dir("d/"),
            "it has no entry for the directory \"d/e\", which podman would let nobody into",
        ),
        (
            TarBuilder::new().file("d/.wh.f", ""),
            "it has no entry for the directory \"d\", which podman would let nobody into",
        ),
    ] {
        let tar = tar.file("last", "content").finish();
        let (encoded, blob) = run(&tar, &options());
        assert_eq!(encoded.partial_annotations, Err(reason.to_string()));
        assert_eq!(verified(&blob, Limits::default()).partial_annotations, encoded.partial_annotations);
        // For containerd's readers it is a layer like any other.
        assert!(inspect(&encoded, &blob, 1000).tar == tar);
    }
}

#[test]
fn what_follows_the_last_entry_is_told_to_podman_in_segments_that_begin_with_an_end() {
    let file = TarBuilder::new().file("f", "content");
    let (no_padding, no_end) = (512 + 7, 1024);
    let whole = file.finish();
    let with = |length: usize, more: &[u8]| [&whole[..length], more].concat();
    let garbage = pattern(300_000);
    for (tar, accepted) in [
        (with(no_padding, b""), true),
        (with(no_padding, b"\0"), false),
        (with(no_end, b""), true),
        (with(no_end, &[0; 512]), true),
        (with(no_end, &[0; 3_000_000]), true),
        (with(no_end + 1024, &garbage), true),
        (with(no_end + 1024, &[&[0; 600_000][..], &garbage, &[0; 600_000][..]].concat()), true),
        (with(no_end + 1024, &pattern(3_000_000)), false),
    ] {
        let (encoded, blob) = run(&tar, &options());
        let refusal = "what follows its last entry is not the end of an archive".to_string();
        assert_eq!(
            encoded.partial_annotations.as_ref().err(),
            (!accepted).then_some(&refusal),
            "{}",
            tar.len()
        );
        let layer = inspect(&encoded, &blob, 1000);
        assert!(layer.tar == tar);
        let hints = Hints::from_annotations(&encoded.lazy_annotations).unwrap();
        let options = VerifyOptions { hints, ..VerifyOptions::default() };
        let verified = verify(&blob, &options, &Workers::new(1).unwrap()).unwrap();
        assert_eq!(verified.content.unwrap().partial_annotations, encoded.partial_annotations);
    }
}

#[test]
fn awkward_metadata_arrives_as_it_is() {
    let tar = TarBuilder::new()
        .entry(Entry::file("suid", "x").mode(0o7_777_777).owner(i64::MAX, i64::MIN))
        .entry(Entry::file("gnu", "x").gnu().base256().mode(i64::MAX >> 8).owner(-1, 1 << 53))
        .entry(Entry::file("typed", "x").mode(0o100_644).mtime(0))
        .entry(Entry::file("first", "x").mtime(-62_167_219_200).accessed(253_402_300_799, 999_999_999))
        .entry(Entry::file("times", "x").modified(0, 1).accessed(-2, 500_000_000).changed(5, 0))
        .entry(Entry::file("gnu times", "x").gnu().accessed(5, 0).changed(-5, 0))
        .entry(
            Entry::file("xattrs", "x")
                .xattr("user.empty", "")
                .xattr("security.capability", b"\x01\0\0\x02\xff")
                .xattr("user.large", pattern(65_536)),
        )
        .entry(Entry::file("names", "x").names("grüppe<&>", "g\u{2028}\"\\"))
        .dir("dev/")
        .entry(Entry::character("dev/char", (1 << 31) + 1, -5).gnu())
        .entry(Entry::fifo("dev/fifo").device(3, 4))
        .entry(Entry::file("linked", "x").link("a link that a file does not have"))
        .entry(Entry::file("a\nb\t\"\\<&>\u{2028}\u{1}", "x"))
        .entry(Entry::symlink("loop", "loop"))
        .entry(Entry::symlink("absolute", "/../../etc/passwd"))
        .dir("d/")
        .entry(Entry::file("d/.wh..wh..opq", "not empty"))
        .entry(Entry::dir("d/.wh.dir/"))
        .entry(Entry::file("old", "x").v7().typeflag(0))
        .entry(Entry::file("last", "").owner(0, 0).names("", ""))
        .finish();
    let (encoded, blob) = run(&tar, &options());
    assert!(inspect(&encoded, &blob, 1000).tar == tar);
    assert!(encoded.partial_annotations.is_ok());
    let (encoded, blob) = run(&tar, &prioritized(&["xattrs", "gnu"]));
    inspect(&encoded, &blob, 1000);
    assert_eq!(encoded.moved, 2);
}

#[test]
fn a_hard_link_that_says_something_else_of_its_file_is_refused_unless_it_may() {
    let tar = TarBuilder::new()
        .entry(Entry::file("tool", "#!").mode(0o4755))
        .entry(Entry::hardlink("same", "tool").mode(0o4755))
        .entry(Entry::hardlink("other", "same"))
        .finish();
    for prioritized in [Vec::new(), vec!["other".to_string()]] {
        let options = Options { prioritized, ..options() };
        let error = run_with(&tar, &options, 2).unwrap_err();
        assert!(error.is_unlistable());
        assert_eq!(
            error.to_string(),
            "tar entry at byte 1536 (other) cannot be listed in a table of contents: it is a hard link to \"same\", \
             whose mode, owner, time or attributes it would change"
        );
        let (encoded, blob) = run(&tar, &Options { limits: lenient(), ..options });
        // Whether to read such a layer is another matter: there are some.
        assert_eq!(verified(&blob, Limits::default()).partial_annotations, encoded.partial_annotations);
    }
}

#[test]
fn a_layer_of_nothing_is_one_in_every_format() {
    for source in [Vec::new(), restow_testkit::compress::gzip(""), restow_testkit::compress::zstd("")] {
        let (encoded, blob) = run(&source, &options());
        assert_eq!((encoded.entries, encoded.diff_id), (0, Digest::sha256(b"")));
        assert!(plain(&blob).is_empty());
    }
}
