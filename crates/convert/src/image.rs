//! One image: its layers to convert, and its manifest and config afterwards.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

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
use restow_oci::annotations::CONTAINERD_UNCOMPRESSED;
use restow_oci::annotations::SOCI_INDEX_DIGEST;
use restow_oci::annotations::strip_chunked;

use crate::Error;
use crate::Layer;
use crate::MediaTypes;
use crate::Options;
use crate::Partial;
use crate::Result;
use crate::SourceImage;
use crate::index::retarget;
use crate::mentions::Followed;
use crate::mentions::Renamed;
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
    pub(crate) changed: bool,
    /// Whether there is a zstd layer in it.
    pub(crate) zstd: bool,
    /// What no longer holds of it.
    pub(crate) warnings: Vec<String>,
}

impl Image {
    /// Reads the image's manifest, and its config if it is needed.
    pub(crate) fn read(store: &dyn Store, descriptor: &Descriptor, limits: &Limits) -> Result<Self> {
        let manifest = read_manifest(store, descriptor, limits)?;
        let of_image = manifest.config().media_type.kind() == Kind::Config;
        let layers = manifest.layers();
        let config = if of_image && (layers.is_empty() || layers.iter().any(is_tar)) {
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

    /// Returns its documents, with the layers that are to be converted.
    pub(crate) fn source<'a>(&'a self, layers: Vec<Layer<'a>>) -> SourceImage<'a> {
        let Self { descriptor, manifest, config } = self;
        SourceImage { descriptor, manifest, config: config.as_ref(), layers }
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

    /// Returns why the layer at a position of an image is none that a converter can make something of.
    pub(crate) fn passed_over(&self, position: usize) -> Option<String> {
        let media_type = &self.layers()[position].media_type;
        match media_type.kind() {
            Kind::EncryptedLayer => Some("it is encrypted".into()),
            Kind::Layer { .. } => None,
            _ => self.config.is_some().then(|| format!("{media_type} is no layer that restow reads")),
        }
    }

    /// Returns what the image runs on, where its config was read and says so.
    pub(crate) fn platform(&self) -> Option<&Platform> {
        self.config.as_ref().map(Config::platform).filter(|platform| **platform != Platform::default())
    }

    /// Returns what the layer at a position is after a conversion to `blob`, to a kind of reader.
    pub(crate) fn replaced(&self, position: usize, blob: &NewBlob, reader: Reader) -> Descriptor {
        let source = &self.layers()[position];
        let NewBlob { descriptor: blob, diff_id, partial, .. } = blob;
        let mut layer = retarget(source, blob);
        if let Some(uncompressed) = layer.annotations.get_mut(CONTAINERD_UNCOMPRESSED) {
            *uncompressed = diff_id.to_string();
        }
        if let (Kind::Layer { distributable: false, .. }, Kind::Layer { compression, .. }) =
            (source.media_type.kind(), blob.media_type.kind())
        {
            let media_type = MediaType::layer(compression, false);
            let docker = media_type.to_docker().filter(|_| blob.media_type.is_docker());
            layer.media_type = docker.unwrap_or(media_type);
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
        &mut self,
        store: &dyn Store,
        blobs: &[(usize, NewBlob)],
        reader: Reader,
        options: &Options,
    ) -> Result<Rewritten> {
        let mut renamed = self.renamed(blobs);
        let mut warnings = Vec::new();
        self.replace(blobs, reader).map_err(|source| Error::malformed(&self.descriptor, source))?;
        self.follow_labels(&renamed, &mut warnings);
        if let Some(config) = self.config.as_mut().filter(|config| config.is_changed()) {
            config.forget_docker_image();
            let new = write(store, self.manifest.config(), config.to_bytes())?;
            renamed.add(&self.manifest.config().digest, &new.digest);
            self.manifest.set_config(&new);
        }
        self.follow_annotations(&renamed, &mut warnings)
            .map_err(|source| Error::malformed(&self.descriptor, source))?;
        if let Some(media_type) = self.language(options.media_types)? {
            self.speak(media_type).map_err(|source| Error::malformed(&self.descriptor, source))?;
        }
        let zstd = self.layers().iter().any(is_zstd);
        if !self.manifest.is_changed() {
            let descriptor = self.descriptor.clone();
            return Ok(Rewritten { descriptor, changed: false, zstd, warnings });
        }
        warnings.extend(self.forget_soci_index());
        if let Some(subject) = self.manifest.subject().filter(|_| !options.keep_subject) {
            // What was said of the manifest with its old digest is not said of the new one.
            warnings.push(forgot_subject(&self.descriptor.digest, &subject.digest));
            self.manifest.remove_subject();
        }
        let old = Descriptor { media_type: self.manifest.media_type().clone(), ..self.descriptor.clone() };
        let descriptor = write(store, &old, self.manifest.to_bytes())?;
        Ok(Rewritten { descriptor, changed: true, zstd, warnings })
    }

    /// Returns the digests that other ones take the place of.
    fn renamed(&self, blobs: &[(usize, NewBlob)]) -> Renamed {
        let new: BTreeMap<_, _> = blobs.iter().map(|(position, blob)| (*position, blob)).collect();
        let diff_ids = self.diff_ids().iter().enumerate();
        let diff_ids =
            diff_ids.map(|(position, old)| (old, new.get(&position).map_or(old, |blob| &blob.diff_id)));
        let layers = self.layers().iter().map(|layer| &layer.digest).enumerate();
        let layers = layers
            .map(|(position, old)| (old, new.get(&position).map_or(old, |blob| &blob.descriptor.digest)));
        Renamed::new(diff_ids, layers)
    }

    fn follow_labels(&mut self, renamed: &Renamed, warnings: &mut Vec<String>) {
        let manifest = &self.descriptor.digest;
        if let Some(config) = &mut self.config {
            config.edit_labels(|key, value| {
                let Followed { text, stale } = renamed.follow(key, value);
                warnings.extend(stale.map(|stale| format!("label {key} of manifest {manifest} {stale}")));
                text
            });
        }
    }

    fn follow_annotations(
        &mut self,
        renamed: &Renamed,
        warnings: &mut Vec<String>,
    ) -> Result<(), restow_oci::Error> {
        let manifest = format!("manifest {}", self.descriptor.digest);
        let old = self.manifest.annotations().clone();
        let mut new = old.clone();
        renamed.follow_all(&mut new, &manifest, warnings);
        for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
            self.manifest.set_annotation(key, value);
        }
        for (position, mut layer) in self.layers().to_vec().into_iter().enumerate() {
            let place = format!("layer {position} of {manifest}");
            renamed.follow_all(&mut layer.annotations, &place, warnings);
            self.manifest.set_layer(position, &layer)?;
        }
        Ok(())
    }

    /// Removes the annotation that leads to a SOCI index, which is about the old layers. The image's entry loses it, too.
    fn forget_soci_index(&mut self) -> Vec<String> {
        let annotations = [self.manifest.annotations(), &self.descriptor.annotations];
        let found = annotations.into_iter().filter_map(|all| all.get(SOCI_INDEX_DIGEST));
        let manifest = &self.descriptor.digest;
        let told = found.collect::<BTreeSet<_>>().into_iter().map(|soci| {
            format!("manifest {manifest} names SOCI index {soci}, which is about its old layers: make one of the new image")
        });
        let told = told.collect();
        self.manifest.remove_annotation(SOCI_INDEX_DIGEST);
        told
    }

    fn replace(&mut self, blobs: &[(usize, NewBlob)], reader: Reader) -> Result<(), restow_oci::Error> {
        for (position, blob) in blobs {
            let layer = self.replaced(*position, blob, reader);
            if layer != self.layers()[*position] {
                // What stays keeps its place in the text. What a conversion writes must not depend on what another one
                // had written there.
                let mut bare = layer.clone();
                strip_chunked(&mut bare.annotations);
                self.manifest.set_layer(*position, &bare)?;
            }
            self.manifest.set_layer(*position, &layer)?;
            if let Some(config) = &mut self.config {
                config.set_diff_id(*position, &blob.diff_id)?;
            }
        }
        Ok(())
    }

    /// Returns how to name what the image is made of, if that is not for each part to know. Docker's media types know no
    /// annotations, and readers trip over a mixture: an image that changes becomes OCI as soon as a part of it is.
    fn language(&self, wanted: MediaTypes) -> Result<Option<Language>> {
        let parts = || [self.manifest.config()].into_iter().chain(self.layers());
        match wanted {
            MediaTypes::Keep => {
                let docker = self.manifest.media_type().is_docker()
                    && self.layers().iter().all(|layer| layer.media_type.is_docker());
                Ok((self.manifest.is_changed() && !docker).then_some(MediaType::to_oci))
            }
            MediaTypes::Oci => Ok(Some(MediaType::to_oci)),
            MediaTypes::Docker => match parts().find(|part| !is_known_to_docker(part)) {
                Some(part) => Err(Error::NotDocker {
                    manifest: self.descriptor.digest.clone(),
                    media_type: part.media_type.clone(),
                    digest: part.digest.clone(),
                }),
                None => Ok(Some(|known| known.to_docker().unwrap_or_else(|| known.clone()))),
            },
        }
    }

    fn speak(&mut self, media_type: Language) -> Result<(), restow_oci::Error> {
        let named = |part: &Descriptor| {
            let mut part = Descriptor { media_type: media_type(&part.media_type), ..part.clone() };
            if part.media_type.is_docker() {
                part.annotations.clear();
            }
            part
        };
        self.manifest.set_media_type(&media_type(self.manifest.media_type()));
        self.manifest.set_config(&named(self.manifest.config()));
        let layers: Vec<_> = self.layers().iter().map(named).collect();
        layers.iter().enumerate().try_for_each(|(position, layer)| self.manifest.set_layer(position, layer))
    }
}

/// Names in a language what another one names.
type Language = fn(&MediaType) -> MediaType;

/// Tells whether a part of an image has a media type of Docker's that is in use: that for zstd layers is not.
fn is_known_to_docker(part: &Descriptor) -> bool {
    part.media_type.to_docker().is_some() && !is_zstd(part)
}

fn is_zstd(layer: &Descriptor) -> bool {
    matches!(layer.media_type.kind(), Kind::Layer { compression: Compression::Zstd, .. })
}

/// Tells whether a layer is a tar, however compressed.
fn is_tar(layer: &Descriptor) -> bool {
    matches!(layer.media_type.kind(), Kind::Layer { .. })
}

/// Says that a document is no longer about another one.
pub(crate) fn forgot_subject(document: &Digest, subject: &Digest) -> String {
    format!("{document} is about {subject}, which its converted form no longer says")
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
