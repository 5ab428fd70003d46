//! How frames are cut.

use restow_testkit::{Entry, TarBuilder};

use super::*;

#[test]
fn chunks_of_every_size_are_cut_alike() {
    let tar = TarBuilder::new()
        .file("empty", "")
        .file("one", "1")
        .file("exact", pattern(1024))
        .file("more", pattern(1025))
        .file("twice", pattern(2048))
        .file("zeros", vec![0; 4096])
        .finish();
    for chunk_size in [1, 7, 512, 1024, 1025, 4096, 1 << 40] {
        for list in [&[][..], &["twice"]] {
            let (encoded, blob) = run(&tar, &Options { chunk_size, ..prioritized(list) });
            inspect(&encoded, &blob, chunk_size as usize);
        }
    }
    let of = |chunk_size| run(&tar, &Options { chunk_size, ..options() });
    assert_eq!(of(0), of(1));
}

#[test]
fn header_bytes_are_cut_at_payloads_at_64_kib_and_with_the_batch() {
    let empty = (0..3000).map(|index| Entry::file(format!("f{index}"), ""));
    let tar = TarBuilder::new().file("first", "payload").entries(empty).finish();
    let (encoded, blob) = run(&tar, &options());
    let lengths: Vec<usize> = inspect(&encoded, &blob, 1000).frames.iter().map(Vec::len).collect();
    let full = |runs| vec![128 * 512; runs];
    // Padding and 128 headers; then runs of 128 until the 2048th block; the rest, and the end of the archive.
    let first_batch = [vec![512, 7, 505 + 128 * 512], full(14), vec![126 * 512]].concat();
    let second_batch = [full(7), vec![58 * 512 + 1024]].concat();
    assert_eq!(lengths, [first_batch, second_batch].concat());
}

#[test]
fn a_tar_of_nothing_is_one_and_files_of_nothing_have_no_chunks() {
    use restow_testkit::compress::skippable;
    let nothing = [skippable(0, "no"), skippable(5, "tar")].concat();
    let (encoded, _) = run(&nothing, &options());
    assert_eq!((encoded.entries, encoded.uncompressed_size), (0, 0));
    assert_eq!(encoded.diff_id, Digest::sha256(b""));

    let tar = TarBuilder::new().entries((0..500).map(|index| Entry::file(format!("f{index}"), ""))).finish();
    for list in [&[][..], &["f7"]] {
        let (encoded, blob) = run(&tar, &prioritized(list));
        // The landmark has one.
        assert_eq!((encoded.entries, encoded.chunks), (500 + list.len() as u64, list.len() as u64));
        assert_eq!(inspect(&encoded, &blob, 1000).entry("f7").size, 0);
    }
}

#[test]
fn large_files_and_headers_pass_through() {
    let tar = TarBuilder::new()
        .entry(Entry::file("big", pattern(9 << 20)))
        .entry(Entry::file("xattr", "x").xattr("user.big", pattern(1 << 19)))
        .entry(Entry::file("owner", "o").record("uname", "u".repeat(1 << 19)))
        .entry(Entry::file("small", "s"))
        .finish();
    for list in [&[][..], &["small", "xattr"]] {
        let options = Options { chunk_size: DEFAULT_CHUNK_SIZE, ..prioritized(list) };
        let (encoded, blob) = run(&tar, &options);
        let layer = inspect(&encoded, &blob, DEFAULT_CHUNK_SIZE as usize);
        assert_eq!(encoded.chunks, 6 + u64::from(!list.is_empty()));
        assert_eq!(layer.entry("owner").user_name.len(), 1 << 19);
        assert_eq!(layer.entry("big").chunk_size, DEFAULT_CHUNK_SIZE);
    }
}
