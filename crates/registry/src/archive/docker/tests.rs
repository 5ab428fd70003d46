use restow_content::VerifiedReader;
use restow_content::read;
use restow_testkit::Entry as TarEntry;
use restow_testkit::TarBuilder;
use serde_json::json;

use super::*;

fn layer(name: &str) -> Vec<u8> {
    TarBuilder::new().file(name, "content").finish()
}

fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    json!({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).to_string()
}

fn open(tar: Vec<u8>) -> Result<DockerArchive> {
    let directory = tempfile::tempdir().unwrap();
    DockerArchive::from_input(&mut tar.as_slice(), directory.path(), &Limits::default())
}

/// What docker saved before version 25: a directory for each layer, and a link where one comes again.
fn old() -> TarBuilder {
    let (one, two) = (layer("one"), layer("two"));
    let list = json!([
        {"Config": "c.json", "RepoTags": ["debian:12", "example.org/a:v1"],
         "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]},
        {"Config": "d.json", "RepoTags": null, "Layers": ["1/layer.tar"]},
    ]);
    TarBuilder::new()
        .dir("1/")
        .file("1/layer.tar", &one)
        .dir("2/")
        .entry(TarEntry::symlink("2/layer.tar", "../1/layer.tar"))
        .file("3/layer.tar", &two)
        .file("c.json", config(&[&one, &one, &two]))
        .file("d.json", config(&[&one]))
        .file("manifest.json", list.to_string())
}

#[test]
fn an_old_archive_is_read_with_its_links() {
    let archive = open(old().finish()).unwrap();
    for name in ["debian:12", "docker.io/library/debian:12", "v1", "example.org/a:v1"] {
        let root = archive.resolve(&Selector::Tag(name.into())).unwrap();
        let bytes = read(&archive, &root, u64::MAX).unwrap();
        let manifest = Manifest::parse_as(bytes, &MediaType::DOCKER_MANIFEST, &Limits::default()).unwrap();
        let layers: Vec<_> = manifest.layers().iter().map(|layer| layer.digest.clone()).collect();
        let (one, two) = (Digest::sha256(&layer("one")), Digest::sha256(&layer("two")));
        assert_eq!(layers, [one.clone(), one, two]);
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            VerifiedReader::new(archive.open(blob).unwrap(), blob).unwrap().finish().unwrap();
        }
    }
    let error = archive.resolve(&Selector::Only).unwrap_err();
    assert!(error.to_string().contains("several images, debian:12, @sha256:"), "{error}");
    let error = archive.resolve(&Selector::Tag("v2".into())).unwrap_err();
    assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_found_out_when_it_is_read() {
    let list = json!([{"Config": "c.json", "Layers": ["layer.tar"]}]).to_string();
    let tar = TarBuilder::new()
        .file("layer.tar", layer("other"))
        .file("c.json", config(&[&layer("one")]))
        .file("manifest.json", list);
    let archive = open(tar.finish()).unwrap();
    let root = archive.resolve(&Selector::Only).unwrap();
    let manifest = Manifest::parse(read(&archive, &root, u64::MAX).unwrap(), &Limits::default()).unwrap();
    let layer = &manifest.layers()[0];
    let reader = VerifiedReader::new(archive.open(layer).unwrap(), layer).unwrap();
    assert!(matches!(reader.finish(), Err(restow_content::Error::Mismatch { .. })));
}

#[test]
fn lists_that_lead_nowhere_are_refused() {
    let with = |list: serde_json::Value| {
        let one = layer("one");
        TarBuilder::new()
            .file("layer.tar", &one)
            .entry(TarEntry::symlink("loop", "loop"))
            .entry(TarEntry::symlink("out", "../../etc/passwd"))
            .file("c.json", config(&[&one]))
            .file("manifest.json", list.to_string())
            .finish()
    };
    for (list, expected) in [
        (json!([{"Config": "none", "Layers": ["layer.tar"]}]), "none is not there"),
        (json!([{"Config": "c.json", "Layers": ["none"]}]), "none is not there"),
        (json!([{"Config": "c.json", "Layers": ["loop"]}]), "loop is not there"),
        (json!([{"Config": "c.json", "Layers": ["out"]}]), "out is not there"),
        (json!([{"Config": "c.json", "Layers": []}]), "0 layers where the config names 1"),
        (json!([{"Config": "layer.tar", "Layers": []}]), "layer.tar of -"),
        (json!({}), "manifest.json of -"),
    ] {
        let error = open(with(list)).unwrap_err();
        let message = crate::client::chain(&error);
        assert!(message.contains(expected), "{message}");
    }
    let error = open(TarBuilder::new().file("x", "y").finish()).unwrap_err();
    assert!(crate::client::chain(&error).contains("no manifest.json"), "{error}");
}
