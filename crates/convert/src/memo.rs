//! Results that outlive a run.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use serde::Deserialize;
use serde::Serialize;

use crate::Partial;
use crate::Statistics;
use crate::schedule::NewBlob;
use crate::toc_image;

/// Remembers converted layers between runs, so that a second run has nothing to do.
///
/// A key stands for the layer's content, what the config says of it, and the converter with all its options. It is
/// text without line breaks, too long for a file name. A memo that fails forgets: a lost memory costs time only.
pub trait Memo: Debug + Send + Sync {
    /// Returns what is remembered under the key.
    fn recall(&self, key: &str) -> Option<Memory>;

    /// Keeps a result under the key, replacing an older one.
    fn remember(&self, key: &str, memory: &Memory);

    /// Waits until nobody else is at work on what the key stands for. Called before [`Memo::recall`]; after it comes one
    /// [`Memo::end`], whether or not there is a result.
    fn begin(&self, _key: &str) {}

    /// Lets the next one begin.
    fn end(&self, _key: &str) {}
}

/// The turn of one layer to be worked on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    memo: &'a dyn Memo,
    key: &'a str,
}

impl<'a> Turn<'a> {
    /// Waits for it.
    pub(crate) fn begin(memo: &'a dyn Memo, key: &'a str) -> Self {
        memo.begin(key);
        Self { memo, key }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.memo.end(self.key);
    }
}

/// A converted layer, as remembered. It is used only while its blobs are still in the store with the right size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    media_type: String,
    digest: String,
    size: u64,
    annotations: BTreeMap<String, String>,
    diff_id: String,
    partial: Option<Partial>,
    /// The digest and the size of the table of contents, where it is a blob of its own.
    #[serde(default)]
    toc: Option<(String, u64)>,
    statistics: Statistics,
}

impl Memory {
    pub(crate) fn new(blob: &NewBlob, statistics: &Statistics) -> Self {
        let NewBlob { descriptor, diff_id, partial, toc } = blob;
        Self {
            media_type: descriptor.media_type.to_string(),
            digest: descriptor.digest.to_string(),
            size: descriptor.size,
            annotations: descriptor.annotations.clone(),
            diff_id: diff_id.to_string(),
            partial: partial.clone(),
            toc: toc.as_ref().map(|toc| (toc.digest.to_string(), toc.size)),
            statistics: statistics.clone(),
        }
    }

    /// Returns the remembered blob and what was counted, or nothing when the memory is garbled.
    pub(crate) fn into_parts(self) -> Option<(NewBlob, Statistics)> {
        let digest = Digest::parse(&self.digest).ok()?;
        let diff_id = Digest::parse(&self.diff_id).ok()?;
        let mut descriptor = Descriptor::new(MediaType::parse(&self.media_type).ok()?, digest, self.size);
        descriptor.annotations = self.annotations;
        let toc = match self.toc {
            Some((digest, size)) => {
                Some(Descriptor::new(toc_image::MEDIA_TYPE, Digest::parse(&digest).ok()?, size))
            }
            None => None,
        };
        Some((NewBlob { descriptor, diff_id, partial: self.partial, toc }, self.statistics))
    }
}

/// The memo that forgets everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemo;

impl Memo for NoMemo {
    fn recall(&self, _key: &str) -> Option<Memory> {
        None
    }

    fn remember(&self, _key: &str, _memory: &Memory) {}
}

/// A memo that lives as long as the process, in front of one that may live longer.
///
/// Conversions that share it, side by side, do equal work once: who comes second waits for the result. It is of use
/// where they see each other's blobs.
#[derive(Debug)]
pub struct RunMemo {
    state: Mutex<State>,
    ended: Condvar,
    behind: Arc<dyn Memo>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Memory>,
    under_way: BTreeSet<String>,
}

impl RunMemo {
    /// Stands in front of another memo, which remembers everything, too.
    pub fn before(behind: Arc<dyn Memo>) -> Self {
        Self { state: Mutex::default(), ended: Condvar::new(), behind }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RunMemo {
    fn default() -> Self {
        Self::before(Arc::new(NoMemo))
    }
}

impl Memo for RunMemo {
    fn recall(&self, key: &str) -> Option<Memory> {
        let known = self.state().known.get(key).cloned();
        known.or_else(|| self.behind.recall(key))
    }

    fn remember(&self, key: &str, memory: &Memory) {
        self.state().known.insert(key.to_owned(), memory.clone());
        self.behind.remember(key, memory);
    }

    fn begin(&self, key: &str) {
        let under_way = |state: &mut State| state.under_way.contains(key);
        let state = self.ended.wait_while(self.state(), under_way);
        state.unwrap_or_else(PoisonError::into_inner).under_way.insert(key.to_owned());
    }

    fn end(&self, key: &str) {
        self.state().under_way.remove(key);
        self.ended.notify_all();
    }
}
