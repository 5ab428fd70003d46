//! Brings data to the disk while more of it is being made, so that little is left to wait for at the end.

use std::fs::File;
use std::thread::JoinHandle;

/// Bytes after which the disk is set to work.
const STRIDE: u64 = 16 << 20;

/// Syncs a growing file now and then, on a thread of its own. This only saves time: whoever needs the data on the disk
/// must still sync, and hears of errors then.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    pending: u64,
    running: Option<JoinHandle<()>>,
}

impl WriteBehind {
    /// Counts `bytes` more of `file`.
    pub(super) fn wrote(&mut self, file: &File, bytes: usize) {
        self.pending += bytes as u64;
        let busy = self.running.as_ref().is_some_and(|thread| !thread.is_finished());
        if self.pending < STRIDE || busy {
            return;
        }
        self.pending = 0;
        self.running = file.try_clone().ok().and_then(|file| {
            std::thread::Builder::new()
                .name("restow-write-behind".into())
                .spawn(move || drop(file.sync_data()))
                .ok()
        });
    }
}
