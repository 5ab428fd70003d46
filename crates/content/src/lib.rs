//! A content-addressed store with containerd's semantics: traits, local and memory backends, the suite both
//! pass.
//!
//! A blob is written through an [`Ingest`] and becomes visible only when [`Ingest::commit`] returns. A
//! committed blob never changes. Whoever reads one checks it: [`read`] and [`VerifiedReader`] compare size
//! and digest, a bare [`Blob`] does not.
//!
//! [`LocalStore`] is a directory of blobs, as an OCI layout and containerd have it. [`MetadataStore`] adds a
//! database to one: images, leases, namespaces and the collection of what nothing refers to.
//!
//! To add a store, implement [`Provider`], [`Ingester`] and [`Manager`], and run the cases of the module
//! `suite` (feature `testsuite`) against it. [`MemoryStore`] is the smallest example.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod error;
mod fields;
pub mod file;
mod filter;
mod labels;
mod local;
mod memory;
pub mod metadata;
mod notes;
mod overlay;
pub mod publish;
mod read;
mod scrub;
#[cfg(any(test, feature = "testsuite"))]
pub mod suite;
mod write;

use std::fs::File;
use std::io;
use std::io::Write;
use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Digest;

pub use crate::error::Error;
pub use crate::fields::Fields;
pub use crate::filter::Filter;
pub use crate::filter::Filterable;
pub use crate::labels::Labels;
pub use crate::local::LocalStore;
pub use crate::memory::MemoryStore;
pub use crate::metadata::MetadataStore;
pub use crate::notes::Notes;
pub use crate::overlay::Overlay;
pub use crate::read::InMemory;
pub use crate::read::VerifiedReader;
pub use crate::read::read;
pub use crate::scrub::Scrubbed;
pub use crate::scrub::scrub;
pub use crate::write::begin_beside;
pub use crate::write::copy;
pub use crate::write::ingest_beside;
pub use crate::write::link;
pub use crate::write::write;

/// The result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The bytes of one blob, readable at any offset and by several threads at once. Nothing is verified here.
pub trait Blob: Send + Sync {
    /// Returns the number of bytes.
    fn size(&self) -> u64;

    /// Reads some bytes at `offset` and returns how many; 0 at the end and beyond, or for an empty buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Returns the file that holds the blob and nothing else, if there is one.
    fn file(&self) -> Option<&File> {
        None
    }
}

/// A place that blobs can be read from.
pub trait Provider: Send + Sync {
    /// Opens the blob that `descriptor` names. A blob that is absent, that has another size than the
    /// descriptor says or whose digest this program cannot compute is an error; the bytes are not read yet.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>>;
}

/// A place that blobs can be written to.
pub trait Ingester: Send + Sync {
    /// Starts the ingest called `key`, or takes up an earlier one where it stopped.
    ///
    /// A key has 1 to 4096 bytes; to some stores a few less. It is held by one writer at a time, whatever process it lives
    /// in: [`Error::Busy`] for everyone else. A blob that is there already needs no ingest: [`Error::Exists`]. An earlier ingest that expected
    /// another size starts again from nothing.
    fn begin(&self, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>>;

    /// Makes the blob in `file`, which holds it and nothing else, visible without a copy of its bytes. Returns
    /// false, and has done nothing, where that cannot be.
    fn adopt(&self, file: &File, descriptor: &Descriptor, check: Check) -> Result<bool> {
        let _ = (file, descriptor, check);
        Ok(false)
    }

    /// Starts or takes up an ingest of whatever will come, as [`begin`](Ingester::begin) does.
    fn ingest(&self, key: &str) -> Result<Box<dyn Ingest>> {
        self.begin(key, &Expected::default())
    }
}

/// How much of a blob is compared before it is adopted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Check {
    /// Size and digest. The new blob has its bytes for itself, though it shares their place on the disk.
    Digest,
    /// The size alone. The new blob may be the very file, under a second name, if nobody else may write to that.
    Size,
}

/// What a writer knows of a blob before it writes it. It is no promise: only a commit compares.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expected {
    /// The digest; without one, the blob is digested by sha256.
    pub digest: Option<Digest>,
    /// The number of bytes.
    pub size: Option<u64>,
}

impl From<&Descriptor> for Expected {
    fn from(descriptor: &Descriptor) -> Expected {
        Expected { digest: Some(descriptor.digest.clone()), size: Some(descriptor.size) }
    }
}

/// A blob on its way into a store. Dropping it without a commit keeps what was written for the next writer of
/// its key, unless the disk refused it.
///
/// Writes go straight to the store and into the running digest: pass large slices.
pub trait Ingest: Write + Send {
    /// Returns the number of bytes written so far, those of earlier writers included.
    fn offset(&self) -> u64;

    /// Returns the digest of the bytes written so far, by the algorithm of the digest that was expected from
    /// the beginning, or else by sha256.
    fn digest(&self) -> Digest;

    /// Starts again from nothing.
    fn restart(&mut self) -> Result<()>;

    /// Opens what has been written so far for reading, for instance to check it before the commit. The view
    /// stays readable after the commit, and must not be used across a [`restart`](Ingest::restart).
    fn written(&self) -> Result<Box<dyn Blob>>;

    /// Makes the blob visible under its digest, durably, labels included.
    ///
    /// With `expected`, size and digest must be those of the descriptor; where they are not, nothing becomes
    /// visible and the bytes are kept, as if the ingest had been dropped. A blob that is there already is
    /// success: it stays as it is (only its size is looked at) and gains the labels. What cannot be brought to the disk
    /// is not kept: the next writer of the key starts from nothing.
    fn commit(self: Box<Self>, expected: Option<&Descriptor>, labels: Labels) -> Result<Info>;

    /// Gives up the ingest and everything written to it.
    fn abort(self: Box<Self>) -> Result<()>;
}

/// What a store holds, and the means to change it.
pub trait Manager: Send + Sync {
    /// Returns what is known of a blob.
    fn info(&self, digest: &Digest) -> Result<Info>;

    /// Changes the labels of a blob: those that `fields` names become what they are in `labels`.
    fn update_fields(&self, digest: &Digest, labels: Labels, fields: &Fields) -> Result<Info>;

    /// Replaces all labels of a blob.
    fn update(&self, digest: &Digest, labels: Labels) -> Result<Info> {
        self.update_fields(digest, labels, &Fields::All)
    }

    /// Visits all blobs in the order of their digests, until `visit` fails.
    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()>;

    /// Removes a blob and its labels.
    fn remove(&self, digest: &Digest) -> Result<()>;

    /// Returns how far the ingest called `key` has come.
    fn status(&self, key: &str) -> Result<IngestStatus>;

    /// Returns all ingests, in the order of their keys.
    fn ingests(&self) -> Result<Vec<IngestStatus>>;

    /// Removes an ingest that nobody is writing.
    fn abort(&self, key: &str) -> Result<()>;
}

/// A full store: read, write, manage.
pub trait Store: Provider + Ingester + Manager {}

impl<T: Provider + Ingester + Manager + ?Sized> Store for T {}

/// What is known of a blob without reading it.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Info {
    /// The digest that names the blob.
    pub digest: Digest,
    /// The number of bytes.
    pub size: u64,
    /// Its labels.
    pub labels: Labels,
    /// When the blob was committed.
    pub created: SystemTime,
    /// When its labels were last changed, or when it was committed.
    pub updated: SystemTime,
}

/// How far an ingest has come.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IngestStatus {
    /// The name its writer gave it.
    pub key: String,
    /// The number of bytes written so far.
    pub offset: u64,
    /// The number of bytes that its writer expects, if it said so.
    pub total: Option<u64>,
    /// When the first writer started.
    pub started: SystemTime,
    /// When bytes were last written.
    pub updated: SystemTime,
}

impl<B: Blob + ?Sized> Blob for &B {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn file(&self) -> Option<&File> {
        (**self).file()
    }
}

impl<B: Blob + ?Sized> Blob for Box<B> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }

    fn file(&self) -> Option<&File> {
        (**self).file()
    }
}

/// The time that a blob or an ingest is stamped with.
#[expect(clippy::disallowed_methods, reason = "a stamp is metadata of the store and part of no content")]
fn now() -> SystemTime {
    SystemTime::now()
}
