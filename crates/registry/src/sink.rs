//! A place to publish to, whatever kind it is.

use std::path::Path;

use restow_content::Provider;
use restow_content::Store;
use restow_oci::Descriptor;
use restow_oci::Limits;

use crate::Error;
use crate::Layout;
use crate::Notice;
use crate::Place;
use crate::Result;
use crate::StoreImages;
use crate::Transfer;

/// A place to publish to.
#[derive(Debug)]
pub enum Sink {
    /// A layout.
    Layout(Layout),
    /// A store with a database.
    Store(Box<StoreImages>),
}

impl Sink {
    /// Opens `place`, and makes it where there is nothing.
    pub fn create(place: &Place, limits: &Limits) -> Result<Sink> {
        match place {
            Place::Layout(path) => Ok(Sink::Layout(Layout::create(path, limits)?)),
            Place::Store(Some(root)) => Ok(Sink::Store(Box::new(StoreImages::create(root, limits)?))),
            Place::Store(None) => Err(Error::NoStore),
            Place::Archive(path) => Err(Error::ReadOnly { place: path.clone() }),
        }
    }

    /// Returns the blobs. What is written there belongs to no image until one is published.
    pub fn store(&self) -> &dyn Store {
        match self {
            Sink::Layout(layout) => layout.store(),
            Sink::Store(images) => images.store(),
        }
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        match self {
            Sink::Layout(layout) => layout.path(),
            Sink::Store(images) => images.store().root(),
        }
    }

    /// Copies the image `root` from `source`, verified, and names it by each of `names`, or does nothing at all.
    pub fn publish(&self, source: &dyn Provider, root: &Descriptor, names: &[String]) -> Result<Vec<Notice>> {
        self.publish_by(Transfer::Copy, source, root, names)
    }

    /// Publishes as [`publish`](Sink::publish) does, with blobs that come over as `how` says.
    pub fn publish_by(
        &self,
        how: Transfer,
        source: &dyn Provider,
        root: &Descriptor,
        names: &[String],
    ) -> Result<Vec<Notice>> {
        match self {
            Sink::Layout(layout) => layout.publish_by(how, source, root, names),
            Sink::Store(images) => images.publish_by(how, source, root, names),
        }
    }

    /// Publishes images that belong together, each with its names: in a layout at one moment, in a store the first one last.
    pub fn publish_all(
        &self,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        match self {
            Sink::Layout(layout) => layout.publish_all(source, images),
            Sink::Store(store) => {
                let published = images.iter().rev().map(|(root, names)| store.publish(source, root, names));
                Ok(published.collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    /// Ends a run that failed: a layout that was made for it goes. What was brought into a store is collected there
    /// some time.
    pub fn discard(self) -> Result<()> {
        match self {
            Sink::Layout(layout) => layout.discard(),
            Sink::Store(_) => Ok(()),
        }
    }
}
