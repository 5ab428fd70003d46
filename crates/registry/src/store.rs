//! The images of a store with a database.

use std::path::Path;
use std::time::Duration;

use restow_content::Blob;
use restow_content::Fields;
use restow_content::Labels;
use restow_content::Manager as _;
use restow_content::MetadataStore;
use restow_content::Overlay;
use restow_content::Provider;
use restow_content::metadata::Held;
use restow_content::metadata::Rebuilt;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::annotations::REF_NAME;
use serde_json::Value;

use crate::Error;
use crate::Notice;
use crate::Result;
use crate::Selector;
use crate::Transfer;
use crate::catalogue::CONTAINERD_NAME;
use crate::catalogue::Catalogue;
use crate::error::unusable;
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

    /// Returns the manifests that were published because of the image `digest`, which is their subject.
    pub(crate) fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for info in self.store.dependents(digest)? {
            let candidate = Descriptor::new(MediaType::OCI_MANIFEST, info.digest, info.size);
            let (media_type, subject) = about(&*self.store, &candidate, &self.limits)?;
            if subject.is_some_and(|subject| subject == *digest) {
                found.push(Descriptor { media_type, ..candidate });
            }
        }
        Ok(found)
    }

    /// Copies images that belong together, and names each by its names. One without names is kept as long as its
    /// subject, or the first of them. Blobs come over as `how` says.
    pub fn publish_each(
        &self,
        how: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        let mut notices = Vec::new();
        for (root, names) in images.iter().rev() {
            notices.extend(match (images.first(), names.is_empty()) {
                (Some((first, _)), true) => self.attach(how, source, root, &first.digest)?,
                _ => self.publish_by(how, source, root, names)?,
            });
        }
        Ok(notices)
    }

    /// Copies a manifest, which collections keep as long as its subject or the image `with`.
    fn attach(
        &self,
        how: Transfer,
        source: &dyn Provider,
        root: &Descriptor,
        with: &Digest,
    ) -> Result<Vec<Notice>> {
        let both = Overlay::new(&*self.store, [source]);
        let (_, subject) = about(&both, root, &self.limits)?;
        let Some(subject) = subject else {
            return Err(Error::NoName { place: self.store.root().to_owned() });
        };
        let notices = transfer(how, source, &*self.store, root, &self.limits)?;
        let label = |digest: &Digest| (back_reference(digest), digest.to_string());
        let labels = Labels::from([label(&subject), label(with)]);
        let fields = Fields::Only(labels.keys().cloned().collect());
        self.store.update_fields(&root.digest, labels, &fields)?;
        Ok(notices)
    }

    /// Fails if one of `names` is that of another image than `root`.
    pub fn refuse_taken(&self, names: &[String], root: &Digest) -> Result<()> {
        for name in names {
            match self.store.image(name) {
                Ok(image) if image.target.digest != *root => {
                    let (place, digest) = (self.store.root().to_owned(), image.target.digest);
                    return Err(Error::NameTaken { place, name: name.clone(), digest });
                }
                Ok(_) | Err(restow_content::Error::NoImage { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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
        // The names under which it was found elsewhere.
        target.annotations.remove(REF_NAME);
        target.annotations.remove(CONTAINERD_NAME);
        self.store.set_images(names, &target, &Labels::new())?;
        Ok(notices)
    }
}

/// Returns the label by which a blob is kept because of the blob `digest`. Each has a label of its own.
///
/// <https://github.com/containerd/containerd/blob/v2.1.0/docs/garbage-collection.md>
fn back_reference(digest: &Digest) -> String {
    format!("containerd.io/gc.bref.content.{}", digest.encoded())
}

/// Returns the media type that a manifest or an index has by its own account, and the digest of its subject.
fn about(
    provider: &dyn Provider,
    manifest: &Descriptor,
    limits: &Limits,
) -> Result<(MediaType, Option<Digest>)> {
    let bytes = read(provider, manifest, limits.manifest_size)?;
    let what = format!("manifest {}", manifest.digest);
    let document: Value = serde_json::from_slice(&bytes).map_err(unusable(&what))?;
    let is_index = document.get("manifests").is_some();
    let default = if is_index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
    let media_type =
        document["mediaType"].as_str().map(MediaType::parse).transpose().map_err(unusable(&what))?;
    let subject = document["subject"]["digest"].as_str().map(Digest::parse);
    Ok((media_type.unwrap_or(default), subject.transpose().map_err(unusable(what))?))
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
        images.refuse_taken(&names(&["one", "new"]), &one.digest).unwrap();
        let error = images.refuse_taken(&names(&["new", "one"]), &two.digest).unwrap_err();
        assert!(matches!(&error, Error::NameTaken { name, .. } if name == "one"), "{error}");
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

    #[test]
    fn what_is_about_an_image_is_found_by_it_and_stays_as_long() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("store");
        let images = StoreImages::create(&place, &Limits::default()).unwrap();
        let (source, root) = image("one");
        let (other, result) = image("two");
        let about = |subject: &Descriptor, note: &str| {
            let subject = serde_json::json!({
                "mediaType": subject.media_type.as_str(), "digest": subject.digest.as_str(), "size": subject.size,
            });
            ImageBuilder::new().manifest_field("subject", subject).annotation("note", note).build()
        };
        let signature = about(&root, "signature");
        let of_signature = about(&signature.root, "of the signature");
        let of_source = about(&root, "of the source");
        let all = MemoryStore::new();
        for image in [&signature, &of_signature, &of_source] {
            for (_, bytes) in &image.blobs {
                restow_content::write(&all, MediaType::OCI_LAYER, bytes).unwrap();
            }
        }
        let both = Overlay::new(&source, [&other as &dyn Provider, &all]);
        let (one, two) = (names(&["one"]), names(&["two"]));
        let first = [(&root, &one[..]), (&signature.root, &[]), (&of_signature.root, &[])];
        images.publish_each(Transfer::Copy, &both, &first).unwrap();
        // The image that this is about is not the one that it comes with.
        images.publish_each(Transfer::Copy, &both, &[(&result, &two[..]), (&of_source.root, &[])]).unwrap();
        let error =
            images.publish_each(Transfer::Copy, &both, &[(&result, &two[..]), (&root, &[])]).unwrap_err();
        assert!(matches!(error, Error::NoName { .. }), "{error}");

        let found = |digest: &Digest| -> std::collections::BTreeSet<Digest> {
            images.referrers(digest).unwrap().into_iter().map(|referrer| referrer.digest).collect()
        };
        let digests = |images: &[&restow_testkit::Image]| {
            images.iter().map(|image| image.root.digest.clone()).collect()
        };
        assert_eq!(found(&root.digest), digests(&[&signature, &of_source]));
        assert_eq!(found(&signature.root.digest), digests(&[&of_signature]));
        assert!(found(&result.digest).is_empty());

        drop(images);
        let (store, _) = MetadataStore::create(&place, &Limits::default()).unwrap();
        let is_there = |image: &restow_testkit::Image| store.info(&image.root.digest).is_ok();
        store.collect(&Collection::default()).unwrap();
        assert!([&signature, &of_signature, &of_source].into_iter().all(is_there));
        store.remove_image("one").unwrap();
        store.collect(&Collection::default()).unwrap();
        assert_eq!([&signature, &of_signature, &of_source].map(is_there), [false, false, true]);
        store.remove_image("two").unwrap();
        store.collect(&Collection::default()).unwrap();
        assert!(!is_there(&of_source));
    }
}
