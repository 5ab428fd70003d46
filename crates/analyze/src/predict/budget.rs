//! What a prediction may still cost.

use std::cell::Cell;

use restow_oci::PredictionLimits;

/// The steps and the memory that are left. Once either has run out, nothing more is granted.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: Cell<u64>,
    memory: Cell<u64>,
    over: Cell<bool>,
}

impl Budget {
    pub(crate) fn new(limits: &PredictionLimits) -> Self {
        Self { steps: Cell::new(limits.steps), memory: Cell::new(limits.memory), over: Cell::new(false) }
    }

    /// Takes steps; says whether there were as many.
    pub(crate) fn spend(&self, steps: u64) -> bool {
        self.take(&self.steps, steps)
    }

    /// Takes memory for so many bytes, which are counted as kept to the end; says whether there was as much.
    pub(crate) fn keep(&self, bytes: u64) -> bool {
        self.take(&self.memory, bytes)
    }

    fn take(&self, left: &Cell<u64>, amount: u64) -> bool {
        match left.get().checked_sub(amount).filter(|_| !self.is_over()) {
            Some(rest) => left.set(rest),
            None => self.over.set(true),
        }
        !self.is_over()
    }

    /// Says whether there was too little at some time.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Returns how many things can be had that take a step and so many bytes each.
    pub(crate) fn room(&self, bytes: u64) -> usize {
        let most = self.steps.get().min(self.memory.get() / bytes.max(1));
        if self.is_over() { 0 } else { usize::try_from(most).unwrap_or(usize::MAX) }
    }
}
