//! Telling how far blobs have come.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use restow_content::Blob;
use restow_content::Provider;
use restow_oci::Descriptor;
use restow_oci::Kind;

/// Hears of blobs that are moved from one place to another, from several threads at once. One that is shared by two
/// places and not read is not told of.
pub trait Observer: Send + Sync {
    /// A blob is going to be read in full.
    fn started(&self, blob: &Descriptor);

    /// So many more of its bytes have been read.
    fn advanced(&self, blob: &Descriptor, bytes: u64);

    /// Nobody reads it any more; `whole`: since all of it has been read.
    fn finished(&self, blob: &Descriptor, whole: bool);
}

/// A provider whose blobs are watched. Manifests, indexes and configs are small and not told of.
#[expect(missing_debug_implementations, reason = "a provider has none")]
pub struct Watched<'a> {
    provider: &'a dyn Provider,
    observer: Arc<dyn Observer>,
}

impl<'a> Watched<'a> {
    /// Reads from `provider`, and tells `observer`.
    pub fn new(provider: &'a dyn Provider, observer: Arc<dyn Observer>) -> Watched<'a> {
        Watched { provider, observer }
    }
}

impl Provider for Watched<'_> {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        let blob = self.provider.open(descriptor)?;
        if matches!(descriptor.media_type.kind(), Kind::Index | Kind::Manifest | Kind::Config) {
            return Ok(blob);
        }
        let (descriptor, observer) = (descriptor.clone(), self.observer.clone());
        Ok(Box::new(WatchedBlob { blob, descriptor, observer, started: Once::new(), end: AtomicU64::new(0) }))
    }
}

struct WatchedBlob {
    blob: Box<dyn Blob>,
    descriptor: Descriptor,
    observer: Arc<dyn Observer>,
    started: Once,
    /// The end of the furthest read so far.
    end: AtomicU64,
}

impl Blob for WatchedBlob {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.started.call_once(|| self.observer.started(&self.descriptor));
        let count = self.blob.read_at(buffer, offset)?;
        let end = offset + count as u64;
        // What is read again, after a connection broke, is not told again.
        let before = self.end.fetch_max(end, Ordering::Relaxed);
        if end > before {
            self.observer.advanced(&self.descriptor, end - before);
        }
        Ok(count)
    }

    fn file(&self) -> Option<&File> {
        self.blob.file()
    }
}

impl Drop for WatchedBlob {
    fn drop(&mut self) {
        if !self.started.is_completed() {
            return;
        }
        let whole = self.end.load(Ordering::Relaxed) == self.descriptor.size;
        self.observer.finished(&self.descriptor, whole);
    }
}
