//! Stopping work that many threads do.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::memo::Pulse;

/// A flag that, once raised, asks all work under it to stop.
///
/// Clones share the flag. A [`child`](Cancel::child) also stops when its parent does, never the other way round: one
/// failed image stops its own layers, not the batch.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    raised: Arc<AtomicBool>,
    parent: Option<Arc<Cancel>>,
    /// The turn without which the work is not wanted.
    turn: Option<Pulse>,
}

impl Cancel {
    /// Returns a flag of its own that is raised whenever this one is.
    pub fn child(&self) -> Cancel {
        Cancel { raised: Arc::default(), parent: Some(Arc::new(self.clone())), turn: None }
    }

    /// Returns the same flag, which is also raised when a turn is lost, and keeps that from happening to work that goes on.
    pub(crate) fn of_turn(&self, turn: Pulse) -> Cancel {
        Cancel { turn: Some(turn), ..self.clone() }
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.raised.store(true, Ordering::Release);
    }

    /// Tells whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.raised.load(Ordering::Acquire)
            || self.parent.as_deref().is_some_and(Cancel::is_cancelled)
            || self.turn.as_ref().is_some_and(Pulse::is_lost)
    }

    /// Returns an error when the work should stop. Converters call it at least every few hundred milliseconds;
    /// [`LayerReader`](crate::LayerReader) does so on every read.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

/// The error of work that was asked to stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl From<Cancelled> for std::io::Error {
    fn from(cancelled: Cancelled) -> Self {
        // Not `Interrupted`: callers retry that one.
        Self::other(cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_stops_its_children_and_not_the_reverse() {
        let parent = Cancel::default();
        let (one, other) = (parent.child(), parent.child());
        one.cancel();
        assert!(one.is_cancelled() && !parent.is_cancelled() && !other.is_cancelled());
        parent.clone().cancel();
        assert!(other.check().is_err());
    }
}
