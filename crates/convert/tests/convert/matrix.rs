//! From any format to any other.

use std::collections::BTreeMap;

use restow_content::MemoryStore;
use restow_convert::Conversion;
use restow_convert::LayerConverter;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::Readers;
use restow_convert::Recompress;
use restow_convert::Seekable;
use restow_layer::Codec;
use restow_layer::EncodeOptions;
use restow_layer::Estargz;
use restow_layer::Landmark;
use restow_layer::NO_PREFETCH_LANDMARK;
use restow_layer::Recompression;
use restow_layer::Workers;
use restow_layer::ZstdChunked;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::annotations;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::plain;
use restow_testkit::random_image;

use crate::support::blob;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::encoding;
use crate::support::golden;
use crate::support::store;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Plain,
    Gzip,
    Zstd,
    ZstdChunked,
    /// With a landmark in every layer.
    Marked,
    Estargz,
    /// With its table in a blob of its own.
    External,
    /// The same, with the tar as it was.
    Keeping,
}

const ALL: [To; 8] =
    [To::Plain, To::Gzip, To::Zstd, To::ZstdChunked, To::Marked, To::Estargz, To::External, To::Keeping];

const TABLE: &str = "stargz.index.json";

impl To {
    fn converter(self) -> Box<dyn LayerConverter> {
        let workers = || Workers::new(2).unwrap();
        let seekable = |codec: Box<dyn Codec>| -> Box<dyn LayerConverter> {
            let landmark = if self == To::Marked { Landmark::Always } else { Landmark::Auto };
            let options = encoding();
            let options = EncodeOptions { keep_diff_id: self == To::Keeping, landmark, ..options };
            Box::new(Seekable::new(codec, options, workers()))
        };
        let ordinary = |recompression| Recompress::new(recompression, Limits::default(), workers());
        match self {
            To::Plain => Box::new(ordinary(Recompression::None)),
            To::Gzip => Box::new(ordinary(Recompression::Gzip { level: 1 })),
            To::Zstd => Box::new(ordinary(Recompression::Zstd { level: 1 })),
            To::ZstdChunked | To::Marked => seekable(Box::new(ZstdChunked::new(1))),
            To::Estargz => seekable(Box::new(Estargz::new(1))),
            To::External | To::Keeping => seekable(Box::new(Estargz::new(1).external_toc())),
        }
    }

    fn is_seekable(self) -> bool {
        self >= To::ZstdChunked
    }

    /// Tells whether layers hold what is not the image's, and so cannot be seekable as they are.
    fn adds(self) -> bool {
        matches!(self, To::Marked | To::Estargz | To::External)
    }

    fn media_type(self) -> MediaType {
        match self {
            To::Plain => MediaType::OCI_LAYER,
            To::Zstd | To::ZstdChunked | To::Marked => MediaType::OCI_LAYER_ZSTD,
            _ => MediaType::OCI_LAYER_GZIP,
        }
    }

    /// Returns those of the annotations about chunks that its layers have.
    fn annotations(self) -> Vec<&'static str> {
        let mut keys = match self {
            To::Plain | To::Gzip | To::Zstd => Vec::new(),
            To::ZstdChunked | To::Marked => {
                vec![annotations::STARGZ_ZSTD_MANIFEST_CHECKSUM, annotations::STARGZ_ZSTD_MANIFEST_POSITION]
            }
            To::Estargz | To::External | To::Keeping => Vec::new(),
        };
        if self.is_seekable() {
            keys.extend([
                annotations::STARGZ_TOC_DIGEST,
                annotations::STARGZ_PREFETCH,
                annotations::STARGZ_UNCOMPRESSED_SIZE,
            ]);
        }
        keys.sort_unstable();
        keys
    }

    /// Returns what a tar with these names has besides.
    fn names(self, names: &[String]) -> Vec<String> {
        let landmark = self.adds().then(|| NO_PREFETCH_LANDMARK.to_owned());
        let table = (self == To::Estargz).then(|| TABLE.to_owned());
        landmark.into_iter().chain(names.iter().cloned()).chain(table).collect()
    }
}

fn convert(store: &MemoryStore, root: &Descriptor, to: To) -> Conversion {
    convert_all(store, root, &*to.converter()).unwrap()
}

/// Returns the tar of each layer, decoded by others.
fn tars(store: &MemoryStore, root: &Descriptor) -> Vec<Vec<u8>> {
    let manifest = document(store, root);
    let count = manifest["layers"].as_array().unwrap().len();
    let tar = |position| plain::decompress(blob(store, &manifest, &format!("/layers/{position}"))).unwrap();
    (0..count).map(tar).collect()
}

/// What is left of a conversion besides its root.
fn layers(conversion: &Conversion) -> Vec<(Descriptor, Option<Descriptor>)> {
    conversion.layers.iter().map(|layer| (layer.destination.clone(), layer.toc.clone())).collect()
}

#[test]
fn from_any_format_to_any_other_nothing_is_left_of_the_first() {
    for seed in 0..3 {
        let image = random_image(seed);
        let store = store(&image);
        let source = tars(&store, &image.root);
        let direct: BTreeMap<To, Conversion> =
            ALL.into_iter().map(|to| (to, convert(&store, &image.root, to))).collect();
        for (to, conversion) in &direct {
            for (layer, before) in conversion.layers.iter().zip(&source) {
                let what = format!("seed {seed}, {to:?}");
                let after =
                    plain::decompress(restow_content::read(&store, &layer.destination, u64::MAX).unwrap());
                let after = after.unwrap();
                assert_eq!(plain::names(&after), to.names(&plain::names(before)), "{what}");
                assert_eq!(after == *before, !to.adds(), "{what}");
                assert_eq!(layer.diff_id_kept, !to.adds(), "{what}");
                assert_eq!(layer.destination.media_type, to.media_type(), "{what}");
                assert_eq!(layer.toc.is_some(), matches!(to, To::External | To::Keeping), "{what}");
                let about_chunks = |key: &&str| annotations::CHUNKED.contains(key);
                let keys = layer.destination.annotations.keys().map(String::as_str).filter(about_chunks);
                assert_eq!(keys.collect::<Vec<_>>(), to.annotations(), "{what}");
            }
        }
        for (from, first) in &direct {
            for (to, expected) in &direct {
                let what = format!("seed {seed}, {from:?} to {to:?}");
                if *to == To::Keeping && from.adds() {
                    let error = convert_all(&store, &first.root, &*to.converter()).unwrap_err();
                    assert!(chain(&error).contains("its tar would change"), "{what}: {}", chain(&error));
                    continue;
                }
                if (from, to) == (&To::Marked, &To::ZstdChunked) {
                    // The end of an archive is completed where its tar changes, as it does without the landmark.
                    continue;
                }
                let found = convert(&store, &first.root, *to);
                assert_eq!(found.root, expected.root, "{what}");
                assert_eq!(layers(&found), layers(expected), "{what}");
            }
            // And back.
            let back = convert(&store, &first.root, To::Plain);
            assert_eq!(tars(&store, &back.root), source, "seed {seed}, {from:?} and back");
            let config = |root| document(&store, root)["config"]["digest"].clone();
            assert_eq!(
                config(&back.root),
                config(&image.root),
                "seed {seed}, {from:?}: the image ID is back"
            );
        }
    }
}

#[test]
fn what_was_made_for_podman_becomes_anything_too() {
    let image = random_image(7);
    let store = store(&image);
    for readers in [Readers::Podman, Readers::Both] {
        let options = Options { readers, platforms: Platforms::All, ..Options::default() };
        let converter = To::ZstdChunked.converter();
        let chunked = convert_with(&store, &image.root, &*converter, options).unwrap();
        for to in ALL {
            let expected = convert(&store, &image.root, to);
            let found = convert(&store, &chunked.root, to);
            assert_eq!(layers(&found)[..expected.layers.len()], layers(&expected), "{readers:?} to {to:?}");
            if readers == Readers::Podman {
                assert_eq!(found.root, expected.root, "{to:?}");
            }
        }
    }
}

#[test]
fn what_other_tools_made_becomes_anything_and_is_the_same_by_way_of_a_plain_tar() {
    // The marks that lie between files that are read first and others stay while the order does, but not in plain layers.
    for (name, verbatim) in [
        ("src", true),
        ("podman-zstdchunked", true),
        ("estargz-keepdiffid", true),
        ("zstdchunked", false),
        ("estargz", false),
        ("estargz-minchunk", false),
        ("estargz-externaltoc", false),
    ] {
        let (store, root) = golden(name);
        let plain = convert(&store, &root, To::Plain);
        for to in ALL.into_iter().filter(|to| verbatim || *to != To::Keeping) {
            let (found, expected) = (convert(&store, &root, to), convert(&store, &plain.root, to));
            assert_eq!(found.root, expected.root, "{name} to {to:?}");
            assert_eq!(layers(&found), layers(&expected), "{name} to {to:?}");
        }
    }
}

#[test]
fn files_that_were_moved_stay_moved_and_only_the_mark_goes() {
    let tar = TarBuilder::new().file("a", "a").file("b", "b").file("c", "c").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar)).build();
    let store = store(&image);
    let first = [((image.root.digest.clone(), 0), vec!["c".to_owned()])];
    let codecs: [Box<dyn Codec>; 3] =
        [Box::new(ZstdChunked::new(3)), Box::new(Estargz::new(5)), Box::new(Estargz::new(5).external_toc())];
    let mut seen = Vec::new();
    for codec in codecs {
        let options = encoding();
        let moving = Seekable::new(codec, options, Workers::new(1).unwrap()).prioritize(first.clone().into());
        let moved = convert_all(&store, &image.root, &moving).unwrap();
        let plain = convert(&store, &moved.root, To::Plain);
        assert_eq!(plain::names(&tars(&store, &plain.root)[0]), ["c", "a", "b"]);
        seen.push(plain.root);
    }
    assert!(seen.iter().all(|root| *root == seen[0]));
}
