//! Built images are whole, and wrong only where they were asked to be.

use std::fs;
use std::path::Path;

use restow_oci::Digest;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::plain;
use restow_testkit::random_image;
use restow_testkit::testdata;
use restow_testkit::write_layout;
use serde_json::Value;
use serde_json::json;

fn tar(name: &str) -> Vec<u8> {
    TarBuilder::new().dir("d/").file(format!("d/{name}"), name).finish()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Follows every descriptor from the root, and checks size, digest and DiffID.
fn check(image: &Image, document: &Value) {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let blob = image.blob(digest).unwrap_or_else(|| panic!("{digest} is missing"));
        assert_eq!(Digest::sha256(blob).as_str(), digest);
        assert_eq!(descriptor["size"], blob.len());
        blob
    };
    for child in document["manifests"].as_array().into_iter().flatten() {
        check(image, &json(blob(child)));
    }
    if let Some(layers) = document["layers"].as_array() {
        let config = json(blob(&document["config"]));
        let diff_ids: Vec<Value> = layers
            .iter()
            .map(|layer| Digest::sha256(&plain::decompress(blob(layer)).expect("a layer")).to_string().into())
            .collect();
        assert_eq!(config["rootfs"]["diff_ids"], Value::from(diff_ids));
    }
}

#[test]
fn images_are_whole() {
    let image = ImageBuilder::new()
        .layer(Layer::gzip(tar("a")))
        .empty_layer("ENV a=b")
        .layer(Layer::zstd(tar("b")).annotation("k", "v"))
        .layer(Layer::plain(tar("c")));
    let built = image.clone().build();
    check(&built, &built.document());
    let docker = image.docker().platform("linux/arm/v7").build();
    check(&docker, &docker.document());
    let index = IndexBuilder::new().image(&built).image(&docker).attestation(&built).build();
    let outer = IndexBuilder::new().image(&index).annotation("k", "v").build();
    check(&outer, &outer.document());
    assert_eq!(
        index.document()["manifests"][1]["platform"],
        json!({"os": "linux", "architecture": "arm", "variant": "v7"})
    );
    for seed in 0..20 {
        let random = random_image(seed);
        check(&random, &random.document());
    }
}

#[test]
fn a_layer_is_wrong_where_it_was_asked_to_be() {
    let good = Layer::gzip(tar("a"));
    let other = Digest::sha256(b"other").to_string();
    let first = |layer: Layer| {
        let image = ImageBuilder::new().layer(layer).build();
        let descriptor = image.document()["layers"][0].clone();
        (image, descriptor)
    };
    let (image, descriptor) = first(good.clone().stored("bit rot"));
    assert_eq!(image.blob(descriptor["digest"].as_str().expect("text")), Some(b"bit rot".as_slice()));
    let (image, descriptor) = first(good.clone().missing());
    assert_eq!(image.blob(descriptor["digest"].as_str().expect("text")), None);
    let (image, descriptor) = first(good.clone().digest(&other));
    assert_eq!(descriptor["digest"], other.as_str());
    assert!(image.blob(&other).is_some());
    let (_, descriptor) = first(good.clone().digest("sha256:../../x").size(1).field("urls", json!(["x"])));
    assert_eq!((&descriptor["digest"], &descriptor["size"]), (&json!("sha256:../../x"), &json!(1)));
    assert_eq!(descriptor["urls"], json!(["x"]));
    let (image, _) = first(good.clone().diff_id(&other));
    let config = json(&image.blobs[1].1);
    assert_eq!(config["rootfs"]["diff_ids"], json!([other]));
    let (image, _) = first(good.without_diff_id());
    assert_eq!(json(&image.blobs[1].1)["rootfs"]["diff_ids"], json!([]));
}

#[test]
fn an_edited_root_is_named_anew() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let before = image.root.digest.clone();
    let image = image.edit(|manifest| manifest["layers"] = Value::Null);
    assert_ne!(image.root.digest, before);
    let image = image.edit_text(|text| text.replacen('{', r#"{"layers":[],"#, 1));
    assert!(image.root_bytes().starts_with(br#"{"layers":[],"#));
    assert_eq!(Digest::sha256(image.root_bytes()), image.root.digest);
    assert_eq!(image.root_bytes().len() as u64, image.root.size);
}

#[test]
fn a_layout_holds_its_tags_and_their_blobs() {
    let directory = tempfile::tempdir().expect("a directory");
    let one = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let two = ImageBuilder::new().layer(Layer::zstd(tar("a"))).build();
    write_layout(directory.path(), &[("one", &one), ("two", &two)]).expect("written");
    assert_eq!(check_layout(directory.path()), ["one", "two"]);
}

#[test]
fn stored_layouts_are_as_they_were_made() {
    let mut layouts = vec![testdata("layouts/busybox")];
    let golden = fs::read_dir(testdata("golden")).expect("golden images");
    layouts.extend(golden.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()));
    assert_eq!(layouts.len(), 12);
    for layout in layouts {
        assert_eq!(check_layout(&layout).len(), 1, "{}", layout.display());
    }
}

/// Checks that each blob of a layout has the digest it is named by; returns the tags.
fn check_layout(layout: &Path) -> Vec<String> {
    for blob in fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
        let path = blob.expect("a blob").path();
        let digest = Digest::sha256(&fs::read(&path).expect("a blob"));
        assert!(path.ends_with(digest.encoded()), "{} holds {digest}", path.display());
    }
    assert_eq!(
        json(&fs::read(layout.join("oci-layout")).expect("oci-layout"))["imageLayoutVersion"],
        "1.0.0"
    );
    let index = json(&fs::read(layout.join("index.json")).expect("index.json"));
    let tag = |entry: &Value| {
        let (algorithm, encoded) = entry["digest"].as_str()?.split_once(':')?;
        assert!(layout.join("blobs").join(algorithm).join(encoded).exists());
        Some(entry["annotations"]["org.opencontainers.image.ref.name"].as_str()?.to_owned())
    };
    index["manifests"].as_array().expect("manifests").iter().map(|entry| tag(entry).expect("a tag")).collect()
}
