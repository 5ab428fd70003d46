//! Layers that other tools made of one image: `testdata/golden`.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use restow_layer::toc::EntryKind;
use restow_layer::{
    Depth, Hints, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, Reader, VerifyOptions, Workers, path, verify,
};
use restow_oci::{Config, Descriptor, Digest, Digester, Index, Limits, Manifest};
use restow_testkit::plain::{self, PlainEntry};
use restow_testkit::testdata;

/// The images that are seekable, and whether their table of contents is in an image of its own.
const IMAGES: [(&str, bool); 8] = [
    ("zstdchunked", false),
    ("zstdchunked-prioritized", false),
    ("podman-zstdchunked", false),
    ("estargz", false),
    ("estargz-minchunk", false),
    ("estargz-prioritized", false),
    ("estargz-externaltoc", true),
    ("estargz-keepdiffid", true),
];

struct Image {
    root: PathBuf,
    manifest: Manifest,
}

impl Image {
    fn open(name: &str) -> Self {
        let root = testdata("golden").join(name);
        let limits = Limits::default();
        let index = Index::parse(fs::read(root.join("index.json")).unwrap(), &limits).unwrap();
        let blob = |digest: &Digest| root.join("blobs/sha256").join(digest.encoded());
        let manifest = fs::read(blob(&index.manifests()[0].digest)).unwrap();
        Self { manifest: Manifest::parse(manifest, &limits).unwrap(), root }
    }

    fn layers(&self) -> &[Descriptor] {
        self.manifest.layers()
    }

    fn diff_ids(&self) -> Vec<Digest> {
        let config = Config::parse(self.blob(self.manifest.config()), &Limits::default()).unwrap();
        config.diff_ids().to_vec()
    }

    fn blob(&self, layer: &Descriptor) -> Vec<u8> {
        fs::read(self.root.join("blobs/sha256").join(layer.digest.encoded())).unwrap()
    }
}

/// Returns what is known of a layer: its annotations, and the blob with its table if the image has such.
fn hints(name: &str, layer: &Descriptor, external: bool) -> Hints {
    let mut hints = Hints::from_annotations(&layer.annotations).unwrap();
    if external {
        let tables = Image::open(&format!("{name}-esgztoc"));
        let own = |table: &&Descriptor| {
            table.annotations["containerd.io/snapshot/stargz/layer.digest"] == layer.digest.as_str()
        };
        hints.external_toc = tables.layers().iter().find(own).map(|table| tables.blob(table));
    }
    hints
}

/// Returns the content of each source layer by cleaned name.
fn sources() -> Vec<BTreeMap<String, PlainEntry>> {
    let source = Image::open("src");
    let list = |layer| {
        let tar = plain::decompress(source.blob(layer)).unwrap();
        plain::list(&tar).into_iter().map(|entry| (path::clean(&entry.name()), entry)).collect()
    };
    source.layers().iter().map(list).collect()
}

fn kind(entry: &PlainEntry) -> EntryKind {
    match entry.kind {
        b'0' => EntryKind::Regular,
        b'1' => EntryKind::Hardlink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::Char,
        b'4' => EntryKind::Block,
        b'5' => EntryKind::Dir,
        b'6' => EntryKind::Fifo,
        other => panic!("typeflag {other}"),
    }
}

#[test]
fn every_layer_opens_and_holds_what_the_source_holds() {
    for (name, external) in IMAGES {
        let image = Image::open(name);
        let sources = sources();
        assert_eq!(image.layers().len(), sources.len());
        for (layer, source) in image.layers().iter().zip(&sources) {
            let hints = hints(name, layer, external);
            assert!(hints.toc_digest.is_some() || hints.stored_toc_digest.is_some(), "{name}");
            let reader = Reader::open(image.blob(layer), &hints, &Limits::default()).unwrap();
            let mut names = reader.toc().entries().map(|node| node.path()).collect::<Vec<_>>();
            names.retain(|name| name != PREFETCH_LANDMARK && name != NO_PREFETCH_LANDMARK);
            names.sort();
            names.dedup();
            assert_eq!(names, source.keys().cloned().collect::<Vec<_>>(), "{name}");
            for (path, expected) in source {
                let node = reader.lookup(path).unwrap();
                assert_eq!(node.kind, kind(expected), "{name}: {path}");
                assert_eq!(
                    (node.mode, node.uid, node.gid),
                    (expected.mode, expected.uid, expected.gid),
                    "{path}"
                );
                assert_eq!(node.link_name.as_bytes(), expected.link, "{path}");
                if node.kind != EntryKind::Regular {
                    continue;
                }
                assert_eq!(node.size, expected.size, "{path}");
                let mut content = Vec::new();
                reader.read_file(node).unwrap().read_to_end(&mut content).unwrap();
                assert_eq!(Digest::sha256(&content), expected.content, "{name}: {path}");
                let mut digester = Digester::sha256();
                for chunk in node.chunks() {
                    match reader.read_chunk(&chunk) {
                        Ok(bytes) => digester.update(&bytes),
                        Err(error) => panic!("{name}: {path}: {error}"),
                    }
                }
                assert_eq!(digester.finish(), expected.content, "{name}: {path}");
            }
        }
    }
}

#[test]
fn every_layer_is_what_it_says_it_is() {
    let workers = Workers::new(2).unwrap();
    for (name, external) in IMAGES {
        let image = Image::open(name);
        for (layer, diff_id) in image.layers().iter().zip(image.diff_ids()) {
            let blob = image.blob(layer);
            let options = VerifyOptions {
                hints: hints(name, layer, external),
                diff_id: Some(diff_id.clone()),
                ..VerifyOptions::default()
            };
            let verified =
                verify(&blob, &options, &workers).unwrap_or_else(|error| panic!("{name}: {error}"));
            let content = verified.content.as_ref().unwrap();
            assert_eq!(content.diff_id, diff_id);
            assert_eq!(content.uncompressed_size, plain::decompress(&blob).unwrap().len() as u64);
            assert_eq!(content.tar_split, name == "podman-zstdchunked");
            match &content.partial_annotations {
                Ok(annotations) => {
                    assert_eq!(name, "podman-zstdchunked");
                    assert!(annotations.iter().all(|(key, value)| layer.annotations.get(key) == Some(value)));
                }
                Err(reason) => {
                    assert_eq!(reason.contains("as a whole"), name.starts_with("estargz"), "{reason}")
                }
            }
            let toc = verify(&blob, &VerifyOptions { depth: Depth::Toc, ..options }, &workers).unwrap();
            assert_eq!((toc.entries, toc.chunks), (verified.entries, verified.chunks));
            assert_eq!(toc.content, None);
        }
    }
}
