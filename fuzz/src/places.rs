//! What is read of a layout or an archive to find the images in it.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use restow_oci::Limits;
use restow_registry::DockerArchive;
use restow_registry::Layout;
use restow_registry::OciArchive;
use restow_registry::Selector;
use restow_testkit::TarBuilder;
use tempfile::TempDir;

const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
/// A config, as archives of Docker have them, and one layer of two bytes.
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"]}}"#;

/// Where the bytes lie while they are read. It is left behind when the fuzzer is killed.
static ROOT: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary directory can be made"));

/// Documents of layouts and archives, and archives as a whole. The first byte says which the rest is.
pub fn places(bytes: &[u8]) {
    let Some((choice, content)) = bytes.split_first() else { return };
    match choice % 6 {
        0 => layout(MARKER.as_bytes(), content),
        1 => layout(content, INDEX.as_bytes()),
        2 => archive(&TarBuilder::new().file("oci-layout", MARKER).file("index.json", content).finish()),
        3 => archive(&docker(content, CONFIG.as_bytes())),
        4 => {
            let list = r#"[{"Config":"config.json","RepoTags":["a:b"],"Layers":["layer.tar"]}]"#;
            archive(&docker(list.as_bytes(), content));
        }
        _ => archive(content),
    }
}

fn docker(list: &[u8], config: &[u8]) -> Vec<u8> {
    TarBuilder::new().file("manifest.json", list).file("config.json", config).file("layer.tar", "ab").finish()
}

fn layout(marker: &[u8], index: &[u8]) {
    let root = ROOT.path().join("layout");
    fs::create_dir_all(root.join("blobs/sha256")).expect("a directory can be made");
    put(&root.join("oci-layout"), marker);
    put(&root.join("index.json"), index);
    let Ok(layout) = Layout::open(&root, &Limits::default()) else { return };
    let tags = layout.tags().unwrap_or_default();
    for selector in selectors(tags) {
        let _ = layout.resolve(&selector);
    }
}

fn archive(bytes: &[u8]) {
    let path = ROOT.path().join("archive");
    put(&path, bytes);
    let limits = Limits::default();
    if let Ok(archive) = OciArchive::open(&path, &limits) {
        for selector in selectors(archive.tags()) {
            let _ = archive.resolve(&selector);
        }
    }
    if let Ok(archive) = DockerArchive::open(&path, &limits) {
        let _ = archive.resolve(&Selector::Only);
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file can be written");
}

fn selectors(tags: Vec<String>) -> impl Iterator<Item = Selector> {
    [Selector::Only].into_iter().chain(tags.into_iter().take(20).map(Selector::Tag))
}
