//! Digests what is written on a thread of its own: the file grows meanwhile.
//!
//! Only of blobs that are known to be large: they are copied, by one thread. Layers that are made have no size yet, and
//! every processor is busy making them.
//!
//! The thread gets copies. A copy takes a tenth of the time that its digest does, and whoever writes need not give his
//! bytes away.

use std::mem;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::thread::JoinHandle;

use restow_oci::Digest;
use restow_oci::Digester;

/// Blobs of at most so many bytes are digested where they are written: a thread is not worth it.
const SMALL: u64 = 4 << 20;

/// How many bytes the thread gets at a time. All that wait fit a cache.
const PIECE: usize = 256 << 10;

/// How many pieces may wait for the thread.
const WAITING: usize = 8;

/// A running digest.
#[derive(Debug)]
pub(super) struct HashBehind {
    /// Of all bytes so far, or of those before the first one that went to the thread.
    digester: Digester,
    /// Whether many bytes are expected.
    large: bool,
    thread: Option<HashThread>,
}

impl HashBehind {
    /// Goes on from where `digester` is; as many bytes are expected as `size` says, if it is known.
    pub(super) fn new(digester: Digester, size: Option<u64>) -> HashBehind {
        HashBehind { digester, large: size.is_some_and(|size| size > SMALL), thread: None }
    }

    /// Adds `bytes` to what is digested.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if self.large && self.thread.is_none() {
            // Where there are no more threads, it is done here.
            self.thread = HashThread::start(&self.digester);
        }
        match &mut self.thread {
            Some(thread) => thread.update(bytes),
            None => self.digester.update(bytes),
        }
    }

    /// Returns the digest of the bytes so far.
    pub(super) fn current(&self) -> Digest {
        self.thread.as_ref().map_or_else(|| self.digester.current(), HashThread::current)
    }

    /// Forgets the bytes so far; the algorithm stays.
    pub(super) fn reset(&mut self) {
        self.thread = None;
        self.digester.reset();
    }
}

enum Work {
    Bytes(Vec<u8>),
    /// Tell how far the digest is.
    Tell(Sender<Digester>),
}

#[derive(Debug)]
struct HashThread {
    /// What is not worth a message yet.
    piece: Vec<u8>,
    /// Taken when the thread shall end.
    work: Option<SyncSender<Work>>,
    /// Pieces to be filled again.
    spare: Receiver<Vec<u8>>,
    handle: Option<JoinHandle<()>>,
}

impl HashThread {
    fn start(digester: &Digester) -> Option<HashThread> {
        let mut digester = digester.clone();
        let (work, received) = mpsc::sync_channel(WAITING);
        let (used, spare) = mpsc::channel();
        let run = move || {
            for work in received {
                // Whoever does not wait for an answer any more has been dropped.
                match work {
                    Work::Bytes(mut piece) => {
                        digester.update(&piece);
                        piece.clear();
                        let _ = used.send(piece);
                    }
                    Work::Tell(asker) => drop(asker.send(digester.clone())),
                }
            }
        };
        let handle = thread::Builder::new().name("restow-hash-behind".into()).spawn(run).ok()?;
        let piece = Vec::with_capacity(PIECE);
        Some(HashThread { piece, work: Some(work), spare, handle: Some(handle) })
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                let next = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
                let piece = mem::replace(&mut self.piece, next);
                self.send(Work::Bytes(piece));
            }
        }
    }

    fn current(&self) -> Digest {
        let (asker, answer) = mpsc::channel();
        self.send(Work::Tell(asker));
        let mut digester = answer.recv().expect("the thread answers until it is told to end");
        digester.update(&self.piece);
        digester.finish()
    }

    fn send(&self, work: Work) {
        let sent = self.work.as_ref().map(|sender| sender.send(work));
        assert!(matches!(sent, Some(Ok(()))), "the thread listens until it is told to end");
    }
}

impl Drop for HashThread {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn the_digest_is_that_of_the_bytes_however_they_come() {
        let bytes = bytes(12 << 20);
        // All at once, pieces of the thread's, and lengths that fit nothing.
        for pieces in [&[12 << 20][..], &[1 << 20], &[1, 4 << 20, 77, 3 << 20], &[70_001, 1_300_003]] {
            let mut digest = HashBehind::new(Digester::sha256(), Some(12 << 20));
            let mut offset = 0;
            for (turn, length) in pieces.iter().cycle().enumerate() {
                let piece = &bytes[offset..bytes.len().min(offset + length)];
                digest.update(piece);
                offset += piece.len();
                if turn % 7 == 0 || piece.is_empty() {
                    assert_eq!(digest.current(), Digest::sha256(&bytes[..offset]), "{pieces:?} {offset}");
                }
                if piece.is_empty() {
                    break;
                }
            }
            assert!(digest.thread.is_some());
        }
    }

    #[test]
    fn a_digest_starts_again_and_goes_on_from_another() {
        let bytes = bytes(6 << 20);
        let mut digest = HashBehind::new(Digester::sha256(), Some(6 << 20));
        digest.update(&bytes);
        digest.reset();
        assert_eq!(digest.current(), Digest::sha256(b""));
        digest.update(&bytes[..5 << 20]);
        assert_eq!(digest.current(), Digest::sha256(&bytes[..5 << 20]));
        // What is small, or may be, has no thread.
        for size in [Some(SMALL), None] {
            let mut digest = HashBehind::new(Digester::sha256(), size);
            digest.update(&bytes);
            assert!(digest.thread.is_none());
            assert_eq!(digest.current(), Digest::sha256(&bytes));
        }

        let mut earlier = Digester::sha256();
        earlier.update(b"content");
        let mut digest = HashBehind::new(earlier, Some(6 << 20));
        digest.update(&bytes);
        let all = [b"content", &bytes[..]].concat();
        assert_eq!(digest.current(), Digest::sha256(&all));
    }
}
