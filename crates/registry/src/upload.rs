//! A repository as a place to write to.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;

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
use crate::Notice;
use crate::Remote;
use crate::Repository;
use crate::Result;
use crate::Scratch;
use crate::Transfer;
use crate::client::WORTH_A_HEAD;
use crate::push::Provided;
use crate::push::Push;
use crate::scratch::ScratchStore;

/// A repository of a registry that an image is written to.
///
/// New blobs lie in a directory of their own until this is dropped. A large one is sent as soon as it is
/// committed, while others are still being made: that it is needed is all but certain, and what no image refers
/// to, registries remove.
#[derive(Debug)]
pub struct RemoteDestination {
    client: Client,
    repository: Repository,
    others: Vec<Repository>,
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
        let local = scratch.store.clone();
        let uploads = Arc::new(Mutex::default());
        let store = SendingStore { local, client: client.clone(), repository: repository.clone(), uploads };
        Ok(RemoteDestination {
            client: client.clone(),
            repository: repository.clone(),
            others: others.to_vec(),
            held: Remote::new(client, repository),
            store,
            scratch,
        })
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
        self.store.finish()?;
        let published = images.iter().rev().map(|(root, tags)| self.push(source, root, tags));
        Ok(published.collect::<Result<Vec<_>>>()?.concat())
    }

    fn discard(self: Box<Self>) -> Result<()> {
        // Uploads that are under way end with the process.
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
        let bytes = read(&source, root, limit)?.into();
        let parts = Provided { provider: &source, new: &self.store, repositories: &self.others };
        Push::new(&self.client, &parts).image(&names, &root.media_type, &bytes)
    }
}

/// A local store whose large blobs are sent to a repository as they come.
#[derive(Debug)]
struct SendingStore {
    local: LocalStore,
    client: Client,
    repository: Repository,
    uploads: Uploads,
}

type Uploads = Arc<Mutex<Vec<JoinHandle<Result<()>>>>>;

impl SendingStore {
    /// Waits until all that was begun is done, and returns the first error.
    fn finish(&self) -> Result<()> {
        let uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        let results: Vec<_> = uploads.into_iter().map(JoinHandle::join).collect();
        // A thread that panicked has sent nothing, so its blob is sent with the image.
        results.into_iter().flatten().collect()
    }
}

impl Provider for SendingStore {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        self.local.open(descriptor)
    }
}

impl Ingester for SendingStore {
    fn begin(&self, key: &str, expected: &Expected) -> restow_content::Result<Box<dyn Ingest>> {
        Ok(Box::new(Sending {
            ingest: self.local.begin(key, expected)?,
            local: self.local.clone(),
            client: self.client.clone(),
            repository: self.repository.clone(),
            uploads: self.uploads.clone(),
        }))
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
    local: LocalStore,
    client: Client,
    repository: Repository,
    uploads: Uploads,
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
        let Sending { ingest, local, client, repository, uploads } = *self;
        let info = ingest.commit(expected, labels)?;
        // Documents are small, and are not blobs where they go; what is small goes with them.
        if info.size > WORTH_A_HEAD {
            let blob = Descriptor::new(MediaType::OCI_LAYER, info.digest.clone(), info.size);
            let upload = thread::spawn(move || {
                let open = || Ok(local.open(&blob).map_err(Error::from)?.into());
                client.push_opened(&repository, &blob, &open, &[]).map(drop)
            });
            uploads.lock().unwrap_or_else(PoisonError::into_inner).push(upload);
        }
        Ok(info)
    }

    fn abort(self: Box<Self>) -> restow_content::Result<()> {
        self.ingest.abort()
    }
}
