//! Places that images are written to.

use std::path::Path;

use restow_content::Provider;
use restow_content::Store;
use restow_oci::Descriptor;

use crate::Layout;
use crate::Notice;
use crate::Result;

/// A place that an image is written to: first its new blobs, in any order, then the image as a whole, at once.
pub trait Destination: Send + Sync {
    /// Returns where new blobs are written. They belong to no image until one is published.
    fn store(&self) -> &dyn Store;

    /// Returns what the place is known to hold besides, to be read only.
    fn held(&self) -> Option<&dyn Provider>;

    /// Returns a directory for files that nobody needs afterwards.
    fn scratch(&self) -> &Path;

    /// Copies the image `root` from `source`, verified, and names it by each of `tags`, or not at all. What
    /// the place has already, `source` may be without.
    fn publish(&self, source: &dyn Provider, root: &Descriptor, tags: &[String]) -> Result<Vec<Notice>>;

    /// Removes what a run that failed has left.
    fn discard(self: Box<Self>) -> Result<()>;
}

impl Destination for Layout {
    fn store(&self) -> &dyn Store {
        Layout::store(self)
    }

    fn held(&self) -> Option<&dyn Provider> {
        None
    }

    fn scratch(&self) -> &Path {
        self.path()
    }

    fn publish(&self, source: &dyn Provider, root: &Descriptor, tags: &[String]) -> Result<Vec<Notice>> {
        Layout::publish(self, source, root, tags)
    }

    fn discard(self: Box<Self>) -> Result<()> {
        Layout::discard(*self)
    }
}
