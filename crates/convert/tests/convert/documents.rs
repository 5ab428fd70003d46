use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_convert::Options;
use restow_convert::Outcome;
use restow_convert::Platforms;
use restow_oci::Digest;
use restow_oci::annotations;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::plain;
use serde_json::Value;
use serde_json::json;

use crate::support::Nothing;
use crate::support::Pad;
use crate::support::blob;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::follow;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

fn count(store: &MemoryStore) -> usize {
    let mut count = 0;
    let visited = store.walk(&mut |_| {
        count += 1;
        Ok(())
    });
    visited.unwrap();
    count
}

fn diff_ids(config: &Value) -> Vec<&str> {
    config["rootfs"]["diff_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
}

fn media_types(manifest: &Value) -> Vec<&str> {
    let layers = manifest["layers"].as_array().unwrap();
    [manifest, &manifest["config"]]
        .into_iter()
        .chain(layers)
        .map(|part| part["mediaType"].as_str().unwrap())
        .collect()
}

#[test]
fn what_does_not_change_keeps_its_bytes() {
    let image = image("a").manifest_field("unknown", json!([1])).build();
    let index = IndexBuilder::new().image(&image).attestation(&image).field("unknown", json!({})).build();
    let index = index.edit_text(|text| text.replace(",", " ,\n"));
    for root in [&image.root, &index.root] {
        let store = store(&index);
        let before = count(&store);
        let conversion = convert_all(&store, root, &Nothing).unwrap();
        assert_eq!(conversion.root, *root);
        assert_eq!(count(&store), before);
        assert_eq!(conversion.layers.len(), 1);
        assert_eq!(conversion.layers[0].outcome, Outcome::Kept);
        assert_eq!(conversion.layers[0].source, conversion.layers[0].destination);
    }
}

#[test]
fn equal_layers_are_rewritten_by_position() {
    let (twice, between) = (tar("twice"), tar("between"));
    let image = ImageBuilder::new()
        .layer(Layer::gzip(&twice))
        .empty_layer("ENV A=b")
        .layer(Layer::gzip(&twice))
        .layer(Layer::gzip(&between))
        // The same DiffID from another blob.
        .layer(Layer::plain(&twice))
        .build();
    let store = store(&image);
    let converter = Pad { blocks: [1, 2], ..Pad::default() };
    let manifest = document(&store, &convert_all(&store, &image.root, &converter).unwrap().root);
    let config = follow(&store, &manifest, "/config");
    let tars = [&twice, &twice, &between, &twice];
    for (position, tar) in tars.into_iter().enumerate() {
        let expected = converter.padded(position, tar);
        let layer = blob(&store, &manifest, &format!("/layers/{position}"));
        assert_eq!(plain::decompress(layer).unwrap(), expected, "layer {position}");
        assert_eq!(diff_ids(&config)[position], Digest::sha256(&expected).as_str(), "layer {position}");
    }
    assert_eq!(converter.positions(), [0, 1, 2, 3]);
    assert_eq!(config["history"], follow(&store, &image.document(), "/config")["history"]);
}

#[test]
fn an_unchanged_diff_id_leaves_the_config_alone() {
    let image = image("a").build();
    let store = store(&image);
    let conversion = convert_all(&store, &image.root, &Pad::by(0).zstd()).unwrap();
    let manifest = document(&store, &conversion.root);
    assert_eq!(manifest["config"], image.document()["config"]);
    assert_ne!(manifest["layers"], image.document()["layers"]);
    assert!(conversion.layers[0].diff_id_kept);
    assert_eq!(conversion.layers[0].outcome, Outcome::Converted);
    assert_eq!(conversion.layers[0].statistics.uncompressed_size, tar("a").len() as u64);
}

#[test]
fn only_what_changed_is_edited() {
    let image = image("a")
        .config_field("zebra", json!({"b": 1, "a": null}))
        .config_field(
            "config",
            json!({"Healthcheck": {"Test": ["CMD", "true"]}, "Image": "sha256:old", "OnBuild": null}),
        )
        .config_field("container_config", json!({"Image": "sha256:old", "Cmd": ["x"]}))
        .manifest_field("unknown", json!({"z": 1, "a": 2}))
        .annotation("kept", "yes")
        .build();
    let index = IndexBuilder::new()
        .image_with(&image, json!({"annotations": {"of": "entry"}, "unknown": 1.50}))
        .field("zebra", json!(["x"]))
        .build();
    let store = store(&index);
    let conversion = convert_all(&store, &index.root, &Pad::by(1)).unwrap();
    assert!(!conversion.layers[0].diff_id_kept);

    // Changing back what had to change gives the bytes from before.
    let restored = |mut after: Value, before: &Value, pointers: &[&str]| {
        for pointer in pointers {
            for key in ["digest", "size"] {
                let after = &mut after.pointer_mut(pointer).unwrap()[key];
                assert_ne!(*after, Value::Null);
                *after = before.pointer(pointer).unwrap()[key].clone();
            }
        }
        after.to_string()
    };
    let (index_before, manifest_before) = (index.document(), image.document());
    let index_after = document(&store, &conversion.root);
    let manifest_after = follow(&store, &index_after, "/manifests/0");
    let index_restored = restored(index_after.clone(), &index_before, &["/manifests/0"]);
    assert_eq!(index_restored.as_bytes(), index.root_bytes());
    let manifest_restored = restored(manifest_after.clone(), &manifest_before, &["/config", "/layers/0"]);
    assert_eq!(manifest_restored.as_bytes(), image.root_bytes());

    let before = follow(&store, &manifest_before, "/config");
    let after = follow(&store, &manifest_after, "/config");
    let mut expected = before.clone();
    expected["rootfs"]["diff_ids"][0] = after["rootfs"]["diff_ids"][0].clone();
    for key in ["config", "container_config"] {
        expected[key].as_object_mut().unwrap().shift_remove("Image");
    }
    assert_ne!(expected, before);
    assert_eq!(after.to_string(), expected.to_string(), "in the same order too");
}

#[test]
fn a_new_blob_loses_what_was_said_of_the_old_one() {
    let stale = annotations::CHUNKED;
    let layer = stale.iter().fold(Layer::gzip(tar("a")), |layer, key| layer.annotation(key, "stale"));
    let layer = layer
        .annotation("com.example.kept", "yes")
        .field("urls", json!(["https://example.com/layer"]))
        .field("unknown", json!("kept"));
    let other = layer.clone();
    let image = ImageBuilder::new().layer(layer).layer(other.media_type("application/wasm")).build();
    let store = store(&image);
    let new = (annotations::STARGZ_TOC_DIGEST, "new");
    let converter = Pad { annotations: vec![new], ..Pad::by(1) };
    let manifest = document(&store, &convert_all(&store, &image.root, &converter).unwrap().root);
    let layer = &manifest["layers"][0];
    assert_eq!(layer["annotations"], json!({"com.example.kept": "yes", new.0: new.1}));
    assert_eq!(layer["urls"], Value::Null);
    assert_eq!(layer["unknown"], "kept");
    assert_eq!(manifest["layers"][1], image.document()["layers"][1], "what is not converted keeps all");
}

#[test]
fn inline_data_goes_with_the_bytes_it_repeats() {
    let inner = image("a").build();
    let data = |bytes: &[u8]| {
        use std::io::Write as _;
        let mut encoder = base64::write::EncoderStringWriter::new(&base64::engine::general_purpose::STANDARD);
        encoder.write_all(bytes).unwrap();
        encoder.into_inner()
    };
    let config = inner.blobs[1].1.clone();
    let image = inner.edit(|manifest| manifest["config"]["data"] = data(&config).into());
    let index = IndexBuilder::new().image_with(&image, json!({"data": data(image.root_bytes())})).build();
    let store = store(&index);
    let index = document(&store, &convert_all(&store, &index.root, &Pad::by(1)).unwrap().root);
    assert_eq!(index["manifests"][0]["data"], Value::Null);
    assert_eq!(follow(&store, &index, "/manifests/0")["config"]["data"], Value::Null);
}

#[test]
fn docker_images_stay_so_until_a_layer_becomes_oci() {
    let docker = "application/vnd.docker";
    let foreign =
        Layer::plain(tar("foreign")).media_type("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let foreign = foreign.missing().field("urls", json!(["https://example.com/foreign"]));
    let image = image("a").docker().layer(foreign).build();
    let list = IndexBuilder::new().docker().image(&image).build();
    let store = store(&list);

    let stays = document(&store, &convert_all(&store, &list.root, &Pad::by(1)).unwrap().root);
    let manifest = follow(&store, &stays, "/manifests/0");
    assert_ne!(manifest, image.document());
    assert!(stays["mediaType"].as_str().unwrap().starts_with(docker));
    assert!(media_types(&manifest).iter().all(|media_type| media_type.starts_with(docker)));

    let conversion = convert_all(&store, &list.root, &Pad::by(0).zstd()).unwrap();
    let becomes = document(&store, &conversion.root);
    assert_eq!(conversion.root.media_type.as_str(), "application/vnd.oci.image.index.v1+json");
    assert_eq!(becomes["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(becomes["manifests"][0]["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let manifest = follow(&store, &becomes, "/manifests/0");
    let expected = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ];
    assert_eq!(media_types(&manifest), expected);
    assert_eq!(
        manifest["config"]["digest"],
        image.document()["config"]["digest"],
        "Docker's config is OCI's"
    );
    assert_eq!(manifest["layers"][1]["urls"], image.document()["layers"][1]["urls"]);
}

#[test]
fn a_mixture_of_docker_and_oci_becomes_oci() {
    let docker_config = |manifest: &mut Value| {
        manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    };
    let oci_layer = |manifest: &mut Value| {
        manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
    };
    for image in [image("a").build().edit(docker_config), image("a").docker().build().edit(oci_layer)] {
        let store = store(&image);
        let manifest = document(&store, &convert_all(&store, &image.root, &Pad::by(1)).unwrap().root);
        assert!(
            media_types(&manifest).iter().all(|media_type| media_type.starts_with("application/vnd.oci."))
        );
    }
}

#[test]
fn payloads_that_are_no_tar_pass() {
    let passing = [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.oci.image.layer.v1.tar+encrypted",
        "application/vnd.erofs.layer.v1",
        "application/vnd.in-toto+json",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.example.unheard-of",
    ];
    let layers = passing.iter().map(|media_type| Layer::blob(media_type, media_type).missing());
    let image = layers.fold(image("a"), ImageBuilder::layer).layer(Layer::zstd(tar("b"))).build();
    let store = store(&image);
    let converter = Pad::by(1);
    let conversion = convert_all(&store, &image.root, &converter).unwrap();
    let last = passing.len() + 1;
    assert_eq!(converter.positions(), [0, last]);
    let of_layer = |place: usize| {
        conversion.warnings.iter().filter(move |text| text.contains(&format!("layer {place} ")))
    };
    assert!(
        of_layer(1).all(|text| text.ends_with("stays as it is: it is encrypted")) && of_layer(1).count() == 1
    );
    for (place, media_type) in passing.iter().enumerate().skip(2) {
        let expected = format!("stays as it is: {media_type} is no layer that restow reads");
        assert!(
            of_layer(place + 1).eq(conversion.warnings.iter().filter(|text| text.ends_with(&expected))),
            "{expected}"
        );
    }
    assert_eq!(conversion.warnings.len(), passing.len());
    assert_eq!(conversion.layers.len(), last + 1);
    let (before, after) = (image.document(), document(&store, &conversion.root));
    assert_eq!(after["layers"].as_array().unwrap()[1..last], before["layers"].as_array().unwrap()[1..last]);
    let (before, after) = (follow(&store, &before, "/config"), follow(&store, &after, "/config"));
    assert_eq!(diff_ids(&after)[1..last], diff_ids(&before)[1..last]);
    assert_ne!(diff_ids(&after)[last], diff_ids(&before)[last]);
}

#[test]
fn a_manifest_without_a_tar_needs_no_config() {
    let image = ImageBuilder::new()
        .layer(Layer::blob("application/vnd.in-toto+json", "{}").without_diff_id())
        .config_bytes("neither JSON nor read")
        .build();
    let index = IndexBuilder::new().image(&image).build();
    assert_eq!(convert_all(&store(&index), &index.root, &Pad::by(1)).unwrap().root, index.root);
}

const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

#[test]
fn layers_that_live_elsewhere_need_not_be_here() {
    let urls = json!(["https://example.com/layer"]);
    let foreign = Layer::gzip(tar("foreign")).media_type(FOREIGN);
    let elsewhere = Layer::gzip(tar("elsewhere")).field("urls", urls.clone());
    let image = image("a")
        .layer(foreign.clone().missing())
        .layer(elsewhere.missing())
        .layer(Layer::gzip(tar("here")).media_type(FOREIGN).field("urls", urls))
        .build();
    let store = store(&image);
    let converter = Pad::by(1).zstd();
    let conversion = convert_all(&store, &image.root, &converter).unwrap();
    let (before, after) = (image.document(), document(&store, &conversion.root));
    assert_eq!(after["layers"][1], before["layers"][1]);
    assert_eq!(after["layers"][2], before["layers"][2]);
    assert_eq!(converter.positions(), [0, 3], "what is here is converted");
    assert_eq!(conversion.warnings.len(), 2);
    assert!(conversion.warnings[0].starts_with(&format!("layer 1 of manifest {}", image.root.digest)));
}

#[test]
fn what_is_not_for_distribution_stays_so() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a")).media_type(FOREIGN)).build();
    let store = store(&image);
    let conversion = convert_all(&store, &image.root, &Pad::by(1).zstd()).unwrap();
    let expected = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    assert_eq!(document(&store, &conversion.root)["layers"][0]["mediaType"], expected);
    assert_eq!(conversion.layers[0].destination.media_type.as_str(), expected);
}

#[test]
fn a_subject_stays_with_an_unchanged_document_only() {
    let subject = image("subject").build();
    let field = json!({
        "mediaType": subject.root.media_type.as_str(),
        "digest": subject.root.digest.as_str(),
        "size": subject.root.size,
    });
    let manifest = image("a").manifest_field("subject", field.clone()).build();
    let index = IndexBuilder::new().image(&image("b").build()).field("subject", field.clone()).build();
    for image in [manifest, index] {
        let store = store(&image);
        let unchanged = convert_all(&store, &image.root, &Nothing).unwrap();
        assert_eq!((unchanged.root, unchanged.warnings.len()), (image.root.clone(), 0));

        let changed = convert_all(&store, &image.root, &Pad::by(1)).unwrap();
        assert_eq!(document(&store, &changed.root)["subject"], Value::Null);
        assert_eq!(changed.warnings.len(), 1);
        assert!(changed.warnings[0].contains(subject.root.digest.as_str()), "{:?}", changed.warnings);

        let options = Options { keep_subject: true, platforms: Platforms::All, ..Options::default() };
        let kept = convert_with(&store, &image.root, &Pad::by(1), options).unwrap();
        assert_eq!(document(&store, &kept.root)["subject"], field);
        assert_eq!(kept.warnings.len(), 0);
    }
}

#[test]
fn the_root_descriptor_keeps_what_still_holds() {
    let image = image("a").build();
    let mut root = image.root.clone();
    root.annotations.insert(annotations::REF_NAME.to_owned(), "tag".to_owned());
    root.urls.push("https://example.com/".to_owned());
    root.data = Some(image.root_bytes().to_vec());
    let store = store(&image);
    let unchanged = convert_all(&store, &root, &Nothing).unwrap().root;
    assert_eq!(unchanged, root);
    let changed = convert_all(&store, &root, &Pad::by(1)).unwrap().root;
    assert_eq!(changed.annotations, root.annotations);
    assert_eq!((changed.data, changed.urls.len()), (None, 0));
}
