//! One image of a reference, and its documents.

use anyhow::Context as _;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_convert::Selected;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::Platform;
use restow_registry::Source;

use crate::output;

/// An image and its documents.
pub(crate) struct Image {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
    pub(crate) manifest: Manifest,
    /// Of its layers, where the config is one that knows.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Image {
    /// Reads the images chosen.
    pub(crate) fn all(source: &Source, platforms: &Platforms, limits: &Limits) -> anyhow::Result<Vec<Self>> {
        let selection = convert::select(&*source.provider, &source.root, platforms, limits);
        let images = selection.with_context(|| source.name.clone())?.images;
        let images = images.iter().map(|image| Self::read(source, image, limits));
        images.collect::<anyhow::Result<Vec<_>>>().with_context(|| source.name.clone())
    }

    /// Reads the image chosen, which must be one.
    pub(crate) fn one(source: &Source, platforms: &[Platform], limits: &Limits) -> anyhow::Result<Self> {
        let platforms = match platforms {
            [] => Platforms::Prefer(Platform::host()),
            platforms => Platforms::Only(platforms.to_vec()),
        };
        let mut images = Self::all(source, &platforms, limits)?;
        match (images.pop(), images.len()) {
            (Some(image), 0) => Ok(image),
            (image, others) => {
                let count = others + usize::from(image.is_some());
                anyhow::bail!("{}: {count} images are meant, choose one with --platform", source.name)
            }
        }
    }

    fn read(source: &Source, image: &Selected, limits: &Limits) -> anyhow::Result<Self> {
        let read = |descriptor, limit| restow_content::read(&*source.provider, descriptor, limit);
        let name = || format!("manifest {}", image.descriptor.digest);
        let manifest =
            Manifest::parse(read(&image.descriptor, limits.manifest_size)?, limits).with_context(name)?;
        let diff_ids = match manifest.config().media_type.kind() {
            Kind::Config => {
                let bytes = read(manifest.config(), limits.config_size).with_context(name)?;
                Config::parse(bytes, limits).with_context(name)?.diff_ids().to_vec()
            }
            _ => Vec::new(),
        };
        Ok(Self {
            descriptor: image.descriptor.clone(),
            platform: image.platform.clone(),
            manifest,
            diff_ids,
        })
    }

    /// Returns the layer at a position, counted from 0.
    pub(crate) fn layer(&self, source: &Source, position: usize) -> anyhow::Result<&Descriptor> {
        let layers = self.manifest.layers();
        let count = output::count(layers.len(), "layer");
        layers
            .get(position)
            .with_context(|| format!("{}: there is no layer {position}, only {count}", source.name))
    }
}
