//! What is moved, in which order, and what it takes with it.

use restow_testkit::compress::{gzip, zstd};
use restow_testkit::{Entry, TarBuilder};

use super::*;
use crate::toc::{EntryKind, TAR_NAME};
use crate::{Estargz, path};
use crate::{NO_PREFETCH_LANDMARK as NO_PREFETCH, PREFETCH_LANDMARK as PREFETCH};

/// The cases of stargz-snapshotter's sort test, by its names. Where nothing is said about landmarks it writes one in
/// every layer, so they run with [`Landmark::Always`]. Two differ on purpose: a landmark for prefetching is written only
/// if something was moved, and a file that is not there is reported, not an error.
struct Case {
    name: &'static str,
    tar: fn(&str) -> Vec<Entry>,
    log: &'static [&'static str],
    /// Names, cleaned.
    expected: &'static [&'static str],
    missing: &'static [&'static str],
}

fn text(path: String) -> Entry {
    Entry::file(&path, format!("content of {path}"))
}

fn marker(name: &str) -> Entry {
    Entry::file(name, [0x0f]).mode(0).mtime(0)
}

const LONG: &str = "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long";

const CASES: &[Case] = &[
    Case {
        name: "nolog",
        tar: |p| {
            vec![text(format!("{p}foo.txt")), Entry::dir(format!("{p}bar/")), text(format!("{p}bar/baz.txt"))]
        },
        log: &[],
        expected: &[NO_PREFETCH, "foo.txt", "bar", "bar/baz.txt"],
        missing: &[],
    },
    Case {
        name: "identical",
        tar: |p| {
            vec![
                text(format!("{p}foo.txt")),
                Entry::dir(format!("{p}bar/")),
                text(format!("{p}bar/baz.txt")),
                text(format!("{p}bar/bar.txt")),
                text(format!("{p}bar/baa.txt")),
            ]
        },
        log: &["foo.txt", "bar/baz.txt"],
        expected: &["foo.txt", "bar", "bar/baz.txt", PREFETCH, "bar/bar.txt", "bar/baa.txt"],
        missing: &[],
    },
    Case {
        name: "shuffle_reg",
        tar: |p| ["foo", "baz", "bar", "baa"].map(|name| text(format!("{p}{name}"))).into(),
        log: &["baa", "bar", "baz"],
        expected: &["baa", "bar", "baz", PREFETCH, "foo"],
        missing: &[],
    },
    Case {
        name: "shuffle_directory",
        tar: |p| {
            vec![
                text(format!("{p}foo.txt")),
                Entry::dir(format!("{p}bar/")),
                text(format!("{p}bar/baz.txt")),
                Entry::dir(format!("{p}baz/")),
                text(format!("{p}baz/baz.txt")),
                Entry::dir(format!("{p}baz/bar/")),
                text(format!("{p}baz/bar/deep.txt")),
            ]
        },
        log: &["baz/bar/deep.txt", "bar"],
        expected: &[
            "baz",
            "baz/bar",
            "baz/bar/deep.txt",
            "bar",
            PREFETCH,
            "foo.txt",
            "bar/baz.txt",
            "baz/baz.txt",
        ],
        missing: &[],
    },
    Case {
        // A symbolic link takes nothing with it.
        name: "shuffle_link",
        tar: |p| {
            vec![
                text(format!("{p}foo.txt")),
                text(format!("{p}baz.txt")),
                Entry::symlink(format!("{p}bar.txt"), "baz.txt"),
                text(format!("{p}baa.txt")),
            ]
        },
        log: &["bar.txt"],
        expected: &["bar.txt", PREFETCH, "foo.txt", "baz.txt", "baa.txt"],
        missing: &[],
    },
    Case {
        name: "longname",
        tar: |p| {
            vec![text(format!("{p}foo.txt")), text(format!("{p}{LONG}")), text(format!("{p}{LONG}2")).gnu()]
        },
        log: &[
            "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long2",
        ],
        expected: &[
            "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long2",
            PREFETCH,
            "foo.txt",
            LONG,
        ],
        missing: &[],
    },
    Case {
        name: "various_types",
        tar: |p| {
            vec![
                text(format!("{p}reg")),
                Entry::fifo(format!("{p}fifo")),
                Entry::character(format!("{p}char"), 10, 11),
                Entry::block(format!("{p}block"), 20, 21),
                Entry::dir(format!("{p}dir/")),
                Entry::symlink(format!("{p}symlink"), "reg"),
            ]
        },
        log: &["symlink", "dir", "block", "char", "fifo"],
        expected: &["symlink", "dir", "block", "char", "fifo", PREFETCH, "reg"],
        missing: &[],
    },
    Case {
        name: "existing_landmark",
        tar: |p| {
            vec![
                text(format!("{p}a")),
                text(format!("{p}b")),
                marker(&format!("{p}{PREFETCH}")),
                text(format!("{p}c")),
            ]
        },
        log: &["c", "b"],
        expected: &["c", "b", PREFETCH, "a"],
        missing: &[],
    },
    Case {
        name: "existing_landmark_nolog",
        tar: |p| vec![text(format!("{p}a")), marker(&format!("{p}{PREFETCH}")), text(format!("{p}c"))],
        log: &[],
        expected: &[NO_PREFETCH, "a", "c"],
        missing: &[],
    },
    Case {
        name: "existing_noprefetch_landmark",
        tar: |p| vec![marker(&format!("{p}{NO_PREFETCH}")), text(format!("{p}a")), text(format!("{p}c"))],
        log: &["c"],
        expected: &["c", PREFETCH, "a"],
        missing: &[],
    },
    Case {
        name: "existing_noprefetch_landmark_nolog",
        tar: |p| vec![text(format!("{p}a")), marker(&format!("{p}{NO_PREFETCH}")), text(format!("{p}c"))],
        log: &[],
        expected: &[NO_PREFETCH, "a", "c"],
        missing: &[],
    },
    Case {
        name: "not_existing_file",
        tar: |p| vec![text(format!("{p}a")), text(format!("{p}b"))],
        log: &["nowhere"],
        expected: &[NO_PREFETCH, "a", "b"],
        missing: &["nowhere"],
    },
    Case {
        name: "not_existing_file_allow_fail",
        tar: |p| vec![text(format!("{p}a")), text(format!("{p}b"))],
        log: &["nowhere", "b", "b/below"],
        expected: &["b", PREFETCH, "a"],
        missing: &["nowhere", "b/below"],
    },
    Case {
        name: "duplicated_entry",
        tar: |p| {
            vec![
                text(format!("{p}foo.txt")),
                Entry::dir(format!("{p}bar/")),
                Entry::file(format!("{p}bar/baz.txt"), "old"),
                text(format!("{p}bar/bar.txt")),
                Entry::file(format!("{p}bar/baz.txt"), "new"),
            ]
        },
        log: &["bar/baz.txt"],
        expected: &["bar", "bar/baz.txt", PREFETCH, "foo.txt", "bar/bar.txt"],
        missing: &[],
    },
    Case {
        name: "hardlink",
        tar: |p| {
            vec![
                text(format!("{p}first")),
                text(format!("{p}baz.txt")),
                Entry::hardlink(format!("{p}link1"), format!("{p}baz.txt")),
                Entry::hardlink(format!("{p}link2"), format!("{p}link1")),
            ]
        },
        log: &["link2"],
        expected: &["baz.txt", "link1", "link2", PREFETCH, "first"],
        missing: &[],
    },
    Case {
        // The root comes first, as the parent of all.
        name: "root_relative_file",
        tar: |_| vec![Entry::dir("./"), text("./foo.txt".into()), text("./bar.txt".into())],
        log: &["bar.txt"],
        expected: &["", "bar.txt", PREFETCH, "foo.txt"],
        missing: &[],
    },
    Case {
        name: "root_absolute_file",
        tar: |_| vec![text("/foo.txt".into()), Entry::dir("/"), text("/bar.txt".into())],
        log: &["bar.txt"],
        expected: &["", "bar.txt", PREFETCH, "foo.txt"],
        missing: &[],
    },
];

#[test]
fn files_are_sorted_as_the_reference_sorts_them() {
    assert_eq!(CASES.len(), 17);
    for case in CASES {
        for tar_prefix in ["", "./", "/", "../"] {
            let tar = TarBuilder::new().entries((case.tar)(tar_prefix)).finish();
            let mut results = Vec::new();
            for log_prefix in ["", "./", "/", "../"] {
                let source = match log_prefix {
                    "" => tar.clone(),
                    "./" => gzip(&tar),
                    _ => zstd(&tar),
                };
                let log: Vec<String> = case.log.iter().map(|path| format!("{log_prefix}{path}")).collect();
                let options =
                    Options { prioritized: log, landmark: Landmark::Always, limits: lenient(), ..options() };
                let (encoded, blob) = run(&source, &options);
                assert_eq!(encoded.missing, case.missing, "{}", case.name);
                assert_eq!(encoded.source_diff_id, Digest::sha256(&tar), "{}", case.name);
                results.push((encoded.diff_id.clone(), encoded, blob));
            }
            let (_, encoded, blob) = &results[0];
            assert!(results.iter().all(|(_, _, other)| other == blob), "{}", case.name);
            let layer = inspect(encoded, blob, 1000);
            let names: Vec<_> = layer.names().into_iter().map(path::clean).collect();
            assert_eq!(names, case.expected, "{}", case.name);
            let landmark = case.expected.iter().position(|name| *name == PREFETCH).unwrap_or(0);
            assert_eq!(encoded.moved, landmark as u64, "{}", case.name);
            if case.name == "duplicated_entry" {
                let name = format!("{tar_prefix}bar/baz.txt");
                assert_eq!(restow_testkit::plain::content(&layer.tar, &name).unwrap(), b"new");
            }
            // In the other format, which has a landmark in every layer, the same.
            let log: Vec<String> = case.log.iter().map(|path| path.to_string()).collect();
            let options = Options { prioritized: log, limits: lenient(), ..options() };
            let (mut encoded, blob) = run_codec(&Estargz::new(6), &tar, &options, 2).unwrap();
            let table = estargz::inspect(&mut encoded, &blob, &options, 0).entries;
            let table = table.iter().filter(|entry| entry.kind != EntryKind::Chunk);
            assert!(table.map(|entry| path::clean(&entry.name)).eq(names), "{}", case.name);
            assert_eq!(encoded.missing, case.missing, "{}", case.name);
        }
    }
}

#[test]
fn landmarks_follow_the_policy_and_the_facts() {
    use Landmark::{Always, Auto, Never};
    let [a, b, c] = ["a", "b", "c"];
    let none: &[&str] = &[a, b, c];
    for (landmark, old, log, expected) in [
        (Auto, None, &[][..], none),
        (Auto, None, &["gone"], none),
        (Auto, None, &[c], &[c, PREFETCH, a, b]),
        (Always, None, &[], &[NO_PREFETCH, a, b, c]),
        (Always, None, &["gone"], &[NO_PREFETCH, a, b, c]),
        (Always, None, &[c], &[c, PREFETCH, a, b]),
        (Never, None, &[], none),
        (Never, None, &["gone"], none),
        (Never, None, &[c], &[c, a, b]),
        // An old landmark stands between a and b.
        (Auto, Some(PREFETCH), &[], &[a, PREFETCH, b, c]),
        (Auto, Some(PREFETCH), &["gone"], &[a, PREFETCH, b, c]),
        (Auto, Some(PREFETCH), &[c], &[c, PREFETCH, a, b]),
        (Auto, Some(PREFETCH), &[PREFETCH], &[a, PREFETCH, b, c]),
        (Auto, Some(PREFETCH), &[PREFETCH, c], &[c, PREFETCH, a, b]),
        (Always, Some(PREFETCH), &[], &[NO_PREFETCH, a, b, c]),
        (Always, Some(PREFETCH), &["gone"], &[NO_PREFETCH, a, b, c]),
        (Never, Some(PREFETCH), &[], none),
        (Never, Some(PREFETCH), &[c], &[c, a, b]),
        (Auto, Some(NO_PREFETCH), &[], none),
        (Auto, Some(NO_PREFETCH), &["gone"], none),
        (Auto, Some(NO_PREFETCH), &[c, NO_PREFETCH], &[c, PREFETCH, a, b]),
        (Always, Some(NO_PREFETCH), &[], &[NO_PREFETCH, a, b, c]),
        (Never, Some(NO_PREFETCH), &["gone"], none),
    ] {
        let what = format!("{landmark:?}, {old:?}, {log:?}");
        let source =
            TarBuilder::new().file(a, "a").entries(old.map(marker)).file(b, "bb").file(c, "ccc").finish();
        let options = Options { landmark, ..prioritized(log) };
        let (encoded, blob) = run(&source, &options);
        let layer = inspect(&encoded, &blob, 1000);
        assert_eq!(layer.names(), expected, "{what}");
        let moved = expected[0] == c;
        assert_eq!(encoded.moved, u64::from(moved), "{what}");
        let end = match expected.iter().find(|name| **name == PREFETCH) {
            Some(landmark) => layer.entry(landmark).offset,
            None if moved => layer.entry(c).end_offset,
            None => 0,
        };
        assert_eq!(encoded.prefetch_size, end, "{what}");
        // Twice is once, in whatever way the first result is read.
        let (again, again_blob) = run(&blob, &options);
        assert!(again_blob == blob, "{what}");
        assert_eq!(
            (&again.diff_id, again.prefetch_size),
            (&encoded.diff_id, encoded.prefetch_size),
            "{what}"
        );
    }
}

#[test]
fn an_estargz_layer_gives_what_its_tar_gives() {
    let files = || {
        TarBuilder::new()
            .dir("etc/")
            .file("etc/passwd", pattern(700))
            .file("tail", pattern(1800))
            .entries((0..120).map(|index| Entry::file(format!("many/{index}"), pattern(index * 31))))
    };
    let plain_tar = files().finish();
    let table = |size: usize| Entry::file("stargz.index.json", pattern(size)).mode(0).mtime(0);
    let estargz = [
        files().entry(table(900)).finish(),
        files().entry(table(3 << 20)).finish(),
        TarBuilder::new()
            .entry(marker(NO_PREFETCH))
            .raw(files().finish_with(restow_testkit::End::None))
            .entry(table(512))
            .finish(),
        // Wherever they are.
        TarBuilder::new()
            .entry(table(0))
            .entry(marker(&format!("./{NO_PREFETCH}")))
            .raw(files().finish_with(restow_testkit::End::None))
            .entry(table(5))
            .entry(table(6))
            .finish(),
        // Cut off in the table's padding, or with no end.
        files().entry(table(900).no_padding()).finish_with(restow_testkit::End::None),
        files().entry(table(900)).finish_with(restow_testkit::End::Blocks(1)),
    ];
    for options in [options(), prioritized(&["gone"]), prioritized(&["many/100", "tail"])] {
        let (expected, blob) = run(&plain_tar, &options);
        inspect(&expected, &blob, 1000);
        for source in &estargz {
            let (encoded, again) = run(&gzip(source), &options);
            assert!(again == blob);
            assert_eq!(encoded.source_diff_id, Digest::sha256(source));
            assert_eq!(encoded.diff_id, expected.diff_id);
        }
    }
}

#[test]
fn a_table_of_contents_of_any_size_is_left_out_in_bounded_memory() {
    let table = Entry::file("stargz.index.json", vec![b'x'; 40 << 20]);
    let source = TarBuilder::new().file("a", "content").entry(table).file("b", "content").finish();
    for options in [options(), prioritized(&["b"])] {
        let (encoded, blob) = run(&source, &options);
        assert_eq!(encoded.source_diff_id, Digest::sha256(&source));
        let layer = inspect(&encoded, &blob, 1000);
        let expected: &[&str] = if encoded.moved == 0 { &["a", "b"] } else { &["b", PREFETCH, "a"] };
        assert_eq!(layer.names(), expected);
    }
}

#[test]
fn reserved_names_mean_something_at_the_root_only() {
    let tar = TarBuilder::new()
        .file("a/.prefetch.landmark", "x")
        .file("a/.no.prefetch.landmark", "y")
        .file("a/stargz.index.json", "z")
        .finish();
    let (encoded, blob) = run(&tar, &options());
    assert_eq!(inspect(&encoded, &blob, 1000).tar, tar);
    for name in [PREFETCH, NO_PREFETCH, "stargz.index.json", "./stargz.index.json"] {
        for entry in [Entry::dir(format!("{name}/")), Entry::symlink(name, "a"), Entry::fifo(name)] {
            let tar = TarBuilder::new().entry(entry).finish();
            let error = run_with(&tar, &options(), 1).unwrap_err();
            assert!(error.is_unlistable());
            assert!(
                error.to_string().ends_with("it has a name that seekable layers reserve for a regular file")
            );
        }
    }
}

#[test]
fn hard_links_to_reserved_names_are_refused() {
    for name in [PREFETCH, NO_PREFETCH, TAR_NAME] {
        let tar = TarBuilder::new().file(name, "data").hardlink("h", name).finish();
        let error = run_with(&tar, &options(), 1).unwrap_err();
        assert!(error.is_unlistable());
        assert!(error.to_string().ends_with("a name that seekable layers reserve"), "{error}");
    }
}

#[test]
fn the_last_of_equal_names_is_listed_and_the_tar_keeps_all_until_files_move() {
    let tar = TarBuilder::new()
        .entry(Entry::file("f", pattern(2500)).names("owner", "group"))
        .entry(Entry::file("other", "content").names("owner", "group"))
        .dir("d/")
        .file("./f", "middle")
        .dir("d")
        .entry(Entry::file("/f", "last").names("owner", "group"))
        .entry(Entry::file("end", "").names("owner", "group"))
        .finish();
    let refusal = Err("it has several entries of the same name".to_string());
    let (encoded, blob) = run(&tar, &options());
    let layer = inspect(&encoded, &blob, 1000);
    assert!(layer.tar == tar);
    assert_eq!(layer.names(), ["other", "d", "/f", "end"]);
    assert_eq!(encoded.partial_annotations, refusal);
    // The entry that named the owner first is not listed, so the next one does.
    assert_eq!(layer.entry("other").user_name, "owner");
    assert_eq!(layer.entry("/f").user_name, "");
    assert_eq!(encoded.entries, 7);

    let (encoded, blob) = run(&tar, &prioritized(&["gone"]));
    assert!(inspect(&encoded, &blob, 1000).tar == tar);
    assert_eq!(encoded.partial_annotations, refusal);

    let (encoded, blob) = run(&tar, &prioritized(&["f"]));
    let layer = inspect(&encoded, &blob, 1000);
    assert_eq!(layer.names(), ["/f", PREFETCH, "other", "d", "end"]);
    assert_eq!(restow_testkit::plain::names(&layer.tar), layer.names());
    assert!(encoded.partial_annotations.is_ok());
}

#[test]
fn many_duplicates_cost_no_more_than_many_names() {
    let tar = TarBuilder::new().entries((0..100_000).map(|index| Entry::file("f", [index as u8]))).finish();
    for options in [options(), prioritized(&["f"])] {
        let (encoded, blob) = run(&tar, &options);
        let moved = encoded.moved > 0;
        assert_eq!(encoded.entries, if moved { 2 } else { 100_000 });
        assert!(blob.len() > encoded.size as usize / 2);
    }
}

#[test]
fn whiteouts_and_implicit_parents_go_where_they_must() {
    let tar = TarBuilder::new()
        .file("first", "1")
        .file("dir/.wh..wh..opq", "")
        .file("dir/sub/file", "2")
        .file("dir/.wh.sub", "")
        .file(".wh.lib", "")
        .file("lib/.wh.file", "")
        .file("lib/file", "3")
        .finish();
    // A whiteout that came before stays before; one that came after stays after; directories may have no entry.
    let (encoded, blob) = run(&tar, &prioritized(&["lib/file", "dir/sub/file"]));
    let expected = [
        ".wh.lib",
        "lib/.wh.file",
        "lib/file",
        "dir/sub/file",
        PREFETCH,
        "first",
        "dir/.wh..wh..opq",
        "dir/.wh.sub",
    ];
    assert_eq!(inspect(&encoded, &blob, 1000).names(), expected);
    assert_eq!((encoded.moved, encoded.missing.len()), (4, 0));
    let (encoded, blob) = run(&tar, &prioritized(&["dir", "lib/.wh.file"]));
    assert_eq!(inspect(&encoded, &blob, 1000).names()[..3], [".wh.lib", "lib/.wh.file", PREFETCH]);
    assert_eq!(encoded.missing, ["dir"]);
}

#[test]
fn a_list_may_repeat_itself_and_name_the_root() {
    let tar = TarBuilder::new().dir("./").dir("./d/").file("./d/f", "x").file("./g", "y").finish();
    let (encoded, blob) = run(&tar, &prioritized(&["", "/", "d/f", "/d/f", "d/../d/./f", "nope", "nope"]));
    assert_eq!(inspect(&encoded, &blob, 1000).names(), ["./", "./d/", "./d/f", PREFETCH, "./g"]);
    assert_eq!(encoded.missing, ["nope", "nope"]);
}

#[test]
fn the_end_of_the_archive_is_kept_and_completed_only_where_the_tar_changes() {
    use restow_testkit::End;
    let files =
        || TarBuilder::new().file("a", pattern(300)).entry(Entry::file("b", pattern(700)).no_padding());
    let whole = || TarBuilder::new().file("a", pattern(300)).file("b", pattern(700));
    let garbage = pattern(600_000);
    for (source, end) in [
        (files().finish_with(End::None), vec![0; 1024]),
        (whole().finish_with(End::None), vec![0; 1024]),
        (whole().finish_with(End::Blocks(1)), vec![0; 1024]),
        (whole().finish_with(End::Blocks(2)), vec![0; 1024]),
        (whole().finish_with(End::Blocks(20)), vec![0; 20 * 512]),
        (whole().finish_with(End::Then(garbage.clone())), [vec![0; 1024], garbage].concat()),
    ] {
        for options in [options(), prioritized(&["gone"])] {
            let (encoded, blob) = run(&source, &options);
            assert!(inspect(&encoded, &blob, 1000).tar == source);
        }
        let (encoded, blob) = run(&source, &prioritized(&["b"]));
        let expected = TarBuilder::new()
            .file("b", pattern(700))
            .raw(landmark::header(PREFETCH))
            .raw([&[0x0f], &[0u8; 511][..]].concat())
            .file("a", pattern(300))
            .raw(end)
            .finish_with(End::None);
        assert!(inspect(&encoded, &blob, 1000).tar == expected);

        let (encoded, blob) = run(&source, &Options { landmark: Landmark::Always, ..options() });
        let tar = inspect(&encoded, &blob, 1000).tar;
        assert!(tar[1024..].starts_with(&source));
        assert!(tar[1024..].len() >= source.len());
    }
}

#[test]
fn a_hard_link_to_a_symbolic_link_comes_after_it_and_the_whiteout_of_a_landmark_is_no_landmark() {
    let tar = TarBuilder::new()
        .file("a", "a")
        .symlink("s", "a")
        .hardlink("l", "s")
        .file(".wh..prefetch.landmark", "")
        .file("d/.prefetch.landmark", "x")
        .finish();
    let rest = [".wh..prefetch.landmark", "d/.prefetch.landmark"];
    let (encoded, blob) = run(&tar, &prioritized(&["l"]));
    let layer = inspect(&encoded, &blob, 1000);
    assert_eq!(layer.names(), [&["s", "l", PREFETCH, "a"][..], &rest].concat());
    assert_eq!((layer.entry("l").kind, layer.entry("l").link_name.as_str()), (EntryKind::Hardlink, "s"));
    let (encoded, blob) = run(&tar, &options());
    assert!(inspect(&encoded, &blob, 1000).tar == tar);
}
