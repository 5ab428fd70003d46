use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use restow_content::Ingester as _;
use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_convert::BegunImage;
use restow_convert::BoxError;
use restow_convert::Cancel;
use restow_convert::Conversion;
use restow_convert::Error;
use restow_convert::LayerReport;
use restow_convert::Observer;
use restow_convert::Options;
use restow_convert::Ordered;
use restow_convert::Orderer;
use restow_convert::Outcome;
use restow_convert::Platforms;
use restow_convert::Prioritized;
use restow_convert::Result;
use restow_convert::Seekable;
use restow_convert::Unsupported;
use restow_convert::convert;
use restow_layer::Codec;
use restow_layer::Contents;
use restow_layer::Depth;
use restow_layer::EncodeOptions;
use restow_layer::Estargz;
use restow_layer::Layout;
use restow_layer::Seal;
use restow_layer::Workers;
use restow_layer::ZSTD_CHUNKED_DEFAULT_LEVEL;
use restow_layer::ZstdChunked;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use restow_oci::annotations;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::compress;
use restow_testkit::plain;
use restow_testkit::random_image;

use crate::support::blob;
use crate::support::bytes;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::follow;
use crate::support::image;
use crate::support::put;
use crate::support::store;
use crate::support::tar;

pub(crate) fn seekable(workers: usize) -> Seekable {
    let directory = tempfile::env::temp_dir();
    let codec = ZstdChunked::new(ZSTD_CHUNKED_DEFAULT_LEVEL);
    Seekable::new(Box::new(codec), EncodeOptions::new(directory), Workers::new(workers).unwrap())
}

fn estargz() -> Seekable {
    let encoding = EncodeOptions::new(tempfile::env::temp_dir());
    Seekable::new(Box::new(Estargz::new(6)), encoding, Workers::new(2).unwrap())
}

fn first(manifest: &Digest, position: usize, path: &str) -> Prioritized {
    Prioritized::from([((manifest.clone(), position), vec![path.to_owned()])])
}

fn options() -> Options {
    Options { platforms: Platforms::All, jobs: NonZero::new(2).unwrap(), ..Options::default() }
}

fn clean(store: &MemoryStore, image: &Image) {
    assert_eq!(store.ingests().unwrap(), []);
    let mut known: Vec<_> = image.blobs.iter().map(|(digest, _)| digest.clone()).collect();
    known.sort();
    known.dedup();
    let mut found = Vec::new();
    let visited = store.walk(&mut |info| {
        found.push(info.digest);
        Ok(())
    });
    visited.unwrap();
    assert_eq!(found, known, "nothing was left behind");
}

#[test]
fn layers_become_seekable_and_keep_their_tar() {
    let (one, other) = (tar("one"), TarBuilder::new().dir("d").file("d/f", vec![1; 100_000]).finish());
    let image = ImageBuilder::new()
        .docker()
        .layer(Layer::gzip(&one).with_blob(compress::gzip_members(&one, &[700])))
        .layer(Layer::plain(&other))
        .build();
    let index = IndexBuilder::new().docker().image(&image).build();
    let store = store(&index);
    let conversion = convert_all(&store, &index.root, &seekable(2)).unwrap();
    let index = document(&store, &conversion.root);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let manifest = follow(&store, &index, "/manifests/0");
    assert_eq!(manifest["config"]["digest"], image.document()["config"]["digest"], "the image ID stays");
    for (position, tar) in [&one, &other].into_iter().enumerate() {
        let layer = &manifest["layers"][position];
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
        for key in [annotations::STARGZ_TOC_DIGEST, annotations::STARGZ_ZSTD_MANIFEST_POSITION] {
            assert!(layer["annotations"][key].is_string(), "{layer}");
        }
        assert_eq!(layer["annotations"][annotations::STARGZ_PREFETCH], "0");
        assert_eq!(layer["annotations"][annotations::PODMAN_MANIFEST_CHECKSUM], serde_json::Value::Null);
        let blob = blob(&store, &manifest, &format!("/layers/{position}"));
        assert_eq!(plain::unzstd(blob).unwrap(), *tar);
        let report = &conversion.layers[position];
        assert!(report.diff_id_kept);
        assert_eq!(report.statistics.entries, plain::names(tar).len() as u64);
        assert_eq!(report.statistics.uncompressed_size, tar.len() as u64);
    }
}

#[test]
fn layers_become_estargz_and_the_image_oci() {
    let image = ImageBuilder::new().docker().layer(Layer::gzip(tar("one"))).layer(Layer::zstd(tar("two")));
    let image = image.build();
    let store = store(&image);
    let conversion = convert_all(&store, &image.root, &estargz()).unwrap();
    let manifest = document(&store, &conversion.root);
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let config = follow(&store, &manifest, "/config");
    for (position, name) in ["one", "two"].into_iter().enumerate() {
        let layer = &manifest["layers"][position];
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let tar = plain::gunzip(blob(&store, &manifest, &format!("/layers/{position}"))).unwrap();
        assert_eq!(plain::names(&tar), [".no.prefetch.landmark", name, "stargz.index.json"]);
        let toc = Digest::sha256(plain::content(&tar, "stargz.index.json").unwrap());
        assert_eq!(layer["annotations"][annotations::STARGZ_TOC_DIGEST], toc.as_str());
        let size = tar.len().to_string();
        assert_eq!(layer["annotations"][annotations::STARGZ_UNCOMPRESSED_SIZE], size);
        assert_eq!(config["rootfs"]["diff_ids"][position], Digest::sha256(&tar).as_str());
    }
}

#[test]
fn a_second_conversion_changes_nothing() {
    for seed in 0..8 {
        let image = random_image(seed);
        let store = store(&image);
        for converter in [seekable(2), estargz()] {
            let once = convert_all(&store, &image.root, &converter).unwrap().root;
            let twice = convert_all(&store, &once, &converter).unwrap().root;
            assert_eq!(once, twice, "seed {seed}");
        }
    }
}

#[test]
fn a_second_conversion_keeps_the_order_of_the_first() {
    let tar = TarBuilder::new().file("a", "a").file("b", "b").file("c", "c").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(tar)).build();
    let store = store(&image);
    let first_run = seekable(1).prioritize(first(&image.root.digest, 0, "c"));
    let once = convert_all(&store, &image.root, &first_run).unwrap().root;
    let twice = convert_all(&store, &once, &seekable(1)).unwrap().root;
    assert_eq!(once, twice);
    let again =
        convert_all(&store, &once, &seekable(1).prioritize(first(&once.digest, 0, "c"))).unwrap().root;
    assert_eq!(once, again);
}

#[test]
fn files_are_moved_by_position() {
    let tar = TarBuilder::new().file("a", "a").file("b", "b").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(&tar)).layer(Layer::gzip(&tar)).build();
    let store = store(&image);
    let mut lists = first(&image.root.digest, 1, "b");
    lists.entry((image.root.digest.clone(), 1)).or_default().push("absent".to_owned());
    lists.extend(first(&Digest::sha256(b"another manifest"), 0, "b"));
    let conversion = convert_all(&store, &image.root, &seekable(1).prioritize(lists)).unwrap();
    let manifest = document(&store, &conversion.root);
    let names = |position: usize| {
        plain::names(&plain::unzstd(blob(&store, &manifest, &format!("/layers/{position}"))).unwrap())
    };
    assert_eq!(names(0), ["a", "b"]);
    assert_eq!(names(1), ["b", ".prefetch.landmark", "a"]);
    let [left, moved] = &conversion.layers[..] else { panic!() };
    assert!(left.diff_id_kept && !moved.diff_id_kept);
    assert_eq!((left.statistics.prioritized, moved.statistics.prioritized), (0, 1));
    assert_eq!(moved.statistics.missing, ["absent"]);
    let prefetch = moved.statistics.prefetch_size;
    assert!(prefetch > 0 && prefetch < moved.destination.size);
    assert_eq!(moved.destination.annotations[annotations::STARGZ_PREFETCH], prefetch.to_string());
    let diff_id = Digest::sha256(&plain::unzstd(blob(&store, &manifest, "/layers/1")).unwrap());
    assert_eq!(follow(&store, &manifest, "/config")["rootfs"]["diff_ids"][1], diff_id.as_str());
}

#[test]
fn the_bytes_are_the_same_on_any_number_of_threads() {
    let image = random_image(42);
    let root = |threads: usize| {
        let options = Options { jobs: NonZero::new(threads).unwrap(), ..options() };
        convert_with(&store(&image), &image.root, &seekable(threads), options).unwrap().root
    };
    let one = root(1);
    assert_eq!(one, root(2));
    assert_eq!(one, root(8));
}

/// Converts an image with this layer at position 1, and returns why that failed.
fn failure(layer: Layer) -> String {
    let image = ImageBuilder::new().layer(Layer::blob("application/wasm", "")).layer(layer).build();
    let store = store(&image);
    let error = convert_with(&store, &image.root, &seekable(2), options()).unwrap_err();
    assert!(matches!(error, Error::Layer { .. }), "{}", chain(&error));
    clean(&store, &image);
    assert!(
        chain(&error).starts_with(&format!("layer 1 of manifest {}", image.root.digest)),
        "{}",
        chain(&error)
    );
    chain(&error)
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let (actual, expected) = (Digest::sha256(&tar("a")), Digest::sha256(b"something else"));
    let error = failure(Layer::gzip(tar("a")).diff_id(&expected));
    assert!(error.contains(expected.as_str()) && error.contains(actual.as_str()), "{error}");
}

#[test]
fn damaged_layers_leave_nothing_behind() {
    let tar = tar("a");
    let whole = compress::gzip(&tar);
    let cases = [
        (Layer::gzip(&tar).with_blob(&whole[..whole.len() - 9]), "ends too early"),
        (Layer::gzip(&tar).with_blob([&whole[..], b"more"].concat()), "gzip stream is corrupt"),
        (Layer::gzip(vec![7; 2000]), "tar entry at byte 0"),
        (Layer::gzip(&tar[..512]), "the tar ends"),
    ];
    for (layer, reason) in cases {
        let error = failure(layer);
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn layers_without_a_seekable_form_fail_or_stay() {
    let odd = TarBuilder::new().file(b"not UTF-8: \xff".as_slice(), "").finish();
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let xz = Layer::blob("application/vnd.oci.image.layer.v1.tar+gzip", b"\xfd7zXZ\0 and so on");
    for layer in [Layer::gzip(odd), Layer::gzip(tar("a")).diff_id(sha512), xz] {
        failure(layer.clone());
        let image = image("fine").layer(layer).build();
        let store = store(&image);
        let keep = Options { unsupported: Unsupported::Keep, ..options() };
        let conversion = convert_with(&store, &image.root, &seekable(2), keep).unwrap();
        let (before, after) = (image.document(), document(&store, &conversion.root));
        assert_ne!(after["layers"][0], before["layers"][0]);
        assert_eq!(after["layers"][1], before["layers"][1]);
        assert!(conversion.warnings[0].starts_with("layer 1 of manifest"), "{:?}", conversion.warnings);
    }
}

/// A codec that compresses something else.
#[derive(Debug)]
struct Lying(ZstdChunked);

impl Codec for Lying {
    fn media_type(&self) -> MediaType {
        self.0.media_type()
    }

    fn identity(&self) -> String {
        "lying".to_owned()
    }

    fn compress(&self, bytes: &[u8], out: &mut Vec<u8>) -> restow_layer::Result<()> {
        self.0.compress(&bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>(), out)
    }

    fn decompress(&self, frame: &[u8], out: &mut [u8]) -> restow_layer::Result<()> {
        self.0.decompress(frame, out)
    }

    fn layout(&self) -> Layout {
        self.0.layout()
    }

    fn seal(
        &self,
        contents: &mut Contents,
        position: u64,
        out: &mut dyn Write,
    ) -> restow_layer::Result<Seal> {
        self.0.seal(contents, position, out)
    }
}

#[test]
fn a_layer_that_came_out_wrong_does_not_come_out() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let store = store(&image);
    let lying = |check_frames| {
        let codec = Lying(ZstdChunked::new(ZSTD_CHUNKED_DEFAULT_LEVEL));
        let encoding = EncodeOptions { check_frames, ..EncodeOptions::new(tempfile::env::temp_dir()) };
        Seekable::new(Box::new(codec), encoding, Workers::new(1).unwrap())
    };
    for (check_frames, depth, problem) in [
        (true, Some(Depth::Toc), "does not decode to them"),
        (false, Some(Depth::Full), ": the new layer could not be verified: "),
    ] {
        let converter = lying(check_frames).verify(depth);
        let error = convert_with(&store, &image.root, &converter, options()).unwrap_err();
        assert!(chain(&error).contains(problem), "{}", chain(&error));
        clean(&store, &image);
    }
    for depth in [Some(Depth::Toc), None] {
        assert!(
            convert_with(&store, &image.root, &lying(false).verify(depth), options()).is_ok(),
            "{depth:?}"
        );
    }
}

#[test]
fn what_an_earlier_attempt_left_is_overwritten() {
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let root = |leave: bool| {
        let store = store(&image);
        if leave {
            let key = format!("restow-{}", image.blobs[2].0);
            store.ingest(&key).unwrap().write_all(b"half a layer").unwrap();
        }
        let root = convert_with(&store, &image.root, &seekable(1), options()).unwrap().root;
        assert_eq!(store.ingests().unwrap(), []);
        root
    };
    assert_eq!(root(true), root(false));
}

/// Raises the flag as soon as something is read.
struct Impatient(Cancel);

impl Observer for Impatient {
    fn layer_started(&self, _layer: &restow_convert::Layer<'_>) {}
    fn advanced(&self, _layer: &restow_convert::Layer<'_>, _bytes: u64) {
        self.0.cancel();
    }
    fn layer_finished(&self, _report: &LayerReport) {}
    fn warning(&self, _text: &str) {}
}

/// Begins with every layer of an image, and then puts first what it was told to.
struct Look<'a> {
    first: Prioritized,
    notes: &'a Notes,
}

/// What happened, in order.
#[derive(Default)]
struct Notes {
    lines: Mutex<Vec<String>>,
    read: AtomicU64,
}

impl Notes {
    fn add(&self, what: &str, manifest: &Digest) {
        self.lines.lock().unwrap().push(format!("{what} {manifest}"));
    }
}

impl Orderer for Look<'_> {
    fn order(&self, image: &BegunImage<'_>) -> Result<BTreeMap<usize, Vec<String>>, BoxError> {
        let manifest = &image.source().descriptor.digest;
        let mut order = BTreeMap::new();
        for layer in &image.source().layers {
            let mut names = Vec::new();
            image.begin(layer, &mut |header| names.push(header.display_name()))?;
            self.notes.add(&names.join(" "), manifest);
            let first = self.first.get(&(manifest.clone(), layer.position)).cloned();
            order.extend(first.map(|first| (layer.position, first)));
        }
        Ok(order)
    }
}

impl Observer for Notes {
    fn layer_started(&self, _layer: &restow_convert::Layer<'_>) {}
    fn advanced(&self, _layer: &restow_convert::Layer<'_>, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }
    fn layer_finished(&self, report: &LayerReport) {
        self.add(&format!("{:?} {}", report.outcome, report.elapsed.is_zero()), &report.manifest);
    }
    fn warning(&self, _text: &str) {}
}

#[test]
fn an_image_is_looked_at_and_converted_before_the_next_and_read_once() {
    let files = TarBuilder::new().file("a", "1").file("b", "2").finish();
    let image = ImageBuilder::new().layer(Layer::gzip(&files)).build();
    let other = image_of(&files);
    let index = IndexBuilder::new().image(&image).image(&other).build();
    let store = store(&index);
    let first = first(&image.root.digest, 0, "b");
    let expected = convert_all(&store, &index.root, &seekable(2).prioritize(first.clone())).unwrap().root;

    let notes = Notes::default();
    let orderer = Look { first, notes: &notes };
    let found =
        convert(&store, &index.root, &Ordered::new(seekable(2), &orderer), &options(), &notes).unwrap();
    assert_eq!(found.root, expected);
    assert_eq!(notes.read.into_inner(), 2 * first_layer(&store, &image).size, "once for each image");
    let (image, other) = (&image.root.digest, &other.root.digest);
    let lines = ["a b", "Converted false"].map(|line| [image, other].map(|image| format!("{line} {image}")));
    let [[begun, begun_other], [done, done_other]] = lines;
    assert_eq!(notes.lines.into_inner().unwrap(), [begun, done, begun_other, done_other]);
}

#[test]
fn equal_layers_in_one_order_are_converted_once_in_all_images() {
    let image = image("a").build();
    let other = image_of(&tar("a"));
    let index = IndexBuilder::new().image(&image).image(&other).build();
    let store = store(&index);
    let notes = Notes::default();
    let orderer = Look { first: Prioritized::new(), notes: &notes };
    let found =
        convert(&store, &index.root, &Ordered::new(seekable(1), &orderer), &options(), &notes).unwrap();
    let outcomes: Vec<_> = found.layers.iter().map(|layer| layer.outcome).collect();
    assert_eq!(outcomes, [Outcome::Converted, Outcome::Shared]);
}

/// An orderer that fails.
struct Blind;

impl Orderer for Blind {
    fn order(&self, _image: &BegunImage<'_>) -> Result<BTreeMap<usize, Vec<String>>, BoxError> {
        Err("nothing to be seen".into())
    }
}

#[test]
fn an_image_that_cannot_be_looked_at_is_named() {
    let image = image("a").build();
    let store = store(&image);
    let error = convert_all(&store, &image.root, &Ordered::new(seekable(1), &Blind)).unwrap_err();
    let expected = format!("the layers of manifest {}: nothing to be seen", image.root.digest);
    assert_eq!(crate::support::chain(&error), expected);
    clean(&store, &image);
}

fn first_layer(store: &MemoryStore, image: &Image) -> Descriptor {
    let manifest = restow_oci::Manifest::parse(bytes(store, &image.root), &restow_oci::Limits::default());
    manifest.unwrap().layers()[0].clone()
}

/// Returns another image with this layer.
fn image_of(tar: &[u8]) -> Image {
    ImageBuilder::new().layer(Layer::gzip(tar)).platform("linux/arm64").build()
}

#[test]
fn what_is_not_what_its_descriptor_says_is_not_begun_with() {
    let image = image("a").build();
    let store = store(&image);
    let mut descriptor = first_layer(&store, &image);
    descriptor.digest = put(&store, &compress::gzip(tar("b")));
    descriptor.size += 1;
    let layer = restow_convert::Layer {
        manifest: &image.root.digest,
        position: 0,
        descriptor: &descriptor,
        diff_id: &image.root.digest,
        observer: &restow_convert::Silent,
        cancel: &Cancel::default(),
    };
    seekable(1).begin(&store, &layer, &mut |_| ()).unwrap_err();
}

#[test]
fn encoding_can_be_stopped_and_leaves_nothing_behind() {
    let image = image("a").layer(Layer::gzip(tar("b"))).build();
    let store = store(&image);
    let options = options();
    let result: Result<Conversion> =
        convert(&store, &image.root, &seekable(2), &options, &Impatient(options.cancel.clone()));
    assert!(matches!(result, Err(Error::Cancelled(_))), "{result:?}");
    clean(&store, &image);
}

#[test]
fn annotations_of_other_tools_give_way() {
    let layer =
        annotations::CHUNKED.iter().fold(Layer::gzip(tar("a")), |layer, key| layer.annotation(key, "old"));
    let image = ImageBuilder::new().layer(layer.annotation("com.example", "kept")).build();
    let store = store(&image);
    let conversion = convert_all(&store, &image.root, &seekable(1)).unwrap();
    let Descriptor { annotations, .. } = &conversion.layers[0].destination;
    assert_eq!(annotations["com.example"], "kept");
    assert!(annotations.values().all(|value| value != "old"), "{annotations:?}");
}

#[test]
fn a_layer_in_which_a_global_header_holds_keeps_its_order_with_a_warning() {
    for (record, moved) in [(("comment", "of git archive"), 1), (("uid", "777"), 0)] {
        let tar = TarBuilder::new().file("one", "1").global_pax(&[record]).file("two", "2").finish();
        let image = ImageBuilder::new().layer(Layer::gzip(&tar)).build();
        let store = store(&image);
        let converter = seekable(1).prioritize(first(&image.root.digest, 0, "two"));
        let conversion = convert_all(&store, &image.root, &converter).unwrap();
        assert_eq!(conversion.layers[0].statistics.prioritized, moved);
        assert_eq!(conversion.layers[0].diff_id_kept, moved == 0);
        assert_eq!(conversion.warnings.len(), usize::from(moved == 0), "{:?}", conversion.warnings);
        assert!(conversion.warnings.iter().all(|warning| warning.contains("keeps its order")));
    }
}
