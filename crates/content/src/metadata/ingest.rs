//! A blob on its way into a namespace.

use std::io;
use std::io::Write;

use restow_oci::Descriptor;
use restow_oci::Digest;

use super::MetadataStore;
use super::database;
use super::database::BlobRow;
use super::leases;
use crate::Blob;
use crate::Error;
use crate::Info;
use crate::Ingest;
use crate::Labels;
use crate::Manager;
use crate::Result;
use crate::labels;
use crate::local::LocalIngest;
use crate::now;
use crate::write::append;

/// An ingest that this writer holds.
struct MetadataIngest {
    store: MetadataStore,
    inner: Box<LocalIngest>,
}

/// Makes an ingest of the store out of one of its blobs, with the bytes of `taken` to begin with.
pub(super) fn wrap(
    store: &MetadataStore,
    mut inner: LocalIngest,
    taken: Option<&Digest>,
) -> Result<Box<dyn Ingest>> {
    if let Some(digest) = taken.filter(|_| inner.offset() == 0) {
        append(&store.blobs.section(digest)?, digest, &mut inner, "shared")?;
        // Knowing the digest is what gives the right to the bytes, so they have to be those.
        if inner.digest() != *digest {
            inner.restart()?;
        }
    }
    Ok(Box::new(MetadataIngest { store: store.clone(), inner: Box::new(inner) }))
}

impl MetadataStore {
    /// Says that this namespace has the blob, whose file comes next, or is there.
    pub(super) fn record(&self, digest: &Digest, size: u64, new: &Labels) -> Result<()> {
        let action = "record a blob";
        self.database.change(action, |transaction| {
            let failed = self.database.failed(action);
            // What is said of a blob whose file never came is about nothing. Asked here, where other writers wait.
            let there = self.blobs.holds(digest, Some(size))?;
            let old = database::blob(transaction, &self.namespace, digest.as_str()).map_err(&failed)?;
            let mut row = match old.filter(|_| there) {
                Some(row) => row,
                None => {
                    let now = now();
                    let (digest, labels) = (digest.to_string(), Labels::new());
                    let row = BlobRow { digest, labels, created: now, updated: now };
                    database::set_blob(transaction, &self.namespace, &row).map_err(&failed)?;
                    row
                }
            };
            if new.iter().any(|(key, value)| row.labels.get(key) != Some(value)) {
                row.labels.extend(new.clone());
                row.updated = now();
                database::set_blob(transaction, &self.namespace, &row).map_err(&failed)?;
            }
            match &self.lease {
                Some(lease)
                    if !leases::attach(transaction, &self.namespace, lease, digest).map_err(&failed)? =>
                {
                    Err(Error::NoLease { id: lease.to_string() })
                }
                _ => Ok(()),
            }
        })
    }
}

impl Write for MetadataIngest {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Ingest for MetadataIngest {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    fn digest(&self) -> Digest {
        self.inner.digest()
    }

    fn restart(&mut self) -> Result<()> {
        self.inner.restart()
    }

    fn written(&self) -> Result<Box<dyn Blob>> {
        self.inner.written()
    }

    fn commit(self: Box<Self>, expected: Option<&Descriptor>, labels: Labels) -> Result<Info> {
        labels::check(&labels)?;
        let store = self.store;
        let mut lock = None;
        let mut written = 0;
        let digest = self.inner.commit_with(expected, |digest, size| {
            written = size;
            // Until the file is in place, too, nobody collects.
            lock = Some(store.lock_shared()?);
            store.record(digest, size, &labels)
        })?;
        if !labels.is_empty() {
            // Another writer of the same blob, for whom it was not there yet, may have put his in their place.
            store.record(&digest, written, &labels)?;
        }
        drop(lock);
        store.info(&digest)
    }

    fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort()
    }
}
