use std::io;

use restow_testkit::plain::{self, PlainEntry};
use restow_testkit::{
    End, Entry, Format, MTIME, Random, Sparse, TarBuilder, TarOptions, mutate, pax_record, random_tar,
};

use super::*;

type Walked = Vec<(Header, Vec<u8>)>;

/// Reads a whole tar. What cannot be told from outside is asserted here: that no byte is lost or invented.
fn walk(tar: &[u8]) -> Result<Walked> {
    walk_from(tar, tar, &Limits::default())
}

fn walk_from(source: impl Read, tar: &[u8], limits: &Limits) -> Result<Walked> {
    let mut reader = TarReader::new(source, limits);
    let mut raw = Buffer::default();
    let mut entries = Vec::new();
    loop {
        let before = raw.len();
        let Some(header) = reader.next(&mut raw)? else { break };
        assert_eq!(header.offset, (before + header.padding) as u64);
        let start = raw.len();
        while reader.read_payload(&mut raw, 700)? > 0 {}
        assert_eq!(header.size, (raw.len() - start) as u64);
        entries.push((header, raw.filled()[start..].to_vec()));
    }
    while reader.read_trailing(&mut raw, 700)? > 0 {}
    assert_eq!(reader.position(), tar.len() as u64);
    assert!(raw.filled() == tar, "the bytes handed out are not those of the tar");
    Ok(entries)
}

fn only(tar: &[u8]) -> Header {
    let mut entries = walk(tar).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0).0
}

fn shape(entries: &Walked) -> Vec<(String, Kind, u64)> {
    entries.iter().map(|(header, _)| (header.display_name(), header.kind, header.size)).collect()
}

fn describe(header: &Header, content: &[u8]) -> PlainEntry {
    let time = |time: Time| (time.seconds, time.nanoseconds);
    PlainEntry {
        path: header.name.clone(),
        kind: match header.kind {
            Kind::Regular => b'0',
            Kind::Hardlink => b'1',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Sparse | Kind::Other(_) => header.typeflag,
        },
        size: header.size,
        mode: header.mode,
        uid: header.uid,
        gid: header.gid,
        user: header.user_name.clone(),
        group: header.group_name.clone(),
        modified: time(header.modified),
        accessed: header.accessed.map(time),
        changed: header.changed.map(time),
        link: header.link_name.clone(),
        device: (header.device_major, header.device_minor),
        xattrs: header.xattrs.clone(),
        content: restow_oci::Digest::sha256(content),
    }
}

/// Gives a byte or three at a time and is interrupted in between.
struct Dribble<'a>(&'a [u8], Random);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.chance(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = (1 + self.1.below(3)).min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn random_tars_read_as_the_oracle_reads_them() {
    for seed in 0..150 {
        let options = TarOptions {
            duplicates: seed % 2 == 0,
            unusual_end: seed % 3 == 0,
            largest_file: 5000,
            ..TarOptions::default()
        };
        let tar = random_tar(seed, &options);
        let entries = walk(&tar).unwrap();
        let described: Vec<_> = entries.iter().map(|(header, content)| describe(header, content)).collect();
        assert_eq!(described, plain::list(&tar), "seed {seed}");
        if seed % 10 == 0 {
            let dribble = Dribble(&tar, Random::new(seed));
            assert_eq!(walk_from(dribble, &tar, &Limits::default()).unwrap(), entries, "seed {seed}");
        }
    }
}

#[test]
fn damaged_tars_are_refused_or_read_to_the_last_byte() {
    let options = TarOptions { entries: 12, largest_file: 1500, unusual_end: true, ..TarOptions::default() };
    let mut sound = 0;
    for seed in 0..2000 {
        let tar = mutate(&random_tar(seed % 50, &options), seed);
        match walk(&tar) {
            Ok(_) => sound += 1,
            Err(Error::Tar { offset, .. } | Error::Unlistable { offset, .. }) => {
                assert!(offset <= tar.len() as u64, "seed {seed}");
            }
            Err(Error::TarLimit { .. }) => {}
            Err(other) => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!((100..1900).contains(&sound), "{sound} of 2000 were read");
}

#[test]
fn a_tar_cut_off_anywhere_loses_no_entry_unnoticed() {
    let tar = TarBuilder::new()
        .entry(Entry::file("one", "content").xattr("user.a", "b"))
        .file("two", [7; 600])
        .finish();
    let whole = walk(&tar).unwrap();
    for cut in 0..tar.len() {
        // Only missing padding and missing end blocks go without an error.
        let entries = match cut {
            0 => 0,
            1543..=2048 => 1,
            3160..=3584 | 4096 => 2,
            _ => {
                assert!(matches!(walk(&tar[..cut]), Err(Error::Tar { .. })), "cut at {cut}");
                continue;
            }
        };
        assert_eq!(walk(&tar[..cut]).unwrap(), whole[..entries], "cut at {cut}");
    }
}

#[test]
fn what_go_reads_is_read_alike() {
    use Kind::{Block, Character, Directory, Fifo, Hardlink, Other, Regular, Sparse as Holes, Symlink};
    let inner = TarBuilder::new().file("smuggled", "x").finish();
    let length = inner.len() as u64;
    let new = TarBuilder::new;
    let file = |name: &str| Entry::file(name, "abc");
    let after = |builder: TarBuilder| builder.file("after", "!").finish();
    let many: Vec<(u64, &[u8])> = (0..30).map(|index| (index * 1024, [1u8; 512].as_slice())).collect();
    for (what, tar, expected) in [
        (
            "a record of the size decides where the next header is",
            after(new().entry(Entry::file("f", &inner).claim_size(0).record("size", length.to_string()))),
            vec![("f", Regular, length), ("after", Regular, 1)],
        ),
        (
            "a record of the size wins over a larger one too",
            after(new().entry(file("f").claim_size(1 << 30).record("size", "3"))),
            vec![("f", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "a record of the size is not for the long name in between",
            after(new().pax(&[("size", "3")]).long_name("long").entry(file("f").claim_size(0))),
            vec![("long", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "a long name wins over a record before it",
            after(new().pax(&[("path", "pax")]).long_name("long").entry(file("f"))),
            vec![("long", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "a long name wins over a record after it",
            after(new().long_name("long").pax(&[("path", "pax")]).entry(file("f"))),
            vec![("long", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "an empty long name is none",
            after(new().long_name("").pax(&[("path", "pax")]).entry(file("f"))),
            vec![("pax", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "the last of several extended headers counts, alone",
            after(new().pax(&[("path", "pax"), ("size", "0")]).pax(&[("uid", "7")]).entry(file("f"))),
            vec![("f", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "an empty record leaves the header's value",
            after(new().pax(&[("path", ""), ("size", ""), ("uid", "")]).entry(file("f"))),
            vec![("f", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "a global header is passed over",
            after(new().global_pax(&[("comment", "c"), ("uid", "7")]).entry(file("f"))),
            vec![("f", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "kinds without content have none, whatever their size",
            after(new().entries([
                Entry::hardlink("1", "t").claim_size(1000),
                Entry::symlink("2", "t").claim_size(1000),
                Entry::character("3", 1, 2).claim_size(1000),
                Entry::block("4", 1, 2).claim_size(1000),
                Entry::dir("5/").claim_size(1000),
                Entry::fifo("6").claim_size(1000),
                Entry::dir("7/").record("size", "1000"),
            ])),
            vec![
                ("1", Hardlink, 0),
                ("2", Symlink, 0),
                ("3", Character, 0),
                ("4", Block, 0),
                ("5/", Directory, 0),
                ("6", Fifo, 0),
                ("7/", Directory, 0),
                ("after", Regular, 1),
            ],
        ),
        (
            "an old header with a slash behind the name is a directory's, which has no content",
            after(new().entry(Entry::new(0, "d/").v7().claim_size(1000)).entry(file("f").v7().typeflag(0))),
            vec![("d/", Directory, 0), ("f", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "a slash behind the name of a newer header means nothing",
            after(new().entry(file("f/")).entry(file("g/").typeflag(b'7'))),
            vec![("f/", Regular, 3), ("g/", Regular, 3), ("after", Regular, 1)],
        ),
        (
            "unknown types have content",
            after(new().entries(b"VDMNZAa\xff".map(|typeflag| file("f").typeflag(typeflag)))),
            b"VDMNZAa\xff"
                .iter()
                .map(|typeflag| ("f", Other(*typeflag), 3))
                .chain([("after", Regular, 1)])
                .collect(),
        ),
        (
            "sparse files are known by every spelling, and their maps are not read as entries",
            after(new().entries([
                Entry::sparse(Sparse::Gnu, "gnu", 2048, &[(0, &[1; 512]), (1024, &[1; 512])]),
                Entry::sparse(Sparse::Gnu, "long", 30 * 1024, &many),
                Entry::sparse(Sparse::Pax00, "0.0", 2048, &[(0, &[1; 512]), (1024, &[1; 512])]),
                Entry::sparse(Sparse::Pax01, "0.1", 2048, &[(0, &[1; 512]), (1024, &[1; 512])]),
                Entry::sparse(Sparse::Pax10, "1.0", 2048, &[(0, &[1; 512]), (1024, &[1; 512])]),
            ])),
            vec![
                ("gnu", Holes, 1024),
                // Two blocks of map are header bytes.
                ("long", Holes, 30 * 512),
                ("0.0", Holes, 1024),
                ("0.1", Holes, 1024),
                ("1.0", Holes, 1536),
                ("after", Regular, 1),
            ],
        ),
        ("no end", new().entry(file("f")).finish_with(End::None), vec![("f", Regular, 3)]),
        ("half an end", new().entry(file("f")).finish_with(End::Blocks(1)), vec![("f", Regular, 3)]),
        ("a long end", new().entry(file("f")).finish_with(End::Blocks(21)), vec![("f", Regular, 3)]),
        ("garbage behind the end", new().finish_with(End::Then(b"garbage".repeat(999))), vec![]),
        ("an entry behind the end", new().finish_with(End::Then(after(new()))), vec![]),
        (
            "missing padding",
            new().entry(file("f").no_padding()).finish_with(End::None),
            vec![("f", Regular, 3)],
        ),
        ("padding of other bytes", after(new().entry(file("f").padding(0xaa))), {
            vec![("f", Regular, 3), ("after", Regular, 1)]
        }),
        ("nothing", Vec::new(), vec![]),
    ] {
        let entries = walk(&tar).unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected: Vec<_> =
            expected.into_iter().map(|(name, kind, size)| (name.to_string(), kind, size)).collect();
        assert_eq!(shape(&entries), expected, "{what}");
    }
}

#[test]
fn malformed_tars_are_refused_by_the_byte() {
    let new = TarBuilder::new;
    let file = || Entry::file("f", "abc");
    let records = |bytes: &str| new().entry(file().raw_records(bytes)).finish();
    let record = |key: &str, value: &str| new().entry(file().record(key, value)).finish();
    let size = |field: &[u8]| new().entry(file().header_bytes(124, field)).finish();
    let cut = |length: usize| new().entry(Entry::file("f", [1; 700])).finish()[..length].to_vec();
    let first = |problem: &str| format!("tar entry at byte 0: {problem}");
    let named = |problem: &str| format!("tar entry at byte 0 (f): {problem}");
    for (tar, message) in [
        (vec![0], first("the tar ends after 1 bytes of a 512-byte header")),
        (cut(511), first("the tar ends after 511 bytes of a 512-byte header")),
        (cut(512), first("the tar ends 700 bytes before the end of its content")),
        (cut(512 + 699), first("the tar ends 1 bytes before the end of its content")),
        (
            cut(2 * 512 + 512 + 7),
            "tar entry at byte 1536: the tar ends after 7 bytes of a 512-byte header".into(),
        ),
        (
            new().file("f", "abc").zero_blocks(1).file("g", "").finish(),
            "tar entry at byte 1536: a single end-of-archive block is followed by data".into(),
        ),
        (new().entry(file().wrong_checksum()).finish(), {
            first("the header's checksum is 3177, its bytes sum up to 3176")
        }),
        (size(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), first("the size is negative")),
        (size(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), first("the size does not fit in 64 bits")),
        (size(b"0000000009\0\0"), first("the size is not an octal number")),
        (size(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), {
            first(&format!("the tar ends {} bytes before the end of its content", i64::MAX - 512 - 1024))
        }),
        (record("size", "-1"), named("the extended header's size is \"-1\"")),
        (
            record("size", "9223372036854775808"),
            named("the extended header's size is \"9223372036854775808\""),
        ),
        (record("size", "0x10"), named("the extended header's size is \"0x10\"")),
        (record("uid", "root"), named("the extended header's uid is \"root\"")),
        (record("gid", "1.5"), named("the extended header's gid is \"1.5\"")),
        (record("mtime", "inf"), named("the extended header's mtime is \"inf\"")),
        (record("atime", "NaN"), named("the extended header's atime is \"NaN\"")),
        (record("ctime", "1,5"), named("the extended header's ctime is \"1,5\"")),
        (record("path", "a\0b"), first("a record of the extended header is malformed")),
        (records("5 a=b\n"), first("a record of the extended header is malformed")),
        (records("6 a=b"), first("a record of the extended header is malformed")),
        (records("7 a=b\n"), first("a record of the extended header is malformed")),
        (records("6 a=b\n6 a=c\n"), first("the extended header sets \"a\" twice")),
        (new().pax(&[("path", "p")]).finish(), first("an extended header has no entry after it")),
        (
            new().pax(&[("path", "p")]).finish_with(End::None),
            first("an extended header has no entry after it"),
        ),
        (new().long_name("n").finish(), first("an extended header has no entry after it")),
        (new().long_link("n").finish_with(End::None), first("an extended header has no entry after it")),
        (
            new().pax(&[("path", "p")]).finish()[..600].to_vec(),
            first("the tar ends inside an extended header"),
        ),
        (
            new().pax(&[("path", "p")]).global_pax(&[("comment", "c")]).file("f", "").finish(),
            "tar entry at byte 1024: a global header stands between an extended header and its entry".into(),
        ),
        (
            // Go forgets a long name at a global header; others do not.
            new().long_name("long").global_pax(&[("comment", "c")]).file("f", "").finish(),
            "tar entry at byte 1024: a global header stands between an extended header and its entry".into(),
        ),
        (
            new().global_pax(&[("comment", "c"), ("path", "p")]).file("f", "").finish(),
            "tar entry at byte 0 cannot be listed in a table of contents: \
             a global header sets \"path\" for all entries after it"
                .into(),
        ),
        (
            Entry::sparse(Sparse::Gnu, "s", 9 * 1024, &[(0, &[1][..]); 9]).to_bytes()[..512].to_vec(),
            "tar entry at byte 512: the tar ends inside the map of a sparse file".into(),
        ),
    ] {
        assert_eq!(walk(&tar).map(|entries| shape(&entries)).unwrap_err().to_string(), message);
    }
}

#[test]
fn numbers_and_texts_are_read_in_every_spelling() {
    let base = || Entry::file("f", "").owner(1000, 2000).mode(0o4755);
    for entry in [base(), base().gnu(), base().ustar(), base().v7(), base().base256(), base().gnu().base256()]
    {
        let header = only(&entry.to_bytes());
        assert_eq!((header.uid, header.gid, header.mode), (1000, 2000, 0o4755));
        assert_eq!(header.modified, Time { seconds: MTIME, nanoseconds: 0 });
    }
    // Negative and large: in base 256, or as records.
    for format in [Format::Gnu, Format::Pax] {
        let header = only(&Entry::file("f", "").format(format).owner(-2, i64::MAX >> 8).mtime(-1).to_bytes());
        assert_eq!((header.uid, header.gid, header.modified.seconds), (-2, i64::MAX >> 8, -1));
    }
    let header = only(&base().header_bytes(108, b" 1750 \0 ").to_bytes());
    assert_eq!(header.uid, 0o1750);

    let long = "directory/".repeat(20) + "name";
    let header = only(&Entry::hardlink(&long, &long).gnu().names("user", "group").to_bytes());
    assert_eq!((header.name.as_slice(), header.link_name.as_slice()), (long.as_bytes(), long.as_bytes()));
    assert_eq!((header.user_name.as_slice(), header.group_name.as_slice()), (&b"user"[..], &b"group"[..]));
    let header = only(&Entry::character("c", 5, -1).gnu().to_bytes());
    assert_eq!((header.device_major, header.device_minor), (5, -1));
    let header = only(&base().names("user", "group").v7().to_bytes());
    assert_eq!((header.user_name.len(), header.device_major), (0, 0));
}

#[test]
fn the_bytes_behind_the_owners_mean_what_the_magic_says() {
    let octal = |value: i64| format!("{value:011o}\0");
    let ustar = Entry::file("name", "").ustar();
    let prefixed = ustar.clone().header_bytes(345, "prefix");
    assert_eq!(only(&prefixed.to_bytes()).name, b"prefix/name");
    // Go looks at the magic, not at the version.
    assert_eq!(only(&prefixed.clone().header_bytes(263, b"  ").to_bytes()).name, b"prefix/name");
    assert_eq!(only(&prefixed.header_bytes(257, b"other").to_bytes()).name, b"name");

    let star = ustar
        .header_bytes(345, vec![b'p'; 131])
        .header_bytes(476, octal(11))
        .header_bytes(488, octal(12))
        .header_bytes(508, b"tar\0");
    let header = only(&star.to_bytes());
    assert_eq!(header.name, ["p".repeat(131).as_bytes(), b"/name"].concat());
    assert_eq!(header.accessed, Some(Time { seconds: 11, nanoseconds: 0 }));
    assert_eq!(header.changed, Some(Time { seconds: 12, nanoseconds: 0 }));

    let gnu = Entry::file("name", "").gnu();
    let header = only(&gnu.clone().accessed(11, 0).changed(-12, 0).to_bytes());
    assert_eq!(header.name, b"name");
    assert_eq!(header.accessed, Some(Time { seconds: 11, nanoseconds: 0 }));
    assert_eq!(header.changed, Some(Time { seconds: -12, nanoseconds: 0 }));
    let header = only(&gnu.clone().to_bytes());
    assert_eq!((header.accessed, header.changed), (None, None));
    // As Go before 1.8 wrote long names.
    let header = only(&gnu.clone().header_bytes(345, "old/prefix").to_bytes());
    assert_eq!((header.name.as_slice(), header.accessed), (&b"old/prefix/name"[..], None));
    let header = only(&gnu.header_bytes(345, b"\x01no prefix\xff").to_bytes());
    assert_eq!((header.name.as_slice(), header.accessed), (&b"name"[..], None));
}

#[test]
fn records_override_fields() {
    let entry = Entry::file("f", "")
        .names("user", "group")
        .accessed(1, 5)
        .changed(-2, 500_000_000)
        .modified(3, 999_999_999)
        .xattr("user.empty", "")
        .xattr("", "nameless")
        .xattr("a=b", b"\0\n\xff")
        .record("LIBARCHIVE.xattr.user.other", "ignored")
        .record("uname", "grüppe")
        .record("path", "a\nb");
    let header = only(&entry.to_bytes());
    assert_eq!(header.name, b"a\nb");
    assert_eq!(header.user_name, "grüppe".as_bytes());
    assert_eq!(header.group_name, b"group");
    assert_eq!(header.accessed, Some(Time { seconds: 1, nanoseconds: 5 }));
    assert_eq!(header.changed, Some(Time { seconds: -2, nanoseconds: 500_000_000 }));
    assert_eq!(header.modified, Time { seconds: 3, nanoseconds: 999_999_999 });
    // The first = ends the key.
    let xattrs: Vec<_> =
        header.xattrs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
    assert_eq!(xattrs, [(&b""[..], &b"nameless"[..]), (b"a", b"b=\0\n\xff"), (b"user.empty", b"")]);
}

#[test]
fn global_headers_are_remembered_for_one_entry() {
    let tar = TarBuilder::new()
        .file("before", "")
        .global_pax(&[("comment", "c"), ("uid", "7")])
        .file("behind", "")
        .file("after", "")
        .global_pax(&[("comment", "d")])
        .file("commented", "")
        .finish();
    let entries = walk(&tar).unwrap();
    let follows = entries.iter().map(|(header, _)| (header.follows_global, header.opens_scope, header.uid));
    let expected = [(false, false, 0), (true, true, 0), (false, false, 0), (true, false, 0)];
    assert_eq!(follows.collect::<Vec<_>>(), expected);
}

#[test]
fn limits_hold() {
    let limits = Limits { tar_entries: 2, tar_extension_size: 1024, ..Limits::default() };
    let limited = |tar: &[u8]| walk_from(tar, tar, &limits).map(|entries| entries.len());
    let files = |count: usize| TarBuilder::new().entries(vec![Entry::file("f", ""); count]).finish();
    assert_eq!(limited(&files(2)).unwrap(), 2);
    assert_eq!(
        limited(&files(3)).unwrap_err().to_string(),
        "tar entry at byte 1024 (f): the number of tar entries is 3, more than the limit of 2"
    );

    let comment = |length: usize| pax_record("comment", vec![b'c'; length - b"1024 comment=\n".len()]);
    let extended = |length| TarBuilder::new().raw_pax(b'x', comment(length)).file("f", "").finish();
    assert_eq!(limited(&extended(1024)).unwrap(), 1);
    let message = "tar entry at byte 0: the size in bytes of an extended tar header is 1025, more than the limit of 1024";
    assert_eq!(limited(&extended(1025)).unwrap_err().to_string(), message);
    for typeflag in *b"xgLK" {
        let claimed = Entry::new(typeflag, "f").gnu().claim_size(1 << 40).to_bytes();
        assert!(matches!(limited(&claimed).unwrap_err(), Error::TarLimit { found: 0x100_0000_0000, .. }));
    }

    // Each of them is small enough, but there is no end to them.
    let repeated = |typeflag: u8, count: usize| {
        let header = TarBuilder::new().raw_pax(typeflag, comment(1000)).finish_with(End::None);
        TarBuilder::new().raw(header.repeat(count)).file("f", "").finish()
    };
    for typeflag in *b"xg" {
        assert_eq!(limited(&repeated(typeflag, 4)).unwrap(), 1);
        let error = limited(&repeated(typeflag, 100)).unwrap_err().to_string();
        let message = "tar entry at byte 0: the size in bytes of the extended headers of a tar entry is 7680, more than the limit of 6144";
        assert_eq!(error, message);
    }
    let extents: Vec<(u64, &[u8])> = (0..100).map(|index| (index * 512, [1u8].as_slice())).collect();
    let map = Entry::sparse(Sparse::Gnu, "s", 1 << 20, &extents).to_bytes();
    let message = "tar entry at byte 0 (s): the size in bytes of a sparse file's map is 1536, more than the limit of 1024";
    assert_eq!(limited(&map).unwrap_err().to_string(), message);
}

#[test]
fn unread_payloads_are_handed_out_with_the_next_header() {
    let tar = TarBuilder::new().file("one", [1; 3000]).file("two", "2").finish();
    let mut reader = TarReader::new(&tar[..], &Limits::default());
    let mut raw = Buffer::default();
    assert_eq!(reader.next(&mut raw).unwrap().unwrap().name, b"one");
    assert_eq!(reader.read_payload(&mut raw, 1000).unwrap(), 1000);
    assert_eq!(reader.next(&mut raw).unwrap().unwrap().name, b"two");
    assert!(reader.next(&mut raw).unwrap().is_none());
    assert!(reader.next(&mut raw).unwrap().is_none());
    assert_eq!(raw.filled(), tar);
}

#[test]
fn a_failing_source_is_named_with_the_byte() {
    struct Broken<'a>(&'a [u8]);
    impl Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("the disk is gone")),
                read => Ok(read),
            }
        }
    }
    let tar = TarBuilder::new().file("f", [1; 3000]).finish();
    let error = walk_from(Broken(&tar[..700]), &tar, &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "could not read the layer at blob byte 700");
    assert!(matches!(error, Error::Read { source, .. } if source.to_string() == "the disk is gone"));
}

/// Reads the content of the first entry of a tar.
fn content(tar: &[u8]) -> Result<(Header, Vec<u8>)> {
    let mut reader = TarReader::new(tar, &Limits::default());
    let header = reader.next(&mut Buffer::default())?.unwrap();
    let mut found = Vec::new();
    let mut content = reader.content(&header)?;
    loop {
        let piece = content.piece()?;
        if piece.is_empty() {
            return Ok((header, found));
        }
        found.extend_from_slice(piece);
    }
}

#[test]
fn sparse_files_have_their_names_sizes_and_holes_in_every_form() {
    let parts = |extents: &[(u64, usize)]| -> Vec<(u64, Vec<u8>)> {
        extents.iter().enumerate().map(|(n, (at, length))| (*at, vec![n as u8 + 1; *length])).collect()
    };
    let many: Vec<(u64, usize)> = (0..100).map(|n| (n * 1024, 512)).collect();
    for (size, extents) in [
        (8192, vec![(4096, 512)]),
        (2048, vec![(0, 512), (1024, 512), (2048, 0)]),
        (700, vec![(0, 700)]),
        (1 << 20, vec![]),
        (0, vec![]),
        (102_400, many),
    ] {
        let parts = parts(&extents);
        let stored: Vec<(u64, &[u8])> = parts.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
        let mut expected = vec![0; size as usize];
        parts.iter().for_each(|(at, bytes)| expected[*at as usize..][..bytes.len()].copy_from_slice(bytes));
        for form in [Sparse::Gnu, Sparse::Pax00, Sparse::Pax01, Sparse::Pax10] {
            if extents.is_empty() && form == Sparse::Pax00 {
                // Nothing says then that it is one.
                continue;
            }
            let tar = TarBuilder::new().entry(Entry::sparse(form, "d/real", size, &stored)).file("next", "n");
            let (header, found) = content(&tar.finish()).unwrap();
            assert_eq!((header.display_name(), header.kind), ("d/real".into(), Kind::Sparse), "{form:?}");
            assert_eq!(header.content_size(), size, "{form:?}");
            assert!(found == expected, "{form:?} {extents:?}");
        }
    }
    let plain = TarBuilder::new().file("f", "plain").finish();
    assert_eq!(content(&plain).unwrap().1, b"plain");
}

#[test]
fn maps_of_sparse_files_that_mean_nothing_are_refused() {
    let pax10 = |map: &str, size: &str| {
        let mut payload = map.as_bytes().to_vec();
        payload.resize(payload.len().next_multiple_of(512), 0);
        Entry::file("f", payload)
            .record("GNU.sparse.major", "1")
            .record("GNU.sparse.minor", "0")
            .record("GNU.sparse.realsize", size)
    };
    let pax01 =
        |map: &str| Entry::file("f", "data").record("GNU.sparse.size", "9").record("GNU.sparse.map", map);
    for (entry, problem) in [
        (pax10("x\n", "9"), "no length"),
        (pax10("1\n0\n", "9"), "ends early"),
        (pax10("99999999999999999999\n", "9"), "no length"),
        (pax10("1\n0\nx\n", "9"), "not made of numbers"),
        (pax10("1\n8\n2\n", "9"), "leads out of it"),
        (pax10("1\n0\n5\n", "9"), "wants more than there is"),
        (pax10("0\n", "-1"), "is not a number"),
        (pax10("0\n", "1099511627777"), "the size in bytes of a sparse file is 1099511627777"),
        (pax01("0,1,2"), "ends within a part"),
        (pax01("4,1,0,1"), "out of order"),
        (pax01("0,,"), "not made of numbers"),
        (
            Entry::file("f", "").record("GNU.sparse.numbytes", "1").record("GNU.sparse.offset", "1"),
            "out of order",
        ),
    ] {
        let error = content(&TarBuilder::new().entry(entry).finish()).unwrap_err().to_string();
        assert!(error.contains(problem), "expected {problem:?}, found {error:?}");
    }
    let long = format!("400000\n{}", "0\n0\n".repeat(300_000));
    let error = content(&TarBuilder::new().entry(pax10(&long, "9")).finish()).unwrap_err();
    assert!(matches!(error, Error::TarLimit { limit: 1_048_576, .. }), "{error}");
    // A form that is not known leaves the entry what it says it is, and is no regular file.
    let unknown = Entry::file("f", "x").record("GNU.sparse.major", "2").record("GNU.sparse.minor", "0");
    assert_eq!(only(&unknown.to_bytes()).sparse, None);
}
