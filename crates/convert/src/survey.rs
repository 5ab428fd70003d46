//! Reads the indexes under a root, once each, and lists the images they lead to.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use restow_content::Provider;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::Platform;

use crate::Error;
use crate::Result;
use crate::index::companion;
use crate::index::sources;

/// Everything that selection needs to know of what is under a root. Manifests whose descriptor names a platform are
/// not opened: those that are not selected need not be in the store.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Where it began.
    pub(crate) root: Descriptor,
    /// Every index, those within others first.
    pub(crate) indexes: Vec<(Descriptor, Index)>,
    /// Every image in the order met, each once.
    pub(crate) images: Vec<Candidate>,
    /// Artifacts, such as signatures, and what each is about.
    pub(crate) referrers: Vec<(Digest, Digest)>,
    /// Where each image is in `images`.
    places: BTreeMap<Digest, usize>,
    /// Indexes walked and manifests opened.
    visited: BTreeSet<Digest>,
    entries: usize,
}

/// An image that may be selected.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) descriptor: Descriptor,
    /// The platforms it is listed for; none when neither an index nor its config says.
    pub(crate) platforms: Vec<Platform>,
    /// The entries that are other forms of it.
    pub(crate) forms: Vec<Descriptor>,
}

impl Survey {
    /// Walks down from the root.
    pub(crate) fn new(store: &dyn Provider, root: &Descriptor, limits: &Limits) -> Result<Self> {
        if !matches!(root.media_type.kind(), Kind::Index | Kind::Manifest) {
            let (digest, media_type) = (root.digest.clone(), root.media_type.clone());
            return Err(Error::NotAnImage { digest, media_type });
        }
        let mut survey = Self {
            root: root.clone(),
            indexes: Vec::new(),
            images: Vec::new(),
            referrers: Vec::new(),
            places: BTreeMap::new(),
            visited: BTreeSet::new(),
            entries: 0,
        };
        survey.walk(store, root, limits, 0)?;
        Ok(survey)
    }

    fn walk(
        &mut self,
        store: &dyn Provider,
        descriptor: &Descriptor,
        limits: &Limits,
        depth: usize,
    ) -> Result<()> {
        match descriptor.media_type.kind() {
            Kind::Index => self.walk_index(store, descriptor, limits, depth),
            Kind::Manifest if companion(descriptor).is_none() => self.add_image(store, descriptor, limits),
            _ => Ok(()),
        }
    }

    fn walk_index(
        &mut self,
        store: &dyn Provider,
        index: &Descriptor,
        limits: &Limits,
        depth: usize,
    ) -> Result<()> {
        if !self.visited.insert(index.digest.clone()) {
            return Ok(());
        }
        if depth > limits.index_depth {
            return Err(Error::TooDeep { digest: index.digest.clone(), limit: limits.index_depth });
        }
        let document = read_index(store, index, limits)?;
        self.entries = self.entries.saturating_add(document.manifests().len());
        if self.entries > limits.nodes {
            return Err(Error::TooMany { digest: index.digest.clone(), limit: limits.nodes });
        }
        let entries = document.manifests();
        for (entry, source) in entries.iter().zip(sources(entries)) {
            match source {
                None => self.walk(store, entry, limits, depth + 1)?,
                // Another form of an image is made anew from the image, not converted beside it.
                Some(source) => {
                    let place = self.places.get(&entries[source].digest);
                    place.into_iter().for_each(|&place| self.images[place].forms.push(entry.clone()));
                }
            }
        }
        self.indexes.push((index.clone(), document));
        Ok(())
    }

    fn add_image(&mut self, store: &dyn Provider, descriptor: &Descriptor, limits: &Limits) -> Result<()> {
        if let Some(&place) = self.places.get(&descriptor.digest) {
            self.images[place].platforms.extend(descriptor.platform.clone());
            return Ok(());
        }
        // What an artifact is for says as little of what it is as the platform of its image does.
        let is_artifact = descriptor.artifact_type.as_ref().is_some_and(|known| known.kind() != Kind::Config);
        let mut platforms: Vec<_> =
            descriptor.platform.clone().filter(|_| !is_artifact).into_iter().collect();
        if platforms.is_empty() {
            if !self.visited.insert(descriptor.digest.clone()) {
                return Ok(());
            }
            let manifest = read_manifest(store, descriptor, limits)?;
            if manifest.config().media_type.kind() != Kind::Config {
                let subject = manifest.subject().map(|subject| subject.digest.clone());
                self.referrers.extend(subject.map(|subject| (descriptor.digest.clone(), subject)));
                return Ok(());
            }
            let platform = read_config(store, manifest.config(), limits)?.platform().clone();
            platforms.extend((platform != Platform::default()).then_some(platform));
        }
        self.places.insert(descriptor.digest.clone(), self.images.len());
        let descriptor = descriptor.clone();
        self.images.push(Candidate { descriptor, platforms, forms: Vec::new() });
        Ok(())
    }
}

pub(crate) fn read_index(store: &dyn Provider, descriptor: &Descriptor, limits: &Limits) -> Result<Index> {
    let bytes = read(store, descriptor, limits.manifest_size)?;
    Index::parse_as(bytes, &descriptor.media_type, limits)
        .map_err(|source| Error::malformed(descriptor, source))
}

pub(crate) fn read_manifest(
    store: &dyn Provider,
    descriptor: &Descriptor,
    limits: &Limits,
) -> Result<Manifest> {
    let bytes = read(store, descriptor, limits.manifest_size)?;
    Manifest::parse_as(bytes, &descriptor.media_type, limits)
        .map_err(|source| Error::malformed(descriptor, source))
}

pub(crate) fn read_config(store: &dyn Provider, descriptor: &Descriptor, limits: &Limits) -> Result<Config> {
    let bytes = read(store, descriptor, limits.config_size)?;
    Config::parse(bytes, limits).map_err(|source| Error::malformed(descriptor, source))
}

fn read(store: &dyn Provider, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    restow_content::read(store, descriptor, limit).map_err(|source| Error::read(descriptor, source))
}
