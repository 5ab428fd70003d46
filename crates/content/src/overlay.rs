//! Several providers behind one store.

use std::fs::File;

use restow_oci::Descriptor;
use restow_oci::Digest;

use crate::Blob;
use crate::Check;
use crate::Expected;
use crate::Fields;
use crate::Info;
use crate::Ingest;
use crate::IngestStatus;
use crate::Ingester;
use crate::Labels;
use crate::Manager;
use crate::Provider;
use crate::Result;
use crate::Store;

/// A store over providers: writes to the upper store; reads from it, and from the lower providers in their
/// order what the upper store cannot open. Only what lies in the upper store is managed.
///
/// A conversion runs on such a store: its results go to the destination, the rest is read from the source.
#[expect(missing_debug_implementations, reason = "the traits it holds have none")]
pub struct Overlay<'a> {
    upper: &'a dyn Store,
    lower: Vec<&'a dyn Provider>,
}

impl<'a> Overlay<'a> {
    /// Lays `upper` over `lower`.
    pub fn new(upper: &'a dyn Store, lower: impl IntoIterator<Item = &'a dyn Provider>) -> Overlay<'a> {
        Overlay { upper, lower: lower.into_iter().collect() }
    }
}

impl Provider for Overlay<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Blob>> {
        let mut result = self.upper.open(descriptor);
        for provider in &self.lower {
            match result {
                Ok(_) => break,
                Err(first) => {
                    // Report what is wrong with a blob rather than that others do not have it.
                    result = provider
                        .open(descriptor)
                        .map_err(|error| if first.is_not_found() { error } else { first });
                }
            }
        }
        result
    }
}

impl Ingester for Overlay<'_> {
    fn begin(&self, key: &str, expected: &Expected) -> Result<Box<dyn Ingest>> {
        self.upper.begin(key, expected)
    }

    fn adopt(&self, file: &File, descriptor: &Descriptor, check: Check) -> Result<bool> {
        self.upper.adopt(file, descriptor, check)
    }
}

impl Manager for Overlay<'_> {
    fn info(&self, digest: &Digest) -> Result<Info> {
        self.upper.info(digest)
    }

    fn update_fields(&self, digest: &Digest, labels: Labels, fields: &Fields) -> Result<Info> {
        self.upper.update_fields(digest, labels, fields)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.upper.walk(visit)
    }

    fn remove(&self, digest: &Digest) -> Result<()> {
        self.upper.remove(digest)
    }

    fn status(&self, key: &str) -> Result<IngestStatus> {
        self.upper.status(key)
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.upper.ingests()
    }

    fn abort(&self, key: &str) -> Result<()> {
        self.upper.abort(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::MemoryStore;
    use crate::copy;
    use crate::read;
    use crate::write;
    use restow_oci::MediaType;

    #[test]
    fn an_overlay_passes_the_suite_of_its_upper_store() {
        crate::suite::run(|| {
            let upper: &'static MemoryStore = Box::leak(Box::new(MemoryStore::new()));
            Overlay::new(upper, [])
        });
    }

    #[test]
    fn an_overlay_reads_from_both_and_writes_to_the_upper_store() {
        let (upper, lower) = (MemoryStore::new(), MemoryStore::new());
        let below = write(&lower, MediaType::OCI_LAYER, b"below").unwrap();
        let overlay = Overlay::new(&upper, [&lower as &dyn Provider]);
        let above = write(&overlay, MediaType::OCI_LAYER, b"above").unwrap();

        assert_eq!(read(&overlay, &below, 10).unwrap(), b"below");
        assert_eq!(read(&overlay, &above, 10).unwrap(), b"above");
        assert!(matches!(lower.open(&above), Err(Error::NotFound { .. })));
        assert!(matches!(overlay.info(&below.digest), Err(Error::NotFound { .. })));

        copy(&overlay, &overlay, &below).unwrap();
        assert_eq!(upper.info(&below.digest).unwrap().size, 5);
    }

    #[test]
    fn a_damaged_upper_blob_is_reported_unless_another_one_is_whole() {
        let (upper, lower) = (MemoryStore::new(), MemoryStore::new());
        let mut descriptor = write(&upper, MediaType::OCI_LAYER, b"blob").unwrap();
        descriptor.size = 5;
        let overlay = Overlay::new(&upper, [&lower as &dyn Provider]);
        assert!(matches!(overlay.open(&descriptor), Err(Error::WrongSize { .. })));
    }
}
