//! The layers that other tools made of `golden/src`, held against ours.

use std::fs;
use std::path::PathBuf;

use restow_oci::annotations;
use restow_testkit::{plain, testdata};
use serde_json::Value;

use super::*;
use crate::toc::{Entry, EntryKind, Parser, TAR_NAME};
use crate::{Estargz, Timestamp};

/// A layer of one of the golden images, with its annotations.
struct Golden {
    blob: Vec<u8>,
    annotations: Value,
}

fn golden(image: &str) -> Vec<Golden> {
    let root = testdata("golden").join(image);
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        fs::read(root.join("blobs").join(digest.replace(':', "/"))).unwrap()
    };
    let index: Value = serde_json::from_slice(&fs::read(root.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| Golden { blob: blob(layer), annotations: layer["annotations"].clone() }).collect()
}

impl Golden {
    /// Returns what lies where an annotation says.
    fn part(&self, annotation: &str) -> Vec<u8> {
        let position: Vec<usize> =
            self.annotations[annotation].as_str().unwrap().split(':').map(|n| n.parse().unwrap()).collect();
        plain::unzstd(&self.blob[position[0]..position[0] + position[1]]).unwrap()
    }

    fn entries(&self, annotation: &str) -> Vec<Entry> {
        entries(&self.part(annotation))
    }
}

fn entries(toc: &[u8]) -> Vec<Entry> {
    let mut parser = Parser::new(toc, &Limits::default()).unwrap();
    std::iter::from_fn(|| parser.next_entry().unwrap()).collect()
}

fn encode_golden(layer: &Golden, options: Options) -> Layer {
    let (encoded, blob) = run(&layer.blob, &options);
    inspect(&encoded, &blob, DEFAULT_CHUNK_SIZE as usize)
}

fn golden_options() -> Options {
    Options { chunk_size: DEFAULT_CHUNK_SIZE, limits: lenient(), ..options() }
}

/// Leaves of an entry what stargz's own tool writes, and not where it lies.
fn as_stargz(entries: &[Entry]) -> Vec<Entry> {
    let mut left = 0;
    let one = |entry: &Entry| {
        if entry.kind == EntryKind::Regular {
            left = entry.size;
        }
        let size = if entry.chunk_size == 0 { left } else { entry.chunk_size };
        left -= size.min(left);
        // It says the size of a chunk only where the chunk is full.
        let full = size == DEFAULT_CHUNK_SIZE;
        Entry {
            modified: entry.modified.map(Timestamp::round).filter(|time| *time != Timestamp::EPOCH),
            accessed: None,
            changed: None,
            offset: 0,
            end_offset: 0,
            zeros: false,
            chunk_size: if full { size } else { 0 },
            ..entry.clone()
        }
    };
    entries.iter().map(one).collect()
}

#[test]
fn our_table_says_what_stargz_says() {
    for (source, theirs) in golden("src").iter().zip(golden("zstdchunked")) {
        let ours = encode_golden(source, Options { landmark: Landmark::Always, ..golden_options() });
        let theirs = theirs.entries(annotations::STARGZ_ZSTD_MANIFEST_POSITION);
        assert_eq!(as_stargz(&ours.entries), as_stargz(&theirs));
    }
}

#[test]
fn files_are_moved_as_stargz_moves_them() {
    let list = ["data/one", "bin/tool-hard", "app/main"].map(String::from).to_vec();
    for (source, theirs) in golden("src").iter().zip(golden("zstdchunked-prioritized")) {
        let ours = encode_golden(source, Options { prioritized: list.clone(), ..golden_options() });
        let theirs = theirs.entries(annotations::STARGZ_ZSTD_MANIFEST_POSITION);
        assert_eq!(as_stargz(&ours.entries), as_stargz(&theirs));
    }
}

#[test]
fn our_table_and_tar_split_say_what_podman_says() {
    for (source, theirs) in golden("src").iter().zip(golden("podman-zstdchunked")) {
        let ours = encode_golden(source, golden_options());
        let metadata = |entries: &[Entry]| -> Vec<Entry> {
            let whole = entries.iter().filter(|entry| entry.kind != EntryKind::Chunk);
            let whole = whole.map(|entry| Entry {
                // There, an empty file has no digest and nobody a name.
                digest: entry.digest.clone().filter(|_| entry.size > 0),
                user_name: String::new(),
                group_name: String::new(),
                offset: 0,
                end_offset: 0,
                chunk_size: 0,
                chunk_digest: None,
                zeros: false,
                ..entry.clone()
            });
            whole.collect()
        };
        assert_eq!(metadata(&ours.entries), metadata(&theirs.entries(annotations::PODMAN_MANIFEST_POSITION)));
        let tar_split = theirs.part(annotations::PODMAN_TARSPLIT_POSITION);
        assert_eq!(String::from_utf8_lossy(&ours.tar_split), String::from_utf8_lossy(&tar_split));
    }
}

#[test]
fn chunks_that_follow_the_content_are_podmans() {
    let mut in_parts = 0;
    for (source, theirs) in golden("src").iter().zip(golden("podman-zstdchunked")) {
        let (encoded, blob) = run(&source.blob, &Options { chunking: Chunking::Content, ..golden_options() });
        let ours = Golden { blob, annotations: serde_json::to_value(&encoded.lazy_annotations).unwrap() };
        let chunks = |golden: &Golden, position| -> Vec<Entry> {
            let entries = golden.entries(position).into_iter();
            // A file of one chunk has no chunk there.
            entries
                .filter(|entry| entry.kind == EntryKind::Chunk || entry.chunk_size > 0)
                .map(|entry| Entry {
                    name: entry.name,
                    chunk_offset: entry.chunk_offset,
                    chunk_size: entry.chunk_size,
                    chunk_digest: entry.chunk_digest,
                    zeros: entry.zeros,
                    ..Entry::default()
                })
                .collect()
        };
        let ours = chunks(&ours, annotations::STARGZ_ZSTD_MANIFEST_POSITION);
        assert_eq!(ours, chunks(&theirs, annotations::PODMAN_MANIFEST_POSITION));
        in_parts += ours.len();
    }
    assert!(in_parts > 20, "{in_parts}");
}

#[test]
fn layers_of_other_tools_are_encoded_like_any_other() {
    let images = ["estargz", "estargz-minchunk", "estargz-prioritized", "estargz-externaltoc", "zstdchunked"];
    let more = ["zstdchunked-prioritized", "podman-zstdchunked", "estargz-keepdiffid"];
    for image in images.into_iter().chain(more) {
        for (position, layer) in golden(image).iter().enumerate() {
            let ours = encode_golden(layer, golden_options());
            let source = plain::decompress(&layer.blob).unwrap();
            let kept = |entry: &PathBuf| {
                !matches!(entry.to_str().unwrap(), ".no.prefetch.landmark" | "stargz.index.json")
            };
            let expected: Vec<_> = plain::names(&source).iter().map(PathBuf::from).filter(kept).collect();
            let names: Vec<_> = ours.names().iter().map(PathBuf::from).collect();
            assert_eq!(names, expected, "{image}, layer {position}");
            let unchanged = expected.len() == plain::names(&source).len();
            assert_eq!(ours.tar == source, unchanged, "{image}, layer {position}");
        }
    }
}

/// Returns the table in the tar of an eStargz layer, or of a table's own blob.
fn table(gzip: &[u8]) -> Vec<u8> {
    plain::content(&plain::gunzip(gzip).unwrap(), TAR_NAME).unwrap().to_vec()
}

#[test]
fn our_estargz_says_what_theirs_says() {
    let codec = Estargz::new(6);
    let record = ["data/one", "bin/tool-hard", "app/main"].map(String::from).to_vec();
    let options = || Options { prioritized: Vec::new(), ..golden_options() };
    let with_list = || Options { prioritized: record.clone(), ..golden_options() };
    for (image, tables, codec, options) in [
        ("estargz", None, codec, options()),
        ("estargz-prioritized", None, codec, with_list()),
        (
            "estargz-minchunk",
            None,
            codec.min_chunk_size(50_000),
            Options { chunk_size: 1_000_000, ..options() },
        ),
        ("estargz-externaltoc", Some("estargz-externaltoc-esgztoc"), codec.external_toc(), options()),
        (
            "estargz-keepdiffid",
            Some("estargz-keepdiffid-esgztoc"),
            codec.external_toc(),
            Options { keep_diff_id: true, ..options() },
        ),
    ] {
        for (source, theirs) in golden("src").iter().zip(golden(image)) {
            let (mut encoded, blob) = run_codec(&codec, &source.blob, &options, 2).unwrap();
            let ours = estargz::inspect(&mut encoded, &blob, &options, estargz::least(&codec)).entries;
            let digest = Digest::sha256(&theirs.blob);
            let theirs = match tables {
                None => table(&theirs.blob),
                Some(tables) => {
                    let own = |table: &&Golden| {
                        table.annotations["containerd.io/snapshot/stargz/layer.digest"] == digest.as_str()
                    };
                    table(&golden(tables).iter().find(own).unwrap().blob)
                }
            };
            let theirs = entries(&theirs);
            let anywhere = |entries: &[Entry]| -> Vec<Entry> {
                let one = |entry: &Entry| Entry { offset: 0, inner_offset: 0, ..entry.clone() };
                entries.iter().map(one).collect()
            };
            assert_eq!(anywhere(&ours), anywhere(&theirs), "{image}");
            let shared = |entries: &[Entry]| entries.iter().any(|entry| entry.inner_offset > 0);
            assert_eq!(shared(&ours), shared(&theirs), "{image}");
            assert_eq!(encoded.diff_id == encoded.source_diff_id, image == "estargz-keepdiffid", "{image}");
        }
    }
}
