use restow_content::MemoryStore;
use restow_convert::Conversion;
use restow_convert::Error;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::Readers;
use restow_convert::Result;
use restow_convert::RunMemo;
use restow_convert::Unsupported;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::annotations;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use serde_json::Value;
use serde_json::json;

use crate::seekable::seekable;
use crate::support::bytes;
use crate::support::chain;
use crate::support::convert_with;
use crate::support::document;
use crate::support::follow;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

const CONTAINERD: [&str; 3] = [
    annotations::STARGZ_TOC_DIGEST,
    annotations::STARGZ_ZSTD_MANIFEST_POSITION,
    annotations::STARGZ_PREFETCH,
];
const PODMAN: [&str; 3] = [
    annotations::PODMAN_MANIFEST_CHECKSUM,
    annotations::PODMAN_MANIFEST_POSITION,
    annotations::PODMAN_TARSPLIT_POSITION,
];

fn options(readers: Readers) -> Options {
    Options { platforms: Platforms::All, readers, ..Options::default() }
}

fn run(store: &MemoryStore, root: &Descriptor, options: Options) -> Result<Conversion> {
    convert_with(store, root, &seekable(1), options)
}

/// Asserts which set of annotations all layers of a manifest have, and that they have nothing of the other.
fn assert_speaks(manifest: &Value, own: &[&str], other: &[&str]) {
    for layer in manifest["layers"].as_array().unwrap() {
        let annotations = layer["annotations"].as_object().unwrap();
        assert!(own.iter().all(|key| annotations.contains_key(*key)), "{layer}");
        assert!(!other.iter().any(|key| annotations.contains_key(*key)), "{layer}");
    }
}

/// Returns what an index says of each of its entries: the platform, the variant, and whether it is marked as zstd.
fn spelled(index: &Value) -> Vec<(String, bool)> {
    let entries = index["manifests"].as_array().unwrap().iter();
    let spell = |entry: &Value| {
        let platform = &entry["platform"];
        let words = ["os", "architecture", "variant"].map(|key| platform[key].as_str().unwrap_or_default());
        let marked = entry["annotations"][annotations::PODMAN_COMPRESSION_ZSTD] == "true";
        (words.join("/").trim_end_matches('/').to_owned(), marked)
    };
    entries.map(spell).collect()
}

fn digests(index: &Value) -> Vec<&str> {
    index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].as_str().unwrap()).collect()
}

fn two_platforms() -> (Image, Image, Image) {
    let (amd64, arm64) = (image("a").build(), image("b").platform("linux/arm64/v8").build());
    let index =
        IndexBuilder::new().image(&amd64).attestation(&amd64).image(&arm64).attestation(&arm64).build();
    (amd64, arm64, index)
}

#[test]
fn both_readers_get_a_manifest_of_the_same_config_and_blobs() {
    let image = image("a").annotation("kept", "x").build();
    let store = store(&image);
    let conversion = run(&store, &image.root, options(Readers::Both)).unwrap();
    let index = document(&store, &conversion.root);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(spelled(&index), [("linux/amd64/v1".into(), true), ("linux/amd64".into(), true)]);
    let [lazy, partial] = ["/manifests/0", "/manifests/1"].map(|place| follow(&store, &index, place));
    assert_speaks(&lazy, &CONTAINERD, &PODMAN);
    assert_speaks(&partial, &PODMAN, &CONTAINERD);
    assert_eq!(lazy["config"], partial["config"]);
    assert_eq!(lazy["layers"][0]["digest"], partial["layers"][0]["digest"]);
    assert_eq!(partial["annotations"]["kept"], "x");
    assert_eq!(conversion.warnings, [""; 0]);
}

#[test]
fn podman_alone_gets_a_manifest_in_the_place_of_the_source() {
    let image = image("a").build();
    let index = IndexBuilder::new().image(&image).build();
    for root in [&image.root, &index.root] {
        let store = store(&index);
        let root = run(&store, root, options(Readers::Podman)).unwrap().root;
        let mut document = document(&store, &root);
        if document["manifests"].is_array() {
            assert_eq!(spelled(&document), [("linux/amd64".into(), true)]);
            document = follow(&store, &document, "/manifests/0");
        }
        assert_speaks(&document, &PODMAN, &CONTAINERD);
    }
}

#[test]
fn forms_for_podman_come_after_all_others_and_attestations_once() {
    let (_, _, index) = two_platforms();
    let store = store(&index);
    let root = run(&store, &index.root, options(Readers::Both)).unwrap().root;
    let index = document(&store, &root);
    let expected = [
        ("linux/amd64/v1", true),
        ("unknown/unknown", false),
        ("linux/arm64/8", true),
        ("unknown/unknown", false),
        ("linux/amd64", true),
        ("linux/arm64/v8", true),
    ];
    assert_eq!(spelled(&index), expected.map(|(platform, marked)| (platform.to_owned(), marked)));
    for (image, attestation) in [(0, 1), (2, 3)] {
        let about = &index["manifests"][attestation]["annotations"][annotations::DOCKER_REFERENCE_DIGEST];
        assert_eq!(*about, index["manifests"][image]["digest"]);
    }
}

#[test]
fn each_platform_is_spelled_so_that_each_client_finds_its_own() {
    for (platform, lazy, partial) in [
        ("linux/amd64", ("linux/amd64/v1", true), ("linux/amd64", true)),
        ("linux/amd64/v2", ("Linux/amd64/v2", true), ("linux/amd64/v2", true)),
        ("linux/386", ("linux/i386", true), ("linux/386", true)),
        ("linux/arm64", ("linux/arm64/8", true), ("linux/arm64", true)),
        ("linux/arm64/v8", ("linux/arm64/8", true), ("linux/arm64/v8", true)),
        ("linux/arm64/v9", ("linux/arm64/9", true), ("linux/arm64/v9", true)),
        ("linux/arm/v5", ("linux/arm/5", true), ("linux/arm/v5", true)),
        ("linux/arm/v6", ("linux/arm/6", true), ("linux/arm/v6", true)),
        ("linux/arm/v7", ("linux/arm/7", true), ("linux/arm/v7", true)),
        ("linux/arm/v8", ("linux/arm/8", true), ("linux/arm/v8", true)),
        ("linux/riscv64", ("Linux/riscv64", true), ("linux/riscv64", true)),
        ("windows/amd64/v3", ("Windows/amd64/v3", true), ("windows/amd64/v3", true)),
    ] {
        let image = image("a").platform(platform).build();
        let store = store(&image);
        let root = run(&store, &image.root, options(Readers::Both)).unwrap().root;
        let expected = [lazy, partial].map(|(platform, marked)| (platform.to_owned(), marked));
        assert_eq!(spelled(&document(&store, &root)), expected, "{platform}");
    }
}

#[test]
fn converted_again_the_forms_of_an_image_are_made_anew() {
    let (_, _, index) = two_platforms();
    let store = store(&index);
    let both = run(&store, &index.root, options(Readers::Both)).unwrap().root;
    assert_eq!(run(&store, &both, options(Readers::Both)).unwrap().root, both);

    for readers in [Readers::Containerd, Readers::Podman] {
        let direct = run(&store, &index.root, options(readers)).unwrap().root;
        let again = run(&store, &both, options(readers)).unwrap();
        assert_eq!(again.warnings.len(), 2, "two forms were left out: {:?}", again.warnings);
        let [direct, again] = [&direct, &again.root].map(|root| document(&store, root));
        assert_eq!(digests(&again), digests(&direct));
    }
}

#[test]
fn forms_of_images_that_are_not_chosen_share_their_fate() {
    let (_, _, index) = two_platforms();
    let store = store(&index);
    let both = run(&store, &index.root, options(Readers::Both)).unwrap().root;
    let only_amd64 = Options {
        platforms: Platforms::Only(vec!["linux/amd64".parse().unwrap()]),
        ..options(Readers::Containerd)
    };
    let dropped = run(&store, &both, only_amd64.clone()).unwrap().root;
    let dropped = spelled(&document(&store, &dropped));
    assert_eq!(dropped, [("linux/amd64".into(), true), ("unknown/unknown".into(), false)]);
    let kept = Options { keep_other_platforms: true, ..only_amd64 };
    let kept = run(&store, &both, kept).unwrap().root;
    let kept = spelled(&document(&store, &kept));
    assert_eq!(kept.len(), 5, "{kept:?}");
    assert_eq!(kept.last().unwrap().0, "linux/arm64/v8");
}

#[test]
fn variants_are_added_behind_sources_that_stay_as_they_are() {
    let docker = ImageBuilder::new().docker().layer(Layer::gzip(tar("a"))).build();
    let other = image("b").platform("linux/riscv64").build();
    let list = IndexBuilder::new().docker().image(&docker).build();
    let index = IndexBuilder::new().image(&docker).image(&other).build();
    for (name, root, sources) in [("image", &docker, 1), ("list", &list, 1), ("index", &index, 2)] {
        let store = store(root);
        let options = || Options { add_variants: true, ..options(Readers::Both) };
        let first = run(&store, &root.root, options()).unwrap().root;
        let new = document(&store, &first);
        assert_eq!(new["mediaType"], "application/vnd.oci.image.index.v1+json", "{name}");
        assert_eq!(spelled(&new).len(), 3 * sources, "{name}");
        for source in 0..sources {
            assert!(!spelled(&new)[source].1, "{name}: the source is not marked");
        }
        assert_eq!(digests(&new)[0], docker.root.digest.as_str(), "{name}");
        assert_eq!(bytes(&store, &docker.root), docker.root_bytes(), "{name}");
        assert!(spelled(&new)[sources..].iter().all(|(_, marked)| *marked), "{name}");
        let [partial, lazy] =
            [sources, 2 * sources].map(|at| follow(&store, &new, &format!("/manifests/{at}")));
        assert_speaks(&lazy, &CONTAINERD, &PODMAN);
        assert_speaks(&partial, &PODMAN, &CONTAINERD);
        let again = run(&store, &first, options()).unwrap();
        assert_eq!(again.root.digest, first.digest, "{name}: {:?}", again.warnings);
    }
}

#[test]
fn a_variant_that_is_the_source_is_not_added_to_it() {
    let image = image("a").build();
    let adding = |readers| Options { add_variants: true, ..options(readers) };
    for (source, asked, added) in [
        (Readers::Containerd, Readers::Containerd, 0),
        (Readers::Podman, Readers::Podman, 0),
        (Readers::Containerd, Readers::Both, 1),
        (Readers::Podman, Readers::Containerd, 1),
    ] {
        let store = store(&image);
        let root = run(&store, &image.root, options(source)).unwrap().root;
        let new = run(&store, &root, adding(asked)).unwrap().root;
        if added == 0 {
            assert_eq!(new, root, "{source:?}, {asked:?}");
            continue;
        }
        let index = document(&store, &new);
        let digests = digests(&index);
        assert_eq!(digests.len(), 1 + added, "{source:?}, {asked:?}");
        assert_eq!(digests[0], root.digest.as_str());
        assert_ne!(digests[1], root.digest.as_str());
    }
}

#[test]
fn a_layer_that_podman_would_refuse_is_an_ordinary_one_to_it_or_an_error() {
    let twice = TarBuilder::new().dir("d").file("d/f", "one").file("d/f", "two").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar("fine"))).layer(Layer::gzip(twice)).build();
    let store = store(&image);
    let conversion = run(&store, &image.root, options(Readers::Both)).unwrap();
    let [warning] = conversion.warnings.as_slice() else { panic!("{:?}", conversion.warnings) };
    for part in ["layer 1 of manifest", image.root.digest.as_str(), "several entries of the same name"] {
        assert!(warning.contains(part), "{warning}");
    }
    let index = document(&store, &conversion.root);
    let [lazy, partial] = ["/manifests/0", "/manifests/1"].map(|place| follow(&store, &index, place));
    assert_speaks(&lazy, &CONTAINERD, &PODMAN);
    assert!(partial["layers"][0]["annotations"][PODMAN[0]].is_string());
    assert_eq!(partial["layers"][1].get("annotations"), None);
    assert_eq!(partial["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");

    let strict = |readers| Options { strict: true, ..options(readers) };
    for readers in [Readers::Podman, Readers::Both] {
        let error = run(&store, &image.root, strict(readers)).unwrap_err();
        assert!(matches!(error, Error::Layer { position: 1, .. }), "{error:?}");
        assert!(chain(&error).contains("several entries of the same name"), "{}", chain(&error));
    }
    run(&store, &image.root, strict(Readers::Containerd)).unwrap();
}

#[test]
fn a_layer_that_stays_as_it_is_is_none_for_podman_either() {
    let odd = TarBuilder::new().file(b"\xff".as_slice(), "").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar("fine"))).layer(Layer::gzip(odd)).build();
    for (readers, refused) in [(Readers::Containerd, false), (Readers::Podman, true), (Readers::Both, true)] {
        let kept = Options { unsupported: Unsupported::Keep, ..options(readers) };
        let warnings = run(&store(&image), &image.root, kept.clone()).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("stays as it is"), "{warnings:?}");
        let result = run(&store(&image), &image.root, Options { strict: true, ..kept });
        assert_eq!(result.is_err(), refused, "{readers:?}");
        if let Err(error) = result {
            assert!(matches!(error, Error::Layer { position: 1, .. }), "{error:?}");
            let words = chain(&error);
            assert!(
                words.contains("podman cannot read it in part") && words.contains("not UTF-8"),
                "{words}"
            );
        }
    }
}

#[test]
fn a_layer_without_entries_is_seekable_for_podman_and_ordinary_for_containerd() {
    let empty = TarBuilder::new().finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).layer(Layer::gzip(empty)).build();
    for readers in [Readers::Containerd, Readers::Podman, Readers::Both] {
        let store = store(&image);
        let strict = Options { strict: true, ..options(readers) };
        let first = run(&store, &image.root, strict.clone()).unwrap();
        assert_eq!(first.warnings, [""; 0]);
        let root = document(&store, &first.root);
        let manifests = match readers {
            Readers::Both => {
                vec![follow(&store, &root, "/manifests/0"), follow(&store, &root, "/manifests/1")]
            }
            Readers::Containerd | Readers::Podman => vec![root],
        };
        for (number, manifest) in manifests.iter().enumerate() {
            let layer = &manifest["layers"][1];
            assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
            if readers == Readers::Podman || number == 1 {
                assert_speaks(manifest, &PODMAN, &CONTAINERD);
            } else {
                assert_eq!(layer.get("annotations"), None);
            }
        }
        for converter in [seekable(1), seekable(1).reuse(true)] {
            let again = convert_with(&store, &first.root, &converter, strict.clone()).unwrap();
            assert_eq!(again.root, first.root, "{readers:?}");
        }
    }
}

#[test]
fn readers_decide_over_descriptors_and_not_over_blobs() {
    let image = ImageBuilder::new()
        .layer(Layer::gzip(tar("a")))
        .layer(Layer::gzip(TarBuilder::new().finish()))
        .layer(Layer::gzip(TarBuilder::new().file("no/parent", "").finish()))
        .build();
    let blobs = [Readers::Containerd, Readers::Podman, Readers::Both].map(|readers| {
        let layers = run(&store(&image), &image.root, options(readers)).unwrap().layers;
        layers.into_iter().map(|layer| (layer.destination.digest, layer.diff_id_kept)).collect::<Vec<_>>()
    });
    assert_eq!(blobs[0].len(), 3);
    assert!(blobs[0].iter().all(|(_, kept)| *kept));
    assert_eq!(blobs[0], blobs[1]);
    assert_eq!(blobs[0], blobs[2]);
}

#[test]
fn a_table_that_restow_would_not_open_itself_is_warned_of() {
    let image = image("a").build();
    let size =
        run(&store(&image), &image.root, options(Readers::Containerd)).unwrap().layers[0].statistics.toc_size;
    for (less, readers, warned) in [
        (0, Readers::Containerd, false),
        (1, Readers::Containerd, true),
        // podman reads no more than its own limit, which is for its warning.
        (1, Readers::Podman, false),
    ] {
        let limits = Limits { toc_size: size - less, ..Limits::default() };
        let options = Options { limits, ..options(readers) };
        let warnings = run(&store(&image), &image.root, options).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(warned), "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.contains(&format!("{size} bytes"))), "{warnings:?}");
    }
}

#[test]
fn what_is_remembered_serves_every_reader() {
    let image = image("a").build();
    let store = store(&image);
    let memo = std::sync::Arc::new(RunMemo::default());
    let remembering = |readers| Options { memo: memo.clone(), ..options(readers) };
    run(&store, &image.root, remembering(Readers::Containerd)).unwrap();
    let recalled = run(&store, &image.root, remembering(Readers::Podman)).unwrap();
    assert_eq!(recalled.layers[0].outcome, restow_convert::Outcome::Recalled);
    assert_speaks(&document(&store, &recalled.root), &PODMAN, &CONTAINERD);
}

#[test]
fn an_index_of_what_no_reader_knows_is_not_marked() {
    let image = image("a").build();
    let marked = json!({
        "annotations": { annotations::PODMAN_COMPRESSION_ZSTD: "true" },
        "platform": { "os": "linux", "architecture": "amd64" },
    });
    let index = IndexBuilder::new().image_with(&image, marked).build();
    let store = store(&index);
    let root = convert_with(&store, &index.root, &crate::support::Pad::by(1), options(Readers::Containerd));
    assert_eq!(spelled(&document(&store, &root.unwrap().root)), [("linux/amd64".into(), false)]);
}
