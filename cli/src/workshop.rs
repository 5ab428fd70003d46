//! What conversions have in common that one run does: threads, memory, places.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use clap::Args;
use restow::memo::FileMemo;
use restow_content as content;
use restow_content::Blob;
use restow_content::Provider;
use restow_convert::Memo;
use restow_convert::NoMemo;
use restow_convert::RunMemo;
use restow_layer::Workers;
use restow_oci::Descriptor;
use restow_registry as registry;
use restow_registry::Destination;
use restow_registry::Existing;
use restow_registry::Place;
use restow_registry::Writing;

use crate::access::open_destination;
use crate::args::JobsArguments;
use crate::directories;
use crate::reference;

/// What the work takes, whatever is done.
#[derive(Debug, Args)]
pub(crate) struct WorkArguments {
    #[command(flatten)]
    jobs: JobsArguments,
    /// Where temporary files go [default: the destination's directory]
    ///
    /// They hold compressed data: the layers in which files move to the front, and tables of contents that
    /// outgrow memory.
    #[arg(long, value_name = "DIR")]
    tmp_dir: Option<PathBuf>,
    /// Where to remember things between runs [default: restow in the user's cache directory]
    ///
    /// Of a converted layer, a digest and some numbers are remembered, at most 64 KiB for each of at most 65,536 layers;
    /// of an image, the order of its files, at most 1 MiB for each of at most 256 images. With --run, images are unpacked
    /// there too [default: where the store is].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Remember nothing and recall nothing of other runs: convert every layer
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,
}

/// A place that is open to be written to.
pub(crate) type Opened = Arc<Box<dyn Destination>>;

/// Where images are converted.
pub(crate) struct Workshop {
    pub(crate) workers: Arc<Workers>,
    /// How many layers of an image are worked on at a time.
    pub(crate) layers: NonZeroUsize,
    /// Where temporary files go, if not to the destination.
    pub(crate) tmp_dir: Option<PathBuf>,
    /// Where things are remembered between runs.
    pub(crate) cache: Option<PathBuf>,
    /// Where images are unpacked that are run.
    pub(crate) roots: Option<PathBuf>,
    memo: Arc<dyn Memo>,
    batch: Option<Batch>,
    /// What becomes of images that are where they go, whatever a job says.
    pub(crate) existing: Existing,
}

/// What several jobs share beside.
struct Batch {
    /// For those whose blobs the others see.
    memo: Arc<dyn Memo>,
    /// The layouts and stores that have been written to, whose blobs stay where they are.
    places: Mutex<Vec<(Place, Opened)>>,
}

impl Batch {
    fn places(&self) -> MutexGuard<'_, Vec<(Place, Opened)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workshop {
    /// Returns one for a single image.
    pub(crate) fn new(arguments: &WorkArguments) -> anyhow::Result<Self> {
        let threads = arguments.jobs.count();
        let cache = arguments.cache_dir.clone().or_else(directories::cache);
        let cache = cache.filter(|_| !arguments.no_cache);
        let roots = reference::roots(arguments.cache_dir.as_deref()).filter(|_| !arguments.no_cache);
        let memo: Arc<dyn Memo> = match &cache {
            Some(directory) => Arc::new(FileMemo::new(directory)),
            None => Arc::new(NoMemo),
        };
        Ok(Self {
            workers: Arc::new(Workers::new(threads.get())?),
            layers: threads,
            tmp_dir: arguments.tmp_dir.clone(),
            cache,
            roots,
            memo,
            batch: None,
            existing: Existing::default(),
        })
    }

    /// Returns one for many images, `images` of them at a time. No more layers are worked on together than for one.
    pub(crate) fn for_batch(
        arguments: &WorkArguments,
        images: NonZeroUsize,
        existing: Existing,
    ) -> anyhow::Result<Self> {
        let alone = Self::new(arguments)?;
        let layers = alone.layers.get().div_ceil(images.get());
        let memo = Arc::new(RunMemo::before(alone.memo.clone()));
        Ok(Self {
            layers: NonZeroUsize::new(layers).unwrap_or(NonZeroUsize::MIN),
            batch: Some(Batch { memo, places: Mutex::default() }),
            existing,
            ..alone
        })
    }

    /// Opens the place of a destination, and makes it where there is nothing.
    ///
    /// Jobs that write to one layout or store do so through one, so that none takes away what another has begun.
    pub(crate) fn open(&self, place: &Place, mut writing: Writing<'_>) -> registry::Result<Opened> {
        if self.existing == Existing::Repair {
            writing.existing = Existing::Repair;
        }
        let open = || Ok(Arc::new(open_destination(place, writing)?));
        let Some(batch) = self.batch.as_ref().filter(|_| stays(place)) else { return open() };
        let mut places = batch.places();
        if let Some((_, opened)) = places.iter().find(|(known, _)| known == place) {
            return Ok(opened.clone());
        }
        let opened = open()?;
        places.push((place.clone(), opened.clone()));
        Ok(opened)
    }

    /// Returns the memory of converted layers for a job that writes to the place.
    pub(crate) fn memo(&self, place: &Place) -> Arc<dyn Memo> {
        let shared = self.batch.as_ref().filter(|_| stays(place)).map(|batch| &batch.memo);
        shared.unwrap_or(&self.memo).clone()
    }

    /// Removes what a batch has left in new layouts to which nothing was published.
    pub(crate) fn close(self) {
        let places =
            self.batch.map(|batch| batch.places.into_inner().unwrap_or_else(PoisonError::into_inner));
        places.into_iter().flatten().for_each(|(_, place)| give_up(place));
    }
}

/// Removes what a job that failed has left, unless others write to the place, too.
pub(crate) fn give_up(place: Opened) {
    if let Some(place) = Arc::into_inner(place) {
        // The error of the job says more than what could not be cleaned up after it.
        let _ = place.discard();
    }
}

/// Tells whether blobs stay in the place where they are written.
fn stays(place: &Place) -> bool {
    matches!(place, Place::Layout(_) | Place::Store(_))
}

/// The blobs of the places that jobs of the batch have written to.
impl Provider for Workshop {
    fn open(&self, descriptor: &Descriptor) -> content::Result<Box<dyn Blob>> {
        let places = self.batch.iter().flat_map(|batch| batch.places().clone());
        let found = places.into_iter().find_map(|(_, place)| place.store().open(descriptor).ok());
        found.ok_or_else(|| content::Error::NotFound { digest: descriptor.digest.clone() })
    }
}
