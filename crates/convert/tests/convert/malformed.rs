use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use restow_content::LocalStore;
use restow_convert::Error;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::Silent;
use restow_convert::convert;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use serde_json::Value;
use serde_json::json;

use crate::support::Nothing;
use crate::support::Pad;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

fn edited(edit: impl FnOnce(&mut Value)) -> Image {
    image("a").build().edit(edit)
}

fn rootfs(rootfs: Value) -> Image {
    image("a").config_field("rootfs", rootfs).build()
}

fn index_of(image: &Image) -> Image {
    IndexBuilder::new().image(image).build()
}

#[test]
fn documents_that_readers_may_read_differently_are_refused() {
    let disguised = |mut image: Image, media_type: MediaType| {
        image.root.media_type = media_type;
        image
    };
    let plain = || image("a").build();
    let cases = [
        ("an index called a manifest", disguised(index_of(&plain()), MediaType::OCI_MANIFEST)),
        ("a manifest called an index", disguised(plain(), MediaType::OCI_INDEX)),
        ("a manifest that contradicts its descriptor", disguised(plain(), MediaType::DOCKER_MANIFEST)),
        ("a manifest that is an index too", edited(|manifest| manifest["manifests"] = json!([]))),
        ("an index that is a manifest too", index_of(&plain()).edit(|index| index["layers"] = json!([]))),
        ("schema 1", edited(|manifest| manifest["fsLayers"] = json!([]))),
        ("a key twice", plain().edit_text(|text| text.replacen('{', r#"{"layers":[],"#, 1))),
        ("a key in other letters", edited(|manifest| manifest["Layers"] = json!([]))),
        ("no config", edited(|manifest| drop(manifest.as_object_mut().unwrap().remove("config")))),
        ("a negative size", edited(|manifest| manifest["layers"][0]["size"] = json!(-1))),
        ("no size", edited(|manifest| manifest["layers"][0]["size"] = Value::Null)),
        (
            "a digest that climbs",
            edited(|manifest| manifest["layers"][0]["digest"] = "sha256:../../x".into()),
        ),
        ("inline data of another blob", edited(|manifest| manifest["config"]["data"] = "e30=".into())),
        ("an index that claims to hold itself", {
            let inner = index_of(&plain());
            let itself = STANDARD.encode(inner.root_bytes());
            inner.edit(|index| index["manifests"][0]["data"] = itself.into())
        }),
        ("a config that is no JSON", image("a").config_bytes("no").build()),
        ("a config that is null", image("a").config_bytes("null").build()),
        ("a config that is an array", image("a").config_bytes("[]").build()),
        ("fewer diff_ids than layers", rootfs(json!({"type": "layers", "diff_ids": []}))),
        ("more diff_ids than layers", {
            let id = Digest::sha256(&tar("a")).to_string();
            rootfs(json!({"type": "layers", "diff_ids": [id, id]}))
        }),
        ("a diff_id without a layer", edited(|manifest| manifest["layers"] = json!([]))),
        ("a rootfs of another type", {
            let id = Digest::sha256(&tar("a")).to_string();
            rootfs(json!({"type": "base", "diff_ids": [id]}))
        }),
        ("an index of a broken manifest", index_of(&edited(|manifest| manifest["layers"] = json!({})))),
    ];
    for (name, image) in cases {
        let converter = Pad::by(1);
        let error = convert_all(&store(&image), &image.root, &converter).expect_err(name);
        assert!(
            matches!(error, Error::Malformed { .. } | Error::LayerCount { .. }),
            "{name}: {}",
            chain(&error)
        );
        assert_eq!(converter.positions(), [0; 0], "{name}: no layer is touched");
    }
}

#[test]
fn content_of_an_unknown_algorithm_passes_where_nobody_reads_it() {
    const BLAKE3: &str = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let with = |layer: Layer| image("a").layer(layer.digest(BLAKE3)).build();
    let artifact = with(Layer::blob("application/wasm", "module").missing());
    let conversion = convert_all(&store(&artifact), &artifact.root, &Pad::by(1));
    assert!(conversion.is_ok(), "{}", chain(&conversion.unwrap_err()));
    let layer = with(Layer::gzip(tar("b")).missing());
    let error = chain(&convert_all(&store(&layer), &layer.root, &Pad::by(1)).unwrap_err());
    assert!(error.contains(BLAKE3), "{error}");
}

#[test]
fn null_is_an_empty_list() {
    let empty = ImageBuilder::new().build();
    let cases = [
        ImageBuilder::new().build().edit(|manifest| manifest["layers"] = Value::Null),
        index_of(&empty).edit(|index| index["manifests"] = Value::Null),
        empty,
    ];
    for image in cases {
        assert_eq!(convert_all(&store(&image), &image.root, &Pad::by(1)).unwrap().root, image.root);
    }
}

#[test]
fn documents_are_refused_by_size_before_they_are_read() {
    let image = image("a").build();
    let sizes = [("manifest", image.root.size), ("config", image.blobs[1].1.len() as u64)];
    for (name, size) in sizes {
        for (limit, fits) in [(size, true), (size - 1, false)] {
            let limits = match name {
                "manifest" => Limits { manifest_size: limit, ..Limits::default() },
                _ => Limits { config_size: limit, ..Limits::default() },
            };
            let options = Options { limits, platforms: Platforms::All, ..Options::default() };
            let result = convert_with(&store(&image), &image.root, &Nothing, options);
            assert_eq!(result.is_ok(), fits, "{name} with a limit of {limit}");
        }
    }
}

#[test]
fn a_root_is_an_index_or_a_manifest() {
    let image = image("a").build();
    let config =
        Descriptor::new(MediaType::OCI_CONFIG, image.blobs[1].0.clone(), image.blobs[1].1.len() as u64);
    let error = convert_all(&store(&image), &config, &Nothing).unwrap_err();
    assert!(matches!(error, Error::NotAnImage { .. }), "{error}");
}

#[test]
fn missing_layers_are_listed_before_work_begins() {
    let image =
        image("a").layer(Layer::gzip(tar("b")).missing()).layer(Layer::plain(tar("c")).missing()).build();
    let converter = Pad::by(1);
    let error = convert_all(&store(&image), &image.root, &converter).unwrap_err();
    let Error::Missing { layers } = &error else { panic!("{error}") };
    assert_eq!(layers.len(), 2);
    assert!(
        layers[0].starts_with(&format!("layer 1 of manifest {} (sha256:", image.root.digest)),
        "{layers:?}"
    );
    assert_eq!(converter.positions(), [0; 0]);
}

#[test]
fn a_missing_manifest_is_named() {
    let image = image("a").build();
    let index = index_of(&image);
    let mut alone = index.clone();
    alone.blobs.truncate(1);
    let store = store(&alone);
    let error = convert_all(&store, &index.root, &Nothing).unwrap_err();
    assert!(
        matches!(&error, Error::Read { digest, .. } if *digest == image.root.digest),
        "{}",
        chain(&error)
    );
}

#[test]
fn bytes_that_are_not_what_they_are_called_are_noticed() {
    let layer = Layer::gzip(tar("a"));
    type Change = fn(&[u8]) -> Vec<u8>;
    let changes: [Change; 3] = [
        |bytes| [&bytes[..12], &[bytes[12] ^ 1], &bytes[13..]].concat(),
        |bytes| [bytes, b" "].concat(),
        |bytes| bytes[1..].to_vec(),
    ];
    let stored = |which: usize, change: Change| {
        let mut image = ImageBuilder::new().layer(layer.clone()).build();
        image.blobs[which].1 = change(&image.blobs[which].1);
        image
    };
    for (which, name) in [(0, "manifest"), (1, "config"), (2, "layer")] {
        for change in changes {
            let image = stored(which, change);
            let directory = tempfile::tempdir().unwrap();
            image.write_layout(directory.path(), "latest").unwrap();
            let store = LocalStore::open(directory.path()).unwrap();
            let options = Options { platforms: Platforms::All, ..Options::default() };
            let error = convert(&store, &image.root, &Pad::by(1), &options, &Silent).unwrap_err();
            let digest = image.blobs[which].0.as_str();
            assert!(chain(&error).contains(digest), "{name}: {}", chain(&error));
        }
    }
}
