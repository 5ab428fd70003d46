use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use restow_content::Manager as _;
use restow_content::MemoryStore;
use restow_content::Store;
use restow_convert::BoxError;
use restow_convert::Cancel;
use restow_convert::Converted;
use restow_convert::Error;
use restow_convert::Layer;
use restow_convert::LayerConverter;
use restow_convert::LayerReport;
use restow_convert::Memo;
use restow_convert::Memory;
use restow_convert::Observer;
use restow_convert::Options;
use restow_convert::Outcome;
use restow_convert::Platforms;
use restow_convert::RunMemo;
use restow_convert::Turn;
use restow_convert::TurnLost;
use restow_convert::Unsupported;
use restow_convert::convert;
use restow_oci::Digest;
use restow_testkit::Image;
use restow_testkit::ImageBuilder;
use restow_testkit::IndexBuilder;
use restow_testkit::plain;

use crate::support::Pad;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::convert_with;
use crate::support::document;
use crate::support::follow;
use crate::support::image;
use crate::support::store;
use crate::support::tar;

fn layer(name: &str) -> restow_testkit::Layer {
    restow_testkit::Layer::gzip(tar(name))
}

fn jobs(jobs: usize) -> Options {
    Options { jobs: NonZero::new(jobs).unwrap(), platforms: Platforms::All, ..Options::default() }
}

/// An image of two platforms that share layers, one of them twice.
fn shared() -> Image {
    let amd = image("base").layer(layer("base")).layer(layer("amd")).build();
    let arm = image("base").layer(layer("arm")).layer(layer("base")).platform("linux/arm64").build();
    IndexBuilder::new().image(&amd).image(&arm).build()
}

#[test]
fn equal_work_is_done_once_and_its_result_used_everywhere() {
    let index = shared();
    let store = store(&index);
    let converter = Pad::by(1);
    let conversion = convert_all(&store, &index.root, &converter).unwrap();
    assert_eq!(converter.calls.lock().unwrap().len(), 3, "base, amd, arm");
    let outcomes: Vec<_> = conversion.layers.iter().map(|layer| layer.outcome).collect();
    use Outcome::{Converted, Shared};
    assert_eq!(outcomes, [Converted, Shared, Converted, Shared, Converted, Shared]);
    let shared = conversion.layers.iter().filter(|layer| layer.outcome == Shared);
    assert!(shared.clone().all(|layer| layer.elapsed == Duration::ZERO));
    assert!(shared.clone().all(|layer| layer.destination.digest == conversion.layers[0].destination.digest));

    let index = document(&store, &conversion.root);
    for (image, names) in [["base", "base", "amd"], ["base", "arm", "base"]].iter().enumerate() {
        let config = follow(&store, &follow(&store, &index, &format!("/manifests/{image}")), "/config");
        for (position, name) in names.iter().enumerate() {
            let expected = Digest::sha256(&converter.padded(position, &tar(name)));
            assert_eq!(config["rootfs"]["diff_ids"][position], expected.as_str());
        }
    }
}

#[test]
fn the_result_is_the_same_at_any_number_of_jobs() {
    let index = shared();
    let root = |count| convert_with(&store(&index), &index.root, &Pad::by(1), jobs(count)).unwrap().root;
    assert_eq!(root(1), root(2));
    assert_eq!(root(1), root(8));
}

#[test]
fn one_blob_under_two_diff_ids_is_two_pieces_of_work() {
    let image = image("a").layer(layer("a").diff_id(Digest::sha256(b"a lie"))).build();
    let converter = Pad::by(1);
    convert_all(&store(&image), &image.root, &converter).unwrap();
    assert_eq!(converter.positions(), [0, 1], "so that the converter notices the lie");
}

#[test]
fn a_second_run_is_recalled() {
    let index = shared();
    let store = store(&index);
    let options = Options { memo: Arc::new(RunMemo::default()), ..jobs(2) };
    let first = convert_with(&store, &index.root, &Pad::by(1), options.clone()).unwrap();

    let converter = Pad::by(1);
    let second = convert_with(&store, &index.root, &converter, options.clone()).unwrap();
    assert_eq!(second.root, first.root);
    assert_eq!(converter.positions(), [0; 0]);
    assert!(second.layers.iter().all(|layer| layer.outcome == Outcome::Recalled));
    let statistics =
        |layers: &[LayerReport]| layers.iter().map(|layer| layer.statistics.clone()).collect::<Vec<_>>();
    assert_eq!(statistics(&second.layers), statistics(&first.layers));

    let other = Pad::by(2);
    convert_with(&store, &index.root, &other, options.clone()).unwrap();
    assert_eq!(other.positions().len(), 3, "another identity is other work");

    store.remove(&first.layers[0].destination.digest).unwrap();
    let third = convert_with(&store, &index.root, &converter, options).unwrap();
    assert_eq!(third.root, first.root);
    assert_eq!(converter.positions(), [0], "a result that is gone is made again");
}

/// A memo whose turns are lost where the test says so, and that counts what becomes of them.
#[derive(Debug, Default)]
struct Written(Arc<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    texts: Mutex<BTreeMap<String, String>>,
    begun: AtomicUsize,
    renewed: AtomicUsize,
    /// Turns up to this one are lost when they are renewed.
    lost: usize,
    /// Whether each is lost when it ends.
    late: bool,
    /// What another worker remembers while a turn is lost.
    meanwhile: Option<Memory>,
}

impl Memo for Written {
    fn recall(&self, key: &str) -> Option<Memory> {
        serde_json::from_str(self.0.texts.lock().unwrap().get(key)?).ok()
    }

    fn begin(&self, key: &str) -> Box<dyn Turn> {
        let number = self.0.begun.fetch_add(1, Ordering::Relaxed) + 1;
        Box::new(Page { ledger: self.0.clone(), key: key.to_owned(), number })
    }
}

#[derive(Debug)]
struct Page {
    ledger: Arc<Ledger>,
    key: String,
    number: usize,
}

impl Page {
    fn write(&self, memory: &Memory) {
        let text = serde_json::to_string(memory).unwrap();
        self.ledger.texts.lock().unwrap().insert(self.key.clone(), text);
    }
}

impl Turn for Page {
    fn renew(&self) -> Result<(), TurnLost> {
        self.ledger.renewed.fetch_add(1, Ordering::Relaxed);
        if self.number > self.ledger.lost {
            return Ok(());
        }
        self.ledger.meanwhile.iter().for_each(|memory| self.write(memory));
        Err(TurnLost)
    }

    fn finish(self: Box<Self>, memory: &Memory) -> Result<(), TurnLost> {
        if self.ledger.late {
            return Err(TurnLost);
        }
        self.write(memory);
        Ok(())
    }
}

/// Converts an image with a memo, and returns what became of its only layer and how often the converter was asked.
fn converted_by(ledger: &Arc<Ledger>, store: &MemoryStore, image: &Image) -> (LayerReport, usize) {
    let converter = Pad::by(1);
    let options = Options { memo: Arc::new(Written(ledger.clone())), ..jobs(1) };
    let conversion = convert_with(store, &image.root, &converter, options).unwrap();
    let report = conversion.layers[0].clone();
    (report, converter.positions().len())
}

#[test]
fn a_turn_is_renewed_while_its_work_goes_on_and_ends_with_the_result() {
    let image = image("a").build();
    let ledger = Arc::new(Ledger::default());
    let (report, calls) = converted_by(&ledger, &store(&image), &image);
    assert_eq!((report.outcome, calls), (Outcome::Converted, 1));
    assert!(ledger.renewed.load(Ordering::Relaxed) > 0);
    assert_eq!((ledger.begun.load(Ordering::Relaxed), ledger.texts.lock().unwrap().len()), (1, 1));
}

#[test]
fn work_whose_turn_was_lost_stops_and_takes_what_others_made_of_it_meanwhile() {
    let image = image("a").build();
    let store = store(&image);
    let first = Arc::new(Ledger::default());
    let (expected, _) = converted_by(&first, &store, &image);
    let text = first.texts.lock().unwrap().values().next().unwrap().clone();
    let meanwhile = Some(serde_json::from_str(&text).unwrap());
    let ledger = Arc::new(Ledger { lost: 1, meanwhile, ..Ledger::default() });
    let (report, calls) = converted_by(&ledger, &store, &image);
    assert_eq!((report.outcome, calls), (Outcome::Recalled, 1));
    assert_eq!(report.destination, expected.destination);
    assert_eq!(ledger.begun.load(Ordering::Relaxed), 2);
}

#[test]
fn work_that_loses_every_turn_is_done_all_the_same() {
    let image = image("a").build();
    let ledger = Arc::new(Ledger { lost: usize::MAX, ..Ledger::default() });
    let (report, calls) = converted_by(&ledger, &store(&image), &image);
    assert_eq!((report.outcome, calls, ledger.begun.load(Ordering::Relaxed)), (Outcome::Converted, 4, 3));
    assert!(ledger.texts.lock().unwrap().is_empty(), "and nothing is remembered without a turn");
}

#[test]
fn a_result_whose_turn_ended_too_soon_counts_and_is_not_remembered() {
    let image = image("a").build();
    let ledger = Arc::new(Ledger { late: true, ..Ledger::default() });
    let (report, calls) = converted_by(&ledger, &store(&image), &image);
    assert_eq!((report.outcome, calls), (Outcome::Converted, 1));
    assert!(ledger.texts.lock().unwrap().is_empty());
}

#[test]
fn memories_can_be_written_down() {
    let image = image("a").build();
    let store = store(&image);
    let memo = Arc::new(Written::default());
    let options = Options { memo: memo.clone(), ..jobs(1) };
    let annotated = || Pad { annotations: vec![("a", "b")], ..Pad::by(1) };
    let first = convert_with(&store, &image.root, &annotated(), options.clone()).unwrap();
    let second = convert_with(&store, &image.root, &annotated(), options.clone()).unwrap();
    assert_eq!(second.layers[0].outcome, Outcome::Recalled);
    assert_eq!(second.root, first.root, "annotations are remembered too");

    for text in memo.0.texts.lock().unwrap().values_mut() {
        *text = text.replace("sha256:", "sha256:../");
    }
    let third = convert_with(&store, &image.root, &annotated(), options).unwrap();
    assert_eq!(third.layers[0].outcome, Outcome::Converted, "a garbled memory is none");
}

/// A converter that does as a layer's only file says.
struct Obedient {
    started: Mutex<Vec<String>>,
}

impl Obedient {
    fn new() -> Self {
        Self { started: Mutex::default() }
    }
}

impl LayerConverter for Obedient {
    fn convert(&self, store: &dyn Store, layer: &Layer<'_>) -> Result<Converted, BoxError> {
        let mut blob = Vec::new();
        std::io::copy(&mut layer.open(store)?, &mut blob)?;
        let name = plain::names(&plain::decompress(blob)?).remove(0);
        self.started.lock().unwrap().push(name.clone());
        match name.as_str() {
            "fail" => Err("as it was told".into()),
            "unsupported" => Ok(Converted::Unsupported("as it was told".into())),
            "wait" => loop {
                layer.cancel.check()?;
                std::thread::sleep(Duration::from_millis(1));
            },
            "cancel" => {
                layer.cancel.cancel();
                Err("was cancelled".into())
            }
            _ => Ok(Converted::Unchanged),
        }
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        None
    }
}

fn layers(names: &[&str]) -> Image {
    names.iter().map(|name| layer(name)).fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

#[test]
fn the_first_error_stops_the_others_and_names_its_layer() {
    let image = layers(&["wait", "wait", "fail", "wait", "never"]);
    let error = convert_with(&store(&image), &image.root, &Obedient::new(), jobs(8)).unwrap_err();
    let Error::Layer { manifest, position, media_type, .. } = &error else { panic!("{error}") };
    assert_eq!((manifest, *position), (&image.root.digest, 2));
    assert_eq!(media_type.as_str(), "application/vnd.oci.image.layer.v1.tar+gzip");
    assert!(
        chain(&error).starts_with(&format!("layer 2 of manifest {}", image.root.digest)),
        "{}",
        chain(&error)
    );
    assert!(chain(&error).ends_with(": as it was told"), "{}", chain(&error));
}

#[test]
fn work_that_has_not_begun_never_begins_after_an_error() {
    let image = layers(&["fail", "never", "never"]);
    let converter = Obedient::new();
    assert!(convert_with(&store(&image), &image.root, &converter, jobs(1)).is_err());
    assert_eq!(converter.started.into_inner().unwrap(), ["fail"]);
}

#[test]
fn the_caller_can_stop_everything() {
    let image = layers(&["wait", "wait", "wait"]);
    let cancel = Cancel::default();
    let options = Options { cancel: cancel.clone(), ..jobs(2) };
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        cancel.cancel();
    });
    let error = convert_with(&store(&image), &image.root, &Obedient::new(), options).unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    stopper.join().unwrap();
}

#[test]
fn one_conversion_that_fails_does_not_stop_the_next() {
    let options = jobs(2);
    let failing = layers(&["fail"]);
    assert!(convert_with(&store(&failing), &failing.root, &Obedient::new(), options.clone()).is_err());
    let fine = layers(&["fine"]);
    assert!(convert_with(&store(&fine), &fine.root, &Obedient::new(), options).is_ok());
}

#[test]
fn a_layer_that_cannot_be_converted_fails_or_stays() {
    let image = layers(&["fine", "unsupported"]);
    let store = store(&image);
    let error = convert_with(&store, &image.root, &Obedient::new(), jobs(1)).unwrap_err();
    assert!(matches!(error, Error::Layer { position: 1, .. }), "{error}");
    let options = Options { unsupported: Unsupported::Keep, ..jobs(1) };
    let kept = convert_with(&store, &image.root, &Obedient::new(), options).unwrap();
    assert_eq!(kept.root, image.root);
    let expected = format!("layer 1 of manifest {} stays as it is: as it was told", image.root.digest);
    assert_eq!(kept.warnings, [expected]);
}

#[derive(Default)]
struct Diary {
    lines: Mutex<Vec<String>>,
    unread: Mutex<u64>,
}

impl Diary {
    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

impl Observer for Diary {
    fn layer_started(&self, layer: &Layer<'_>) {
        self.note(format!("{} starts", layer.position));
        *self.unread.lock().unwrap() = layer.descriptor.size;
    }

    fn advanced(&self, layer: &Layer<'_>, bytes: u64) {
        let mut unread = self.unread.lock().unwrap();
        *unread -= bytes;
        if *unread == 0 {
            self.note(format!("{} is read", layer.position));
        }
    }

    fn layer_finished(&self, report: &LayerReport) {
        self.note(format!("{} is {:?}", report.position, report.outcome));
    }

    fn warning(&self, text: &str) {
        self.note(text.to_owned());
    }
}

#[test]
fn an_observer_hears_of_everything_as_it_happens() {
    let passing = restow_testkit::Layer::blob("application/wasm", "wasm");
    let small = layer("a");
    let large = restow_testkit::Layer::plain(tar("large"));
    let image = ImageBuilder::new().layer(small.clone()).layer(passing).layer(large).layer(small).build();
    let diary = Diary::default();
    convert(&store(&image), &image.root, &Pad::by(1), &jobs(1), &diary).unwrap();
    let expected = [
        // The largest layer first.
        "2 starts",
        "2 is read",
        "2 is Converted",
        "0 starts",
        "0 is read",
        "0 is Converted",
        "3 is Shared",
        "1 is Kept",
    ];
    let mut told = diary.lines.into_inner().unwrap();
    assert!(told.pop().unwrap().ends_with("stays as it is: application/wasm is no layer that restow reads"));
    assert_eq!(told, expected);
}

#[test]
fn an_identity_of_none_shares_nothing() {
    let image = layers(&["fine", "fine"]);
    let converter = Obedient::new();
    let options = Options { memo: Arc::new(RunMemo::default()), ..jobs(1) };
    convert_with(&store(&image), &image.root, &converter, options).unwrap();
    assert_eq!(converter.started.into_inner().unwrap().len(), 2);
}

/// A memo that lets the first conversion go on only once the second has asked for its turn.
#[derive(Debug)]
struct Met {
    memo: RunMemo,
    both: std::sync::Barrier,
}

impl Memo for Met {
    fn recall(&self, key: &str) -> Option<Memory> {
        self.memo.recall(key)
    }

    fn begin(&self, key: &str) -> Box<dyn Turn> {
        self.both.wait();
        self.memo.begin(key)
    }
}

#[test]
fn conversions_side_by_side_that_share_a_memo_do_equal_work_once() {
    let image = image("base").build();
    let store = store(&image);
    let met = Arc::new(Met { memo: RunMemo::default(), both: std::sync::Barrier::new(2) });
    let options = Options { memo: met, ..jobs(1) };
    let converter = Pad::by(1);
    let roots = std::thread::scope(|scope| {
        let run = || convert_with(&store, &image.root, &converter, options.clone()).unwrap().root;
        [scope.spawn(run), scope.spawn(run)].map(|thread| thread.join().unwrap())
    });
    assert_eq!(roots[0], roots[1]);
    assert_eq!(converter.positions(), [0]);
}

#[test]
fn work_that_failed_is_somebody_elses_turn() {
    let options = Options { memo: Arc::new(RunMemo::default()), ..jobs(1) };
    let image = image("a").build();
    for _ in 0..2 {
        // The second would wait for ever.
        convert_with(&store(&image), &image.root, &Failing, options.clone()).unwrap_err();
    }
}

/// A converter that can do nothing.
struct Failing;

impl LayerConverter for Failing {
    fn convert(&self, _store: &dyn Store, _layer: &Layer<'_>) -> Result<Converted, BoxError> {
        Err("no".into())
    }

    fn identity(&self, _layer: &Layer<'_>) -> Option<String> {
        Some("failing".into())
    }
}
