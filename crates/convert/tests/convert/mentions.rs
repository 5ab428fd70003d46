use restow_convert::Conversion;
use restow_oci::Digest;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use serde_json::Value;
use serde_json::json;

use crate::support::Nothing;
use crate::support::Pad;
use crate::support::convert_all;
use crate::support::document;
use crate::support::follow;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

/// Pads the layers at odd positions, and so changes their DiffIDs.
fn odd() -> Pad {
    Pad { blocks: [0, 1], ..Pad::default() }
}

fn diff_id(tar: &[u8]) -> String {
    Digest::sha256(tar).to_string()
}

/// Returns an image of two layers with labels.
fn labelled(labels: Value) -> ImageBuilder {
    ImageBuilder::new()
        .layer(Layer::gzip(tar("base")))
        .layer(Layer::gzip(tar("top")))
        .config_field("config", json!({ "Labels": labels }))
}

/// Converts an image by a converter, and returns its labels afterwards, and what was warned of.
fn labels(image: &Image, converter: &Pad) -> (Value, Vec<String>) {
    let store = store(image);
    let Conversion { root, warnings, .. } = convert_all(&store, &image.root, converter).unwrap();
    let config = follow(&store, &document(&store, &root), "/config");
    (config["config"]["Labels"].clone(), warnings)
}

#[test]
fn labels_that_are_known_to_name_diff_ids_name_the_new_ones() {
    let (base, top) = (diff_id(&tar("base")), diff_id(&tar("top")));
    let new = diff_id(&odd().padded(1, &tar("top")));
    let metadata = |top: &str| {
        format!(
            r#"{{ "app":[{{"sha":"{top}"}}],"buildpacks":[{{"layers":{{"jre":{{"sha":"{top}","x":1.50}}}}}}],"runImage":{{"topLayer":"{base}"}}}}"#
        )
    };
    let known = |top: &str| {
        json!({
            "ostree.final-diffid": top,
            "ostree.bootable": "true",
            "io.buildpacks.lifecycle.metadata": metadata(top),
            "io.buildpacks.buildpack.layers": format!(r#"{{"id":{{"1":{{"layerDiffID":"{top}"}}}}}}"#),
            "io.buildpacks.extension.layers": format!(r#"{{"id":{{"1":{{"layerDiffID":"{top}"}}}}}}"#),
            "io.buildpacks.base.sbom": top,
        })
    };
    let image = labelled(known(&top)).build();
    assert_eq!(labels(&image, &odd()), (known(&new), Vec::new()));
    // Layers that are compressed anew keep their DiffIDs.
    assert_eq!(labels(&image, &Pad::by(0)), (known(&top), Vec::new()));
}

#[test]
fn other_labels_and_annotations_that_name_what_changes_are_warned_of() {
    let top = diff_id(&tar("top"));
    let new = diff_id(&odd().padded(1, &tar("top")));
    let blob = Layer::gzip(tar("top"));
    let built = labelled(json!({ "base.top": top, "fine": diff_id(&tar("base")), "also": "sha256:" }));
    let image =
        built.layer(blob.annotation("about", &top)).annotation("org.example", &format!("<{top}>")).build();
    let manifest = image.root.digest.clone();
    let (after, warnings) = labels(&image, &Pad::by(1));
    assert_eq!(after["base.top"], top, "nobody knows whether it is a layer");
    let base = diff_id(&tar("base"));
    let changed = diff_id(&Pad::by(1).padded(0, &tar("base")));
    let told = |place: &str, old: &str, new: &str| {
        format!(
            "{place} of manifest {manifest} still names DiffID {old}, now {new}: \
             set it anew, or let no file move, so that zstd:chunked keeps DiffIDs"
        )
    };
    assert_eq!(
        warnings,
        [
            told("label base.top", &top, &new),
            told("label fine", &base, &changed),
            told("annotation org.example", &top, &new),
            told("annotation about of layer 2", &top, &new),
        ]
    );
}

#[test]
fn a_digest_of_equal_layers_that_differ_now_is_not_replaced() {
    let top = diff_id(&tar("top"));
    let image = labelled(json!({ "ostree.final-diffid": top })).layer(Layer::gzip(tar("top"))).build();
    let (after, warnings) = labels(&image, &odd());
    assert_eq!(after["ostree.final-diffid"], top);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains(&format!("still names DiffID {top}, of equal layers that differ now")),
        "{warnings:?}"
    );
}

#[test]
fn a_digest_of_a_blob_that_is_gone_is_warned_of_and_one_that_is_a_diff_id_still_is_not() {
    let plain = Layer::plain(tar("top"));
    let gzip = restow_testkit::compress::gzip(tar("base"));
    let (top, blob) = (diff_id(&tar("top")), Digest::sha256(&gzip));
    let image = ImageBuilder::new()
        .layer(Layer::gzip(tar("base")))
        .layer(plain)
        .annotation("top", &top)
        .annotation("blob", blob.as_str())
        .build();
    let store = store(&image);
    let Conversion { root, warnings, .. } = convert_all(&store, &image.root, &Pad::by(0).zstd()).unwrap();
    let new = document(&store, &root)["layers"][0]["digest"].as_str().unwrap().to_owned();
    assert_ne!(new, blob.as_str());
    let manifest = &image.root.digest;
    let expected =
        format!("annotation blob of manifest {manifest} still names {blob}, now {new}: set it anew");
    assert_eq!(warnings, [expected]);
}

#[test]
fn the_annotation_with_a_layers_diff_id_is_right_afterwards() {
    let layer = |name: &str| {
        Layer::gzip(tar(name))
            .annotation("containerd.io/uncompressed", &diff_id(&tar(name)))
            .annotation("a", "b")
    };
    let image = ImageBuilder::new().layer(layer("base")).layer(layer("top")).build();
    let store = store(&image);
    let conversion = convert_all(&store, &image.root, &odd()).unwrap();
    let manifest = document(&store, &conversion.root);
    let said =
        |position: usize| manifest["layers"][position]["annotations"]["containerd.io/uncompressed"].clone();
    assert_eq!(said(0), diff_id(&tar("base")));
    assert_eq!(said(1), diff_id(&odd().padded(1, &tar("top"))));
    assert_eq!(manifest["layers"][1]["annotations"]["a"], "b");
    assert_eq!(conversion.warnings, [""; 0]);
}

const SOCI: &str = "com.amazon.soci.index-digest";

/// Returns an index of an image with a SOCI index, whose entries come before or after each other.
fn soci() -> (Image, Image, String) {
    let artifact = ImageBuilder::new()
        .layer(Layer::blob("application/octet-stream", "ztoc"))
        .config_bytes("{}")
        .manifest_field("artifactType", json!("application/vnd.amazon.soci.index.v2+json"))
        .build();
    let digest = artifact.root.digest.to_string();
    let image = image("a").annotation(SOCI, &digest).build();
    let platform = json!({"os": "linux", "architecture": "amd64"});
    let entry = json!({"platform": platform, "annotations": {SOCI: digest, "a": "b"}});
    let about = json!({
        "platform": platform,
        "artifactType": "application/vnd.amazon.soci.index.v2+json",
        "annotations": {"com.amazon.soci.image-manifest-digest": image.root.digest.as_str()},
    });
    let index = IndexBuilder::new().image_with(&image, entry).image_with(&artifact, about).build();
    (index, image, digest)
}

#[test]
fn a_soci_index_of_the_old_layers_goes_with_what_leads_to_it() {
    let (index, image, soci) = soci();
    let store = store(&index);
    let Conversion { root, images, warnings, .. } = convert_all(&store, &index.root, &Pad::by(1)).unwrap();
    assert_eq!(images.len(), 1, "a SOCI index is no image, whatever its platform");
    let after = document(&store, &root);
    assert_eq!(after["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(after["manifests"][0]["annotations"], json!({"a": "b"}));
    assert_eq!(follow(&store, &after, "/manifests/0")["annotations"], Value::Null);
    let manifest = &image.root.digest;
    assert_eq!(
        warnings,
        [
            format!(
                "manifest {manifest} names SOCI index {soci}, which is about its old layers: make one of the new image"
            ),
            format!("SOCI index {soci} is left out: it is about the layers before"),
        ]
    );
    // While nothing changes, nothing goes.
    let unchanged = convert_all(&store, &index.root, &Nothing).unwrap();
    assert_eq!((unchanged.root, unchanged.warnings), (index.root, Vec::new()));
}

#[test]
fn an_annotation_in_an_index_that_names_a_converted_manifest_is_warned_of() {
    let (image, other) = (image("a").build(), image("b").platform("linux/arm64").build());
    let old = image.root.digest.clone();
    let named =
        json!({"platform": {"os": "linux", "architecture": "arm64"}, "annotations": {"like": old.as_str()}});
    let index =
        IndexBuilder::new().image(&image).image_with(&other, named).annotation("best", old.as_str()).build();
    let store = store(&index);
    let conversion = convert_all(&store, &index.root, &Pad::by(1)).unwrap();
    let new = document(&store, &conversion.root)["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let told = |place: String| format!("annotation {place} still names {old}, now {new}: set it anew");
    assert_eq!(
        conversion.warnings,
        [told(format!("like of the entry of {}", other.root.digest)), told("best of the index".into())]
    );
}
