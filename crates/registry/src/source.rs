//! An image to read, whatever kind of place it lies in.

use restow_content::Provider;
use restow_oci::Descriptor;
use restow_oci::Limits;

use crate::Error;
use crate::Layout;
use crate::OciArchive;
use crate::Place;
use crate::Reference;
use crate::Result;
use crate::StoreImages;

/// An image to read.
#[expect(missing_debug_implementations, reason = "a provider has none")]
pub struct Source {
    /// The blobs of the image, and perhaps others.
    pub provider: Box<dyn Provider>,
    /// The manifest or index to start from.
    pub root: Descriptor,
    /// What to call the image in messages.
    pub name: String,
}

/// Finds the image that `reference` means.
pub fn open_source(reference: &Reference, limits: &Limits) -> Result<Source> {
    let name = reference.to_string();
    match &reference.place {
        Place::Layout(path) => {
            let layout = Layout::open(path, limits)?;
            let root = layout.resolve(&reference.selector)?;
            Ok(Source { provider: Box::new(layout.store().clone()), root, name })
        }
        Place::Store(Some(root)) => {
            let images = StoreImages::open(root, limits)?;
            let root = images.resolve(&reference.selector)?;
            Ok(Source { provider: Box::new(images), root, name })
        }
        Place::Store(None) => Err(Error::NoStore),
        Place::Archive(path) => {
            let archive = OciArchive::open(path, limits)?;
            let root = archive.resolve(&reference.selector)?;
            Ok(Source { provider: Box::new(archive), root, name })
        }
    }
}
