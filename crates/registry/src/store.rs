//! The images of a store with a database.

use std::path::Path;
use std::time::Duration;

use restow_content::Blob;
use restow_content::Labels;
use restow_content::MetadataStore;
use restow_content::Provider;
use restow_content::metadata::Held;
use restow_content::metadata::Rebuilt;
use restow_oci::Descriptor;
use restow_oci::Index;
use restow_oci::Limits;
use restow_oci::annotations::REF_NAME;

use crate::Error;
use crate::Notice;
use crate::Result;
use crate::Selector;
use crate::Transfer;
use crate::catalogue::Catalogue;
use crate::publish::transfer;
use crate::reference;

/// How long what a killed program brought into a store is kept.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The images of a store with a database. What is brought in or looked at through it is kept from collections as long
/// as it is open.
#[derive(Debug)]
pub struct StoreImages {
    store: Held,
    limits: Limits,
    rebuilt: Option<Rebuilt>,
}

impl StoreImages {
    /// Opens the store at `root`, which must be there.
    pub fn open(root: &Path, limits: &Limits) -> Result<StoreImages> {
        match MetadataStore::exists(root) {
            true => StoreImages::create(root, limits),
            false => Err(Error::NoSuchPath { path: root.to_owned() }),
        }
    }

    /// Opens the store at `root`, or makes an empty one.
    pub fn create(root: &Path, limits: &Limits) -> Result<StoreImages> {
        let (store, rebuilt) = MetadataStore::create(root, limits)?;
        Ok(StoreImages { rebuilt, ..StoreImages::of(&store, limits)? })
    }

    /// Returns the images of `store`.
    pub fn of(store: &MetadataStore, limits: &Limits) -> Result<StoreImages> {
        Ok(StoreImages { store: store.hold(LIFETIME)?, limits: limits.clone(), rebuilt: None })
    }

    /// Returns the blobs. What is written there belongs to no image until one is published.
    pub fn store(&self) -> &MetadataStore {
        &self.store
    }

    /// Returns what the database knows if it was lost and made again when the store was opened.
    pub fn rebuilt(&self) -> Option<&Rebuilt> {
        self.rebuilt.as_ref()
    }

    /// Returns the image that `selector` means: its manifest or index.
    pub fn resolve(&self, selector: &Selector) -> Result<Descriptor> {
        let entries = self.store.images()?.into_iter().map(|image| {
            let mut entry = image.target;
            entry.annotations.insert(REF_NAME.to_owned(), image.name);
            entry
        });
        let index = Index::new(entries.collect());
        let catalogue = Catalogue::new(self.store.root(), index);
        let mut found = catalogue.resolve(selector, &*self.store, &self.limits)?;
        found.annotations.remove(REF_NAME);
        Ok(found)
    }

    /// Copies the image `root` from `source`, verified, and gives it each of `names`, or nothing at all.
    pub fn publish(&self, source: &dyn Provider, root: &Descriptor, names: &[String]) -> Result<Vec<Notice>> {
        self.publish_by(Transfer::Copy, source, root, names)
    }

    /// Publishes as [`publish`](StoreImages::publish) does, with blobs that come over as `how` says.
    pub fn publish_by(
        &self,
        how: Transfer,
        source: &dyn Provider,
        root: &Descriptor,
        names: &[String],
    ) -> Result<Vec<Notice>> {
        let place = || self.store.root().display().to_string();
        if let Some(tag) = names.iter().find(|name| !reference::is_tag(name)) {
            return Err(Error::InvalidTag { reference: place(), tag: tag.clone() });
        }
        if names.is_empty() {
            // Nothing would keep it.
            return Err(Error::NoName { place: self.store.root().to_owned() });
        }
        let notices = transfer(how, source, &*self.store, root, &self.limits)?;
        let mut target = root.clone();
        target.data = None;
        target.annotations.remove(REF_NAME);
        self.store.set_images(names, &target, &Labels::new())?;
        Ok(notices)
    }
}

/// Whoever reads an image keeps it from being collected meanwhile.
impl Provider for StoreImages {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        self.store.open(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use restow_content::MemoryStore;
    use restow_content::metadata::Collection;
    use restow_testkit::ImageBuilder;
    use restow_testkit::Layer;
    use restow_testkit::TarBuilder;

    fn image(content: &str) -> (MemoryStore, Descriptor) {
        let layer = Layer::gzip(TarBuilder::new().file("file", content).finish());
        let image = ImageBuilder::new().layer(layer).build();
        let store = MemoryStore::new();
        for (_, bytes) in &image.blobs {
            restow_content::write(&store, image.root.media_type.clone(), bytes).unwrap();
        }
        (store, image.root)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_image_is_kept_under_its_names_and_found_by_them() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits::default();
        let root = directory.path().join("store");
        assert!(matches!(StoreImages::open(&root, &limits), Err(Error::NoSuchPath { .. })));
        assert!(!root.exists());
        let images = StoreImages::create(&root, &limits).unwrap();
        let ((first, one), (second, two)) = (image("one"), image("two"));
        images.publish(&first, &one, &names(&["docker.io/library/one:v1", "one"])).unwrap();
        let error = images.publish(&second, &two, &[]).unwrap_err();
        assert!(matches!(error, Error::NoName { .. }), "{error}");
        let error = images.publish(&second, &two, &names(&["a b"])).unwrap_err();
        assert!(matches!(error, Error::InvalidTag { .. }), "{error}");
        // Before anything has its name, the lease keeps it.
        restow_content::copy(&second, images.store(), &two).unwrap();
        assert_eq!(images.store().collect(&Collection::default()).unwrap().blobs, []);
        drop(images);

        let images = StoreImages::open(&root, &limits).unwrap();
        for selector in [
            Selector::Only,
            Selector::Tag("one".into()),
            Selector::Tag("docker.io/library/one:v1".into()),
            Selector::Digest(one.digest.clone()),
        ] {
            assert_eq!(images.resolve(&selector).unwrap(), one, "{selector:?}");
        }
        let error = images.resolve(&Selector::Tag("two".into())).unwrap_err();
        assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
        assert_eq!(images.store().collect(&Collection::default()).unwrap().blobs.len(), 1);
        // Read through, it is kept though its name is gone.
        restow_content::read(&images, &one, limits.manifest_size).unwrap();
        for name in ["one", "docker.io/library/one:v1"] {
            images.store().remove_image(name).unwrap();
        }
        assert_eq!(images.store().collect(&Collection::default()).unwrap().blobs, []);
    }
}
