//! A repository as a place to write to.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;

use restow_content::Blob;
use restow_content::Expected;
use restow_content::Fields;
use restow_content::Info;
use restow_content::Ingest;
use restow_content::IngestStatus;
use restow_content::Ingester;
use restow_content::Labels;
use restow_content::LocalStore;
use restow_content::Manager;
use restow_content::Overlay;
use restow_content::Provider;
use restow_content::Store;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use crate::Client;
use crate::Destination;
use crate::Error;
use crate::Existing;
use crate::Notice;
use crate::Observer;
use crate::Remote;
use crate::Repository;
use crate::Result;
use crate::Scratch;
use crate::Transfer;
use crate::Watched;
use crate::client::Look;
use crate::client::WORTH_A_HEAD;
use crate::client::chain;
use crate::graph;
use crate::push::Provided;
use crate::push::Push;
use crate::scratch::ScratchStore;

/// How many blobs are sent side by side while others are made.
const UPLOADS: usize = 4;

/// A repository of a registry that an image is written to.
///
/// New blobs lie in a directory of their own until this is dropped. A large one is sent as soon as it is
/// committed, while others are still being made: that it is needed is all but certain, and what no image refers
/// to, registries remove. Once one of them is refused, nothing more is written.
#[derive(Debug)]
pub struct RemoteDestination {
    client: Client,
    repository: Repository,
    others: Vec<Repository>,
    existing: Existing,
    held: Remote,
    store: SendingStore,
    scratch: ScratchStore,
}

impl RemoteDestination {
    /// Writes to `repository`, with files in a directory of `scratch` meanwhile. Blobs may be taken from `others` where
    /// they are repositories of the same registry.
    pub fn new(
        client: &Client,
        repository: &Repository,
        others: &[Repository],
        scratch: &Scratch,
    ) -> Result<RemoteDestination> {
        let scratch = scratch.store()?;
        let sending = Arc::new(SendQueue {
            local: scratch.store.clone(),
            client: client.clone(),
            repository: repository.clone(),
            observer: None,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        Ok(RemoteDestination {
            client: client.clone(),
            repository: repository.clone(),
            others: others.to_vec(),
            existing: Existing::default(),
            held: Remote::new(client, repository),
            store: SendingStore { local: scratch.store.clone(), sending },
            scratch,
        })
    }

    /// Says what becomes of a tag that means the image already.
    pub fn existing(self, existing: Existing) -> RemoteDestination {
        RemoteDestination { existing, ..self }
    }

    /// Tells `observer` of each blob that is sent. Nothing has been written yet.
    pub fn watched(mut self, observer: Arc<dyn Observer>) -> RemoteDestination {
        if let Some(sending) = Arc::get_mut(&mut self.store.sending) {
            sending.observer = Some(observer);
        }
        self
    }
}

impl Destination for RemoteDestination {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn held(&self) -> Option<&dyn Provider> {
        Some(&self.held)
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn publish_each(
        &self,
        _: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        self.store.sending.finish()?;
        let published = images.iter().rev().map(|(root, tags)| self.push(source, root, tags));
        Ok(published.collect::<Result<Vec<_>>>()?.concat())
    }

    fn discard(self: Box<Self>) -> Result<()> {
        // Uploads that are under way end with the process.
        self.store.sending.state().waiting.clear();
        Ok(())
    }
}

impl RemoteDestination {
    fn push(&self, source: &dyn Provider, root: &Descriptor, tags: &[String]) -> Result<Vec<Notice>> {
        let names = match tags {
            [] => vec![self.repository.at(&root.digest)],
            tags => tags.iter().map(|tag| self.repository.tagged(tag)).collect::<Result<_>>()?,
        };
        let source = Overlay::new(&self.store, [source]);
        let limit = self.client.settings().limits.manifest_size;
        let bytes: bytes::Bytes = read(&source, root, limit)?.into();
        graph::refuse_foreign(&source, root, &bytes, &self.client.settings().limits)?;
        let observer = self.store.sending.observer.clone();
        let watched = observer.map(|observer| Watched::new(&source, observer));
        let provider = watched.as_ref().map_or(&source as &dyn Provider, |watched| watched);
        let parts = Provided { provider, new: &self.store, repositories: &self.others };
        Push::new(&self.client, &parts, self.existing).image(&names, &root.media_type, &bytes)
    }
}

/// A local store whose large blobs are sent to a repository as they come.
#[derive(Debug)]
struct SendingStore {
    local: LocalStore,
    sending: Arc<SendQueue>,
}

/// Blobs on their way to a repository, a few at a time.
struct SendQueue {
    local: LocalStore,
    client: Client,
    repository: Repository,
    observer: Option<Arc<dyn Observer>>,
    state: Mutex<SendState>,
    changed: Condvar,
}

#[derive(Default)]
struct SendState {
    waiting: VecDeque<Descriptor>,
    /// How many threads send.
    senders: usize,
    failure: Option<SendFailure>,
}

/// Why nothing more is sent.
struct SendFailure {
    words: String,
    /// For the first who asks.
    error: Option<Error>,
}

impl std::fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SendQueue").field(&self.repository).finish()
    }
}

impl SendQueue {
    fn state(&self) -> MutexGuard<'_, SendState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a blob soon.
    fn add(self: &Arc<Self>, blob: Descriptor) {
        let mut state = self.state();
        state.waiting.push_back(blob);
        if state.senders < UPLOADS {
            state.senders += 1;
            let queue = self.clone();
            thread::spawn(move || {
                let _sender = Sender(&queue);
                queue.work_off();
            });
        }
    }

    /// Sends what waits, until nothing does.
    fn work_off(&self) {
        let mut state = self.state();
        while let Some(blob) = state.waiting.pop_front() {
            drop(state);
            let result = self.send(&blob);
            state = self.state();
            if let Err(error) = result {
                let words = chain(&error);
                state.failure.get_or_insert(SendFailure { words, error: Some(error) });
                state.waiting.clear();
            }
        }
        state.senders -= 1;
        self.changed.notify_all();
    }

    fn send(&self, blob: &Descriptor) -> Result<()> {
        let open = || match &self.observer {
            Some(observer) => Ok(Watched::new(&self.local, observer.clone()).open(blob)?.into()),
            None => Ok(self.local.open(blob)?.into()),
        };
        self.client.push_opened(&self.repository, blob, &open, &[], Look::IfLarge).map(drop)
    }

    /// Fails if something could not be sent.
    fn check(&self) -> restow_content::Result<()> {
        let mut state = self.state();
        let Some(failure) = &mut state.failure else { return Ok(()) };
        let source = match failure.error.take() {
            Some(error) => io::Error::other(error),
            None => io::Error::other(failure.words.clone()),
        };
        let path = self.repository.to_string().into();
        Err(restow_content::Error::Io { action: "write to", path, source })
    }

    /// Waits until all that was begun is done, and returns the first error.
    fn finish(&self) -> Result<()> {
        let mut state = self.state();
        while state.senders > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.failure.as_mut().and_then(|failure| failure.error.take()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// A thread that sends. If it panics nobody waits for it, and what it should have sent is sent with the image.
struct Sender<'a>(&'a SendQueue);

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state().senders -= 1;
            self.0.changed.notify_all();
        }
    }
}

impl Provider for SendingStore {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        self.local.open(descriptor)
    }
}

impl Ingester for SendingStore {
    fn begin(&self, key: &str, expected: &Expected) -> restow_content::Result<Box<dyn Ingest>> {
        Ok(Box::new(Sending { ingest: self.local.begin(key, expected)?, sending: self.sending.clone() }))
    }
}

impl Manager for SendingStore {
    fn info(&self, digest: &Digest) -> restow_content::Result<Info> {
        self.local.info(digest)
    }

    fn update_fields(
        &self,
        digest: &Digest,
        labels: Labels,
        fields: &Fields,
    ) -> restow_content::Result<Info> {
        self.local.update_fields(digest, labels, fields)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> restow_content::Result<()>) -> restow_content::Result<()> {
        self.local.walk(visit)
    }

    fn remove(&self, digest: &Digest) -> restow_content::Result<()> {
        self.local.remove(digest)
    }

    fn status(&self, key: &str) -> restow_content::Result<IngestStatus> {
        self.local.status(key)
    }

    fn ingests(&self) -> restow_content::Result<Vec<IngestStatus>> {
        self.local.ingests()
    }

    fn abort(&self, key: &str) -> restow_content::Result<()> {
        self.local.abort(key)
    }
}

/// An ingest whose blob is sent once it is committed.
struct Sending {
    ingest: Box<dyn Ingest>,
    sending: Arc<SendQueue>,
}

impl std::io::Write for Sending {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.ingest.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.ingest.flush()
    }
}

impl Ingest for Sending {
    fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    fn digest(&self) -> Digest {
        self.ingest.digest()
    }

    fn restart(&mut self) -> restow_content::Result<()> {
        self.ingest.restart()
    }

    fn written(&self) -> restow_content::Result<Box<dyn Blob>> {
        self.ingest.written()
    }

    fn commit(
        self: Box<Self>,
        expected: Option<&Descriptor>,
        labels: Labels,
    ) -> restow_content::Result<Info> {
        let Sending { ingest, sending } = *self;
        sending.check()?;
        let info = ingest.commit(expected, labels)?;
        // Documents are small, and are not blobs where they go; what is small goes with them.
        if info.size > WORTH_A_HEAD {
            sending.add(Descriptor::new(MediaType::OCI_LAYER, info.digest.clone(), info.size));
        }
        Ok(info)
    }

    fn abort(self: Box<Self>) -> restow_content::Result<()> {
        self.ingest.abort()
    }
}
