//! Converts the layers of all images side by side, each piece of work once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use restow_content::Store;
use restow_oci::Descriptor;
use restow_oci::Digest;

use crate::BoxError;
use crate::Cancelled;
use crate::Converted;
use crate::Error;
use crate::Layer;
use crate::LayerConverter;
use crate::Memory;
use crate::Options;
use crate::Outcome;
use crate::Partial;
use crate::Result;
use crate::SourceImage;
use crate::Statistics;
use crate::Unsupported;
use crate::memo::Pulse;

/// What a layer was converted to, as in [`Converted::Changed`].
#[derive(Clone, Debug)]
pub(crate) struct NewBlob {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) partial: Option<Partial>,
    pub(crate) toc: Option<Descriptor>,
}

/// What became of a layer that was given to the converter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// The new blob, if there is one.
    pub(crate) changed: Option<NewBlob>,
    pub(crate) outcome: Outcome,
    pub(crate) statistics: Statistics,
    pub(crate) elapsed: Duration,
    /// Why the layer stays as it is, where one would expect otherwise.
    pub(crate) reason: Option<String>,
}

impl Done {
    /// Returns what there is to remember of it.
    fn memory(&self) -> Option<Memory> {
        self.changed.as_ref().map(|blob| Memory::new(blob, &self.statistics))
    }

    /// Returns the same for an equal layer, which took no work.
    fn shared(mut self) -> Self {
        self.elapsed = Duration::ZERO;
        if self.outcome == Outcome::Converted {
            self.outcome = Outcome::Shared;
        }
        self
    }
}

/// Layers that come to the same result.
struct Work<'a> {
    /// The first of them in the order of the images.
    layer: Layer<'a>,
    /// Where they are in the list of all layers, in order.
    places: Vec<usize>,
    key: Option<String>,
}

/// What has become of layers in this run, by what decides the result.
type Known = Mutex<BTreeMap<String, Done>>;

/// Converts the layers of all images and returns what became of each in their order: image by image if the converter
/// looks at the layers of an image together, else all side by side. `finished` hears of each as soon as that is known, by
/// its place among all layers.
pub(crate) fn run<'a>(
    store: &'a dyn Store,
    images: &'a [SourceImage<'a>],
    converter: &'a dyn LayerConverter,
    options: &Options,
    finished: &(dyn Fn(usize, &Done) + Sync),
) -> Result<Vec<Done>> {
    let known = Known::default();
    let Some(per_image) = converter.per_image() else {
        let layers: Vec<_> = images.iter().flat_map(|image| image.layers.clone()).collect();
        return run_together(store, &layers, converter, options, &known, finished);
    };
    let mut all = Vec::new();
    for (place, image) in images.iter().enumerate().filter(|(_, image)| !image.layers.is_empty()) {
        options.cancel.check()?;
        let begun = per_image.begin(store, image, &images[place + 1..]);
        let begun = begun.map_err(|source| match options.cancel.check() {
            Err(cancelled) => cancelled.into(),
            Ok(()) => Error::Image { manifest: image.descriptor.digest.clone(), source },
        })?;
        let first = all.len();
        let finished = |place: usize, done: &Done| finished(first + place, done);
        all.extend(run_together(store, &image.layers, &*begun, options, &known, &finished)?);
    }
    Ok(all)
}

/// Converts layers side by side, on up to `options.jobs` threads.
///
/// The first error stops the others, and is returned when they have stopped.
fn run_together(
    store: &dyn Store,
    layers: &[Layer<'_>],
    converter: &dyn LayerConverter,
    options: &Options,
    known: &Known,
    finished: &(dyn Fn(usize, &Done) + Sync),
) -> Result<Vec<Done>> {
    let works = group(layers, converter);
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<Done>> = layers.iter().map(|_| OnceLock::new()).collect();
    let failures = Mutex::new(BTreeMap::new());
    let work_off = || {
        while let Some(work) = works.get(next.fetch_add(1, Ordering::Relaxed)) {
            let cancel = work.layer.cancel;
            if cancel.is_cancelled() {
                return;
            }
            match once(known, work, || perform(store, work, converter, options)) {
                Ok(done) => {
                    let dones = std::iter::once(done.clone()).chain(std::iter::repeat(done.shared()));
                    for (&place, done) in work.places.iter().zip(dones) {
                        finished(place, results[place].get_or_init(|| done));
                    }
                }
                // It stopped because it was asked to, which is no news.
                Err(_) if cancel.is_cancelled() => return,
                Err(error) => {
                    cancel.cancel();
                    failures.lock().unwrap_or_else(PoisonError::into_inner).insert(work.places[0], error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.jobs.get().min(works.len()) {
            scope.spawn(work_off);
        }
        work_off();
    });
    if let Some((place, error)) = failures.into_inner().unwrap_or_else(PoisonError::into_inner).pop_first() {
        return Err(Error::layer(&layers[place], error));
    }
    results.into_iter().map(|done| done.into_inner().ok_or_else(|| Cancelled.into())).collect()
}

/// Does work that has not been done for an earlier image.
fn once(
    known: &Known,
    work: &Work<'_>,
    perform: impl FnOnce() -> Result<Done, BoxError>,
) -> Result<Done, BoxError> {
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(key) = &work.key else { return perform() };
    if let Some(done) = known().get(key) {
        return Ok(done.clone().shared());
    }
    let done = perform()?;
    known().insert(key.clone(), done.clone());
    Ok(done)
}

/// Joins equal work and puts the largest first, so that no thread is left with a large layer at the end.
fn group<'a>(layers: &[Layer<'a>], converter: &dyn LayerConverter) -> Vec<Work<'a>> {
    let mut works: Vec<Work<'a>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (place, layer) in layers.iter().enumerate() {
        let key = converter.identity(layer).map(|identity| key(layer, &identity));
        match key.as_ref().and_then(|key| known.get(key)) {
            Some(&work) => works[work].places.push(place),
            None => {
                known.extend(key.clone().map(|key| (key, works.len())));
                works.push(Work { layer: *layer, places: vec![place], key });
            }
        }
    }
    works.sort_by_key(|work| std::cmp::Reverse(work.layer.descriptor.size));
    works
}

/// What decides the result. The DiffID is part of it because a converter holds the layer to it: where two configs
/// disagree about one blob, one of them is wrong and has to be told so.
fn key(layer: &Layer<'_>, identity: &str) -> String {
    let Descriptor { digest, media_type, .. } = layer.descriptor;
    format!("{digest} {media_type} {} {identity}", layer.diff_id)
}

/// How often work is begun anew because its turn was lost. What comes then goes on without one: work done twice is better
/// than work that is never done.
const TURNS: usize = 3;

fn perform(
    store: &dyn Store,
    work: &Work<'_>,
    converter: &dyn LayerConverter,
    options: &Options,
) -> Result<Done, BoxError> {
    let Work { layer, key, .. } = work;
    let Some(key) = key else { return convert(store, layer, converter, options) };
    for _ in 0..TURNS {
        let turn = Pulse::of(options.memo.begin(key));
        // The wait may have been long.
        layer.cancel.check()?;
        if let Some(done) = recall(store, key, options) {
            return Ok(done);
        }
        let cancel = layer.cancel.of_turn(turn.clone());
        let done = convert(store, &Layer { cancel: &cancel, ..*layer }, converter, options);
        if done.is_err() && turn.is_lost() && !layer.cancel.is_cancelled() {
            continue;
        }
        let memory = done.as_ref().ok().and_then(Done::memory);
        turn.end(memory.as_ref());
        return done;
    }
    convert(store, layer, converter, options)
}

/// Returns what is remembered under a key, if its blobs are there and it is wanted.
fn recall(store: &dyn Store, key: &str, options: &Options) -> Option<Done> {
    let (blob, statistics) = options.memo.recall(key).and_then(Memory::into_parts)?;
    // Such a layer is kept where the user asks for it, whatever an earlier run made of it.
    if options.unsupported == Unsupported::Keep && statistics.diverging_link.is_some() {
        return None;
    }
    let is_there = std::iter::once(&blob.descriptor).chain(&blob.toc).all(|blob| store.open(blob).is_ok());
    is_there.then(|| Done { changed: Some(blob), outcome: Outcome::Recalled, statistics, ..Done::default() })
}

fn convert(
    store: &dyn Store,
    layer: &Layer<'_>,
    converter: &dyn LayerConverter,
    options: &Options,
) -> Result<Done, BoxError> {
    layer.observer.layer_started(layer);
    let started = Instant::now();
    let converted = converter.convert(store, layer)?;
    let elapsed = started.elapsed();
    let kept = |reason| Done { elapsed, reason, ..Done::default() };
    match converted {
        Converted::Unchanged => Ok(kept(None)),
        Converted::Unsupported(reason) => match options.unsupported {
            Unsupported::Fail => Err(reason),
            Unsupported::Keep => Ok(kept(Some(chain(&*reason)))),
        },
        Converted::Changed { descriptor, diff_id, partial, toc, statistics } => {
            let same = descriptor.digest == layer.descriptor.digest;
            let outcome = if same { Outcome::Kept } else { Outcome::Converted };
            let changed = Some(NewBlob { descriptor, diff_id, partial, toc });
            Ok(Done { changed, outcome, elapsed: elapsed + statistics.begun, statistics, reason: None })
        }
    }
}

/// Returns an error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
