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
use crate::Statistics;
use crate::Unsupported;
use crate::memo::Turn;

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

/// Converts the layers, on up to `options.jobs` threads, and returns what became of each in their order. `finished` hears
/// of each as soon as that is known, by its place among `layers`.
///
/// The first error stops the others, and is returned when they have stopped.
pub(crate) fn run(
    store: &dyn Store,
    layers: &[Layer<'_>],
    converter: &dyn LayerConverter,
    options: &Options,
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
            match perform(store, work, converter, options) {
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

fn perform(
    store: &dyn Store,
    work: &Work<'_>,
    converter: &dyn LayerConverter,
    options: &Options,
) -> Result<Done, BoxError> {
    let Work { layer, key, .. } = work;
    let _turn = key.as_deref().map(|key| Turn::begin(&*options.memo, key));
    // The wait may have been long.
    layer.cancel.check()?;
    let recalled = key.as_ref().and_then(|key| options.memo.recall(key)).and_then(Memory::into_parts);
    // Such a layer is kept where the user asks for it, whatever an earlier run made of it.
    let is_wanted = |(_, statistics): &(NewBlob, Statistics)| {
        options.unsupported == Unsupported::Fail || statistics.diverging_link.is_none()
    };
    let recalled = recalled.filter(is_wanted);
    if let Some((blob, statistics)) = recalled
        && std::iter::once(&blob.descriptor).chain(&blob.toc).all(|blob| store.open(blob).is_ok())
    {
        let changed = Some(blob);
        return Ok(Done { changed, outcome: Outcome::Recalled, statistics, ..Done::default() });
    }
    layer.observer.layer_started(layer);
    let started = Instant::now();
    let converted = converter.convert(store, layer)?;
    let elapsed = started.elapsed() + converter.spent(layer);
    let kept = |reason| Done { elapsed, reason, ..Done::default() };
    match converted {
        Converted::Unchanged => Ok(kept(None)),
        Converted::Unsupported(reason) => match options.unsupported {
            Unsupported::Fail => Err(reason),
            Unsupported::Keep => Ok(kept(Some(chain(&*reason)))),
        },
        Converted::Changed { descriptor, diff_id, partial, toc, statistics } => {
            let blob = NewBlob { descriptor, diff_id, partial, toc };
            if let Some(key) = key {
                options.memo.remember(key, &Memory::new(&blob, &statistics));
            }
            let same = blob.descriptor.digest == layer.descriptor.digest;
            let outcome = if same { Outcome::Kept } else { Outcome::Converted };
            Ok(Done { changed: Some(blob), outcome, statistics, elapsed, reason: None })
        }
    }
}

/// Returns an error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
