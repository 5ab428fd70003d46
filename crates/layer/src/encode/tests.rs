//! Whole layers: written, then read by plain decoders and by the rules of the format.

mod blob;
mod estargz;
mod gather;
mod golden;
mod inspect;
mod order;
mod pins;
mod random;
mod refuse;

use std::sync::LazyLock;

use restow_testkit::TarBuilder;
use restow_testkit::compress::{gzip, zstd};

use self::inspect::{Layer, inspect};
use super::*;
use crate::{Estargz, PREFETCH_LANDMARK, ZstdChunked, landmark};

fn options() -> EncodeOptions {
    EncodeOptions { chunk_size: 1000, ..EncodeOptions::new(tempfile::env::temp_dir()) }
}

/// The limits of those who accept names that go through a parent directory, and links that say what their file does not.
fn lenient() -> Limits {
    Limits { parent_references: true, diverging_links: true, ..Limits::default() }
}

fn prioritized(paths: &[&str]) -> EncodeOptions {
    EncodeOptions { prioritized: paths.iter().map(|path| path.to_string()).collect(), ..options() }
}

static TWO_WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::new(2).unwrap());

fn run_with(source: &[u8], options: &EncodeOptions, threads: usize) -> Result<(Encoded, Vec<u8>)> {
    run_codec(&ZstdChunked::new(3), source, options, threads)
}

fn run_codec(
    codec: &dyn Codec,
    source: &[u8],
    options: &EncodeOptions,
    threads: usize,
) -> Result<(Encoded, Vec<u8>)> {
    let mut blob = Vec::new();
    let workers = if threads == 2 { &TWO_WORKERS } else { &Workers::new(threads)? };
    let encoded = encode(source, &mut blob, codec, options, workers)?;
    assert_eq!(encoded.size, blob.len() as u64);
    Ok((encoded, blob))
}

fn run(tar: &[u8], options: &EncodeOptions) -> (Encoded, Vec<u8>) {
    run_with(tar, options, 2).unwrap()
}

/// The tar that any zstd decoder finds in the blob.
fn plain(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    decompress(blob, &Limits::default()).unwrap().read_to_end(&mut tar).unwrap();
    tar
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn sample() -> TarBuilder {
    TarBuilder::new()
        .dir("etc/")
        .file("etc/passwd", b"root")
        .file("etc/empty", b"")
        .dir("usr/")
        .dir("usr/bin/")
        .file("usr/bin/tool", pattern(2500))
        .hardlink("usr/bin/alias", "usr/bin/tool")
        .symlink("bin", "usr/bin")
        .file("exact", pattern(2000))
        .file("zeros", vec![0; 3000])
        .character("null", 1, 3)
}

#[test]
fn a_layer_in_which_nothing_moves_keeps_every_byte() {
    let tar = sample().finish();
    for source in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let (encoded, blob) = run(&source, &options());
        assert_eq!(plain(&blob), tar);
        assert_eq!(encoded.diff_id, Digest::sha256(&tar));
        assert_eq!(encoded.source_diff_id, encoded.diff_id);
        assert_eq!(encoded.entries, 11);
        assert_eq!(encoded.chunks, 1 + 3 + 2 + 3);
        assert_eq!(encoded.prefetch_size, 0);
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let mut builder = sample();
    for index in 0..400 {
        builder = builder.file(format!("many/{index}"), pattern(index * 41));
    }
    let tar = gzip(builder.finish());
    for options in [options(), prioritized(&["many/7", "usr/bin/alias"])] {
        let one = run_with(&tar, &options, 1).unwrap();
        for threads in [2, 8] {
            assert_eq!(run_with(&tar, &options, threads).unwrap(), one);
        }
    }
}

#[test]
fn moving_files_gives_what_encoding_the_moved_tar_gives() {
    let source = sample().finish();
    let expected = TarBuilder::new()
        .dir("usr/")
        .dir("usr/bin/")
        .file("usr/bin/tool", pattern(2500))
        .hardlink("usr/bin/alias", "usr/bin/tool")
        .raw(crate::landmark::header(PREFETCH_LANDMARK))
        .raw([&[0x0f], &[0u8; 511][..]].concat())
        .dir("etc/")
        .file("etc/passwd", b"root")
        .file("etc/empty", b"")
        .symlink("bin", "usr/bin")
        .file("exact", pattern(2000))
        .file("zeros", vec![0; 3000])
        .character("null", 1, 3)
        .finish();
    let wanted = prioritized(&["./usr/bin/alias", "gone"]);
    let (encoded, blob) = run(&source, &wanted);
    assert_eq!(plain(&blob), expected);
    assert_eq!(encoded.source_diff_id, Digest::sha256(&source));
    assert_eq!(encoded.diff_id, Digest::sha256(&expected));
    assert_eq!((encoded.moved, encoded.missing.as_slice()), (4, ["gone".to_string()].as_slice()));

    let (straight, straight_blob) = run(&expected, &options());
    assert_eq!(straight_blob, blob);
    assert_eq!(straight.prefetch_size, encoded.prefetch_size);
    assert!(encoded.prefetch_size > 0);

    // And once more with the same list: nothing is left to move.
    let (again, again_blob) = run(&blob, &wanted);
    assert_eq!(again_blob, blob);
    assert_eq!(again.diff_id, encoded.diff_id);
}

#[test]
fn what_comes_first_may_be_compressed_harder_and_nothing_else_changes() {
    let line = |n: u64| format!("the {} of {} is {}\n", n % 977, n * n % 1009, n * n * n % 499);
    let words: String = (0..10_000).map(line).collect();
    let tar = sample().file("first", &words).file("last", &words).finish();
    let options = EncodeOptions { chunk_size: 100_000, ..prioritized(&["first", "usr/bin/alias"]) };
    let codecs: [(Box<dyn Codec>, Box<dyn Codec>); 3] = [
        (Box::new(ZstdChunked::new(1)), Box::new(ZstdChunked::new(1).prioritized_level(19))),
        (Box::new(Estargz::new(1)), Box::new(Estargz::new(1).prioritized_level(9))),
        (
            Box::new(Estargz::new(1).min_chunk_size(5000)),
            Box::new(Estargz::new(1).min_chunk_size(5000).prioritized_level(9)),
        ),
    ];
    for (plainly, harder) in codecs {
        let run = |codec: &dyn Codec, threads| run_codec(codec, &tar, &options, threads).unwrap();
        let ((expected, _), (found, blob)) = (run(&*plainly, 2), run(&*harder, 2));
        assert_eq!(run(&*harder, 1).1, blob);
        assert_eq!(run(&*harder, 8).1, blob);
        assert_ne!(plainly.identity(), harder.identity());
        assert_eq!(
            (found.entries, found.chunks, found.moved),
            (expected.entries, expected.chunks, expected.moved)
        );
        assert!(found.prefetch_size < expected.prefetch_size, "{harder:?}: {}", found.prefetch_size);
        let rest = |encoded: &Encoded| encoded.size - encoded.prefetch_size;
        // The table differs, by the digits of where things are.
        assert!(rest(&found).abs_diff(rest(&expected)) < 500, "{harder:?}");
        let hints = crate::Hints::from_annotations(&found.lazy_annotations).unwrap();
        let verify_options = crate::VerifyOptions {
            hints,
            diff_id: Some(found.diff_id.clone()),
            depth: crate::Depth::Full,
            limits: Limits::default(),
        };
        crate::verify(&blob, &verify_options, &TWO_WORKERS).unwrap();
        // Where nothing moves, nothing comes first.
        let straight = EncodeOptions { prioritized: Vec::new(), ..options.clone() };
        let straight = |codec: &dyn Codec| run_codec(codec, &tar, &straight, 2).unwrap().1;
        assert_eq!(straight(&*harder), straight(&*plainly));
    }
}
