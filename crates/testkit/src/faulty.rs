//! A store whose operations fail when a test wants them to.

use std::fs::File;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use restow_content::Blob;
use restow_content::Check;
use restow_content::Error;
use restow_content::Expected;
use restow_content::Fields;
use restow_content::Info;
use restow_content::Ingest;
use restow_content::IngestStatus;
use restow_content::Ingester;
use restow_content::Labels;
use restow_content::Manager;
use restow_content::Provider;
use restow_content::Result;
use restow_content::Store;
use restow_oci::Descriptor;
use restow_oci::Digest;

/// What happens at the step a test chose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The step fails without having done anything; later ones succeed.
    Error(io::ErrorKind),
    /// A write takes half of its bytes, the next step fails as if the disk were full. Another step fails at once.
    Short,
    /// The step and all later ones fail without having done anything, as if the program were gone.
    Death,
}

/// A store that counts its operations, those of its ingests and blobs included, and fails at one of them.
#[derive(Debug)]
pub struct Faulty<S> {
    store: S,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    steps: AtomicU64,
    at: u64,
    fault: Fault,
}

impl<S: Store> Faulty<S> {
    /// Lets `store` fail at its step number `at`, counted from 1, in the way of `fault`.
    pub fn new(store: S, at: u64, fault: Fault) -> Faulty<S> {
        Faulty { store, faults: Arc::new(Faults { steps: AtomicU64::new(0), at, fault }) }
    }

    /// Returns how many steps there were so far.
    pub fn steps(&self) -> u64 {
        self.faults.steps.load(Ordering::SeqCst)
    }

    /// Returns whether the step that fails was reached.
    pub fn has_failed(&self) -> bool {
        self.steps() >= self.faults.at
    }

    /// Returns the store, which does not fail.
    pub fn inner(&self) -> &S {
        &self.store
    }

    fn step(&self) -> Result<()> {
        self.faults.step().map_err(failed)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Io { action: "use the disk at", path: "an injected fault".into(), source }
}

impl Faults {
    fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        match self.fault {
            Fault::Error(kind) if step == self.at => Err(kind.into()),
            Fault::Short if step == self.at || step == self.at + 1 => Err(io::ErrorKind::StorageFull.into()),
            Fault::Death if step >= self.at => Err(io::Error::other("the program is gone")),
            _ => Ok(()),
        }
    }

    /// Returns whether the step that comes now may do half of its work.
    fn is_short(&self) -> bool {
        self.fault == Fault::Short && self.steps.load(Ordering::SeqCst) + 1 == self.at
    }
}

impl<S: Store> Provider for Faulty<S> {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>> {
        self.step()?;
        Ok(Box::new(FaultyBlob { blob: self.store.open(descriptor)?, faults: self.faults.clone() }))
    }
}

impl<S: Store> Ingester for Faulty<S> {
    fn begin(&self, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>> {
        self.step()?;
        let ingest = self.store.begin(key, expected)?;
        Ok(Box::new(FaultyIngest { ingest, faults: self.faults.clone() }))
    }

    fn adopt(&self, file: &File, descriptor: &Descriptor, check: Check) -> Result<bool> {
        self.step()?;
        self.store.adopt(file, descriptor, check)
    }
}

impl<S: Store> Manager for Faulty<S> {
    fn info(&self, digest: &Digest) -> Result<Info> {
        self.step()?;
        self.store.info(digest)
    }

    fn update_fields(&self, digest: &Digest, labels: Labels, fields: &Fields) -> Result<Info> {
        self.step()?;
        self.store.update_fields(digest, labels, fields)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.step()?;
        self.store.walk(visit)
    }

    fn remove(&self, digest: &Digest) -> Result<()> {
        self.step()?;
        self.store.remove(digest)
    }

    fn status(&self, key: &str) -> Result<IngestStatus> {
        self.step()?;
        self.store.status(key)
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.step()?;
        self.store.ingests()
    }

    fn abort(&self, key: &str) -> Result<()> {
        self.step()?;
        self.store.abort(key)
    }
}

struct FaultyBlob {
    blob: Box<dyn Blob>,
    faults: Arc<Faults>,
}

impl Blob for FaultyBlob {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.step()?;
        self.blob.read_at(buffer, offset)
    }

    fn file(&self) -> Option<&File> {
        self.blob.file()
    }
}

struct FaultyIngest {
    ingest: Box<dyn Ingest>,
    faults: Arc<Faults>,
}

impl Write for FaultyIngest {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.faults.is_short() && buffer.len() > 1 {
            self.faults.steps.fetch_add(1, Ordering::SeqCst);
            return self.ingest.write(&buffer[..buffer.len() / 2]);
        }
        self.faults.step()?;
        self.ingest.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ingest.flush()
    }
}

impl Ingest for FaultyIngest {
    fn offset(&self) -> u64 {
        self.ingest.offset()
    }

    fn digest(&self) -> Digest {
        self.ingest.digest()
    }

    fn restart(&mut self) -> Result<()> {
        self.faults.step().map_err(failed)?;
        self.ingest.restart()
    }

    fn written(&self) -> Result<Box<dyn Blob>> {
        self.faults.step().map_err(failed)?;
        self.ingest.written()
    }

    fn commit(self: Box<Self>, expected: Option<&Descriptor>, labels: Labels) -> Result<Info> {
        self.faults.step().map_err(failed)?;
        self.ingest.commit(expected, labels)
    }

    fn abort(self: Box<Self>) -> Result<()> {
        self.faults.step().map_err(failed)?;
        self.ingest.abort()
    }
}
