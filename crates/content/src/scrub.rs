//! Reading everything again.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use crate::Error;
use crate::Result;
use crate::Store;
use crate::VerifiedReader;

/// What reading everything again showed.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// How many blobs were read.
    pub blobs: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// Those that are not what their digests say, or cannot be read, in their order.
    pub rotten: Vec<(Digest, Error)>,
}

/// Reads all blobs of a store and compares them with their digests, several side by side, until `stop` says so.
/// Nothing is changed. A blob that is removed meanwhile is none.
pub fn scrub(store: &dyn Store, threads: NonZeroUsize, stop: &(dyn Fn() -> bool + Sync)) -> Result<Scrubbed> {
    let mut blobs = Vec::new();
    store.walk(&mut |info| {
        blobs.push((info.digest, info.size));
        Ok(())
    })?;
    let (next, read, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    let rotten = Mutex::new(Vec::new());
    let work = || {
        while !stop()
            && let Some((digest, size)) = blobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            match verify(store, digest, *size) {
                Ok(()) => {}
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    rotten.lock().unwrap_or_else(PoisonError::into_inner).push((digest.clone(), error));
                }
            }
            read.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(*size, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.get().min(blobs.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut rotten = rotten.into_inner().unwrap_or_else(PoisonError::into_inner);
    rotten.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Scrubbed { blobs: read.into_inner(), bytes: bytes.into_inner(), rotten })
}

fn verify(store: &dyn Store, digest: &Digest, size: u64) -> Result<()> {
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, digest.clone(), size);
    VerifiedReader::new(store.open(&descriptor)?, &descriptor)?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;
    use crate::Manager as _;
    use crate::write;
    use std::fs;

    const THREADS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

    #[test]
    fn what_has_rotted_is_found_and_put_away() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        let blobs: Vec<_> = (0..10_u8)
            .map(|byte| write(&store, MediaType::OCI_LAYER, &[byte; 100]).unwrap().digest)
            .collect();
        let scrubbed = scrub(&store, THREADS, &|| false).unwrap();
        assert_eq!((scrubbed.blobs, scrubbed.bytes, scrubbed.rotten.len()), (10, 1000, 0));

        let path = store.path(&blobs[3]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, [77; 100]).unwrap();
        let scrubbed = scrub(&store, THREADS, &|| false).unwrap();
        assert_eq!((scrubbed.blobs, scrubbed.rotten.len()), (10, 1));
        assert_eq!(scrubbed.rotten[0].0, blobs[3]);
        assert!(matches!(scrubbed.rotten[0].1, Error::Mismatch { .. }));
        assert!(scrub(&store, THREADS, &|| true).unwrap().rotten.is_empty());

        let place = store.quarantine(&blobs[3]).unwrap().unwrap();
        assert_eq!(fs::read(place).unwrap(), [77; 100]);
        assert!(store.info(&blobs[3]).unwrap_err().is_not_found());
        assert!(store.quarantine(&blobs[3]).unwrap_err().is_not_found());
        // What is right stays.
        assert_eq!(store.quarantine(&blobs[4]).unwrap(), None);
        assert_eq!(scrub(&store, THREADS, &|| false).unwrap().blobs, 9);
        write(&store, MediaType::OCI_LAYER, &[3; 100]).unwrap();
        assert_eq!(scrub(&store, THREADS, &|| false).unwrap().blobs, 10);
    }
}
