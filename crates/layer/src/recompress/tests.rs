use restow_testkit::compress::{gzip, zstd};
use restow_testkit::{End, Entry, Sparse, TarBuilder, TarOptions, plain, random_tar};

use super::*;
use crate::{EncodeOptions, Landmark, encode};

const ALL: [Recompression; 3] =
    [Recompression::None, Recompression::Gzip { level: 6 }, Recompression::Zstd { level: 3 }];

fn run(source: &[u8], recompression: Recompression, threads: usize) -> (Recompressed, Vec<u8>) {
    let mut blob = Vec::new();
    let workers = Workers::new(threads).unwrap();
    let done = recompress(source, &mut blob, recompression, true, &Limits::default(), &workers);
    (done.unwrap(), blob)
}

fn seekable(tar: &[u8], options: &EncodeOptions) -> Vec<u8> {
    let mut blob = Vec::new();
    encode(tar, &mut blob, &ZstdChunked::new(3), options, &Workers::new(2).unwrap()).unwrap();
    blob
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn every_byte_of_the_tar_stays_in_any_compression_on_any_number_of_threads() {
    let large = TarBuilder::new().file("large", noise(3 * SLICE + 7)).file("small", "x").finish();
    let exact = TarBuilder::new().file("exact", noise(SLICE - BLOCK - END)).finish();
    assert_eq!(exact.len(), SLICE);
    for tar in
        [large, exact, TarBuilder::new().finish(), TarBuilder::new().file("a", "b").finish_with(End::None)]
    {
        for recompression in ALL {
            for (source, format) in
                [(tar.clone(), Format::Plain), (gzip(&tar), Format::Gzip), (zstd(&tar), Format::Zstd)]
            {
                let (done, blob) = run(&source, recompression, 1);
                assert_eq!(plain::decompress(&blob).unwrap(), tar, "{recompression:?}");
                assert_eq!(done.source_format, format);
                assert_eq!(done.diff_id, Digest::sha256(&tar));
                assert_eq!((&done.source_diff_id, done.uncompressed_size), (&done.diff_id, tar.len() as u64));
                for threads in [2, 8] {
                    assert_eq!(run(&source, recompression, threads), (done.clone(), blob.clone()));
                }
            }
        }
    }
}

#[test]
fn an_empty_tar_has_a_member_or_a_frame() {
    for recompression in ALL {
        for source in [gzip(b""), zstd(b""), Vec::new()] {
            let mut blob = Vec::new();
            let workers = Workers::new(1).unwrap();
            let done = recompress(&*source, &mut blob, recompression, true, &Limits::default(), &workers);
            assert_eq!(done.unwrap().diff_id, Digest::sha256(b""));
            assert_eq!(blob.is_empty(), recompression == Recompression::None);
            assert!(plain::decompress(&blob).unwrap().is_empty());
        }
    }
}

#[test]
fn a_hard_link_to_what_is_left_out_is_refused() {
    let tar =
        TarBuilder::new().file("stargz.index.json", "data").hardlink("h", "./stargz.index.json").finish();
    for recompression in ALL {
        let done = recompress(
            &*tar,
            &mut Vec::new(),
            recompression,
            true,
            &Limits::default(),
            &Workers::new(1).unwrap(),
        );
        assert_eq!(
            done.unwrap_err().to_string(),
            "tar entry at byte 1024 (h): it is a hard link to stargz.index.json, which only seekable layers have"
        );
    }
}

#[test]
fn what_was_made_seekable_is_the_plain_tar_again() {
    let directory = tempfile::env::temp_dir();
    for seed in 0..40 {
        for landmark in [Landmark::Auto, Landmark::Always] {
            // An end that is missing is added where a landmark changes the tar.
            let unusual_end = landmark == Landmark::Auto;
            let tar = random_tar(seed, &TarOptions { unusual_end, ..TarOptions::default() });
            let source = seekable(&tar, &EncodeOptions { landmark, ..EncodeOptions::new(&directory) });
            let (done, blob) = run(&source, Recompression::None, 2);
            assert_eq!(blob, tar, "seed {seed}, {landmark:?}");
            assert_eq!(done.diff_id, Digest::sha256(&tar));
            assert_eq!(done.source_diff_id == done.diff_id, landmark == Landmark::Auto);
        }
    }
}

#[test]
fn landmarks_and_tables_go_wherever_they_stand_and_nothing_else_does() {
    let kept =
        |builder: TarBuilder| builder.dir("d/").file("d/.prefetch.landmark", "nested").symlink("x", "y");
    let source = kept(
        TarBuilder::new()
            .file(".no.prefetch.landmark", [0xf])
            .file("before", vec![1; 513])
            .file("./.prefetch.landmark", [0xf]),
    )
    .file("stargz.index.json", vec![b'j'; SLICE + 5])
    .finish();
    let expected = kept(TarBuilder::new().file("before", vec![1; 513])).finish();
    let (done, blob) = run(&gzip(&source), Recompression::None, 2);
    assert_eq!(blob, expected);
    assert_eq!(done.source_diff_id, Digest::sha256(&source));
    assert_eq!(done.diff_id, Digest::sha256(&expected));
    assert_eq!((done.entries, done.uncompressed_size), (4, expected.len() as u64));

    // Of another type they are nobody's.
    let other = TarBuilder::new().dir(".prefetch.landmark").symlink("stargz.index.json", "x").finish();
    assert_eq!(run(&other, Recompression::None, 2).1, other);
}

#[test]
fn a_tar_without_an_end_gets_one_where_it_changes_anyhow() {
    let entries = TarBuilder::new().file("a", "b");
    let source = TarBuilder::new().file("a", "b").file(".prefetch.landmark", [0xf]).finish_with(End::None);
    assert_eq!(run(&source, Recompression::None, 2).1, entries.finish());
}

#[test]
fn what_no_table_can_list_is_still_an_ordinary_layer() {
    let tar = TarBuilder::new()
        .file(b"\xff", "not text")
        .entry(Entry::sparse(Sparse::Gnu, "sparse", 4096, &[(1024, b"data")]))
        .file("../up", "x")
        .hardlink("link", "of another layer")
        .finish();
    for recompression in ALL {
        let (_, blob) = run(&tar, recompression, 2);
        assert_eq!(plain::decompress(&blob).unwrap(), tar);
    }
}

#[test]
fn damage_is_an_error() {
    let tar = TarBuilder::new().file("file", noise(100_000)).finish();
    let workers = Workers::new(2).unwrap();
    for source in [&gzip(&tar)[..1000], &zstd(&tar)[..1000], &tar[..1000], &[1; 1024]] {
        for recompression in ALL {
            let done = recompress(source, &mut Vec::new(), recompression, true, &Limits::default(), &workers);
            assert!(done.is_err(), "{} bytes", source.len());
        }
    }
}
