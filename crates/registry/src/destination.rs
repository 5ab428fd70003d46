//! Places that images are written to.

use std::path::Path;

use restow_content::Provider;
use restow_content::Store;
use restow_oci::Descriptor;

use crate::Layout;
use crate::Notice;
use crate::Result;
use crate::StoreImages;
use crate::Transfer;

/// A place that an image is written to: first its new blobs, in any order, then the image as a whole, at once.
pub trait Destination: Send + Sync {
    /// Returns where new blobs are written. They belong to no image until one is published.
    fn store(&self) -> &dyn Store;

    /// Returns what the place is known to hold besides, to be read only.
    fn held(&self) -> Option<&dyn Provider>;

    /// Returns a directory for files that nobody needs afterwards.
    fn scratch(&self) -> &Path;

    /// Copies images that belong together from `source`, and names each by its names, or not at all. What the place
    /// has already, `source` may be without. The first image counts: no name of it changes before the others are
    /// there. An image without names that is about another one, its subject, is found by that, and stays as long as
    /// that one or the first. Blobs come over as `how` says; a place that is no directory copies them.
    fn publish_each(
        &self,
        how: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>>;

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

    fn publish_each(
        &self,
        how: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        Layout::publish_each(self, how, source, images)
    }

    fn discard(self: Box<Self>) -> Result<()> {
        Layout::discard(*self)
    }
}

impl Destination for StoreImages {
    fn store(&self) -> &dyn Store {
        StoreImages::store(self)
    }

    fn held(&self) -> Option<&dyn Provider> {
        None
    }

    fn scratch(&self) -> &Path {
        StoreImages::store(self).root()
    }

    fn publish_each(
        &self,
        how: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        StoreImages::publish_each(self, how, source, images)
    }

    fn discard(self: Box<Self>) -> Result<()> {
        // What was brought in is collected some time.
        Ok(())
    }
}

impl dyn Destination + '_ {
    /// Publishes a single image, verified.
    pub fn publish(&self, source: &dyn Provider, root: &Descriptor, names: &[String]) -> Result<Vec<Notice>> {
        self.publish_all(source, &[(root, names)])
    }

    /// Publishes images that belong together, verified.
    pub fn publish_all(
        &self,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        self.publish_each(Transfer::Copy, source, images)
    }
}
