use std::collections::BTreeMap;

use restow_oci::{Digest, Limits};

use super::write::write_entry;
use super::*;
use crate::{Error, Result};

fn parse(document: &[u8]) -> Result<(Vec<Entry>, Option<Digest>)> {
    parse_within(document, &Limits::default())
}

fn parse_within(document: &[u8], limits: &Limits) -> Result<(Vec<Entry>, Option<Digest>)> {
    let mut parser = Parser::new(document, limits)?;
    let mut entries = Vec::new();
    while let Some(entry) = parser.next_entry()? {
        entries.push(entry);
    }
    assert_eq!(parser.entries(), entries.len() as u64);
    Ok((entries, parser.finish()?))
}

fn problem<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Toc(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

fn write(entries: &[Entry], dialect: Dialect, tar_split_digest: Option<&Digest>) -> String {
    let mut writer = Writer::new(dialect);
    let mut out = Vec::new();
    for entry in entries {
        writer.entry(entry, &mut out);
    }
    writer.finish(tar_split_digest, &mut out);
    String::from_utf8(out).unwrap()
}

/// An entry with every field set.
fn full() -> Entry {
    let time = |seconds, nanoseconds| Timestamp::new(seconds, nanoseconds);
    Entry {
        name: "./a<b>&\u{2028}\"\\\n\u{1}\u{7f}ä".into(),
        kind: EntryKind::Regular,
        size: u64::MAX,
        modified: time(1_700_000_000, 500_000_000),
        accessed: time(-1, 1),
        changed: time(1, 0),
        link_name: "link".into(),
        mode: 0o104755,
        uid: i64::MIN,
        gid: i64::MAX,
        user_name: "user".into(),
        group_name: "group".into(),
        offset: 1,
        end_offset: 2,
        inner_offset: 3,
        device_major: 4,
        device_minor: -5,
        xattrs: BTreeMap::from([("user.b".into(), b"\0\xff".to_vec()), ("user.a".into(), Vec::new())]),
        digest: Some(Digest::sha256(b"file")),
        chunk_offset: 6,
        chunk_size: 7,
        chunk_digest: Some(Digest::sha256(b"chunk")),
        zeros: true,
    }
}

#[test]
fn every_field_has_its_place_for_both_readers() {
    let (file, chunk, split) = (Digest::sha256(b"file"), Digest::sha256(b"chunk"), Digest::sha256(b"split"));
    let expected = format!(
        concat!(
            r#"{{"version":1,"entries":[{{"name":"./a\u003cb\u003e\u0026\u2028\"\\\n\u0001{del}ä","type":"reg","#,
            r#""size":18446744073709551615,"modtime":"2023-11-14T22:13:20.5Z","#,
            r#""accesstime":"1969-12-31T23:59:59.000000001Z","changetime":"1970-01-01T00:00:01Z","linkName":"link","#,
            r#""mode":35309,"uid":-9223372036854775808,"gid":9223372036854775807,"userName":"user","#,
            r#""groupName":"group","offset":1,"endOffset":2,"innerOffset":3,"devMajor":4,"devMinor":-5,"#,
            r#""xattrs":{{"user.a":"","user.b":"AP8="}},"digest":"{file}","chunkOffset":6,"chunkSize":7,"#,
            r#""chunkDigest":"{chunk}","chunkType":"zeros"}}],"tarSplitDigest":"{split}"}}"#,
        ),
        file = file,
        chunk = chunk,
        split = split,
        del = '\u{7f}'
    );
    let written = write(&[full()], Dialect::Superset, Some(&split));
    assert_eq!(written, expected);
    assert_eq!(parse(written.as_bytes()).unwrap(), (vec![full()], Some(split)));
}

#[test]
fn for_stargz_an_entry_is_indented_by_tabs_and_holds_what_its_kind_has() {
    let entry = Entry { kind: EntryKind::Char, ..full() };
    let expected = format!(
        "{{\n\t\"version\": 1,\n\t\"entries\": [\n\t\t{{\n\t\t\t\"name\": \"\",\n\t\t\t\"type\": \"dir\"\n\t\t}},\n\
         \t\t{{\n\t\t\t\"name\": \"./a\\u003cb\\u003e\\u0026\\u2028\\\"\\\\\\n\\u0001\u{7f}ä\",\n\t\t\t\"type\": \"char\",\n\
         \t\t\t\"modtime\": \"2023-11-14T22:13:21Z\",\n\t\t\t\"mode\": 35309,\n\t\t\t\"uid\": -9223372036854775808,\n\
         \t\t\t\"gid\": 9223372036854775807,\n\t\t\t\"userName\": \"user\",\n\t\t\t\"groupName\": \"group\",\n\
         \t\t\t\"offset\": 1,\n\t\t\t\"innerOffset\": 3,\n\t\t\t\"devMajor\": 4,\n\t\t\t\"devMinor\": -5,\n\
         \t\t\t\"xattrs\": {{\n\t\t\t\t\"user.a\": \"\",\n\t\t\t\t\"user.b\": \"AP8=\"\n\t\t\t}},\n\
         \t\t\t\"digest\": \"{}\",\n\t\t\t\"chunkOffset\": 6,\n\t\t\t\"chunkSize\": 7,\n\t\t\t\"chunkDigest\": \"{}\"\n\
         \t\t}}\n\t]\n}}",
        Digest::sha256(b"file"),
        Digest::sha256(b"chunk"),
    );
    let directory = Entry { kind: EntryKind::Dir, ..Entry::default() };
    assert_eq!(write(&[directory, entry], Dialect::Stargz, None), expected);
}

#[test]
fn a_table_without_entries_is_written_and_read() {
    let split = Digest::sha256(b"split");
    assert_eq!(write(&[], Dialect::Stargz, None), "{\n\t\"version\": 1,\n\t\"entries\": []\n}");
    assert_eq!(
        write(&[], Dialect::Superset, Some(&split)),
        format!(r#"{{"version":1,"entries":[],"tarSplitDigest":"{split}"}}"#)
    );
    for dialect in [Dialect::Stargz, Dialect::Superset] {
        assert_eq!(parse(write(&[], dialect, None).as_bytes()).unwrap(), (vec![], None));
    }
    assert_eq!(parse(br#"{"version":1,"entries":null}"#).unwrap(), (vec![], None));
}

#[test]
fn the_epoch_is_no_time_to_stargz() {
    for (time, stargz, superset) in [
        (Timestamp::EPOCH, "", "1970-01-01T00:00:00Z"),
        (Timestamp::new(0, 1).unwrap(), "", "1970-01-01T00:00:00.000000001Z"),
        (Timestamp::new(-1, 500_000_000).unwrap(), "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.5Z"),
    ] {
        for (dialect, expected) in [(Dialect::Stargz, stargz), (Dialect::Superset, superset)] {
            let entry = Entry { modified: Some(time), ..Entry::default() };
            let mut out = Vec::new();
            write_entry(&entry, dialect, &mut out);
            let written = String::from_utf8(out).unwrap();
            let found = written.split("modtime").nth(1).map_or("", |rest| rest.split('"').nth(2).unwrap());
            assert_eq!(found, expected, "{time}");
        }
    }
}

#[test]
fn keys_may_come_in_any_order_and_unknown_ones_are_skipped() {
    let split = Digest::sha256(b"split");
    let document = format!(
        r#" {{ "tarSplitDigest" : "{split}" , "before": [1, {{"a": "]}}"}}, null, -1.5e3, true, "\"\\"], "n": 12 ,
          "entries" : [ {{"type":"dir","name":"a","more":[[]],"mode":1}} , {{"name":"b","type":"fifo"}} ] , "after" : 1e9,
          "version" : 1 }} "#
    );
    let (entries, digest) = parse(document.as_bytes()).unwrap();
    assert_eq!(digest, Some(split));
    assert_eq!(
        entries.iter().map(|entry| (&*entry.name, entry.kind)).collect::<Vec<_>>(),
        [("a", EntryKind::Dir), ("b", EntryKind::Fifo)]
    );
}

#[test]
fn a_document_in_small_pieces_is_the_same_document() {
    let entries = vec![full(), Entry { name: "b".into(), ..Entry::default() }];
    let document = write(&entries, Dialect::Stargz, None);
    for capacity in 1..20 {
        let pieces = std::io::BufReader::with_capacity(capacity, document.as_bytes());
        let mut parser = Parser::new(pieces, &Limits::default()).unwrap();
        let expected =
            Entry { accessed: None, changed: None, link_name: String::new(), end_offset: 0, ..full() };
        let expected = Entry { modified: full().modified.map(Timestamp::round), zeros: false, ..expected };
        let expected = Entry { device_major: 0, device_minor: 0, ..expected };
        assert_eq!(parser.next_entry().unwrap(), Some(expected));
        assert_eq!(parser.next_entry().unwrap(), Some(entries[1].clone()));
        assert_eq!(parser.finish().unwrap(), None);
    }
}

#[test]
fn what_readers_may_understand_differently_is_refused() {
    let deep =
        format!(r#"{{"version":1,"entries":[],"x":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    for (document, expected) in [
        ("", "the document ends early"),
        ("[]", "expected '{'"),
        ("{", "the document ends early"),
        ("{}", "no entries"),
        (r#"{"version":1}"#, "no entries"),
        (r#"{"entries":[]}"#, "no version"),
        (r#"{"version":2,"entries":[]}"#, "version 2"),
        (r#"{"version":"1","entries":[]}"#, "invalid type"),
        (r#"{"version":1.0,"entries":[]}"#, "invalid type"),
        (r#"{"version":1,"entries":{}}"#, "not a list"),
        (r#"{"version":1,"entries":nul}"#, "EOF"),
        (r#"{"version":1,"entries":[]"#, "ends early"),
        (r#"{"version":1,"entries":["#, "ends early"),
        (r#"{"version":1,"entries":[,]}"#, "EOF"),
        (r#"{"version":1,"entries":[{"name":"a","type":"dir"},]}"#, "EOF"),
        (r#"{"version":1,"entries":[{"name":"a","type":"dir"}{}]}"#, "expected a comma"),
        (r#"{"version":1,"entries":[1]}"#, "invalid type"),
        (r#"{"version":1,"entries":[]}x"#, "behind the document"),
        (r#"{"version":1,"entries":[]}{"version":1,"entries":[]}"#, "behind the document"),
        ("{\"version\":1,\"entries\":[]}\0", "behind the document"),
        (r#"{"version":1,"entries":[]]"#, "expected a comma"),
        (r#"{"version":1,,"entries":[]}"#, "EOF"),
        (r#"{"version":1,"entries":[],}"#, "EOF"),
        (r#"{,"version":1,"entries":[]}"#, "EOF"),
        (r#"{version:1,"entries":[]}"#, "expected"),
        (r#"{1:1,"entries":[]}"#, "invalid type"),
        (r#"{"version" 1,"entries":[]}"#, "expected ':'"),
        (r#"{"version":1,"version":1,"entries":[]}"#, "comes twice"),
        (r#"{"version":1,"entries":[],"entries":[]}"#, "comes twice"),
        (r#"{"version":1,"entries":[],"Entries":[]}"#, "taken for"),
        (r#"{"Version":1,"entries":[]}"#, "taken for"),
        ("{\"ver\u{17f}ion\":2,\"version\":1,\"entries\":[]}", "taken for"),
        (r#"{"version":1,"entries":[],"tarSplitDigest":"sha256:abc"}"#, "sha256:abc"),
        (r#"{"version":1,"entries":[],"tarSplitDigest":null}"#, "invalid type"),
        (r#"{"version":1,"entries":[],"x":[}]}"#, "expected"),
        (r#"{"version":1,"entries":[],"x":{"a"}}"#, "expected"),
        (r#"{"version":1,"entries":[],"x":tru}"#, "EOF"),
        (r#"{"version":1,"entries":[],"x":1e400}"#, "out of range"),
        (r#"{"version":1,"entries":[],"x":"a"#, "EOF"),
        (&deep, "recursion limit"),
    ] {
        let problem = problem(parse(document.as_bytes()));
        let start: String = document.chars().take(80).collect();
        assert!(problem.contains(expected), "{start}: {problem}");
    }
}

#[test]
fn an_entry_that_is_not_exactly_one_is_refused() {
    for (members, expected) in [
        (r#""name":"a""#, "without \"type\""),
        (r#""type":"dir""#, "without \"name\""),
        (r#""name":"a","type":"file""#, "not a kind of entry"),
        (r#""name":"a","type":"dir","name":"b""#, "comes twice"),
        (r#""name":"a","type":"dir","Name":"b""#, "taken for"),
        (r#""name":"a","type":"dir","linkname":"b""#, "taken for"),
        (r#""name":"a","type":"dir","chun\u212aSize":1"#, "taken for"),
        (r#""name":"a","type":"reg","size":-1"#, "invalid value"),
        (r#""name":"a","type":"reg","size":1.0"#, "invalid type"),
        (r#""name":"a","type":"reg","size":1e2"#, "invalid type"),
        (r#""name":"a","type":"reg","size":1e400"#, "out of range"),
        (r#""name":"a","type":"reg","size":18446744073709551616"#, "invalid type"),
        (r#""name":"a","type":"reg","size":"1""#, "invalid type"),
        (r#""name":"a","type":"reg","size":null"#, "invalid type"),
        (r#""name":"a","type":"reg","size":01"#, "invalid number"),
        (r#""name":"a","type":"reg","offset":-1"#, "invalid value"),
        (r#""name":"a","type":"reg","chunkOffset":-1"#, "invalid value"),
        (r#""name":"a","type":"reg","uid":9223372036854775808"#, "invalid value"),
        (r#""name":1,"type":"dir""#, "invalid type"),
        (r#""name":"\ud800","type":"dir""#, "hex escape"),
        ("\"name\":\"\u{1}\",\"type\":\"dir\"", "control character"),
        (r#""name":"a","type":"dir","modtime":"yesterday""#, "not an RFC 3339 time"),
        (r#""name":"a","type":"dir","modtime":"""#, "not an RFC 3339 time"),
        (r#""name":"a","type":"dir","modtime":0"#, "invalid type"),
        (r#""name":"a","type":"reg","digest":"sha256:../../x""#, "sha256:../../x"),
        (r#""name":"a","type":"reg","digest":"""#, "digest"),
        (r#""name":"a","type":"reg","chunkType":"data""#, "not a type of chunk"),
        (r#""name":"a","type":"dir","xattrs":{"a":"====" }"#, "Invalid"),
        (r#""name":"a","type":"dir","xattrs":{"a":"AA"}"#, "padding"),
        (r#""name":"a","type":"dir","xattrs":{"a":1}"#, "invalid type"),
        (r#""name":"a","type":"dir","xattrs":["a"]"#, "invalid type"),
        (r#""name":"a","type":"dir","xattrs":{"a":"","a":""}"#, "comes twice"),
        (r#""name":"a","type":"dir","more":{"b":1e400}"#, "out of range"),
    ] {
        let document = format!(r#"{{"version":1,"entries":[{{{members}}}]}}"#);
        let problem = problem(parse(document.as_bytes()));
        assert!(problem.contains(expected), "{members}: {problem}");
    }
    let latin1 = b"{\"version\":1,\"entries\":[{\"name\":\"\xe4\",\"type\":\"dir\"}]}";
    assert!(problem(parse(latin1)).contains("unicode"));
}

#[test]
fn no_more_entries_are_read_than_allowed() {
    let entries = vec![Entry { name: "a".into(), ..Entry::default() }; 3];
    let document = write(&entries, Dialect::Superset, None);
    let within =
        |tar_entries| parse_within(document.as_bytes(), &Limits { tar_entries, ..Limits::default() });
    assert_eq!(within(3).unwrap().0.len(), 3);
    assert!(matches!(within(2), Err(Error::Limit { found: 3, limit: 2, .. })));
}

#[test]
fn no_value_is_read_that_is_larger_than_any_entry() {
    let document = format!(r#"{{"version":1,"entries":[],"x":"{}"}}"#, "a".repeat(17 << 20));
    assert!(problem(parse(document.as_bytes())).contains("a value of more than"));
}

const END: u64 = 1000;

fn file(size: u64, offset: u64) -> Entry {
    Entry { name: "f".into(), size, offset, ..Entry::default() }
}

fn chunk(chunk_offset: u64, chunk_size: u64, offset: u64) -> Entry {
    Entry { kind: EntryKind::Chunk, chunk_offset, chunk_size, ..file(0, offset) }
}

fn plan(entries: &[Entry]) -> Result<Vec<(u64, u64)>> {
    let mut plan = Plan::new(END);
    let mut chunks = Vec::new();
    for entry in entries {
        chunks.extend(plan.add(entry)?.map(|chunk| (chunk.file_offset, chunk.size)));
    }
    plan.complete()?;
    Ok(chunks)
}

#[test]
fn chunks_that_cover_their_files_in_order_are_accepted() {
    let first = |size, chunk_size, offset| Entry { chunk_size, ..file(size, offset) };
    let directory = || Entry { kind: EntryKind::Dir, ..file(0, 0) };
    for (entries, chunks) in [
        (vec![], vec![]),
        (vec![file(10, 100)], vec![(0, 10)]),
        (vec![first(10, 10, 100)], vec![(0, 10)]),
        (vec![first(10, 4, 100), chunk(4, 4, 200), chunk(8, 0, 300)], vec![(0, 4), (4, 4), (8, 2)]),
        (vec![first(10, 4, 100), chunk(4, 4, 200), chunk(8, 2, END - 1)], vec![(0, 4), (4, 4), (8, 2)]),
        (vec![file(0, 0), directory(), file(1, 7), file(0, 0), file(2, 8)], vec![(0, 1), (0, 2)]),
        // Chunks of one frame.
        (
            vec![
                Entry { inner_offset: 512, ..first(9, 4, 0) },
                Entry { inner_offset: 516, ..chunk(4, 0, 0) },
                file(1, 1),
            ],
            vec![(0, 4), (4, 5), (0, 1)],
        ),
        // podman's ends.
        (
            vec![
                Entry { end_offset: 300, ..first(9, 4, 100) },
                chunk(4, 5, 200),
                Entry { end_offset: 900, ..file(1, 300) },
            ],
            vec![(0, 4), (4, 5), (0, 1)],
        ),
        // The name of a chunk may be spelled otherwise.
        (vec![first(2, 1, 1), Entry { name: "./f".into(), ..chunk(1, 1, 2) }], vec![(0, 1), (1, 1)]),
    ] {
        assert_eq!(plan(&entries).unwrap(), chunks, "{entries:?}");
    }
}

#[test]
fn chunks_that_do_not_fit_together_are_refused() {
    let first = |size, chunk_size, offset| Entry { chunk_size, ..file(size, offset) };
    let directory = || Entry { kind: EntryKind::Dir, ..file(0, 0) };
    for (entries, expected) in [
        (vec![chunk(0, 1, 1)], "follows no regular file"),
        (vec![directory(), chunk(0, 1, 1)], "follows no regular file"),
        (vec![file(0, 0), chunk(0, 1, 1)], "beyond the end"),
        (vec![file(1, 1), chunk(1, 1, 2)], "beyond the end"),
        (vec![file(1, 1), directory(), chunk(1, 1, 2)], "follows no regular file"),
        (vec![first(2, 1, 1), Entry { name: "g".into(), ..chunk(1, 1, 2) }], "another file"),
        (vec![first(2, 1, 1)], "cover 1 of 2"),
        (vec![first(2, 1, 1), directory()], "cover 1 of 2"),
        (vec![first(2, 1, 1), file(1, 2)], "cover 1 of 2"),
        (vec![first(2, 3, 1)], "where 2 are missing"),
        (vec![first(1 << 62, 1, 1)], "cover 1 of 4611686018427387904"),
        (vec![first(9, 4, 1), chunk(5, 4, 2)], "a chunk at 5 follows 4"),
        (vec![first(9, 4, 1), chunk(3, 6, 2)], "a chunk at 3 follows 4"),
        (vec![first(9, 4, 1), chunk(9, 0, 2)], "a chunk at 9 follows 4"),
        (vec![first(9, 4, 1), chunk(4, 6, 2)], "where 5 are missing"),
        (vec![first(9, 4, 1), chunk(4, u64::MAX, 2)], "where 5 are missing"),
        (vec![Entry { chunk_offset: 1, ..file(2, 1) }], "a chunk at 1 follows 0"),
        (vec![file(1, 2), file(1, 1)], "overlaps or precedes"),
        (vec![file(1, 2), file(1, 2)], "overlaps or precedes"),
        (vec![file(5, 2), Entry { inner_offset: 4, ..file(1, 2) }], "overlaps or precedes"),
        (vec![first(2, 1, 2), chunk(1, 1, 1)], "overlaps or precedes"),
        (vec![file(1, END)], "not before byte 1000"),
        (vec![file(1, u64::MAX)], "not before byte 1000"),
        (vec![Entry { inner_offset: u64::MAX, ..file(1, 1) }], "beyond any frame"),
        (vec![Entry { end_offset: 1, ..file(1, 1) }], "ends at byte 1"),
        (vec![Entry { end_offset: END + 1, ..file(1, 1) }], "ends at byte 1001"),
        (vec![Entry { end_offset: 20, ..file(1, 1) }, file(1, 19)], "inside the file"),
        (vec![Entry { end_offset: 20, ..first(2, 1, 1) }, chunk(1, 1, 20)], "ends at byte 20"),
    ] {
        let problem = problem(plan(&entries));
        assert!(problem.contains(expected), "{entries:?}: {problem}");
    }
}

#[test]
fn an_only_chunk_without_a_digest_has_that_of_its_file() {
    let (file_digest, chunk_digest) = (Some(Digest::sha256(b"file")), Some(Digest::sha256(b"chunk")));
    for (entry, expected) in [
        (Entry { digest: file_digest.clone(), ..file(1, 1) }, &file_digest),
        (
            Entry { digest: file_digest.clone(), chunk_digest: chunk_digest.clone(), ..file(1, 1) },
            &chunk_digest,
        ),
        (Entry { digest: file_digest.clone(), chunk_size: 1, ..file(2, 1) }, &None),
    ] {
        assert_eq!(&Plan::new(END).add(&entry).unwrap().unwrap().digest, expected);
    }
}
