//! The images of an archive of Docker, one for each entry of its list.

use std::collections::BTreeMap;
use std::rc::Rc;

use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;

use super::Image;
use super::contents::Contents;
use super::contents::Entry;
use super::contents::Place;
use crate::Result;
use crate::archive::Held;
use crate::error::unusable;

/// What has been found. However often the list mentions a file, it is read once.
pub(super) struct Found<'a> {
    contents: &'a Contents<'a>,
    limits: &'a Limits,
    /// The images that have manifests of their own.
    held: Held,
    configs: BTreeMap<Place, Rc<Read>>,
    layers: BTreeMap<Place, Layer>,
    /// Where each blob lies.
    pub(super) places: BTreeMap<Digest, Place>,
    pub(super) documents: BTreeMap<Digest, Vec<u8>>,
}

/// A config that was read.
struct Read {
    descriptor: Descriptor,
    diff_ids: Vec<Digest>,
    bytes: Vec<u8>,
}

/// What the bytes of a layer say.
#[derive(Clone)]
struct Layer {
    media_type: MediaType,
    /// None for a plain tar, whose digest is its DiffID: whoever reads it verifies that.
    digest: Option<Digest>,
}

impl<'a> Found<'a> {
    pub(super) fn new(contents: &'a Contents<'a>, held: Held, limits: &'a Limits) -> Self {
        let (configs, layers) = Default::default();
        let (places, documents) = Default::default();
        Found { contents, limits, held, configs, layers, places, documents }
    }

    /// Returns the image of an entry of the list.
    pub(super) fn image(&mut self, entry: Entry) -> Result<Image> {
        let config = self.config(&entry.config)?;
        let paths = entry.layers();
        if paths.len() != config.diff_ids.len() {
            let problem = format!("{} layers where the config names {}", paths.len(), config.diff_ids.len());
            return Err(unusable(self.list())(problem));
        }
        let layers = paths.iter().zip(&config.diff_ids);
        let layers = layers.map(|(path, diff_id)| self.layer(path, diff_id)).collect::<Result<Vec<_>>>()?;
        // A manifest that names other layers than the list is not what was saved: early versions named none.
        let held = self.held.get(&(config.descriptor.digest.clone(), paths.len())).cloned();
        let root = held.map_or_else(|| self.manifest(&config, layers), Ok)?;
        Ok(Image { names: entry.repo_tags.unwrap_or_default(), root })
    }

    /// Makes a manifest.
    fn manifest(&mut self, config: &Read, layers: Vec<Descriptor>) -> Result<Descriptor> {
        let bytes = Manifest::new(config.descriptor.clone(), layers).into_bytes();
        let (size, limit) = (bytes.len() as u64, self.limits.manifest_size);
        if size > limit {
            let what = format!("the manifest of an image in {}", self.list());
            return Err(restow_content::Error::TooLarge { what, size, limit }.into());
        }
        let digest = Digest::sha256(&bytes);
        self.documents.insert(digest.clone(), bytes);
        let config_bytes = || config.bytes.clone();
        self.documents.entry(config.descriptor.digest.clone()).or_insert_with(config_bytes);
        Ok(Descriptor::new(MediaType::OCI_MANIFEST, digest, size))
    }

    fn config(&mut self, name: &str) -> Result<Rc<Read>> {
        let place = self.contents.find(name)?;
        if let Some(config) = self.configs.get(&place) {
            return Ok(config.clone());
        }
        let bytes = self.contents.document(name, self.limits.config_size)?;
        let what = format!("{name} of {}", self.contents.path.display());
        let diff_ids = Config::parse(bytes.clone(), self.limits).map_err(unusable(what))?.diff_ids().to_vec();
        let descriptor = Descriptor::new(MediaType::OCI_CONFIG, Digest::sha256(&bytes), place.size);
        let config = Rc::new(Read { descriptor, diff_ids, bytes });
        self.configs.insert(place, config.clone());
        Ok(config)
    }

    fn layer(&mut self, path: &str, diff_id: &Digest) -> Result<Descriptor> {
        let place = self.contents.find(path)?;
        let layer = match self.layers.get(&place) {
            Some(layer) => layer.clone(),
            None => {
                let layer = self.look(place)?;
                self.layers.insert(place, layer.clone());
                layer
            }
        };
        let digest = layer.digest.unwrap_or_else(|| diff_id.clone());
        self.places.insert(digest.clone(), place);
        Ok(Descriptor::new(layer.media_type, digest, place.size))
    }

    /// Looks at the bytes of a layer.
    fn look(&self, place: Place) -> Result<Layer> {
        let media_type = match self.contents.start(place, 4)?.as_slice() {
            [0x1f, 0x8b, ..] => MediaType::OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => MediaType::OCI_LAYER_ZSTD,
            _ => MediaType::OCI_LAYER,
        };
        let digest = match media_type == MediaType::OCI_LAYER {
            true => None,
            false => Some(self.contents.digest(place)?),
        };
        Ok(Layer { media_type, digest })
    }

    fn list(&self) -> String {
        format!("manifest.json of {}", self.contents.path.display())
    }
}
