//! The image of the tables of contents that are not in the layers they are about: what it is called, and reading it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use restow_content::Provider;
use restow_convert as convert;
use restow_convert::read_toc_image;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_registry as registry;
use restow_registry::Access;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Selector;
use restow_registry::Source;

use crate::Result;
use crate::error::Context as _;

/// What comes behind the tag of an image to make that of its tables. stargz-snapshotter looks there.
const SUFFIX: &str = "-esgztoc";

/// Returns the tag of the image of the tables of the image with this tag.
pub fn tag(tag: &str) -> String {
    format!("{tag}{SUFFIX}")
}

/// Tables of contents of an image's layers. Where nobody said in which image they are, they are looked for when the first
/// one is needed: in the image that is named after this one, then in what refers to it.
pub struct Tables<'a> {
    access: &'a Access,
    named: Option<Holder>,
    reference: &'a Reference,
    source: &'a Source,
    limits: &'a Limits,
    /// What has been found: beside the image, or by what it refers to.
    found: Mutex<BTreeMap<Option<Digest>, Arc<Vec<Holder>>>>,
}

/// An image of tables.
struct Holder {
    name: String,
    /// Where its blobs are; nothing for where those of the image itself are.
    provider: Option<Box<dyn Provider>>,
    /// By the layers they are about.
    tables: BTreeMap<Digest, Descriptor>,
}

impl Holder {
    fn read(source: Source, limits: &Limits) -> Result<Self> {
        let tables = read_toc_image(&*source.provider, &source.root, limits);
        let tables = tables.with_context(|| source.name.clone())?;
        Ok(Self { name: source.name, provider: Some(source.provider), tables })
    }
}

impl<'a> Tables<'a> {
    /// Gets ready to look where the image is.
    pub fn beside(
        access: &'a Access,
        reference: &'a Reference,
        source: &'a Source,
        limits: &'a Limits,
    ) -> Self {
        Self { access, named: None, reference, source, limits, found: Mutex::default() }
    }

    /// Looks in the image of tables of this name, which must be there, and nowhere else.
    pub fn named(self, reference: &Reference) -> Result<Self> {
        let found = self.access.open_source(reference, Reading::Again)?;
        Ok(Self { named: Some(Holder::read(found, self.limits)?), ..self })
    }

    /// Returns the blob of the table of a layer in a manifest, verified, if there is one.
    pub fn read(&self, manifest: &Digest, layer: &Digest) -> Result<Option<Vec<u8>>> {
        let read = |holder: &Holder| {
            let Some(table) = holder.tables.get(layer) else { return Ok(None) };
            let provider = holder.provider.as_deref().unwrap_or(&*self.source.provider);
            let bytes = restow_content::read(provider, table, self.limits.toc_size);
            bytes.map(Some).with_context(|| holder.name.clone())
        };
        if let Some(named) = &self.named {
            return read(named);
        }
        for place in self.places(manifest) {
            for holder in &*self.holders(place)? {
                if let Some(table) = read(holder)? {
                    return Ok(Some(table));
                }
            }
        }
        Ok(None)
    }

    /// Returns where the tables of a manifest's layers are. All their blobs are where those of the image are.
    pub fn all(&self, manifest: &Digest) -> Result<BTreeMap<Digest, Descriptor>> {
        let mut all = BTreeMap::new();
        for place in self.places(manifest) {
            for holder in &*self.holders(place)? {
                for (layer, table) in &holder.tables {
                    all.entry(layer.clone()).or_insert_with(|| table.clone());
                }
            }
        }
        Ok(all)
    }

    fn places(&self, manifest: &Digest) -> impl Iterator<Item = Option<Digest>> {
        let root = Some(&self.source.root.digest).filter(|root| *root != manifest);
        [None, Some(manifest.clone())].into_iter().chain(root.cloned().map(Some))
    }

    /// Looks beside the image, or at what refers to a digest, once.
    fn holders(&self, place: Option<Digest>) -> Result<Arc<Vec<Holder>>> {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holders) = known.get(&place) {
            return Ok(holders.clone());
        }
        let holders = match &place {
            None => self.named_after()?.into_iter().collect(),
            Some(subject) => self.referring(subject)?,
        };
        Ok(known.entry(place).or_insert(Arc::new(holders)).clone())
    }

    fn named_after(&self) -> Result<Option<Holder>> {
        let name = match (&self.reference.place, &self.reference.selector) {
            // What comes through a pipe comes once, and docker's archives hold no such layers.
            (Place::DockerArchive(path), _) if path == Path::new("-") => return Ok(None),
            (_, Selector::Tag(name)) => tag(name),
            (Place::Registry(_), Selector::Only) => tag("latest"),
            _ => return Ok(None),
        };
        let beside = Reference { selector: Selector::Tag(name), ..self.reference.clone() };
        match self.access.open_source(&beside, Reading::Again) {
            Err(error) if means_nothing(&error) => Ok(None),
            found => Holder::read(found?, self.limits).map(Some),
        }
    }

    fn referring(&self, subject: &Digest) -> Result<Vec<Holder>> {
        let mut holders = Vec::new();
        for referrer in self.access.referrers(self.reference, subject)? {
            if !matches!(referrer.media_type.kind(), Kind::Index | Kind::Manifest) {
                continue;
            }
            let name = format!("{}, referrer {}", self.source.name, referrer.digest);
            match read_toc_image(&*self.source.provider, &referrer, self.limits) {
                // It is about something else.
                Err(convert::Error::Ownerless { .. } | convert::Error::Malformed { .. }) => {}
                tables => {
                    let tables = tables.with_context(|| name.clone())?;
                    holders.push(Holder { name, provider: None, tables });
                }
            }
        }
        Ok(holders)
    }
}

/// Says whether a reference means nothing, as far as the registry lets anyone know: many refuse what is not
/// there as they refuse what is secret.
pub fn means_nothing(error: &registry::Error) -> bool {
    use registry::Error::{NoSuchPath, Unauthorized, UnknownDigest, UnknownTag};
    match error {
        NoSuchPath { .. } | Unauthorized { .. } | UnknownDigest { .. } | UnknownTag { .. } => true,
        error => error.is_not_found(),
    }
}
