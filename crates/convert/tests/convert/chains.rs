//! Converters one after another.

use std::path::PathBuf;

use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_content::Store;
use restow_convert::BoxError;
use restow_convert::Chain;
use restow_convert::Converted;
use restow_convert::Layer as Given;
use restow_convert::LayerConverter;
use restow_convert::Recompress;
use restow_layer::Recompression;
use restow_layer::Workers;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::annotations;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::random_image;

use crate::example::custom_converter::DropPath;
use crate::seekable::seekable;
use crate::support::Nothing;
use crate::support::Pad;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::store;
use crate::support::tar;

fn directory() -> PathBuf {
    tempfile::env::temp_dir()
}

fn chained(converters: Vec<Box<dyn LayerConverter>>) -> Chain {
    Chain::new(converters, directory())
}

fn gzip() -> Recompress {
    Recompress::new(Recompression::Gzip { level: 6 }, Limits::default(), Workers::new(1).unwrap())
}

/// Returns what a store holds.
fn held(store: &MemoryStore) -> Vec<Digest> {
    assert_eq!(store.ingests().unwrap(), []);
    let mut found = Vec::new();
    let visited = store.walk(&mut |info| {
        found.push(info.digest);
        Ok(())
    });
    visited.unwrap();
    found
}

/// Returns an image with a layer of which something is to be dropped, and one without.
fn image() -> Image {
    let whole = TarBuilder::new().file("bin/app", "app").file("doc/app", "words").finish();
    ImageBuilder::new().layer(Layer::gzip(whole)).layer(Layer::zstd(tar("other"))).build()
}

fn alone(store: &MemoryStore, root: &Descriptor, converters: &[&dyn LayerConverter]) -> Descriptor {
    converters
        .iter()
        .fold(root.clone(), |root, converter| convert_all(store, &root, *converter).unwrap().root)
}

#[test]
fn a_chain_ends_where_its_converters_end_one_after_another() {
    let image = image();
    let apart = store(&image);
    let dropped = alone(&apart, &image.root, &[&DropPath::new("doc")]);
    let expected = alone(&apart, &dropped, &[&seekable(1)]);
    let store = store(&image);
    let chain = chained(vec![Box::new(DropPath::new("doc")), Box::new(seekable(1))]);
    let conversion = convert_all(&store, &image.root, &chain).unwrap();
    assert_eq!(conversion.root, expected);
    assert_eq!(conversion.layers[1].statistics.source_compression, "zstd");
    assert_eq!(conversion.warnings, [""; 0]);
    // What lay between them is gone: there are a manifest, a config and two layers more than before.
    assert_eq!(held(&store).len(), held(&self::store(&image)).len() + 4);

    // In any place there may be one that has nothing to do.
    let long: Vec<Box<dyn LayerConverter>> = vec![
        Box::new(Nothing),
        Box::new(DropPath::new("doc")),
        Box::new(gzip()),
        Box::new(Nothing),
        Box::new(seekable(1)),
        Box::new(Nothing),
    ];
    let other = self::store(&image);
    assert_eq!(convert_all(&other, &image.root, &chained(long)).unwrap().root, expected);
    let short: Vec<Box<dyn LayerConverter>> = vec![Box::new(DropPath::new("doc")), Box::new(Nothing)];
    let other = self::store(&image);
    assert_eq!(convert_all(&other, &image.root, &chained(short)).unwrap().root, dropped);
    for idle in [Vec::new(), vec![Box::new(Nothing) as Box<dyn LayerConverter>]] {
        let other = self::store(&image);
        assert_eq!(convert_all(&other, &image.root, &chained(idle)).unwrap().root, image.root);
        assert_eq!(held(&other), held(&self::store(&image)));
    }
}

#[test]
fn a_chain_of_formats_ends_where_the_last_one_alone_would() {
    for seed in 0..2 {
        let image = random_image(seed);
        let store = store(&image);
        let expected = convert_all(&store, &image.root, &seekable(2)).unwrap().root;
        let chain = chained(vec![Box::new(seekable(2)), Box::new(gzip()), Box::new(seekable(2))]);
        assert_eq!(convert_all(&store, &image.root, &chain).unwrap().root, expected, "seed {seed}");
    }
}

#[test]
fn annotations_that_are_still_true_stay() {
    let padded = |annotations| Pad { annotations, ..Pad::by(1) };
    let first = vec![("com.example.first", "1"), (annotations::STARGZ_TOC_DIGEST, "stale")];
    let second = vec![("com.example.second", "2")];
    let image = ImageBuilder::new().layer(Layer::gzip(tar("a"))).build();
    let store = store(&image);
    let chain = chained(vec![Box::new(padded(first)), Box::new(padded(second))]);
    let found = convert_all(&store, &image.root, &chain).unwrap().layers.remove(0).destination.annotations;
    let expected = [("com.example.first", "1"), ("com.example.second", "2")];
    assert!(found.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected), "{found:?}");
}

/// Fails, or says that it cannot.
struct Refusing(bool);

impl LayerConverter for Refusing {
    fn convert(&self, _store: &dyn Store, _layer: &Given<'_>) -> Result<Converted, BoxError> {
        if self.0 { Ok(Converted::Unsupported("no form for it".into())) } else { Err("out of order".into()) }
    }

    fn identity(&self, _layer: &Given<'_>) -> Option<String> {
        None
    }
}

#[test]
fn nothing_stays_of_a_chain_that_breaks() {
    let image = image();
    for (unsupported, problem) in [(true, "no form for it"), (false, "out of order")] {
        let store = store(&image);
        let chain_ = chained(vec![Box::new(gzip()), Box::new(Refusing(unsupported)), Box::new(gzip())]);
        let error = convert_all(&store, &image.root, &chain_).unwrap_err();
        assert!(chain(&error).contains(problem), "{}", chain(&error));
        assert_eq!(held(&store), held(&self::store(&image)));
    }
    let nowhere = Chain::new(vec![Box::new(gzip())], directory().join("not/there"));
    assert!(convert_all(&store(&image), &image.root, &nowhere).is_err());
}

/// Says what it is.
struct Named(Option<&'static str>);

impl LayerConverter for Named {
    fn convert(&self, _store: &dyn Store, _layer: &Given<'_>) -> Result<Converted, BoxError> {
        Ok(Converted::Unchanged)
    }

    fn identity(&self, _layer: &Given<'_>) -> Option<String> {
        self.0.map(str::to_owned)
    }
}

#[test]
fn a_chain_is_what_its_converters_are_in_their_order() {
    let image = image();
    let named = |names: &[Option<&'static str>]| {
        let converters = names.iter().map(|name| Box::new(Named(*name)) as Box<dyn LayerConverter>);
        chained(converters.collect())
    };
    let seen = std::sync::Mutex::new(Vec::new());
    struct Asking<'a>(&'a std::sync::Mutex<Vec<Option<String>>>, Chain);
    impl LayerConverter for Asking<'_> {
        fn convert(&self, _store: &dyn Store, _layer: &Given<'_>) -> Result<Converted, BoxError> {
            Ok(Converted::Unchanged)
        }

        fn identity(&self, layer: &Given<'_>) -> Option<String> {
            let identity = self.1.identity(layer);
            self.0.lock().unwrap().push(identity.clone());
            identity
        }
    }
    for names in [
        &[Some("a"), Some("b")][..],
        &[Some("b"), Some("a")],
        &[Some("a")],
        &[Some("a 1:b")],
        &[Some("a"), None],
    ] {
        convert_all(&store(&image), &image.root, &Asking(&seen, named(names))).unwrap();
    }
    let mut seen = seen.into_inner().unwrap();
    assert_eq!(seen.pop(), Some(None));
    seen.dedup();
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count.min(5), "{seen:?}");
}
