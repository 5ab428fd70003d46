use restow_content::MemoryStore;
use restow_content::Provider as _;
use restow_oci::MediaType;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;

use super::*;
use crate::DockerArchive;
use crate::OciArchive;
use crate::Selector;

fn image(platform: &str) -> Image {
    let tar = TarBuilder::new().file(platform.replace('/', "-"), "content").finish();
    ImageBuilder::new().platform(platform).layer(Layer::gzip(&tar)).layer(Layer::plain(tar)).build()
}

fn store(image: &Image) -> MemoryStore {
    let store = MemoryStore::new();
    for (_, bytes) in &image.blobs {
        restow_content::write(&store, MediaType::OCI_LAYER, bytes).unwrap();
    }
    store
}

fn publish(path: &Path, form: ArchiveForm, image: &Image, tags: &[&str]) -> Result<Vec<Notice>> {
    let scratch = tempfile::tempdir().unwrap();
    let destination =
        ArchiveDestination::new(path, form, &Scratch::new(scratch.path()), &Limits::default()).unwrap();
    let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
    (&destination as &dyn Destination).publish(&store(image), &image.root, &tags)
}

#[test]
fn what_is_written_is_read_again_with_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let index = IndexBuilder::new().image(&image("linux/amd64")).image(&image("linux/arm64")).build();
    publish(&path, ArchiveForm::Oci, &index, &["v1", "v2"]).unwrap();
    let first = std::fs::read(&path).unwrap();
    let archive = OciArchive::open(&path, &Limits::default()).unwrap();
    assert_eq!(archive.tags(), ["v1", "v2"]);
    let root = archive.resolve(&Selector::Tag("v2".into())).unwrap();
    assert_eq!(root.digest, index.root.digest);
    for (digest, bytes) in &index.blobs {
        let descriptor = Descriptor::new(MediaType::OCI_LAYER, digest.clone(), bytes.len() as u64);
        assert_eq!(read(&archive, &descriptor, u64::MAX).unwrap(), *bytes);
    }
    // The same archive each time; a failure leaves the old one.
    publish(&path, ArchiveForm::Oci, &index, &["v1", "v2"]).unwrap();
    assert!(std::fs::read(&path).unwrap() == first);
    let broken = ImageBuilder::new().layer(Layer::plain("gone").missing()).build();
    let error = publish(&path, ArchiveForm::Oci, &broken, &["v1"]).unwrap_err();
    assert!(matches!(error, Error::MissingBlobs { .. }), "{error}");
    assert!(std::fs::read(&path).unwrap() == first);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn only_an_archive_of_images_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let image = image("linux/amd64");
    std::fs::write(&path, "").unwrap();
    assert_eq!(publish(&path, ArchiveForm::Docker, &image, &["b:v1", "b:v2"]).unwrap(), []);
    for (form, tags, lost) in [
        (ArchiveForm::Oci, &["v3"][..], "b:v1, b:v2"),
        (ArchiveForm::Docker, &["c:v1", "v3"], ""),
        (ArchiveForm::Docker, &["c:v2"], "c:v1, v3"),
    ] {
        let notices = publish(&path, form, &image, tags).unwrap();
        let notices: Vec<_> = notices.iter().map(ToString::to_string).collect();
        let expected = format!("{} was replaced and no longer holds {lost}", path.display());
        assert_eq!(notices, if lost.is_empty() { vec![] } else { vec![expected] });
    }
    let backup = TarBuilder::new().file("thesis.tex", "years of work").finish();
    for content in [b"notes".as_slice(), &backup] {
        std::fs::write(&path, content).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(scratch.path());
        let error =
            ArchiveDestination::new(&path, ArchiveForm::Oci, &scratch, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[test]
fn containerd_finds_the_whole_name_in_an_archive_for_docker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let image = image("linux/amd64");
    for (form, tag, expected) in [
        (ArchiveForm::Docker, "team/app:v1", Some("docker.io/team/app:v1")),
        (ArchiveForm::Docker, "debian", Some("docker.io/library/debian:latest")),
        (ArchiveForm::Docker, "localhost/app:v1", Some("localhost/app:v1")),
        (ArchiveForm::Docker, "example.org:5000/a:v1", Some("example.org:5000/a:v1")),
        // Docker would not take such a name.
        (ArchiveForm::Docker, "Team/App:v1", None),
        (ArchiveForm::Oci, "v1", None),
    ] {
        let _ = std::fs::remove_file(&path);
        publish(&path, form, &image, &[tag]).unwrap();
        let archive = OciArchive::open(&path, &Limits::default()).unwrap();
        let root = archive.resolve(&Selector::Tag(tag.into())).unwrap();
        assert_eq!(root.digest, image.root.digest, "{tag}");
        let name = root.annotations.get("io.containerd.image.name");
        assert_eq!(name.map(String::as_str), expected, "{tag}");
        assert_eq!(archive.tags(), [tag]);
    }
}

#[test]
fn an_archive_for_docker_is_one_for_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let one = image("linux/amd64");
    let attested = IndexBuilder::new().image(&one).attestation(&one).build();
    for root in [&one, &attested] {
        publish(&path, ArchiveForm::Docker, root, &["example.org/a:v1"]).unwrap();
        let archive = OciArchive::open(&path, &Limits::default()).unwrap();
        assert_eq!(archive.resolve(&Selector::Only).unwrap().digest, root.root.digest);
        let archive = DockerArchive::open(&path, &Limits::default()).unwrap();
        let found = archive.resolve(&Selector::Tag("v1".into())).unwrap();
        // What is known of the image by its layout is not made up anew.
        assert_eq!(found.digest, root.root.digest);
        let manifest = read(&archive, &one.root, u64::MAX).unwrap();
        let manifest = Manifest::parse(manifest, &Limits::default()).unwrap();
        let layers: Vec<_> = manifest.layers().iter().map(|layer| layer.digest.clone()).collect();
        assert_eq!(layers, [one.blobs[2].0.clone(), one.blobs[3].0.clone()]);
        assert_eq!(manifest.config().digest, one.blobs[1].0);
        for layer in manifest.layers() {
            restow_content::VerifiedReader::new(archive.open(layer).unwrap(), layer)
                .unwrap()
                .finish()
                .unwrap();
        }
    }
    let two = IndexBuilder::new().image(&one).image(&image("linux/arm64")).build();
    let error = publish(&path, ArchiveForm::Docker, &two, &["v1"]).unwrap_err();
    assert!(error.to_string().contains("choose one with --platform"), "{error}");
}

#[test]
fn what_docker_could_not_load_becomes_no_archive_of_docker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    let tar = TarBuilder::new().file("file", "content").finish();
    let layer = || Layer::gzip(&tar);
    let chart = "application/vnd.cncf.helm.config.v1+json";
    let config = |image: &mut serde_json::Value| image["config"]["mediaType"] = chart.into();
    for (image, expected) in [
        (ImageBuilder::new().layer(layer()).build().edit(config), "holds images"),
        (
            ImageBuilder::new().layer(Layer::blob("application/vnd.in-toto+json", "{}")).build(),
            "holds images",
        ),
        (ImageBuilder::new().layer(layer()).config_bytes(r#"{"os":"linux"}"#).build(), "(rootfs)"),
        (ImageBuilder::new().config_bytes(r#"{"os":"linux"}"#).build(), "(rootfs)"),
        (ImageBuilder::new().layer(layer().without_diff_id()).build(), "(rootfs)"),
    ] {
        let error = publish(&path, ArchiveForm::Docker, &image, &["v1"]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!path.exists());
        publish(&path, ArchiveForm::Oci, &image, &["v1"]).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    publish(&path, ArchiveForm::Docker, &ImageBuilder::new().build(), &["v1"]).unwrap();
}
