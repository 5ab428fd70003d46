//! One image of a reference, and its documents.

use restow_convert as convert;
use restow_convert::Platforms;
use restow_convert::Selected;
use restow_convert::SourceImage;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::Platform;
use restow_registry::Source;

use crate::Error;
use crate::Result;
use crate::error::Context as _;

/// An image and its documents.
pub(crate) struct Image {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
    pub(crate) manifest: Manifest,
    /// Of its layers, where the config is one that knows.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Image {
    /// Reads the images chosen, each in all its forms.
    pub(crate) fn all(source: &Source, platforms: &Platforms, limits: &Limits) -> Result<Vec<Self>> {
        let images = select(source, platforms, limits)?;
        let forms = images.iter().flat_map(|Selected { descriptor, platform, forms, .. }| {
            let forms = forms.iter().map(|form| (form, form.platform.as_ref()));
            [(descriptor, platform.as_ref())].into_iter().chain(forms)
        });
        forms.map(|(descriptor, platform)| Self::read(source, descriptor, platform, limits)).collect()
    }

    /// Reads the image chosen, which must be one.
    pub(crate) fn one(source: &Source, platforms: &[Platform], limits: &Limits) -> Result<Self> {
        let platforms = match platforms {
            [] => Platforms::Prefer(Platform::host()),
            platforms => Platforms::Only(platforms.to_vec()),
        };
        match select(source, &platforms, limits)?.as_slice() {
            [Selected { descriptor, platform, .. }] => {
                Self::read(source, descriptor, platform.as_ref(), limits)
            }
            [] => Err(Error::NoImage { name: source.name.clone() }),
            images => Err(Error::SeveralImages { name: source.name.clone(), count: images.len() }),
        }
    }

    /// Returns an image that is being converted.
    pub(crate) fn begun(source: &SourceImage<'_>, platform: Option<Platform>) -> Self {
        Self {
            descriptor: source.descriptor.clone(),
            platform,
            manifest: source.manifest.clone(),
            diff_ids: source.config.map(|config| config.diff_ids().to_vec()).unwrap_or_default(),
        }
    }

    /// Reads the documents of images.
    pub(crate) fn of(source: &Source, images: &[Selected], limits: &Limits) -> Result<Vec<Self>> {
        let read = |image: &Selected| Self::read(source, &image.descriptor, image.platform.as_ref(), limits);
        images.iter().map(read).collect()
    }

    fn read(
        source: &Source,
        descriptor: &Descriptor,
        platform: Option<&Platform>,
        limits: &Limits,
    ) -> Result<Self> {
        let read = |descriptor, limit| restow_content::read(&*source.provider, descriptor, limit);
        let name = || format!("{}: manifest {}", source.name, descriptor.digest);
        let bytes = read(descriptor, limits.manifest_size).with_context(name)?;
        let manifest = Manifest::parse_as(bytes, &descriptor.media_type, limits).with_context(name)?;
        let diff_ids = match manifest.config().media_type.kind() {
            Kind::Config => {
                let bytes = read(manifest.config(), limits.config_size).with_context(name)?;
                Config::parse(bytes, limits).with_context(name)?.diff_ids().to_vec()
            }
            _ => Vec::new(),
        };
        Ok(Self { descriptor: descriptor.clone(), platform: platform.cloned(), manifest, diff_ids })
    }

    /// Returns the layer at a position, counted from 0.
    pub(crate) fn layer(&self, source: &Source, position: usize) -> Result<&Descriptor> {
        let layers = self.manifest.layers();
        let missing = || Error::NoSuchLayer { name: source.name.clone(), position, count: layers.len() };
        layers.get(position).ok_or_else(missing)
    }
}

fn select(source: &Source, platforms: &Platforms, limits: &Limits) -> Result<Vec<Selected>> {
    let selection = convert::select(&*source.provider, &source.root, platforms, limits);
    Ok(selection.with_context(|| source.name.clone())?.images)
}
