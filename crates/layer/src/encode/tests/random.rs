//! Layers that nobody thought of, held against a simple model.

use std::collections::{BTreeMap, BTreeSet};

use restow_testkit::plain::{self, PlainEntry};
use restow_testkit::{End, Entry, Random, TarBuilder, TarOptions, mutate, random_tar};

use super::*;
use crate::{Hints, VerifyOptions, path, verify};

/// The order that the documentation promises, found by recursion.
pub(super) struct Model<'a> {
    entries: &'a [PlainEntry],
    last: BTreeMap<String, usize>,
    order: Vec<usize>,
}

impl<'a> Model<'a> {
    pub(super) fn new(entries: &'a [PlainEntry]) -> Self {
        let last =
            entries.iter().enumerate().map(|(index, entry)| (path::clean(&entry.name()), index)).collect();
        Self { entries, last, order: Vec::new() }
    }

    fn place(&mut self, path: &str, moved: usize) {
        if let Some(parent) = path::parent(path) {
            self.place(parent, moved);
            let whiteout = format!("{parent}/.wh.{}", path::base(path));
            let whiteout = self.last.get(whiteout.trim_start_matches('/')).copied();
            if let Some(index) = whiteout.filter(|index| *index < moved) {
                self.push(index);
            }
        }
        if let Some(index) = self.last.get(path).copied() {
            if self.entries[index].kind == b'1' {
                let target = path::clean(&String::from_utf8_lossy(&self.entries[index].link));
                self.place(&target, self.last[&target]);
            }
            self.push(index);
        }
    }

    fn push(&mut self, index: usize) {
        if !self.order.contains(&index) {
            self.order.push(index);
        }
    }

    /// Returns the entries as they should come, and how many of them are moved.
    pub(super) fn expect(mut self, prioritized: &[String]) -> (Vec<PlainEntry>, usize) {
        for path in prioritized.iter().map(|path| path::clean(path)) {
            if let Some(index) = self.last.get(&path).copied() {
                self.place(&path, index);
            }
        }
        let moved = self.order.len();
        if moved == 0 {
            return (self.entries.to_vec(), 0);
        }
        let landmark = [&landmark::header(PREFETCH_LANDMARK)[..], &[0x0f], &[0; 511]].concat();
        let kept: BTreeSet<usize> = self.last.values().copied().collect();
        let rest = kept.iter().filter(|index| !self.order.contains(index));
        let front = self.order.iter().map(|index| self.entries[*index].clone());
        let rest = rest.map(|index| self.entries[*index].clone());
        (front.chain(plain::list(&landmark)).chain(rest).collect(), moved)
    }
}

pub(super) fn list(random: &mut Random, entries: &[PlainEntry]) -> Vec<String> {
    let count = random.below(12);
    (0..count)
        .map(|_| match random.below(8) {
            0 => "no/such/file".to_string(),
            1 => format!("/{}", random.pick(entries).name()),
            _ => random.pick(entries).name(),
        })
        .collect()
}

#[test]
fn any_layer_is_encoded_as_the_model_says_and_twice_is_once() {
    let (mut encoded_layers, mut refused) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let options = TarOptions {
            duplicates: seed % 3 == 0,
            unusual_end: seed % 4 == 0,
            largest_file: *random.pick(&[100, 3000, 20_000]),
            prefixes: &["", "./", "/", "../"],
            global: [None, Some(("comment", "c")), Some(("uid", "777"))][seed as usize / 20],
            ..TarOptions::default()
        };
        let global = options.global;
        let tar = random_tar(seed, &options);
        let entries = plain::list(&tar);
        let chunk_size = *random.pick(&[700, 4096, DEFAULT_CHUNK_SIZE]);
        let prioritized = list(&mut random, &entries);
        let options = Options { chunk_size, prioritized, limits: lenient(), ..self::options() };
        let (encoded, blob) = match run_with(&tar, &options, 1) {
            Ok(result) => result,
            // A later version of a link's target.
            Err(error) if error.is_unlistable() && seed % 3 == 0 => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        encoded_layers += 1;
        let (again, again_blob) = run_with(&tar, &options, 2).unwrap();
        assert!(again == encoded && again_blob == blob, "seed {seed}");
        let layer = inspect(&encoded, &blob, chunk_size as usize);
        let (mut expected, mut moved) = Model::new(&entries).expect(&options.prioritized);
        // What a global header says of files holds for those after it.
        let scoped = global.is_some_and(|(key, _)| key != "comment")
            && tar.windows(9).any(|text| text == b" uid=777\n");
        assert_eq!(encoded.order_refused, scoped && moved > 0, "seed {seed}");
        if encoded.order_refused {
            (expected, moved) = (entries.clone(), 0);
            refused += 1;
        }
        assert_eq!(plain::list(&layer.tar), expected, "seed {seed}");
        assert_eq!(encoded.moved, moved as u64, "seed {seed}");
        assert_eq!(encoded.source_diff_id, Digest::sha256(&tar), "seed {seed}");
        assert!(moved > 0 || layer.tar == tar, "seed {seed}");

        // However it is cut, the tar is the same, and sound.
        let by_content = Options { chunking: Chunking::Content, ..options.clone() };
        let (cut, cut_blob) = run(&tar, &by_content);
        assert_eq!(plain::unzstd(&cut_blob).unwrap(), layer.tar, "seed {seed}");
        assert_eq!(run_with(&tar, &by_content, 2).unwrap().1, cut_blob, "seed {seed}");
        let hints = Hints::from_annotations(&cut.lazy_annotations).unwrap();
        let cut_options = VerifyOptions { hints, limits: lenient(), ..VerifyOptions::default() };
        verify(&cut_blob, &cut_options, &Workers::new(1).unwrap()).unwrap();

        // The verifier knows of podman what the encoder knows.
        let options_of_verify = VerifyOptions {
            hints: Hints::from_annotations(&encoded.lazy_annotations).unwrap(),
            limits: lenient(),
            ..VerifyOptions::default()
        };
        let verified = verify(&blob, &options_of_verify, &Workers::new(1).unwrap()).unwrap();
        assert_eq!(verified.content.unwrap().partial_annotations, encoded.partial_annotations, "seed {seed}");

        // The result is what its own tar encodes to, and moving what is in place changes nothing.
        let unmoved = Options { prioritized: Vec::new(), ..options.clone() };
        assert!(run(&layer.tar, &unmoved).1 == blob, "seed {seed}");
        assert!(run(&blob, &options).1 == blob, "seed {seed}");
    }
    assert!(encoded_layers > 40 && refused > 5, "{encoded_layers}, {refused}");
}

#[test]
fn any_layer_that_was_made_seekable_before_gives_what_its_tar_gives() {
    for seed in 100..120 {
        let tar = random_tar(seed, &TarOptions { largest_file: 3000, ..TarOptions::default() });
        let entries = &tar[..tar.len() - 1024];
        let table = Entry::file("stargz.index.json", Random::new(seed).content(seed as usize * 50)).mode(0);
        let estargz = TarBuilder::new()
            .entry(Entry::file("./.no.prefetch.landmark", [0x0f]))
            .raw(entries)
            .entry(table)
            .finish_with(End::Blocks(2));
        let options = Options { prioritized: list(&mut Random::new(seed), &plain::list(&tar)), ..options() };
        assert!(run(&estargz, &options).1 == run(&tar, &options).1, "seed {seed}");
    }
}

#[test]
fn damaged_layers_are_refused_or_encoded_in_full() {
    let options = TarOptions { entries: 15, largest_file: 2000, ..TarOptions::default() };
    let mut accepted = 0;
    for seed in 0..400 {
        let tar = random_tar(seed % 40, &options);
        let source = match seed % 4 {
            0 | 1 => mutate(&tar, seed),
            2 => mutate(&restow_testkit::compress::gzip(&tar), seed),
            _ => mutate(&restow_testkit::compress::zstd(&tar), seed),
        };
        let options = prioritized(if seed % 8 < 4 { &[] } else { &["f3", "f7"] });
        if let Ok((encoded, blob)) = run_with(&source, &options, 1) {
            accepted += 1;
            let read = plain::decompress(&source).unwrap();
            assert_eq!(encoded.source_diff_id, Digest::sha256(&read), "seed {seed}");
            assert!(encoded.moved > 0 || plain::unzstd(&blob).unwrap() == read, "seed {seed}");
        }
    }
    assert!((10..300).contains(&accepted), "{accepted} of 400 were accepted");
}
