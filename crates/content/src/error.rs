use std::io;
use std::path::Path;
use std::path::PathBuf;

use restow_oci::Digest;

use crate::metadata::database;

/// What can go wrong in a store. Every variant names the blob, the ingest or the path.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such blob.
    #[error("blob {digest} not found")]
    NotFound {
        /// The blob.
        digest: Digest,
    },

    /// No such ingest.
    #[error("ingest {key:?} not found")]
    NoIngest {
        /// The ingest.
        key: String,
    },

    /// Another writer holds the ingest, in this process or another one.
    #[error("ingest {key:?} is held by another writer")]
    Busy {
        /// The ingest.
        key: String,
    },

    /// The blob that was to be ingested is there already.
    #[error("blob {digest} exists already")]
    Exists {
        /// The blob.
        digest: Digest,
    },

    /// A field that an update cannot change.
    #[error("field {field:?} cannot be updated, only labels and labels.KEY")]
    InvalidField {
        /// The field.
        field: String,
    },

    /// A filter that does not follow containerd's grammar.
    #[error("filter {filter:?} is malformed at byte {position}: {problem}")]
    InvalidFilter {
        /// The filter.
        filter: String,
        /// Where in the filter.
        position: usize,
        /// What is wrong there.
        problem: String,
    },

    /// A key that names no ingest.
    #[error("the key of an ingest must not be empty")]
    EmptyKey,

    /// A name that no namespace can have.
    #[error(
        "{name:?} is no name for a namespace: expected at most 76 letters and digits, with single . _ - between them"
    )]
    InvalidNamespace {
        /// The name.
        name: String,
    },

    /// The bytes are not those that the descriptor announced.
    #[error("expected blob {expected} ({expected_size} bytes), found {actual} ({actual_size} bytes)")]
    Mismatch {
        /// The digest of the descriptor.
        expected: Digest,
        /// The size of the descriptor.
        expected_size: u64,
        /// The digest of the bytes.
        actual: Digest,
        /// The number of the bytes.
        actual_size: u64,
    },

    /// The size is not the one that the descriptor announced; the digest was not computed.
    #[error("blob {digest} should have {expected} bytes, but has {actual}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// The size of the descriptor.
        expected: u64,
        /// The size found.
        actual: u64,
    },

    /// An ingest no longer holds what was written to it: something else changed its file.
    #[error("ingest {key:?} should hold {expected} bytes, but holds {actual}")]
    Disturbed {
        /// The ingest.
        key: String,
        /// The number of bytes written.
        expected: u64,
        /// The number of bytes found.
        actual: u64,
    },

    /// A digest that is well-formed but that this program cannot compute.
    #[error("digest {digest} uses an algorithm that cannot be verified")]
    UnsupportedAlgorithm {
        /// The digest.
        digest: Digest,
    },

    /// A blob or file is larger than its reader allows.
    #[error("{what} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The blob or file.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },

    /// A label is longer than any store accepts.
    #[error("label {key:?} and its value have {size} bytes, more than the limit of {limit}")]
    LabelTooLarge {
        /// The key of the label.
        key: String,
        /// The bytes of key and value together.
        size: usize,
        /// The limit.
        limit: usize,
    },

    /// The stored labels of a blob cannot be read.
    #[error("labels in {path} are damaged")]
    DamagedLabels {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The database of a store refused, or holds what it should not.
    #[error("cannot {action} in {path}")]
    Metadata {
        /// What was tried.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The directory is of another kind, in which something else than a database says what is to be kept.
    #[error("{path} is {found}, not a store with a database")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },

    /// No such image.
    #[error("image {name:?} not found")]
    NoImage {
        /// The name of the image.
        name: String,
    },

    /// No such lease.
    #[error("lease {id:?} not found")]
    NoLease {
        /// The lease.
        id: String,
    },

    /// A lease of that name exists already.
    #[error("lease {id:?} exists already")]
    LeaseExists {
        /// The lease.
        id: String,
    },

    /// What a document refers to is not known, so that nothing may be collected.
    #[error("cannot tell what {digest} refers to: {problem}")]
    Unreadable {
        /// The document.
        digest: Digest,
        /// Why it cannot be read.
        problem: String,
    },

    /// Something other than a regular file lies where a blob or a document should be.
    #[error("{path} is a {found}, not a regular file")]
    NotRegular {
        /// Where.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },

    /// The bytes of a blob could not be read.
    #[error("cannot read blob {digest} at byte {offset}")]
    Read {
        /// The blob.
        digest: Digest,
        /// Where in the blob.
        offset: u64,
        /// Why.
        source: io::Error,
    },

    /// The bytes of a blob could not be written.
    #[error("cannot write to ingest {key:?} at byte {offset}")]
    Write {
        /// The ingest.
        key: String,
        /// Where in the blob.
        offset: u64,
        /// Why.
        source: io::Error,
    },

    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Returns whether the database of a store turned out to be damaged. It is made again when the store is opened next.
    pub fn is_damage(&self) -> bool {
        database::is_damage(self)
    }

    /// Returns whether the blob, ingest, image or lease asked for is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Error::NotFound { .. } | Error::NoIngest { .. } | Error::NoImage { .. } | Error::NoLease { .. }
        )
    }
}

/// Names the action and the path of a failure of the file system.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
