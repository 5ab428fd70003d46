//! What was asked of whom.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RequestKind {
    /// The head of a manifest.
    ManifestHead,
    /// A manifest.
    ManifestGet,
    /// A manifest to be stored.
    ManifestPut,
    /// The head of a blob.
    BlobHead,
    /// A blob, or a part of one.
    BlobGet,
    /// A blob to be taken from another repository.
    BlobMount,
    /// A part of an upload, its beginning and end included.
    Upload,
    /// A list: of tags, repositories or referrers.
    List,
    /// A manifest or a blob to be removed.
    Delete,
    /// A token.
    Token,
    /// What another request was sent on to.
    Redirect,
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RequestKind::ManifestHead => "manifest head",
            RequestKind::ManifestGet => "manifest get",
            RequestKind::ManifestPut => "manifest put",
            RequestKind::BlobHead => "blob head",
            RequestKind::BlobGet => "blob get",
            RequestKind::BlobMount => "blob mount",
            RequestKind::Upload => "upload",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
            RequestKind::Token => "token",
            RequestKind::Redirect => "redirect",
        })
    }
}

/// How many requests of each kind each host was sent, those that were sent again included.
#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<BTreeMap<(String, RequestKind), u64>>);

impl Stats {
    pub(crate) fn count(&self, host: &str, kind: RequestKind) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((host.to_owned(), kind)).or_default() += 1;
    }

    pub(crate) fn all(&self) -> Vec<(String, RequestKind, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((host, kind), count)| (host.clone(), *kind, *count)).collect()
    }
}
