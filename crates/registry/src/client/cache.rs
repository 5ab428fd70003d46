//! What has been seen in this run: small contents, what tags mean, what lies where.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;

use bytes::Bytes;
use restow_oci::Descriptor;
use restow_oci::Digest;

use super::download::BlobHead;
use super::manifests::Head;
use crate::Repository;

/// The largest content that is kept.
pub(crate) const OBJECT_SIZE: u64 = 4 << 20;
/// How much is kept in all; what came first goes first.
const CACHE_SIZE: usize = 256 << 20;

/// A cache for a run, not for a service: nothing in it grows old.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    state: Mutex<State>,
    flights: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    contents: HashMap<Digest, Bytes>,
    order: VecDeque<Digest>,
    size: usize,
    /// What each repository is known to hold. Content seen elsewhere is not shown here: who may read one
    /// repository may not read all.
    known: HashSet<(Repository, Digest)>,
    /// The blobs that the registry itself said each repository has, or took for it. A mirror's word is not its own.
    held: HashSet<(Repository, Digest)>,
    /// The manifests and indexes that were seen to, with all that they name.
    whole: HashSet<(Repository, Digest)>,
    tags: HashMap<(Repository, String), Descriptor>,
    /// The descriptors of manifests by which they were seen, for their media types.
    manifests: HashMap<(Repository, Digest), Descriptor>,
    /// What the heads of manifests said, by tag or digest, and of blobs: nothing where there is none.
    heads: HashMap<(Repository, String), Option<Head>>,
    blobs: HashMap<(Repository, Digest), Option<BlobHead>>,
    /// The blobs that manifests of each repository name, which are there as far as one can know without asking.
    named: HashSet<(Repository, Digest)>,
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one caller at a time look for `key`, so that the others find what the first one got.
    pub(crate) fn flight(&self, key: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        // Those that are over are of no use.
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::default();
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }

    #[cfg(test)]
    pub(crate) fn flights(&self) -> usize {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn head(&self, repository: &Repository, reference: &str) -> Option<Option<Head>> {
        self.state().heads.get(&(repository.clone(), reference.to_owned())).cloned()
    }

    pub(crate) fn keep_head(&self, repository: &Repository, reference: &str, head: &Option<Head>) {
        self.state().heads.insert((repository.clone(), reference.to_owned()), head.clone());
    }

    pub(crate) fn blob(&self, repository: &Repository, digest: &Digest) -> Option<Option<BlobHead>> {
        self.state().blobs.get(&(repository.clone(), digest.clone())).copied()
    }

    pub(crate) fn keep_blob(&self, repository: &Repository, digest: &Digest, head: Option<BlobHead>) {
        let mut state = self.state();
        let key = (repository.clone(), digest.clone());
        match head {
            Some(_) => {
                state.known.insert(key.clone());
                state.held.insert(key.clone());
            }
            None => {
                state.known.remove(&key);
                state.held.remove(&key);
            }
        }
        state.blobs.insert(key, head);
    }

    pub(crate) fn names(&self, repository: &Repository, digest: &Digest) -> bool {
        self.state().named.contains(&(repository.clone(), digest.clone()))
    }

    pub(crate) fn keep_names(&self, repository: &Repository, digests: impl IntoIterator<Item = Digest>) {
        self.state().named.extend(digests.into_iter().map(|digest| (repository.clone(), digest)));
    }

    pub(crate) fn content(&self, repository: &Repository, digest: &Digest) -> Option<Bytes> {
        let state = self.state();
        let known = state.known.contains(&(repository.clone(), digest.clone()));
        if known { state.contents.get(digest).cloned() } else { None }
    }

    pub(crate) fn manifest(&self, repository: &Repository, digest: &Digest) -> Option<(Descriptor, Bytes)> {
        let descriptor = self.state().manifests.get(&(repository.clone(), digest.clone())).cloned()?;
        Some((descriptor, self.content(repository, digest)?))
    }

    pub(crate) fn tag(&self, repository: &Repository, tag: &str) -> Option<Descriptor> {
        self.state().tags.get(&(repository.clone(), tag.to_owned())).cloned()
    }

    pub(crate) fn holds(&self, repository: &Repository, digest: &Digest) -> bool {
        self.state().held.contains(&(repository.clone(), digest.clone()))
    }

    /// Keeps it that the registry has taken a blob.
    pub(crate) fn sent(&self, repository: &Repository, digest: &Digest) {
        let mut state = self.state();
        state.known.insert((repository.clone(), digest.clone()));
        state.held.insert((repository.clone(), digest.clone()));
        state.blobs.remove(&(repository.clone(), digest.clone()));
    }

    pub(crate) fn is_whole(&self, repository: &Repository, document: &Digest) -> bool {
        self.state().whole.contains(&(repository.clone(), document.clone()))
    }

    pub(crate) fn keep_whole(&self, repository: &Repository, document: &Digest) {
        self.state().whole.insert((repository.clone(), document.clone()));
    }

    pub(crate) fn keep(&self, repository: &Repository, digest: &Digest, bytes: &Bytes) {
        let mut state = self.state();
        state.known.insert((repository.clone(), digest.clone()));
        if bytes.len() as u64 > OBJECT_SIZE || state.contents.contains_key(digest) {
            return;
        }
        state.size += bytes.len();
        state.order.push_back(digest.clone());
        state.contents.insert(digest.clone(), bytes.clone());
        while state.size > CACHE_SIZE {
            let Some(oldest) = state.order.pop_front() else { break };
            let freed = state.contents.remove(&oldest).map_or(0, |bytes| bytes.len());
            state.size -= freed;
        }
    }

    pub(crate) fn keep_manifest(
        &self,
        repository: &Repository,
        tag: Option<&str>,
        descriptor: &Descriptor,
        bytes: &Bytes,
    ) {
        self.keep(repository, &descriptor.digest, bytes);
        let mut state = self.state();
        state.manifests.insert((repository.clone(), descriptor.digest.clone()), descriptor.clone());
        state.heads.remove(&(repository.clone(), descriptor.digest.to_string()));
        if let Some(tag) = tag {
            state.heads.remove(&(repository.clone(), tag.to_owned()));
            state.tags.insert((repository.clone(), tag.to_owned()), descriptor.clone());
        }
    }

    /// Forgets what a removal may have changed.
    pub(crate) fn forget(&self, repository: &Repository, digest: Option<&Digest>, tag: Option<&str>) {
        let mut state = self.state();
        if let Some(digest) = digest {
            let key = (repository.clone(), digest.clone());
            state.known.remove(&key);
            state.held.remove(&key);
            state.blobs.remove(&key);
            state.named.remove(&key);
            // Which of them it was a part of is not known.
            state.whole.retain(|(of, _)| of != repository);
            state.tags.retain(|(of, _), image| of != repository || image.digest != *digest);
            // Tags that meant it are gone, too.
            state.heads.retain(|(of, _), _| of != repository);
        }
        if let Some(tag) = tag {
            state.tags.remove(&(repository.clone(), tag.to_owned()));
            state.heads.remove(&(repository.clone(), tag.to_owned()));
        }
    }
}
