//! Results that outlive a run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
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

/// A memo that lives as long as the process.
#[derive(Debug, Default)]
pub struct RunMemo(Mutex<BTreeMap<String, Memory>>);

impl Memo for RunMemo {
    fn recall(&self, key: &str) -> Option<Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn remember(&self, key: &str, memory: &Memory) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), memory.clone());
    }
}
