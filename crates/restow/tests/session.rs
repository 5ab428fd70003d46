//! The engine as a program uses it: sessions, observers, reports, and what is refused.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use restow::ConvertOptions;
use restow::Error;
use restow::Observer;
use restow::Order;
use restow::Part;
use restow::SeekableLayers;
use restow::Session;
use restow::Settings;
use restow::Step;
use restow::VerifyOptions;
use restow::report::LayerOutcome;
use restow::report::LayerReport;
use restow_content::Store;
use restow_convert::BoxError;
use restow_convert::Converted;
use restow_convert::Keep;
use restow_convert::Layer;
use restow_convert::LayerConverter;
use restow_layer::ZstdChunked;
use restow_testkit::ImageBuilder;
use restow_testkit::TarBuilder;

fn session() -> Session {
    Session::new(Settings::default()).unwrap()
}

/// Writes an image of these layers, each of one file, and returns its reference.
fn image(directory: &Path, tag: &str, layers: &[&str]) -> String {
    let tar = |text: &&str| TarBuilder::new().file("bin/app", *text).finish();
    let add = |image: ImageBuilder, tar| image.layer(restow_testkit::Layer::gzip(tar));
    let image = layers.iter().map(tar).fold(ImageBuilder::new(), add).build();
    let layout = directory.join(format!("source-{tag}"));
    image.write_layout(&layout, tag).unwrap();
    format!("oci:{}:{tag}", layout.display())
}

fn seekable() -> SeekableLayers {
    SeekableLayers::new(ZstdChunked::new(3)).order(Order::default())
}

/// Keeps what it hears, a word each.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn add(&self, word: impl Into<String>) {
        self.0.lock().unwrap().push(word.into());
    }
}

impl Observer for Heard {
    fn step(&self, step: &Step<'_>) {
        self.add(format!("{step:?}").split('(').next().unwrap());
    }

    fn started(&self, part: &Part<'_>) {
        self.add(match part {
            Part::Layer { .. } => "layer",
            _ => "blob",
        });
    }

    fn advanced(&self, _part: &Part<'_>, bytes: u64) {
        assert!(bytes > 0);
    }

    fn layer_finished(&self, layer: &LayerReport) {
        self.add(format!("{:?}", layer.outcome));
    }
}

#[test]
fn an_observer_hears_of_steps_and_layers_and_the_report_is_the_document() {
    let directory = tempfile::tempdir().unwrap();
    let source = image(directory.path(), "v1", &["first", "second"]);
    let out = format!("oci:{}:v1", directory.path().join("out").display());
    let heard = Arc::new(Heard::default());
    let report = session().job(heard.clone()).convert(source.as_str(), out.as_str(), seekable()).unwrap();
    let count = |word: &str| heard.0.lock().unwrap().iter().filter(|heard| *heard == word).count();
    assert_eq!((count("layer"), count("Converted")), (2, 2));

    let document = serde_json::to_value(&report).unwrap();
    assert_eq!(document["digest"], report.digest.as_str());
    assert_eq!(
        (&document["changed"], &document["layers"][1]["outcome"]),
        (&true.into(), &"converted".into())
    );
    assert_eq!(document["source"]["reference"], source);
    assert_eq!(document["destination"]["references"][0], out);
    let verified = session().verify(out.as_str(), &VerifyOptions::default()).unwrap();
    assert!(verified.ok);
    assert_eq!(verified.digest, report.digest);
}

#[test]
fn a_predicted_order_is_a_step() {
    let directory = tempfile::tempdir().unwrap();
    let source = image(directory.path(), "v1", &["first"]);
    let out = format!("oci:{}:v1", directory.path().join("out").display());
    let heard = Arc::new(Heard::default());
    let layers = SeekableLayers::new(ZstdChunked::new(3));
    let report = session().job(heard.clone()).convert(source.as_str(), out.as_str(), layers).unwrap();
    assert!(heard.0.lock().unwrap().contains(&"Predicting".to_owned()));
    assert_eq!(report.images.len(), 1);
}

#[test]
fn a_batch_converts_a_layer_that_images_share_once() {
    let directory = tempfile::tempdir().unwrap();
    let sources = [("a", ["base", "one"]), ("b", ["base", "two"])];
    let sources = sources.map(|(tag, layers)| (tag, image(directory.path(), tag, &layers)));
    let outcomes = |session: &Session, out: &str| {
        sources.clone().map(|(tag, source)| {
            let out = format!("oci:{}:{tag}", directory.path().join(out).display());
            let report = session.convert(source.as_str(), out.as_str(), seekable()).unwrap();
            report.layers.iter().map(|layer| layer.outcome).collect::<Vec<_>>()
        })
    };
    let (made, known) = (LayerOutcome::Converted, LayerOutcome::Cached);
    let batch = session().batch(NonZeroUsize::MIN);
    assert_eq!(outcomes(&batch, "together"), [vec![made, made], vec![known, made]]);
    assert_eq!(outcomes(&session(), "apart"), [vec![made, made], vec![made, made]]);
}

#[test]
fn work_that_is_stopped_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let source = image(directory.path(), "v1", &["first"]);
    let out = directory.path().join("out");
    let session = session();
    let job = session.job(Arc::new(restow::Silent));
    job.stop().cancel();
    let error = job.convert(source.as_str(), format!("oci:{}:v1", out.display()).as_str(), &Keep);
    let stopped = |error: &(dyn std::error::Error + 'static)| restow::describe(error).contains("cancelled");
    assert!(stopped(&error.unwrap_err()));
    assert!(!out.exists());
    // Only this job was.
    assert!(!session.stop().is_cancelled());
}

/// Fails.
struct Broken;

impl LayerConverter for Broken {
    fn convert(&self, _store: &dyn Store, _layer: &Layer<'_>) -> Result<Converted, BoxError> {
        Err("not today".into())
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        None
    }
}

#[test]
fn an_error_names_the_image_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let source = image(directory.path(), "v1", &["first"]);
    let out = directory.path().join("out");
    let error = session()
        .convert(source.as_str(), format!("oci:{}:v1", out.display()).as_str(), &Broken)
        .unwrap_err();
    let text = restow::describe(&error);
    assert!(text.starts_with(&source) && text.contains("layer 0") && text.ends_with("not today"), "{text}");
    assert!(!out.exists());
}

#[test]
fn what_contradicts_itself_is_refused_before_anything_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let source = image(directory.path(), "v1", &["first"]);
    let out = directory.path().join("out.tar");
    let mut options = ConvertOptions::from(seekable());
    options.attach_provenance = true;
    let name = format!("docker-archive:{}", out.display());
    let error = session().convert(source.as_str(), name.as_str(), options).unwrap_err();
    assert!(matches!(error, Error::Options(_)), "{error}");
    assert!(!out.exists());
    let error = session().verify("store:nothing", &VerifyOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Registry(restow_registry::Error::NoStore)), "{error}");
}
