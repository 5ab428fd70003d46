//! Places that images are written to.

use std::path::Path;

use restow_content::LocalStore;
use restow_content::Provider;
use restow_content::Store;
use restow_oci::Descriptor;
use tempfile::TempDir;

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
    /// there. Blobs come over as `how` says; a place that is no directory copies them.
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
        let published = images.iter().rev().map(|(root, names)| self.publish_by(how, source, root, names));
        Ok(published.collect::<Result<Vec<_>>>()?.concat())
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

/// Makes a store in a directory of its own below `scratch`, which goes when the directory is dropped.
pub(crate) fn scratch_store(scratch: &Path) -> Result<(TempDir, LocalStore)> {
    let directory = tempfile::Builder::new().prefix("restow-").tempdir_in(scratch);
    let directory = directory.map_err(|source| restow_content::Error::Io {
        action: "create a temporary directory in",
        path: scratch.to_owned(),
        source,
    })?;
    let store = LocalStore::open(directory.path())?;
    Ok((directory, store))
}
