use restow_content::MemoryStore;
use restow_convert::Conversion;
use restow_convert::Keep;
use restow_convert::LayerConverter;
use restow_convert::MediaTypes;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::Recompress;
use restow_convert::Seekable;
use restow_convert::Unsupported;
use restow_layer::EncodeOptions;
use restow_layer::Estargz;
use restow_layer::Landmark;
use restow_layer::Recompression;
use restow_layer::Workers;
use restow_layer::ZSTD_CHUNKED_DEFAULT_LEVEL;
use restow_layer::ZstdChunked;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::annotations;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::plain;
use restow_testkit::random_image;
use serde_json::Value;

use crate::support::blob;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::encoding;
use crate::support::follow;
use crate::support::golden;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

const ALL: [Recompression; 3] =
    [Recompression::None, Recompression::Gzip { level: 6 }, Recompression::Zstd { level: 3 }];

fn workers() -> Workers {
    Workers::new(2).unwrap()
}

fn recompress(recompression: Recompression) -> Recompress {
    Recompress::new(recompression, Limits::default(), workers())
}

fn seekable(landmark: Landmark) -> Seekable {
    let options = EncodeOptions { landmark, ..encoding() };
    Seekable::new(Box::new(ZstdChunked::new(ZSTD_CHUNKED_DEFAULT_LEVEL)), options, workers())
}

fn estargz() -> Seekable {
    let options = encoding();
    Seekable::new(Box::new(Estargz::new(5)), options, workers())
}

fn with_types(media_types: MediaTypes) -> Options {
    Options { platforms: Platforms::All, media_types, ..Options::default() }
}

fn types(store: &MemoryStore, root: &Descriptor) -> Vec<String> {
    let manifest = document(store, root);
    let layers = manifest["layers"].as_array().unwrap();
    let parts = [&manifest, &manifest["config"]].into_iter().chain(layers);
    let short = |part: &Value| {
        let text = part["mediaType"].as_str().unwrap();
        text.trim_start_matches("application/vnd.").to_owned()
    };
    parts.map(short).collect()
}

/// Returns the tars of an image's layers, decoded by others.
fn tars(store: &MemoryStore, root: &Descriptor) -> Vec<Vec<u8>> {
    let manifest = document(store, root);
    let count = manifest["layers"].as_array().unwrap().len();
    let decoded =
        |position| plain::decompress(blob(store, &manifest, &format!("/layers/{position}"))).unwrap();
    (0..count).map(decoded).collect()
}

#[test]
fn layers_get_any_compression_and_keep_their_tar() {
    let tars_before = [tar("one"), TarBuilder::new().file("f", vec![1; 5_000_000]).finish(), tar("three")];
    let [one, two, three] = &tars_before;
    let image = ImageBuilder::new()
        .layer(Layer::plain(one))
        .layer(Layer::gzip(two))
        .layer(Layer::zstd(three))
        .build();
    for recompression in ALL {
        for read_back in [true, false] {
            let store = store(&image);
            let converter = recompress(recompression).check(!read_back).read_back(read_back);
            let conversion = convert_all(&store, &image.root, &converter).unwrap();
            assert_eq!(tars(&store, &conversion.root), tars_before);
            let manifest = document(&store, &conversion.root);
            assert_eq!(manifest["config"]["digest"], image.document()["config"]["digest"]);
            for layer in &conversion.layers {
                assert_eq!(layer.destination.media_type, recompression.media_type());
                assert!(layer.diff_id_kept);
                assert_eq!(layer.statistics.entries, 1);
            }
            assert_eq!(conversion.warnings, [""; 0]);
            // Converted back, the plain layer has the bytes it had.
            let plain = convert_all(&store, &conversion.root, &recompress(Recompression::None)).unwrap();
            assert_eq!(plain.layers[0].destination.digest, Digest::sha256(one));
        }
    }
}

#[test]
fn what_other_tools_made_seekable_becomes_ordinary() {
    let (store, root) = golden("src");
    let source = tars(&store, &root);
    let files = |tars: &[Vec<u8>]| -> Vec<Vec<(String, Digest)>> {
        let content = |tar: &Vec<u8>| {
            let mut entries: Vec<_> =
                plain::list(tar).iter().map(|entry| (entry.name(), entry.content.clone())).collect();
            entries.sort();
            entries
        };
        tars.iter().map(content).collect()
    };
    for (name, verbatim) in [
        ("podman-zstdchunked", true),
        ("zstdchunked", false),
        ("zstdchunked-prioritized", false),
        ("estargz", false),
        ("estargz-prioritized", false),
        ("estargz-minchunk", false),
        ("estargz-externaltoc", false),
        ("estargz-keepdiffid", true),
    ] {
        let (store, root) = golden(name);
        for recompression in ALL {
            let conversion = convert_all(&store, &root, &recompress(recompression)).unwrap();
            let found = tars(&store, &conversion.root);
            assert_eq!(files(&found), files(&source), "{name}");
            if verbatim {
                assert_eq!(found, source, "{name}");
            }
            for layer in &conversion.layers {
                let stale = |key: &&String| annotations::CHUNKED.contains(&key.as_str());
                assert_eq!(layer.destination.annotations.keys().find(stale), None, "{name}");
            }
        }
    }
}

#[test]
fn docker_images_stay_docker_where_dockers_types_will_do() {
    let image =
        ImageBuilder::new().docker().layer(Layer::gzip(tar("a"))).layer(Layer::plain(tar("b"))).build();
    let layer = |suffix: &str| format!("docker.image.rootfs.diff.tar{suffix}");
    for (recompression, expected) in [
        (Recompression::None, layer("")),
        (Recompression::Gzip { level: 1 }, layer(".gzip")),
        (Recompression::Zstd { level: 1 }, "oci.image.layer.v1.tar+zstd".into()),
    ] {
        let index = IndexBuilder::new().docker().image(&image).build();
        let store = store(&index);
        let conversion = convert_all(&store, &image.root, &recompress(recompression)).unwrap();
        let types = types(&store, &conversion.root);
        assert_eq!(types[2..], [expected.clone(), expected.clone()]);
        let docker = expected.starts_with("docker");
        assert!(types[..2].iter().all(|part| part.starts_with("docker") == docker), "{types:?}");
        assert!(conversion.images[0].source.media_type.is_docker());
        assert_eq!(conversion.images[0].destination.media_type.is_docker(), docker);
        let root = convert_all(&store, &index.root, &recompress(recompression)).unwrap().root;
        assert_eq!(root.media_type.is_docker(), docker);
    }
    // What is not for distribution stays so.
    let foreign = Layer::gzip(tar("a")).media_type(MediaType::DOCKER_FOREIGN_LAYER_GZIP.as_str());
    let image = ImageBuilder::new().docker().layer(foreign).build();
    let store = store(&image);
    let root = convert_all(&store, &image.root, &recompress(Recompression::Gzip { level: 1 })).unwrap().root;
    assert_eq!(types(&store, &root)[2], "docker.image.rootfs.foreign.diff.tar.gzip");
    assert!(root.media_type.is_docker());
}

#[test]
fn media_types_change_alone_and_back() {
    let image =
        ImageBuilder::new().docker().layer(Layer::gzip(tar("a"))).layer(Layer::plain(tar("b"))).build();
    let index = IndexBuilder::new().docker().image(&image).build();
    let store = store(&index);
    let convert =
        |root: &Descriptor, media_types| convert_with(&store, root, &Keep, with_types(media_types)).unwrap();
    let oci = convert(&index.root, MediaTypes::Oci);
    assert_eq!(oci.root.media_type, MediaType::OCI_INDEX);
    assert_eq!(
        types(&store, &oci.images[0].destination),
        [
            "oci.image.manifest.v1+json",
            "oci.image.config.v1+json",
            "oci.image.layer.v1.tar+gzip",
            "oci.image.layer.v1.tar"
        ]
    );
    assert!(oci.layers.iter().all(|layer| layer.destination.digest == layer.source.digest));
    assert_eq!(convert(&oci.root, MediaTypes::Docker).root, index.root);
    for (root, media_types) in
        [(&oci.root, MediaTypes::Oci), (&index.root, MediaTypes::Docker), (&index.root, MediaTypes::Keep)]
    {
        assert_eq!(convert(root, media_types).root, *root, "{media_types:?}");
    }
}

#[test]
fn what_docker_cannot_say_is_refused_or_left_out() {
    let annotated = ImageBuilder::new().layer(Layer::gzip(tar("a")).annotation("key", "value")).build();
    let index = IndexBuilder::new().image(&annotated).attestation(&annotated).build();
    let store_ = store(&index);
    let docker = |store: &MemoryStore, root, converter: &dyn LayerConverter| {
        convert_with(store, root, converter, with_types(MediaTypes::Docker))
    };
    let conversion = docker(&store_, &index.root, &Keep).unwrap();
    let root = document(&store_, &conversion.root);
    assert_eq!(conversion.root.media_type, MediaType::OCI_INDEX, "attestations are OCI's");
    let manifest = follow(&store_, &root, "/manifests/0");
    assert_eq!(manifest["mediaType"], MediaType::DOCKER_MANIFEST.as_str());
    assert_eq!(manifest["layers"][0]["annotations"], Value::Null);

    let zstd = image("a").layer(Layer::zstd(tar("b"))).build();
    let other = image("a").layer(Layer::blob("application/wasm", "wasm")).build();
    for image in [&zstd, &other] {
        let store = store(image);
        let error = docker(&store, &image.root, &Keep).unwrap_err();
        let expected = format!("manifest {} cannot become Docker's: ", image.root.digest);
        assert!(chain(&error).starts_with(&expected), "{}", chain(&error));
    }
    let store = store(&zstd);
    assert!(docker(&store, &zstd.root, &recompress(Recompression::Gzip { level: 6 })).is_ok());
    assert!(docker(&store, &zstd.root, &recompress(Recompression::Zstd { level: 6 })).is_err());
}

#[test]
fn a_media_type_that_lies_is_corrected_with_a_warning() {
    let lying = Layer::zstd(tar("a")).media_type(MediaType::OCI_LAYER_GZIP.as_str());
    let vague = Layer::gzip(tar("b")).media_type(MediaType::DOCKER_LAYER.as_str());
    let image = ImageBuilder::new().layer(lying).layer(vague).layer(Layer::gzip(tar("c"))).build();
    let expected = format!(
        "layer 0 of manifest {} is zstd, though it is called application/vnd.oci.image.layer.v1.tar+gzip",
        image.root.digest
    );
    let all = ALL.map(|format| Box::new(recompress(format)) as Box<dyn LayerConverter>).into_iter();
    for converter in all.chain([Box::new(seekable(Landmark::Auto)) as Box<dyn LayerConverter>]) {
        let store = store(&image);
        let conversion = convert_all(&store, &image.root, &*converter).unwrap();
        assert_eq!(conversion.warnings, [expected.as_str()]);
        assert_ne!(conversion.layers[0].source, conversion.layers[0].destination);
    }
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let wrong = Layer::gzip(tar("a")).diff_id(Digest::sha256(b"something else"));
    let sha512 = Layer::gzip(tar("a")).diff_id(format!("sha512:{}", "0".repeat(128)));
    for (layer, reuse) in [(&wrong, false), (&wrong, true), (&sha512, false)] {
        let image = ImageBuilder::new().layer(layer.clone()).build();
        let store = store(&image);
        for format in ALL {
            let error = convert_all(&store, &image.root, &recompress(format).reuse(reuse)).unwrap_err();
            assert!(chain(&error).contains("DiffID"), "{}", chain(&error));
        }
    }
    let image = ImageBuilder::new().layer(sha512).build();
    let keep = Options { unsupported: Unsupported::Keep, ..with_types(MediaTypes::Keep) };
    let store = store(&image);
    let kept = convert_with(&store, &image.root, &recompress(Recompression::None), keep).unwrap();
    assert_eq!(kept.root, image.root);
}

#[test]
fn an_estargz_layer_is_kept_where_its_table_is_in_it_and_is_to_be() {
    let same = |conversion: &Conversion| {
        conversion
            .layers
            .iter()
            .map(|layer| layer.destination.digest == layer.source.digest)
            .collect::<Vec<_>>()
    };
    for (name, kept) in [
        ("estargz", true),
        ("estargz-prioritized", true),
        ("estargz-minchunk", true),
        ("estargz-externaltoc", false),
        ("zstdchunked", false),
        ("src", false),
    ] {
        let (store, root) = golden(name);
        let conversion = convert_all(&store, &root, &estargz().reuse(true)).unwrap();
        assert_eq!(same(&conversion), [kept; 2], "{name}");
    }
    let (store, root) = golden("estargz");
    let codec = Estargz::new(5).external_toc();
    let external = Seekable::new(Box::new(codec), encoding(), workers());
    // Its table is elsewhere, so there is nothing to read back.
    let external = external.reuse(true).verify(None);
    assert_eq!(same(&convert_all(&store, &root, &external).unwrap()), [false; 2]);
}

fn reuse(store: &MemoryStore, root: &Descriptor) -> Conversion {
    convert_all(store, root, &seekable(Landmark::Auto).reuse(true)).unwrap()
}

#[test]
fn a_seekable_layer_is_kept_whoever_made_it() {
    for (name, kept) in [
        ("zstdchunked", true),
        ("zstdchunked-prioritized", true),
        // Containerd's readers would not find its table.
        ("podman-zstdchunked", false),
        ("estargz", false),
        ("src", false),
    ] {
        let (store, root) = golden(name);
        for layer in reuse(&store, &root).layers {
            assert_eq!(layer.destination.digest == layer.source.digest, kept, "{name}");
            assert!(layer.destination.annotations.contains_key(annotations::STARGZ_TOC_DIGEST));
        }
    }
    let image = random_image(1);
    let store = store(&image);
    let small = EncodeOptions { chunk_size: 5000, ..encoding() };
    let other = Seekable::new(Box::new(ZstdChunked::new(1)), small, workers());
    let root = convert_all(&store, &image.root, &other).unwrap().root;
    assert_eq!(reuse(&store, &root).root, root);
    assert_ne!(convert_all(&store, &root, &seekable(Landmark::Auto)).unwrap().root, root);
    assert_ne!(
        convert_all(&store, &root, &recompress(Recompression::Zstd { level: 3 }).reuse(true)).unwrap().root,
        root
    );
}

#[test]
fn annotations_that_were_lost_come_back_and_a_table_that_lies_does_not() {
    let source = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let prepared = store(&source);
    for landmark in [Landmark::Auto, Landmark::Always] {
        let conversion = convert_all(&prepared, &source.root, &seekable(landmark)).unwrap();
        let whole = &conversion.layers[0].destination;
        let diff_id = document(&prepared, &conversion.root);
        let diff_id = follow(&prepared, &diff_id, "/config")["rootfs"]["diff_ids"][0].clone();
        let blob = blob(&prepared, &document(&prepared, &conversion.root), "/layers/0");
        let layer = || Layer::blob(whole.media_type.as_str(), &blob).diff_id(diff_id.as_str().unwrap());

        let bare = ImageBuilder::new().layer(layer().annotation("com.example", "kept")).build();
        let store_ = store(&bare);
        let mut restored = reuse(&store_, &bare.root).layers.remove(0).destination;
        assert_eq!(restored.annotations.remove("com.example").as_deref(), Some("kept"));
        assert_eq!(restored.annotations, whole.annotations, "{landmark:?}");
        assert_eq!(restored.digest, whole.digest);

        // Also of podman's descriptor, and of one that is wrong or says it twice.
        for (key, value) in [
            (annotations::PODMAN_TARSPLIT_CHECKSUM, "sha256:0"),
            (annotations::STARGZ_UNCOMPRESSED_SIZE, "1"),
        ] {
            let image = ImageBuilder::new().layer(layer().annotation(key, value)).build();
            let store = store(&image);
            let layer = reuse(&store, &image.root).layers.remove(0).destination;
            assert_eq!((&layer.digest, &layer.annotations), (&whole.digest, &whole.annotations), "{key}");
        }
        // The tar is sound, so it is encoded anew.
        let lie = Digest::sha256(b"another table").to_string();
        let image =
            ImageBuilder::new().layer(layer().annotation(annotations::STARGZ_TOC_DIGEST, &lie)).build();
        let store = store(&image);
        let layer = reuse(&store, &image.root).layers.remove(0).destination;
        assert_ne!(layer.annotations[annotations::STARGZ_TOC_DIGEST], lie);
    }
}

#[test]
fn a_layer_is_not_kept_where_files_are_to_be_moved_in_it() {
    let tar = TarBuilder::new().file("a", "1").file("b", "2").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar)).build();
    let store = store(&image);
    let root = convert_all(&store, &image.root, &seekable(Landmark::Auto)).unwrap().root;
    let first = [((root.digest.clone(), 0), vec!["b".to_owned()])].into();
    let converter = seekable(Landmark::Auto).reuse(true).prioritize(first);
    let layer = convert_all(&store, &root, &converter).unwrap().layers.remove(0);
    assert_eq!(layer.statistics.prioritized, 1);
    assert_ne!(layer.source.digest, layer.destination.digest);
}

#[test]
fn an_ordinary_layer_is_kept_where_it_is_what_it_should_become() {
    let marked = TarBuilder::new().file(".no.prefetch.landmark", "\u{f}").file("a", "b").finish();
    let cases = [
        (Layer::gzip(tar("a")), Recompression::Gzip { level: 6 }, true),
        (Layer::zstd(tar("a")), Recompression::Zstd { level: 6 }, true),
        (Layer::plain(tar("a")), Recompression::None, true),
        (Layer::gzip(tar("a")), Recompression::Zstd { level: 6 }, false),
        (Layer::gzip(&marked), Recompression::Gzip { level: 6 }, false),
        (
            Layer::gzip(tar("a")).annotation(annotations::STARGZ_PREFETCH, "0"),
            Recompression::Gzip { level: 6 },
            false,
        ),
        (
            Layer::zstd(tar("a")).media_type(MediaType::OCI_LAYER_GZIP.as_str()),
            Recompression::Gzip { level: 6 },
            false,
        ),
    ];
    for (number, (layer, recompression, kept)) in cases.into_iter().enumerate() {
        let image = ImageBuilder::new().layer(layer).build();
        let store = store(&image);
        let conversion = convert_all(&store, &image.root, &recompress(recompression).reuse(true)).unwrap();
        assert_eq!(conversion.root == image.root, kept, "case {number}");
    }
}
