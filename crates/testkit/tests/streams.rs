//! Right streams decode, and each wrong one fails for its own reason.

use restow_testkit::compress::Gzip;
use restow_testkit::compress::RawFrame;
use restow_testkit::compress::gzip;
use restow_testkit::compress::gzip_empty_members;
use restow_testkit::compress::gzip_members;
use restow_testkit::compress::skippable;
use restow_testkit::compress::skippable_header;
use restow_testkit::compress::zstd;
use restow_testkit::compress::zstd_frames;
use restow_testkit::plain;

const DATA: &[u8] = b"the quick brown fox stows the lazy cargo, again and again and again";

#[test]
fn gzip_in_every_form_decodes_to_the_same() {
    let fields = Gzip::new().extra("SG\x02\0ab").name("a.tar").comment("made by hand").header_crc();
    for (name, stream) in [
        ("one member", gzip(DATA)),
        ("three members", gzip_members(DATA, &[7, 7])),
        ("empty members", [gzip_empty_members(1000), gzip(DATA), gzip_empty_members(2)].concat()),
        ("all header fields", fields.compress(DATA)),
        ("stored", Gzip::new().level(0).compress(DATA)),
    ] {
        assert_eq!(plain::decompress(stream).ok().as_deref(), Some(DATA), "{name}");
    }
}

#[test]
fn broken_gzip_is_refused() {
    let whole = gzip(DATA);
    for (name, stream) in [
        ("wrong CRC", Gzip::new().wrong_crc().compress(DATA)),
        ("wrong size", Gzip::new().wrong_size().compress(DATA)),
        ("cut in the header", whole[..5].to_vec()),
        ("cut in the data", whole[..20].to_vec()),
        ("cut in the trailer", whole[..whole.len() - 1].to_vec()),
    ] {
        assert!(plain::gunzip(stream).is_err(), "{name}");
    }
}

#[test]
fn zstd_in_every_form_decodes_to_the_same() {
    for (name, stream) in [
        ("one frame", zstd(DATA)),
        ("three frames", zstd_frames(DATA, &[7, 7])),
        ("skippable frames", [skippable(0, "x"), zstd(DATA), skippable(15, [0; 300])].concat()),
        ("stored", RawFrame::new().store(DATA)),
        ("a large window", RawFrame::new().window_log(27).store(DATA)),
        ("a content size", RawFrame::new().content_size(DATA.len() as u64).store(DATA)),
        ("a single segment", RawFrame::new().single_segment(DATA.len() as u64).store(DATA)),
    ] {
        assert_eq!(plain::decompress(stream).ok().as_deref(), Some(DATA), "{name}");
    }
    let bomb = RawFrame::new().repeat(b'z', 1_000_000);
    assert!(bomb.len() < 100);
    assert_eq!(plain::unzstd(bomb).ok(), Some(vec![b'z'; 1_000_000]));
}

#[test]
fn broken_zstd_is_refused() {
    let whole = zstd(DATA);
    let mut spoilt = whole.clone();
    spoilt[whole.len() - 1] ^= 1;
    for (name, stream) in [
        ("wrong checksum", spoilt),
        ("cut", whole[..whole.len() - 5].to_vec()),
        ("a window of 2 GiB", RawFrame::new().window_log(31).store(DATA)),
        ("a dictionary", RawFrame::new().dictionary(7).store(DATA)),
        ("a content size that lies", RawFrame::new().content_size(1 << 60).store(DATA)),
        ("a single segment that lies", RawFrame::new().single_segment(1 << 60).store(DATA)),
        ("a skippable frame past the end", [whole.clone(), skippable_header(0, u32::MAX)].concat()),
        ("garbage after the frame", [whole, b"garbage".to_vec()].concat()),
    ] {
        assert!(plain::unzstd(stream).is_err(), "{name}");
    }
}
