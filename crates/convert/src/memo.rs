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
///
/// Workers that share a memo, be it in one process or on several machines, take turns at equal work. A memo that gives
/// turns for a time only ends the turn of a worker that stalls, which then can no longer replace what others remember.
pub trait Memo: Debug + Send + Sync {
    /// Returns what is remembered under the key.
    fn recall(&self, key: &str) -> Option<Memory>;

    /// Waits until nobody else is at work on what the key stands for, and returns the turn to work on it. It is asked for
    /// before [`Memo::recall`].
    fn begin(&self, key: &str) -> Box<dyn Turn>;
}

/// The turn to work on what a key stands for. One that is dropped ends without a result.
pub trait Turn: Debug + Send + Sync {
    /// Says that the work goes on, at least as often as work asks [`Cancel`](crate::Cancel) whether to stop: a turn that
    /// talks to another machine does so now and then only. After an error the work stops, and a new turn is waited for.
    fn renew(&self) -> Result<(), TurnLost>;

    /// Ends the turn and keeps the result under its key, replacing an older one. After an error nothing is kept: another
    /// worker may have a turn by now. The result is as good as ever.
    fn finish(self: Box<Self>, memory: &Memory) -> Result<(), TurnLost>;
}

/// The error of a turn that has ended before its work was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("another worker has taken over")]
pub struct TurnLost;

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

    fn begin(&self, _key: &str) -> Box<dyn Turn> {
        Box::new(Self)
    }
}

impl Turn for NoMemo {
    fn renew(&self) -> Result<(), TurnLost> {
        Ok(())
    }

    fn finish(self: Box<Self>, _memory: &Memory) -> Result<(), TurnLost> {
        Ok(())
    }
}

/// A memo that lives as long as the process, in front of one that may live longer.
///
/// Conversions that share it, side by side, do equal work once: who comes second waits for the result. It is of use
/// where they see each other's blobs.
#[derive(Debug)]
pub struct RunMemo {
    shared: Arc<Shared>,
    behind: Arc<dyn Memo>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, Memory>,
    under_way: BTreeSet<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunMemo {
    /// Stands in front of another memo, which remembers everything, too.
    pub fn before(behind: Arc<dyn Memo>) -> Self {
        Self { shared: Arc::default(), behind }
    }
}

impl Default for RunMemo {
    fn default() -> Self {
        Self::before(Arc::new(NoMemo))
    }
}

impl Memo for RunMemo {
    fn recall(&self, key: &str) -> Option<Memory> {
        let known = self.shared.state().known.get(key).cloned();
        known.or_else(|| self.behind.recall(key))
    }

    fn begin(&self, key: &str) -> Box<dyn Turn> {
        let Shared { ended, .. } = &*self.shared;
        let under_way = |state: &mut State| state.under_way.contains(key);
        let state = ended.wait_while(self.shared.state(), under_way);
        state.unwrap_or_else(PoisonError::into_inner).under_way.insert(key.to_owned());
        let own = OwnTurn { shared: self.shared.clone(), key: key.to_owned() };
        // Others in this process wait for this one meanwhile, not each for a turn of its own.
        Box::new(RunTurn { behind: self.behind.begin(key), own })
    }
}

/// A turn among those of the process, and one of the memo behind.
#[derive(Debug)]
struct RunTurn {
    behind: Box<dyn Turn>,
    // Dropped last: until then nobody in the process asks for a turn behind.
    own: OwnTurn,
}

impl Turn for RunTurn {
    fn renew(&self) -> Result<(), TurnLost> {
        self.behind.renew()
    }

    fn finish(self: Box<Self>, memory: &Memory) -> Result<(), TurnLost> {
        let Self { behind, own } = *self;
        own.shared.state().known.insert(own.key.clone(), memory.clone());
        behind.finish(memory)
    }
}

#[derive(Debug)]
struct OwnTurn {
    shared: Arc<Shared>,
    key: String,
}

impl Drop for OwnTurn {
    fn drop(&mut self) {
        self.shared.state().under_way.remove(&self.key);
        self.shared.ended.notify_all();
    }
}

/// A turn that is renewed by whoever asks whether to stop.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Mutex<Held>>);

#[derive(Debug)]
enum Held {
    Turn(Box<dyn Turn>),
    Lost,
    Ended,
}

impl Pulse {
    pub(crate) fn of(turn: Box<dyn Turn>) -> Self {
        Self(Arc::new(Mutex::new(Held::Turn(turn))))
    }

    /// Tells whether the turn was lost while the work went on, and renews it.
    pub(crate) fn is_lost(&self) -> bool {
        let mut held = self.held();
        if let Held::Turn(turn) = &*held
            && turn.renew().is_err()
        {
            *held = Held::Lost;
        }
        matches!(*held, Held::Lost)
    }

    /// Ends the turn, with what is to be remembered, whatever still holds it.
    pub(crate) fn end(&self, memory: Option<&Memory>) {
        let held = std::mem::replace(&mut *self.held(), Held::Ended);
        if let (Held::Turn(turn), Some(memory)) = (held, memory) {
            // Whoever has the turn now makes the same and remembers it.
            let _ = turn.finish(memory);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
