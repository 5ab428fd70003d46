//! The state that pieces of work share: threads, memory, places, and how registries are reached.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;

use restow_content as content;
use restow_content::Blob;
use restow_content::Provider;
use restow_convert::Cancel;
use restow_convert::Memo;
use restow_convert::NoMemo;
use restow_convert::RunMemo;
use restow_layer::Workers;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_registry as registry;
use restow_registry::Access;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::StoreImages;
use restow_registry::Writing;
use restow_registry::client::Clock;
use restow_registry::client::SystemClock;

use crate::Error;
use crate::Observer;
use crate::Result;
use crate::Silent;
use crate::Warning;
use crate::memo::FileMemo;

/// A place that is open to be written to.
pub(crate) type OpenPlace = Arc<Box<dyn registry::Destination>>;

/// Says how registries are reached. It is asked once, when the first one is needed.
pub type Registries = Arc<dyn Fn() -> registry::Result<registry::Settings> + Send + Sync>;

/// What a [`Session`] works with.
#[derive(Clone)]
#[non_exhaustive]
pub struct Settings {
    /// How many threads work. No result depends on it.
    pub threads: NonZeroUsize,
    /// How much is accepted of what is read.
    pub limits: Limits,
    /// The directory of the store that `store:NAME` is in.
    pub store: Option<PathBuf>,
    /// The directory in which conversions and orders are remembered; without it, nothing is.
    pub cache: Option<PathBuf>,
    /// The memory of converted layers, if not one in [`cache`](Settings::cache).
    pub memo: Option<Arc<dyn Memo>>,
    /// The directory below which unpacked images are kept that were run; without it, none is.
    pub roots: Option<PathBuf>,
    /// The directory for temporary files that hold compressed layers; without it, the destination's.
    pub temporary: Option<PathBuf>,
    /// The directory for temporary files that lie beside no destination.
    pub scratch: PathBuf,
    /// The command line of a program that becomes a part of a sandbox: the name of the part comes behind it. Nothing can
    /// be run without it; see [`restow_analyze::sandbox`].
    pub helper: Vec<OsString>,
    /// How registries are reached.
    pub registries: Registries,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Stops all work once it is raised.
    pub stop: Cancel,
}

impl Default for Settings {
    /// As many threads as there are processors, nothing remembered, registries without logins.
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits::default(),
            store: None,
            cache: None,
            memo: None,
            roots: None,
            temporary: None,
            scratch: "/var/tmp".into(),
            helper: Vec::new(),
            registries: Arc::new(|| Ok(registry::Settings::default())),
            clock: Arc::new(SystemClock::default()),
            stop: Cancel::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, store, cache, roots, temporary, scratch, .. } = self;
        let mut shown = f.debug_struct("Settings");
        shown.field("threads", threads).field("store", store).field("cache", cache).field("roots", roots);
        shown.field("temporary", temporary).field("scratch", scratch).finish_non_exhaustive()
    }
}

/// Converts, copies, verifies, predicts, records and lists images. Clones share everything.
///
/// A session keeps the threads, the memory of earlier work and the connections to registries; each method is one piece
/// of work. Pieces of work may go on side by side, each by a [`job`](Session::job) of its own.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    batch: Option<Arc<Batch>>,
    /// How many layers of an image are worked on at a time.
    layers: NonZeroUsize,
    observer: Arc<dyn Observer>,
    stop: Cancel,
}

struct Shared {
    settings: Settings,
    access: Access,
    workers: OnceLock<Arc<Workers>>,
    memo: Arc<dyn Memo>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Session {
    /// Returns a session that tells nobody what it does. Nothing is read or begun yet.
    pub fn new(settings: Settings) -> Result<Self> {
        let (registries, clock) = (settings.registries.clone(), settings.clock.clone());
        let reach = move || Ok(registry::Settings { clock: clock.clone(), ..registries()? });
        let memo: Arc<dyn Memo> = match (&settings.memo, &settings.cache) {
            (Some(memo), _) => memo.clone(),
            (None, Some(directory)) => Arc::new(FileMemo::new(directory)),
            (None, None) => Arc::new(NoMemo),
        };
        let (layers, stop) = (settings.threads, settings.stop.clone());
        let access = Access::new(settings.limits.clone(), &settings.scratch, reach);
        let shared = Shared { settings, access, workers: OnceLock::new(), memo };
        Ok(Self { shared: Arc::new(shared), batch: None, layers, observer: Arc::new(Silent), stop })
    }

    /// Returns a session for one piece of work: it shares all with this one, tells `observer` what it does, and can be
    /// stopped alone.
    pub fn job(&self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, stop: self.stop.child(), ..self.clone() }
    }

    /// Returns a session for a batch of conversions and copies, `images` of them side by side. Layers that several need are
    /// converted once, if they are written to layouts or stores, which stay open until the last clone of the result goes.
    pub fn batch(&self, images: NonZeroUsize) -> Self {
        // No more layers are worked on together than for one image.
        let layers = self.layers.get().div_ceil(images.get());
        let memo = Arc::new(RunMemo::before(self.shared.memo.clone()));
        Self {
            layers: NonZeroUsize::new(layers).unwrap_or(NonZeroUsize::MIN),
            batch: Some(Arc::new(Batch { memo, places: Mutex::default() })),
            ..self.clone()
        }
    }

    /// Returns what the session was made with.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Returns how images are reached.
    pub fn access(&self) -> &Access {
        &self.shared.access
    }

    /// Returns what stops the work.
    pub fn stop(&self) -> &Cancel {
        &self.stop
    }

    /// Parses a reference, whose store is that of the session.
    pub fn reference(&self, text: &str) -> Result<Reference> {
        Ok(Reference::parse(text)?.in_store(self.settings().store.as_deref()))
    }

    /// Removes what is unfinished, though it is in use: for the moment before the process ends without waiting for anybody.
    pub fn abandon(&self) {
        self.access().abandon();
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }

    pub(crate) fn warn(&self, warning: &Warning) {
        self.observer.warning(warning);
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.settings().limits
    }

    /// Returns the limits of work that may take names through a parent directory (`../x`).
    pub(crate) fn limits_with(&self, parent_references: bool) -> Limits {
        Limits { parent_references, ..self.limits().clone() }
    }

    pub(crate) fn layers(&self) -> NonZeroUsize {
        self.layers
    }

    pub(crate) fn now(&self) -> Duration {
        self.settings().clock.now()
    }

    /// Returns the threads that compress, which start when they are first needed.
    pub(crate) fn workers(&self) -> Result<&Arc<Workers>> {
        if let Some(workers) = self.shared.workers.get() {
            return Ok(workers);
        }
        let workers = Arc::new(Workers::new(self.settings().threads.get())?);
        Ok(self.shared.workers.get_or_init(|| workers))
    }

    /// Finds an image that is read as often as need be.
    pub(crate) fn open<R>(&self, reference: R) -> Result<(Reference, Source)>
    where
        R: TryInto<Reference, Error: Into<Error>>,
    {
        let reference = reference.try_into().map_err(Into::into)?;
        let reference = reference.in_store(self.settings().store.as_deref());
        let source = self.access().open_source(&reference, Reading::Again)?;
        Ok((reference, source))
    }

    /// Opens the place of a destination, and makes it where there is nothing.
    ///
    /// Jobs of a batch that write to one layout or store do so through one, so that none takes away what another has begun.
    pub(crate) fn open_place(&self, place: &Place, writing: Writing<'_>) -> Result<OpenPlace> {
        let Some(batch) = self.batch.as_ref().filter(|_| stays(place)) else {
            return self.open_alone(place, writing);
        };
        let mut places = batch.places();
        if let Some((_, opened)) = places.iter().find(|(known, _)| known == place) {
            return Ok(opened.clone());
        }
        let opened = self.open_alone(place, writing)?;
        places.push((place.clone(), opened.clone()));
        Ok(opened)
    }

    fn open_alone(&self, place: &Place, writing: Writing<'_>) -> Result<OpenPlace> {
        let Place::Store(Some(root)) = place else {
            return Ok(Arc::new(self.access().open_destination(place, writing)?));
        };
        let images = StoreImages::create(root, self.limits())?;
        for warning in images.rebuilt().into_iter().flat_map(|rebuilt| Warning::of_rebuilt(root, rebuilt)) {
            self.warn(&warning);
        }
        Ok(Arc::new(Box::new(images)))
    }

    /// Returns the memory of converted layers for work that writes to the place.
    pub(crate) fn memo(&self, place: &Place) -> Arc<dyn Memo> {
        let shared = self.batch.as_ref().filter(|_| stays(place)).map(|batch| &batch.memo);
        shared.unwrap_or(&self.shared.memo).clone()
    }

    /// Returns the blobs of the places that other jobs of the batch have written to.
    pub(crate) fn others(&self) -> Option<&dyn Provider> {
        self.batch.as_deref().map(|batch| batch as &dyn Provider)
    }

    /// Returns the directory of what is remembered between runs.
    pub(crate) fn cache(&self) -> Option<&Path> {
        self.settings().cache.as_deref()
    }
}

/// What the jobs of a batch share beside.
struct Batch {
    /// For those whose blobs the others see.
    memo: Arc<dyn Memo>,
    /// The layouts and stores that have been written to, whose blobs stay where they are.
    places: Mutex<Vec<(Place, OpenPlace)>>,
}

impl Batch {
    fn places(&self) -> MutexGuard<'_, Vec<(Place, OpenPlace)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch {
    /// Removes what is left in new layouts to which nothing was published.
    fn drop(&mut self) {
        let places = std::mem::take(&mut *self.places());
        places.into_iter().for_each(|(_, place)| give_up(place));
    }
}

impl Provider for Batch {
    fn open(&self, descriptor: &Descriptor) -> content::Result<Box<dyn Blob>> {
        let places = self.places().clone();
        let found = places.into_iter().find_map(|(_, place)| place.store().open(descriptor).ok());
        found.ok_or_else(|| content::Error::NotFound { digest: descriptor.digest.clone() })
    }
}

/// Removes what work that failed has left, unless others write to the place, too.
pub(crate) fn give_up(place: OpenPlace) {
    if let Some(place) = Arc::into_inner(place) {
        // The error of the work says more than what could not be cleaned up after it.
        let _ = place.discard();
    }
}

/// Tells whether blobs stay in the place where they are written.
fn stays(place: &Place) -> bool {
    matches!(place, Place::Layout(_) | Place::Store(_))
}
