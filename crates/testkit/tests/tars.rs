//! What the tar builders write is what they were asked for, by two other readers.

use std::io::Read;

use restow_oci::Digest;
use restow_testkit::End;
use restow_testkit::Entry;
use restow_testkit::Format;
use restow_testkit::MTIME;
use restow_testkit::Sparse;
use restow_testkit::TarBuilder;
use restow_testkit::TarOptions;
use restow_testkit::mutate;
use restow_testkit::pax_record;
use restow_testkit::plain;
use restow_testkit::plain::PlainEntry;
use restow_testkit::random_tar;

fn only(tar: &[u8]) -> PlainEntry {
    let mut entries = plain::list(tar);
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn one(entry: Entry) -> PlainEntry {
    only(&TarBuilder::new().entry(entry).finish())
}

/// Reads with the `tar` crate: path, size, content.
fn with_tar_crate(tar: &[u8]) -> Vec<(Vec<u8>, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (entry.path_bytes().into_owned(), entry.size(), content)
        })
        .collect()
}

#[test]
fn every_type_has_its_typeflag_and_its_defaults() {
    let table = [
        (Entry::file("f", "four"), b'0', 0o644, 4),
        (Entry::file("f", "four").typeflag(0), b'0', 0o644, 4),
        (Entry::file("f", "four").typeflag(b'7'), b'0', 0o644, 4),
        (Entry::hardlink("h", "f"), b'1', 0o644, 0),
        (Entry::symlink("s", "f"), b'2', 0o777, 0),
        (Entry::character("c", 1, 3), b'3', 0o644, 0),
        (Entry::block("b", 8, 1), b'4', 0o644, 0),
        (Entry::dir("d/"), b'5', 0o755, 0),
        (Entry::new(0, "d/"), b'5', 0o644, 0),
        (Entry::fifo("p"), b'6', 0o644, 0),
        (Entry::new(b'V', "v"), b'V', 0o644, 0),
    ];
    for (entry, kind, mode, size) in table {
        let read = one(entry);
        assert_eq!((read.kind, read.mode, read.size, read.modified), (kind, mode, size, (MTIME, 0)));
    }
}

#[test]
fn metadata_survives_in_each_dialect() {
    let long = "long/".repeat(60);
    for format in [Format::Pax, Format::Gnu] {
        let read = one(Entry::symlink(format!("{long}name"), format!("{long}target"))
            .format(format)
            .mode(0o4755)
            .owner(3_000_000, 1 << 40)
            .names("üser", "grp")
            .modified(-2, 500_000_000)
            .accessed(MTIME + 1, 0)
            .changed(MTIME + 2, 7)
            .xattr("user.a", b"=\n\0\xff"));
        assert_eq!(read.path, format!("{long}name").into_bytes());
        assert_eq!(read.link, format!("{long}target").into_bytes());
        assert_eq!((read.mode, read.uid, read.gid), (0o4755, 3_000_000, 1 << 40));
        assert_eq!((read.user, read.group), ("üser".into(), "grp".into()));
        assert_eq!(read.modified, (-2, 500_000_000));
        assert_eq!((read.accessed, read.changed), (Some((MTIME + 1, 0)), Some((MTIME + 2, 7))));
        assert_eq!(read.xattrs[b"user.a".as_slice()], b"=\n\0\xff");
    }
}

#[test]
fn times_are_spelled_as_pax_wants_them() {
    let table = [((5, 0), None), ((-5, 0), Some("-5")), ((5, 250_000_000), Some("5.25"))];
    let more = [((-2, 500_000_000), Some("-1.5")), ((-1, 999_999_999), Some("-0.000000001"))];
    for ((seconds, nanoseconds), spelled) in table.into_iter().chain(more) {
        let bytes = Entry::file("f", "").modified(seconds, nanoseconds).to_bytes();
        match spelled {
            Some(text) => {
                assert_eq!(bytes[512..].strip_prefix(&*pax_record("mtime", text)).map(|_| ()), Some(()))
            }
            None => assert_eq!(bytes.len(), 512),
        }
    }
}

#[test]
fn a_pax_record_counts_its_own_length() {
    for length in [0, 1, 89, 90, 91, 92, 93, 989, 990, 991, 992, 993, 9990] {
        let record = pax_record("k", "v".repeat(length));
        let text = String::from_utf8(record.clone()).expect("text");
        assert_eq!(text.split(' ').next().and_then(|digits| digits.parse().ok()), Some(record.len()));
    }
}

#[test]
fn a_path_is_divided_into_prefix_and_name_where_it_fits() {
    let directory = "d".repeat(154);
    for (path, extended) in [
        ("n".repeat(100), false),
        ("n".repeat(101), true),
        (format!("{directory}/{}", "n".repeat(100)), false),
        (format!("{directory}/{}", "n".repeat(101)), true),
        (format!("{directory}/{}/", "n".repeat(99)), false),
        (format!("/{}", "n".repeat(100)), true),
        ("grüße".to_owned(), true),
    ] {
        let entry = Entry::file(&path, "");
        assert_eq!(entry.to_bytes().len() > 512, extended, "{path}");
        assert_eq!(one(entry).name(), path);
    }
}

#[test]
fn base_256_holds_any_number() {
    for value in [0, 1, 255, 256, i64::MAX, -1, -256, i64::MIN] {
        let read = one(Entry::file("f", "").gnu().base256().mtime(value).mode(0o644));
        assert_eq!((read.modified.0, read.mode), (value, 0o644));
    }
}

#[test]
fn headers_can_lie() {
    let size = |entry: Entry| entry.to_bytes()[124..136].to_vec();
    assert_eq!(size(Entry::dir("d/").claim_size(7)), b"00000000007\0");
    assert_eq!(size(Entry::file("f", "").claim_size(-1).gnu()), [0xff; 12]);
    assert_eq!(
        size(Entry::file("f", "").header_bytes(124, " 12 34")),
        b" 12 34000000"[..11].iter().chain(b"\0").copied().collect::<Vec<_>>()
    );
    let tar = TarBuilder::new().entry(Entry::file("f", "").wrong_checksum()).finish();
    assert!(
        tar::Archive::new(&*tar)
            .entries()
            .is_ok_and(|mut entries| entries.next().is_some_and(|e| e.is_err()))
    );
    assert_eq!(one(Entry::file("f", "1234567").record("size", "7").claim_size(0)).size, 7);
}

#[test]
fn loose_headers_apply_to_what_follows() {
    let long = "l".repeat(300);
    let tar = TarBuilder::new()
        .global_pax(&[("comment", "of the archive")])
        .pax(&[("path", "first"), ("uid", "7")])
        .pax(&[("path", "second")])
        .file("header", "")
        .pax(&[("path", "overruled")])
        .long_name(&long)
        .long_link("target")
        .symlink("header", "")
        .finish();
    let entries = plain::list(&tar);
    assert_eq!((entries[0].name().as_str(), entries[0].uid), ("second", 0));
    assert_eq!((entries[1].name(), entries[1].link.as_slice()), (long, b"target".as_slice()));
}

#[test]
fn a_tar_ends_as_asked() {
    let length = |end| TarBuilder::new().file("f", "").finish_with(end).len();
    let table =
        [(End::None, 512), (End::Blocks(1), 1024), (End::Blocks(2), 1536), (End::Then(vec![1; 3]), 1539)];
    for (end, expected) in table {
        assert_eq!(length(end), expected);
    }
    assert_eq!(Entry::file("f", "abc").no_padding().to_bytes().len(), 515);
    assert_eq!(Entry::file("f", "abc").padding(0xaa).to_bytes()[515..], [0xaa; 509]);
}

#[test]
fn sparse_files_are_expanded_by_readers_that_know_them() {
    let mut extents: Vec<(u64, &[u8])> = (0..30).map(|n| (n * 10_240, [7; 512].as_slice())).collect();
    extents.push((310_000, b""));
    let tar = TarBuilder::new()
        .entry(Entry::sparse(Sparse::Gnu, "sparse", 310_000, &extents))
        .file("next", "after")
        .finish();
    let read = with_tar_crate(&tar);
    assert_eq!((read[0].1, read[0].2.len()), (310_000, 310_000));
    assert_eq!(read[0].2.iter().filter(|byte| **byte == 7).count(), 30 * 512);
    assert_eq!((read[0].2[29 * 10_240], read[0].2[29 * 10_240 - 1]), (7, 0));
    assert_eq!((read[1].0.as_slice(), read[1].2.as_slice()), (b"next".as_slice(), b"after".as_slice()));
    assert_eq!(plain::names(&tar), ["sparse", "next"]);
    for form in [Sparse::Pax00, Sparse::Pax01, Sparse::Pax10] {
        let tar =
            TarBuilder::new().entry(Entry::sparse(form, "s", 300_000, &extents)).file("next", "").finish();
        assert_eq!(plain::names(&tar).last().map(String::as_str), Some("next"));
    }
}

#[test]
fn random_tars_read_the_same_in_two_readers() {
    for seed in 0..200 {
        let options = TarOptions {
            duplicates: seed % 2 == 0,
            unusual_end: seed % 4 == 3,
            largest_file: 3000,
            ..TarOptions::default()
        };
        let tar = random_tar(seed, &options);
        let (ours, theirs) = (plain::list(&tar), with_tar_crate(&tar));
        assert_eq!(ours.len(), theirs.len(), "seed {seed}");
        for (ours, (path, size, content)) in ours.into_iter().zip(theirs) {
            assert_eq!((ours.size, ours.content), (size, Digest::sha256(&content)), "seed {seed}");
            // The tar crate splits PAX records at every newline, also at those of a value.
            if !ours.path.contains(&b'\n') {
                assert_eq!(ours.path, path, "seed {seed}");
            }
        }
    }
}

#[test]
fn random_tars_without_duplicates_name_each_path_once() {
    for seed in 0..200 {
        let mut names = plain::names(&random_tar(seed, &TarOptions::default()));
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "seed {seed}");
    }
}

#[test]
fn random_tars_come_in_every_type_and_a_seed_always_gives_the_same() {
    let mut kinds: Vec<u8> = (0..20)
        .flat_map(|seed| plain::list(&random_tar(seed, &TarOptions::default())))
        .map(|entry| entry.kind)
        .collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, b"0123456");
    let again = |seed| random_tar(seed, &TarOptions::default());
    assert_eq!(again(7), again(7));
    assert_ne!(again(7), again(8));
}

#[test]
fn a_mutation_depends_on_its_seed_alone() {
    let tar = TarBuilder::new().file("f", "content").finish();
    assert_eq!(mutate(&tar, 3), mutate(&tar, 3));
    let changed = (0..1000).filter(|seed| mutate(&tar, *seed) != tar).count();
    assert!(changed > 900, "{changed} of 1000 mutations changed something");
    for seed in 0..100 {
        mutate(&[], seed);
    }
}
