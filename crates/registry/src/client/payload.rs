//! What goes up with a request, as often as it has to.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http_body::Frame;
use http_body::SizeHint;
use restow_content::Blob;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use tokio::sync::mpsc;

use crate::Error;

/// How much is read from a blob at once.
const PIECE: usize = 256 << 10;
/// How many pieces wait to be sent.
const PIECES: usize = 4;

/// The body of a request.
#[derive(Clone)]
pub(crate) enum Payload {
    None,
    Bytes(Bytes),
    /// A part of a blob, read while it is sent.
    Part(Box<Part>),
}

/// The bytes `start..end` of a blob. The last ones of the blob are verified with all before them.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) blob: Arc<dyn Blob>,
    pub(crate) descriptor: Descriptor,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) digesters: Arc<Digesters>,
}

/// The digests of a blob's first bytes, by how many these are: where one part ends, the next one goes on, and the same
/// part may be read again.
pub(crate) struct Digesters(Mutex<BTreeMap<u64, Digester>>);

impl Digesters {
    pub(crate) fn new(digest: &Digest) -> Digesters {
        let start = Digester::new(digest.algorithm()).map(|digester| (0, digester));
        Digesters(Mutex::new(start.into_iter().collect()))
    }

    fn at(&self, offset: u64) -> Option<Digester> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&offset).cloned()
    }

    fn keep(&self, start: u64, end: u64, digester: Digester) {
        let mut digesters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An upload begins again at the start, or goes on from where it is.
        digesters.retain(|&offset, _| offset == 0 || offset == start);
        digesters.insert(end, digester);
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Payload::None => f.write_str("None"),
            Payload::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Payload::Part(part) => write!(f, "Part({}..{})", part.start, part.end),
        }
    }
}

impl Payload {
    /// Returns the body from its start, and what tells how far it has come.
    pub(crate) fn body(&self) -> (Option<reqwest::Body>, Option<Arc<Progress>>) {
        match self {
            Payload::None => (None, None),
            Payload::Bytes(bytes) => (Some(bytes.clone().into()), None),
            Payload::Part(part) => {
                let progress = Arc::new(Progress::default());
                let (sender, receiver) = mpsc::channel(PIECES);
                let (part, told) = (part.clone(), progress.clone());
                let left = part.end - part.start;
                tokio::task::spawn_blocking(move || part.read(&sender, &told));
                (
                    Some(reqwest::Body::wrap(Body { receiver, left, progress: progress.clone() })),
                    Some(progress),
                )
            }
        }
    }
}

impl Part {
    fn read(&self, sender: &mpsc::Sender<io::Result<Bytes>>, progress: &Progress) {
        let fail = |error: Error| {
            // Noted before the request breaks, so that whoever meets the break finds the reason.
            *progress.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            let _ = sender.blocking_send(Err(io::Error::other("the blob cannot be read")));
        };
        let digest = &self.descriptor.digest;
        // A registry may go on from within a part: what it has is read again, to know what the digest is of.
        let (mut offset, mut digester) = match (self.digesters.at(self.start), self.digesters.at(0)) {
            (None, Some(digester)) => (0, Some(digester)),
            (digester, _) => (self.start, digester),
        };
        while offset < self.end {
            let there = offset < self.start;
            let stop = if there { self.start } else { self.end };
            let wanted = usize::try_from(stop - offset).unwrap_or(usize::MAX).min(PIECE);
            let mut piece = vec![0; wanted];
            let count = loop {
                match self.blob.read_at(&mut piece, offset) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                    result => break result,
                }
            };
            let count = match count {
                Ok(count) => count,
                Err(source) => {
                    let digest = digest.clone();
                    return fail(restow_content::Error::Read { digest, offset, source }.into());
                }
            };
            piece.truncate(count);
            offset += count as u64;
            if let Some(digester) = &mut digester {
                digester.update(&piece);
            }
            if there {
                continue;
            }
            // The last piece goes only if all of them are right, so that a damaged blob never arrives whole.
            if offset == self.descriptor.size
                && let Some(actual) = digester.take().map(Digester::finish)
                && actual != *digest
            {
                let size = self.descriptor.size;
                return fail(
                    restow_content::Error::Mismatch {
                        expected: digest.clone(),
                        expected_size: size,
                        actual,
                        actual_size: offset,
                    }
                    .into(),
                );
            }
            // Before the part is whole: the next one may be read as soon as the registry has all of this one.
            if offset == self.end
                && let Some(digester) = digester.take()
            {
                self.digesters.keep(self.start, self.end, digester);
            }
            if sender.blocking_send(Ok(piece.into())).is_err() {
                return;
            }
        }
    }
}

/// How far a body has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    sent: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Progress {
    /// Returns the number of bytes taken to be sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns why the bytes could not be had, once.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Body {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    progress: Arc<Progress>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.receiver.poll_recv(context).map(|piece| {
            piece.map(|piece| {
                piece.map(|piece| {
                    self.left = self.left.saturating_sub(piece.len() as u64);
                    self.progress.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Frame::data(piece)
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use restow_content::InMemory;
    use restow_oci::MediaType;

    use super::*;

    #[test]
    fn what_begins_within_a_part_is_verified_with_what_is_before_it() {
        let content = vec![7; 3 * PIECE];
        let mut damaged = content.clone();
        damaged[77] ^= 1;
        for (bytes, start, right) in [
            (&content, 0, true),
            (&content, PIECE as u64 + 5, true),
            (&damaged, 0, false),
            (&damaged, PIECE as u64 + 5, false),
        ] {
            let digest = Digest::sha256(&content);
            let size = content.len() as u64;
            let digesters = Arc::new(Digesters::new(&digest));
            let descriptor = Descriptor::new(MediaType::OCI_LAYER, digest, size);
            let blob = Arc::new(InMemory(bytes.clone()));
            let part = Part { blob, descriptor, start, end: size, digesters };
            let (sender, mut receiver) = mpsc::channel(PIECES);
            let progress = Progress::default();
            part.read(&sender, &progress);
            drop(sender);
            let mut sent = Vec::new();
            while let Some(Ok(piece)) = receiver.blocking_recv() {
                sent.extend_from_slice(&piece);
            }
            assert_eq!(progress.failure().is_none(), right, "from {start}");
            assert_eq!(sent == bytes[start as usize..], right, "from {start}");
        }
    }
}
