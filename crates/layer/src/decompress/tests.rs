use restow_testkit::TarBuilder;
use restow_testkit::compress::{
    FOREIGN_MAGIC, Gzip, RawFrame, gzip, gzip_empty_members, gzip_members, skippable, skippable_header, zstd,
    zstd_frames,
};

use super::*;

fn read(source: &[u8]) -> Result<Vec<u8>> {
    read_within(source, &Limits::default())
}

fn read_within(source: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    let mut stream = decompress(source, limits)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|error| into_error(error, stream.consumed()))?;
    assert_eq!(stream.consumed(), source.len() as u64, "the stream ended before its source");
    Ok(bytes)
}

/// Returns the format and the byte that a damaged stream is reported with.
fn damage(source: &[u8]) -> (&'static str, u64, String) {
    match read(source) {
        Err(Error::Compression { format, offset, problem }) => (format, offset, problem),
        other => panic!("{other:?}"),
    }
}

fn sample() -> Vec<u8> {
    let noise = (0..300u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>();
    TarBuilder::new().file("f", "words, words, words").file("noise", noise).finish()
}

#[test]
fn every_member_and_frame_is_decoded_whatever_the_split() {
    let tar = sample();
    let cuts = [0, 1, 512, 513, 513, 1500, tar.len()];
    for source in [
        tar.clone(),
        gzip(&tar),
        gzip_members(&tar, &cuts),
        zstd(&tar),
        zstd_frames(&tar, &cuts),
        RawFrame::new().store(&tar),
        RawFrame::new().single_segment(tar.len() as u64).store(&tar),
        [skippable(3, "first"), zstd_frames(&tar[..700], &[5]), skippable(0xf, ""), zstd(&tar[700..])]
            .concat(),
        Gzip::new().level(0).extra("").name("").comment("").compress(&tar),
        Gzip::new().extra(vec![7; 65_535]).name([b'n'; 60_000]).comment("c").header_crc().compress(&tar),
    ] {
        assert!(read(&source).unwrap() == tar);
    }
}

#[test]
fn the_first_bytes_tell_the_format() {
    let tar = sample();
    for (source, expected) in
        [(tar.clone(), Format::Plain), (gzip(&tar), Format::Gzip), (zstd(&tar), Format::Zstd)]
    {
        assert_eq!(decompress(&source[..], &Limits::default()).unwrap().format(), expected);
    }
    for kind in 0..16 {
        assert_eq!(sniff(&skippable(kind, "")).unwrap(), Format::Zstd);
    }
    // Too short to be anything else; the tar reader refuses them.
    for short in [&b"a"[..], &[0x1f], &[0x1f, 0x8b], &[0x28, 0xb5, 0x2f], &[0x50, 0x2a, 0x4d]] {
        assert_eq!(sniff(short).unwrap(), Format::Plain);
        assert_eq!(read(short).unwrap(), short);
    }
    // Go's readers take it for a tar of nothing.
    assert_eq!(read(b"").unwrap(), b"");
}

#[test]
fn frames_that_ask_for_too_much_are_named() {
    let tar = sample();
    let refused = |source: &[u8]| read(source).unwrap_err().to_string();
    let limit = "more than the limit of 134217728 bytes";
    for (frame, offset, window) in [
        (RawFrame::new().window_log(28).store(&tar), 0, "268435456 bytes, "),
        (RawFrame::new().window_log(31).store(&tar), 0, "2147483648 bytes, "),
        (RawFrame::new().window_log(41).store(&tar), 0, "2199023255552 bytes, "),
        // The size stands where the first bytes have been taken already.
        (RawFrame::new().single_segment(1 << 60).store(&tar), 10, ""),
    ] {
        let expected = format!("the zstd frame at blob byte {offset} asks for a window of {window}{limit}");
        assert_eq!(refused(&frame), expected);
        if offset == 0 {
            let first = zstd(&tar);
            let behind = [first.clone(), frame].concat();
            assert_eq!(refused(&behind), expected.replace("byte 0", &format!("byte {}", first.len())));
        }
    }
    let wide = Limits { zstd_window_log: 28, ..Limits::default() };
    assert!(read_within(&RawFrame::new().window_log(28).store(&tar), &wide).unwrap() == tar);
    let dictionary = RawFrame::new().dictionary(7).store(&tar);
    assert_eq!(refused(&dictionary), "unsupported compression zstd with a dictionary");
}

#[test]
fn a_tar_that_ends_within_a_file_is_found_by_reading_it() {
    let whole = sample();
    let check = |source: &[u8]| check_tar(source, Some(Algorithm::Sha256), &Limits::default());
    for source in [whole.clone(), gzip(&whole), zstd(&whole), Vec::new(), gzip("")] {
        let tar = read(&source).unwrap();
        assert_eq!(check(&source).unwrap(), Some(Digest::sha256(&tar)));
    }
    // Where it ends within padding, or without the end of the archive, everybody can read it.
    assert!(check(&whole[..whole.len() - 1024]).is_ok() && check(&whole[..whole.len() - 1100]).is_ok());
    for cut in [whole.len() - 1024 - 512, 512 + 10, 1024 + 100] {
        let error = check(&gzip(&whole[..cut])).unwrap_err();
        assert!(matches!(error, Error::Tar { .. }), "{cut}: {error}");
    }
    // A header that moves what comes after it: no table can list that, but the layer is whole.
    let global = TarBuilder::new().global_pax(&[("path", "x")]).file("f", "f").finish();
    assert_eq!(check(&global).unwrap(), Some(Digest::sha256(&global)));
    assert!(check_tar(&whole[..], None, &Limits::default()).unwrap().is_none());
}

#[test]
fn formats_that_no_runtime_reads_are_named() {
    let magic = |name: &str| FOREIGN_MAGIC.iter().find(|(known, _)| *known == name).unwrap().1;
    let mut streams = vec![
        ("xz", magic("xz").to_vec()),
        ("lz4", magic("lz4").to_vec()),
        ("bzip2", [magic("bzip2"), &[0x31, 0x41, 0x59, 0x26, 0x53, 0x59]].concat()),
        ("zstd before 0.8", magic("zstd 0.7").to_vec()),
    ];
    streams.extend((0x22..=0x27).map(|first| ("zstd before 0.8", vec![first, 0xb5, 0x2f, 0xfd])));
    streams.push(("zstd before 0.8", vec![0x1e, 0xb5, 0x2f, 0xfd]));
    for (name, stream) in streams {
        let source = [stream, vec![0; 600]].concat();
        assert_eq!(read(&source).unwrap_err().to_string(), format!("unsupported compression {name}"));
    }
    // A file may be called anything, and a tar begins with its name.
    for name in ["BZh9", "\u{4}\"M", "(\u{b5}"] {
        let tar = TarBuilder::new().file(name, "").finish();
        assert!(read(&tar).unwrap() == tar);
    }
}

#[test]
fn a_stream_cut_off_anywhere_is_refused_with_its_format_and_byte() {
    let tar = sample();
    let cuts = [700];
    for (format, magic, whole, first) in [
        ("gzip", 3, gzip_members(&tar, &cuts), gzip(&tar[..700]).len()),
        ("zstd", 4, zstd_frames(&tar, &cuts), zstd(&tar[..700]).len()),
        (
            "gzip",
            3,
            Gzip::new().extra("extra").name("n").comment("c").header_crc().compress(&tar),
            usize::MAX,
        ),
        ("zstd", 4, [skippable(0, "skipped"), zstd(&tar)].concat(), 15),
    ] {
        for cut in magic..whole.len() {
            if cut == first {
                // The end of a member is the end of a stream, to every decoder.
                assert!(tar.starts_with(&read(&whole[..cut]).unwrap()));
                continue;
            }
            assert_eq!(damage(&whole[..cut]), (format, cut as u64, "it ends too early".into()));
        }
    }
}

#[test]
fn damage_is_refused_with_its_format_and_byte() {
    let tar = sample();
    let flipped = |mut stream: Vec<u8>, from_end: usize| {
        let at = stream.len() - from_end;
        stream[at] ^= 1;
        stream
    };
    let spoilt_header_crc = {
        let member = Gzip::new().name("n");
        let mut header = member.clone().header_crc().header();
        *header.last_mut().unwrap() ^= 1;
        [&header, &member.compress(&tar)[member.header().len()..]].concat()
    };
    let (member, frame) = (gzip(&tar), zstd(&tar));
    let (member_end, frame_end) = (member.len() as u64, frame.len() as u64);
    let behind = |stream: &[u8], more: &[u8]| [stream, more].concat();
    let checksum = "corrupt gzip stream does not have a matching checksum";
    let unknown = "Unknown frame descriptor";
    let early = "it ends too early";
    for (what, format, source, at, problem) in [
        ("wrong checksum", "gzip", Gzip::new().wrong_crc().compress(&tar), member_end, checksum),
        ("wrong size", "gzip", Gzip::new().wrong_size().compress(&tar), member_end, checksum),
        ("wrong header checksum", "gzip", spoilt_header_crc, 14, checksum),
        ("reserved flag", "gzip", behind(b"\x1f\x8b\x08\xe0", &member[4..]), 10, "invalid gzip header"),
        ("garbage", "gzip", behind(&member, b"garbage behind"), member_end + 10, "invalid gzip header"),
        ("zeros", "gzip", behind(&member, &[0; 512]), member_end + 10, "invalid gzip header"),
        (
            "wrong checksum",
            "zstd",
            flipped(frame.clone(), 1),
            frame_end - 4,
            "Restored data doesn't match checksum",
        ),
        ("garbage", "zstd", behind(&frame, b"garbage behind"), frame_end, unknown),
        ("zeros", "zstd", behind(&frame, &[0; 512]), frame_end, unknown),
        ("old zstd", "zstd", behind(&frame, b"\x27\xb5\x2f\xfd\0\0\0\0"), frame_end, unknown),
        ("gzip behind zstd", "zstd", behind(&frame, &member), frame_end, unknown),
        (
            "content of 1 EiB",
            "zstd",
            RawFrame::new().content_size(1 << 60).store(&tar),
            10,
            "Data corruption detected",
        ),
        ("skipping past the end", "zstd", behind(&skippable_header(0, 100), &[0; 99]), 107, early),
        ("skipping 4 GiB", "zstd", behind(&frame, &skippable_header(9, u32::MAX)), frame_end + 8, early),
    ] {
        assert_eq!(damage(&source), (format, at, problem.to_string()), "{what}");
    }
}

#[test]
fn an_unterminated_name_is_not_collected_for_ever() {
    for flag in [8, 16] {
        let source = [vec![0x1f, 0x8b, 8, flag, 0, 0, 0, 0, 0, 255], vec![b'n'; 1 << 20]].concat();
        let (format, offset, _) = damage(&source);
        assert_eq!(format, "gzip");
        assert!(offset < 1 << 17, "{offset} bytes were read for a name");
    }
}

#[test]
fn streams_of_nothing_come_to_an_end() {
    assert_eq!(read(&gzip_empty_members(300_000)).unwrap(), b"");
    assert_eq!(read(&skippable(0, "").repeat(300_000)).unwrap(), b"");
    assert_eq!(read(&zstd("").repeat(300_000)).unwrap(), b"");
    assert_eq!(read(&RawFrame::new().store("").repeat(300_000)).unwrap(), b"");
}

#[test]
fn a_bomb_is_stopped_by_the_ratio_above_the_floor_and_by_the_ceiling() {
    let zeros = vec![0; 4 << 20];
    let limits = |expansion_floor, expansion_ratio, uncompressed_size| Limits {
        expansion_floor,
        expansion_ratio,
        uncompressed_size,
        ..Limits::default()
    };
    for source in [gzip(&zeros), zstd(&zeros), RawFrame::new().repeat(0, zeros.len())] {
        assert!(read_within(&source, &limits(4 << 20, 1, u64::MAX)).is_ok());
        assert!(read_within(&source, &limits(0, 100_000, u64::MAX)).is_ok());
        for limits in [limits(1 << 20, 10, u64::MAX), limits(u64::MAX, u64::MAX, 1 << 20)] {
            let error = read_within(&source, &limits).unwrap_err();
            let Error::Limit { what, found, limit } = error else { panic!("{error:?}") };
            assert_eq!((what, limit), ("the uncompressed size in bytes of the layer", 1 << 20));
            assert!(found <= 2 << 20, "{found} bytes came out before the limit was noticed");
        }
    }
    let plain = sample();
    assert!(read_within(&plain, &limits(0, 1, u64::MAX)).is_ok());
    assert!(matches!(read_within(&plain, &limits(0, 1, 100)), Err(Error::Limit { .. })));
}

#[test]
fn a_failing_source_is_told_from_a_damaged_stream() {
    struct Broken<'a>(&'a [u8], bool);
    impl Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            match self.0.len() {
                _ if self.1 => Err(io::ErrorKind::Interrupted.into()),
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => self.0.read(&mut buffer[..1]),
            }
        }
    }
    let tar = sample();
    for whole in [tar.clone(), gzip(&tar), zstd(&tar)] {
        for length in [0, 5, 300] {
            let mut bytes = Vec::new();
            let error = decompress(Broken(&whole[..length], false), &Limits::default())
                .and_then(|mut stream| {
                    stream.read_to_end(&mut bytes).map_err(|error| into_error(error, stream.consumed()))
                })
                .unwrap_err();
            assert_eq!(error.to_string(), format!("could not read the layer at blob byte {length}"));
        }
    }
}
