//! One image: its layers to convert, and its manifest and config afterwards.

use std::collections::BTreeMap;

use restow_content::Store;
use restow_oci::Compression;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_oci::annotations::strip_chunked;

use crate::Error;
use crate::Partial;
use crate::Result;
use crate::index::retarget;
use crate::readers::Reader;
use crate::schedule::NewBlob;
use crate::survey::read_config;
use crate::survey::read_manifest;

/// An image whose layers are to be converted.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) descriptor: Descriptor,
    manifest: Manifest,
    /// The config, where there is a layer to convert. A config of an unknown media type must not be read, and what has
    /// one is not an image.
    config: Option<Config>,
}

/// What an image has become.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// The manifest, which is the old one where nothing changed.
    pub(crate) descriptor: Descriptor,
    /// Whether there is a zstd layer in it.
    pub(crate) zstd: bool,
    /// The subject that had to go.
    pub(crate) subject: Option<Digest>,
}

impl Image {
    /// Reads the image's manifest, and its config if it is needed.
    pub(crate) fn read(store: &dyn Store, descriptor: &Descriptor, limits: &Limits) -> Result<Self> {
        let manifest = read_manifest(store, descriptor, limits)?;
        let of_image = manifest.config().media_type.kind() == Kind::Config;
        let config = if of_image && manifest.layers().iter().any(is_tar) {
            Some(read_config(store, manifest.config(), limits)?)
        } else {
            None
        };
        let image = Self { descriptor: descriptor.clone(), manifest, config };
        let (layers, diff_ids) = (image.layers().len(), image.diff_ids().len());
        if image.config.is_some() && layers != diff_ids {
            return Err(Error::LayerCount { manifest: descriptor.digest.clone(), layers, diff_ids });
        }
        Ok(image)
    }

    /// Returns all layers, also those that are not for conversion.
    pub(crate) fn layers(&self) -> &[Descriptor] {
        self.manifest.layers()
    }

    fn diff_ids(&self) -> &[Digest] {
        self.config.as_ref().map_or(&[], Config::diff_ids)
    }

    /// Returns the DiffID of the layer at a position, where the config was read.
    pub(crate) fn diff_id(&self, position: usize) -> Option<&Digest> {
        self.diff_ids().get(position)
    }

    /// Returns the layers that a converter can make something of, with their positions and DiffIDs.
    pub(crate) fn convertible(&self) -> impl Iterator<Item = (usize, &Descriptor, &Digest)> {
        let layers = self.layers().iter().zip(self.diff_ids()).enumerate();
        layers
            .map(|(position, (layer, diff_id))| (position, layer, diff_id))
            .filter(|(_, layer, _)| is_tar(layer))
    }

    /// Returns what the image runs on, where its config was read and says so.
    pub(crate) fn platform(&self) -> Option<&Platform> {
        self.config.as_ref().map(Config::platform).filter(|platform| **platform != Platform::default())
    }

    /// Returns what the layer at a position is after a conversion to `blob`, to a kind of reader.
    pub(crate) fn replaced(&self, position: usize, blob: &NewBlob, reader: Reader) -> Descriptor {
        let source = &self.layers()[position];
        let NewBlob { descriptor: blob, partial, .. } = blob;
        let mut layer = retarget(source, blob);
        if let (Kind::Layer { distributable: false, .. }, Kind::Layer { compression, .. }) =
            (source.media_type.kind(), blob.media_type.kind())
        {
            layer.media_type = MediaType::layer(compression, false);
        }
        strip_chunked(&mut layer.annotations);
        layer.annotations.extend(match (reader, partial) {
            (Reader::Containerd, _) | (Reader::Podman, None) => blob.annotations.clone(),
            (Reader::Podman, Some(Partial::Annotations(annotations))) => annotations.clone(),
            (Reader::Podman, Some(Partial::Refused(_))) => BTreeMap::new(),
        });
        layer
    }

    /// Puts layers and DiffIDs in their places, in the form for a kind of reader.
    pub(crate) fn rewrite(
        mut self,
        store: &dyn Store,
        blobs: &[(usize, NewBlob)],
        reader: Reader,
        keep_subject: bool,
    ) -> Result<Rewritten> {
        self.replace(blobs, reader).map_err(|source| Error::malformed(&self.descriptor, source))?;
        if let Some(config) = self.config.as_mut().filter(|config| config.is_changed()) {
            config.forget_docker_image();
            let new = write(store, self.manifest.config(), config.to_bytes())?;
            self.manifest.set_config(&new);
        }
        let is_zstd = |layer: &Descriptor| {
            matches!(layer.media_type.kind(), Kind::Layer { compression: Compression::Zstd, .. })
        };
        let zstd = self.layers().iter().any(is_zstd);
        if !self.manifest.is_changed() {
            return Ok(Rewritten { descriptor: self.descriptor, zstd, subject: None });
        }
        self.speak_one_language().map_err(|source| Error::malformed(&self.descriptor, source))?;
        let subject = self.manifest.subject().map(|subject| subject.digest.clone()).filter(|_| !keep_subject);
        if subject.is_some() {
            // What was said of the manifest with its old digest is not said of the new one.
            self.manifest.remove_subject();
        }
        self.descriptor.media_type = self.manifest.media_type().clone();
        let descriptor = write(store, &self.descriptor, self.manifest.to_bytes())?;
        Ok(Rewritten { descriptor, zstd, subject })
    }

    fn replace(&mut self, blobs: &[(usize, NewBlob)], reader: Reader) -> Result<(), restow_oci::Error> {
        for (position, blob) in blobs {
            let layer = self.replaced(*position, blob, reader);
            self.manifest.set_layer(*position, &layer)?;
            if let Some(config) = &mut self.config {
                config.set_diff_id(*position, &blob.diff_id)?;
            }
        }
        Ok(())
    }

    /// Makes the whole image OCI as soon as a part of it is. Docker's media types know no annotations, and readers
    /// trip over a mixture.
    fn speak_one_language(&mut self) -> Result<(), restow_oci::Error> {
        if self.manifest.media_type().is_docker()
            && self.layers().iter().all(|layer| layer.media_type.is_docker())
        {
            return Ok(());
        }
        let to_oci = |part: &Descriptor| Descriptor { media_type: part.media_type.to_oci(), ..part.clone() };
        self.manifest.set_media_type(&self.manifest.media_type().to_oci());
        self.manifest.set_config(&to_oci(self.manifest.config()));
        let layers: Vec<_> = self.layers().iter().map(to_oci).collect();
        layers.iter().enumerate().try_for_each(|(position, layer)| self.manifest.set_layer(position, layer))
    }
}

/// Tells whether a layer is a tar, however compressed.
fn is_tar(layer: &Descriptor) -> bool {
    matches!(layer.media_type.kind(), Kind::Layer { .. })
}

/// Stores a document that has changed, and returns its descriptor in place of the old one.
pub(crate) fn write(store: &dyn Store, old: &Descriptor, bytes: Vec<u8>) -> Result<Descriptor> {
    let new = restow_content::write(store, old.media_type.clone(), &bytes);
    let new = new.map_err(|source| Error::Write {
        digest: old.digest.clone(),
        media_type: old.media_type.clone(),
        source,
    })?;
    Ok(retarget(old, &new))
}
