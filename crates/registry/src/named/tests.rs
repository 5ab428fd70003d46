use std::fs;

use restow_content::MemoryStore;
use restow_content::write;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::write_layout;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::Settings;

fn image(content: &str) -> Image {
    ImageBuilder::new().layer(Layer::gzip(TarBuilder::new().file("file", content).finish())).build()
}

/// Opens what a reference means, and returns the names of each image.
fn names(reference: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let access = Access::new(Limits::default(), directory.path(), || Ok(Settings::default()));
    let named = access.open_named(&Reference::parse(reference).unwrap()).unwrap();
    named.iter().map(|named| named.names.join(" ")).collect()
}

/// Changes the index of a layout.
fn edit(layout: &Path, edit: impl FnOnce(&mut Vec<Value>)) {
    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(index["manifests"].as_array_mut().unwrap());
    fs::write(&path, index.to_string()).unwrap();
}

#[test]
fn what_a_layout_is_called_by_is_part_of_the_names_of_its_images() {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("debian");
    let (one, two, three) = (image("one"), image("two"), image("three"));
    write_layout(&layout, &[("12", &one), ("example.org/a", &two), ("13", &three)]).unwrap();
    let place = layout.to_str().unwrap();
    assert_eq!(names(place), ["debian:12", "example.org/a", "debian:13"]);
    assert_eq!(names(&format!("{place}:13")), ["debian:13"]);
    assert_eq!(names(&format!("{place}/../debian/.:12")), ["debian:12"]);
    assert_eq!(names(&format!("{place}@{}", one.root.digest)), ["debian:12"]);

    edit(&layout, |entries| {
        entries[0]["annotations"]["io.containerd.image.name"] = "docker.io/library/a:12".into();
        entries[2]["annotations"] = json!({});
    });
    // What has no name among others is not given one.
    assert_eq!(names(place), ["docker.io/library/a:12", "example.org/a", ""]);
    assert_eq!(names(&format!("{place}:12")), ["docker.io/library/a:12"]);
    edit(&layout, |entries| drop(entries.drain(..2)));
    assert_eq!(names(place), ["debian"]);

    let odd = directory.path().join("odd name");
    write_layout(&odd, &[("12", &one)]).unwrap();
    assert_eq!(names(&format!("oci:{}", odd.display())), [""]);
}

#[test]
fn archives_have_their_own_names() {
    let directory = tempfile::tempdir().unwrap();
    let one = image("one");
    let path = directory.path().join("saved.tar");
    let place = path.to_str().unwrap();
    let limits = Limits::default();
    let store = MemoryStore::new();
    for (_, bytes) in &one.blobs {
        write(&store, MediaType::OCI_LAYER, bytes).unwrap();
    }
    let scratch = crate::Scratch::new(directory.path());
    let publish = |form, tags: &[&str]| {
        let archive = crate::ArchiveDestination::new(&path, form, &scratch, &limits).unwrap();
        let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
        (&archive as &dyn crate::Destination).publish(&store, &one.root, &tags).unwrap();
    };
    publish(crate::ArchiveForm::Docker, &["debian:12", "example.org/a:v1"]);
    let docker = format!("docker-archive:{place}");
    assert_eq!(names(&docker), ["docker.io/library/debian:12 example.org/a:v1"]);
    // Only what is asked for, however that is said.
    for tag in ["debian:12", "docker.io/library/debian:12", "12"] {
        assert_eq!(names(&format!("{docker}:{tag}")), ["docker.io/library/debian:12"], "{tag}");
    }
    publish(crate::ArchiveForm::Docker, &[]);
    assert_eq!(names(&docker), ["saved"]);
    publish(crate::ArchiveForm::Oci, &["12", "example.org/a:v1"]);
    assert_eq!(names(place), ["saved:12", "example.org/a:v1"]);
}
