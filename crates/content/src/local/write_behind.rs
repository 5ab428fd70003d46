//! Brings data to the disk while more of it is being made, so that little is left to wait for at the end.

use std::fs::File;
use std::io;
use std::thread::JoinHandle;

/// Bytes after which the disk is set to work.
const STRIDE: u64 = 16 << 20;

/// Syncs a growing file now and then, on a thread of its own. Whoever needs the data on the disk must still sync, and
/// ask here too: the kernel tells a failure once, and it may have been told here.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    pending: u64,
    running: Option<JoinHandle<io::Result<()>>>,
    failure: Option<io::Error>,
}

impl WriteBehind {
    /// Counts `bytes` more of `file`.
    pub(super) fn wrote(&mut self, file: &File, bytes: usize) {
        self.pending += bytes as u64;
        let busy = self.running.as_ref().is_some_and(|thread| !thread.is_finished());
        if self.pending < STRIDE || busy {
            return;
        }
        self.wait();
        self.pending = 0;
        self.running = file.try_clone().ok().and_then(|file| {
            std::thread::Builder::new()
                .name("restow-write-behind".into())
                .spawn(move || file.sync_data())
                .ok()
        });
    }

    /// Waits for the sync that is under way, and returns the first failure since the last call.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.wait();
        self.failure.take().map_or(Ok(()), Err)
    }

    fn wait(&mut self) {
        if let Some(Ok(Err(error))) = self.running.take().map(JoinHandle::join) {
            self.failure.get_or_insert(error);
        }
    }
}
