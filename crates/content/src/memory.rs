//! A store in memory, for tests and for small things on their way elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;

use crate::Blob;
use crate::Error;
use crate::Expected;
use crate::Fields;
use crate::Info;
use crate::Ingest;
use crate::IngestStatus;
use crate::Ingester;
use crate::Labels;
use crate::Manager;
use crate::Provider;
use crate::Result;
use crate::labels;
use crate::local::check_key;
use crate::now;
use crate::read::InMemory;
use crate::read::check_size;
use crate::read::differs;
use crate::read::digester;
use crate::read::digester_for;
use crate::read::settle;

/// A store in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<Digest, (Info, Arc<[u8]>)>,
    ingests: BTreeMap<String, Partial>,
}

#[derive(Debug)]
struct Partial {
    data: Vec<u8>,
    total: Option<u64>,
    held: bool,
    started: SystemTime,
    updated: SystemTime,
}

impl MemoryStore {
    /// Returns an empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn blob(&mut self, digest: &Digest) -> Result<&mut (Info, Arc<[u8]>)> {
        self.blobs.get_mut(digest).ok_or_else(|| Error::NotFound { digest: digest.clone() })
    }

    fn partial(&mut self, key: &str) -> Result<&mut Partial> {
        self.ingests.get_mut(key).ok_or_else(|| Error::NoIngest { key: key.to_owned() })
    }
}

impl Provider for MemoryStore {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>> {
        digester(&descriptor.digest)?;
        let bytes = InMemory(self.state().blob(&descriptor.digest)?.1.clone());
        check_size(descriptor, bytes.size())?;
        Ok(Box::new(bytes))
    }
}

impl Ingester for MemoryStore {
    fn begin(&self, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>> {
        check_key(key)?;
        let mut digester = digester_for(expected)?;
        let now = now();
        let mut state = self.state();
        let new =
            || Partial { data: Vec::new(), total: expected.size, held: false, started: now, updated: now };
        if let Some(digest) = expected.digest.as_ref().filter(|digest| state.blobs.contains_key(digest)) {
            return Err(Error::Exists { digest: digest.clone() });
        }
        if state.ingests.get(key).is_some_and(|partial| partial.held) {
            return Err(Error::Busy { key: key.to_owned() });
        }
        let partial = state.ingests.entry(key.to_owned()).or_insert_with(new);
        if differs(partial.total, expected.size) {
            *partial = new();
        }
        partial.total = partial.total.or(expected.size);
        partial.held = true;
        digester.update(&partial.data);
        let offset = partial.data.len() as u64;
        Ok(Box::new(MemoryIngest { store: self.clone(), key: key.to_owned(), offset, digester, done: false }))
    }
}

impl Manager for MemoryStore {
    fn info(&self, digest: &Digest) -> Result<Info> {
        Ok(self.state().blob(digest)?.0.clone())
    }

    fn update_fields(&self, digest: &Digest, labels: Labels, fields: &Fields) -> Result<Info> {
        labels::check(&labels)?;
        let mut state = self.state();
        let (info, _) = state.blob(digest)?;
        let labels = fields.apply(info.labels.clone(), labels);
        if info.labels != labels {
            info.labels = labels;
            info.updated = now();
        }
        Ok(info.clone())
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        // The visitor may use the store.
        let infos: Vec<_> = self.state().blobs.values().map(|(info, _)| info.clone()).collect();
        infos.into_iter().try_for_each(visit)
    }

    fn remove(&self, digest: &Digest) -> Result<()> {
        let mut state = self.state();
        state.blob(digest)?;
        state.blobs.remove(digest);
        Ok(())
    }

    fn status(&self, key: &str) -> Result<IngestStatus> {
        let mut state = self.state();
        Ok(status(key, state.partial(key)?))
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        Ok(self.state().ingests.iter().map(|(key, partial)| status(key, partial)).collect())
    }

    fn abort(&self, key: &str) -> Result<()> {
        let mut state = self.state();
        if state.partial(key)?.held {
            return Err(Error::Busy { key: key.to_owned() });
        }
        state.ingests.remove(key);
        Ok(())
    }
}

fn status(key: &str, partial: &Partial) -> IngestStatus {
    let &Partial { total, started, updated, .. } = partial;
    IngestStatus { key: key.to_owned(), offset: partial.data.len() as u64, total, started, updated }
}

/// An ingest that this writer holds.
#[derive(Debug)]
struct MemoryIngest {
    store: MemoryStore,
    key: String,
    offset: u64,
    digester: Digester,
    // Set once the key may belong to another writer.
    done: bool,
}

impl Write for MemoryIngest {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut state = self.store.state();
        let partial = state.partial(&self.key).map_err(io::Error::other)?;
        partial.data.extend_from_slice(buffer);
        partial.updated = now();
        self.digester.update(buffer);
        self.offset += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ingest for MemoryIngest {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn digest(&self) -> Digest {
        self.digester.current()
    }

    fn restart(&mut self) -> Result<()> {
        self.store.state().partial(&self.key)?.data.clear();
        self.offset = 0;
        self.digester.reset();
        Ok(())
    }

    fn written(&self) -> Result<Box<dyn Blob>> {
        Ok(Box::new(InMemory(self.store.state().partial(&self.key)?.data.clone())))
    }

    fn commit(mut self: Box<Self>, expected: Option<&Descriptor>, labels: Labels) -> Result<Info> {
        labels::check(&labels)?;
        let digest = settle(expected, self.digest(), &*self.written()?)?;
        self.done = true;
        let now = now();
        let mut state = self.store.state();
        let data = std::mem::take(&mut state.partial(&self.key)?.data);
        state.ingests.remove(&self.key);
        let new = Info {
            digest: digest.clone(),
            size: self.offset,
            labels: Labels::new(),
            created: now,
            updated: now,
        };
        let (info, _) = state.blobs.entry(digest).or_insert_with(|| (new, data.into()));
        if labels.iter().any(|(key, value)| info.labels.get(key) != Some(value)) {
            info.labels.extend(labels);
            info.updated = now;
        }
        Ok(info.clone())
    }

    fn abort(mut self: Box<Self>) -> Result<()> {
        self.done = true;
        self.store.state().ingests.remove(&self.key);
        Ok(())
    }
}

impl Drop for MemoryIngest {
    fn drop(&mut self) {
        if !self.done
            && let Ok(partial) = self.store.state().partial(&self.key)
        {
            partial.held = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_suite() {
        crate::suite::run(MemoryStore::new);
    }
}
