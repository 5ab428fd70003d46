//! The image beside an image: the tables of contents of its layers, where they are not in the layers.
//!
//! Each manifest has an empty config, and for each layer of one image a layer that holds the table; an annotation says whose.
//! What stands beside an index is an index, with the platforms of the images.

use std::collections::BTreeMap;
use std::io;

use restow_content::Labels;
use restow_content::Provider;
use restow_content::Store;
use restow_layer::TocBlob;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_oci::annotations::STARGZ_LAYER_DIGEST;

use crate::BoxError;
use crate::Conversion;
use crate::Error;
use crate::ImageReport;
use crate::Result;
use crate::survey::read_config;
use crate::survey::read_index;
use crate::survey::read_manifest;

/// What a table of contents is as a layer: a tar of one file.
pub(crate) const MEDIA_TYPE: MediaType = MediaType::OCI_LAYER_GZIP;

/// The config of an image that is none.
const CONFIG: &[u8] = b"{}";

/// Puts a table into the store.
pub(crate) fn store(store: &dyn Store, toc: &mut TocBlob) -> Result<Descriptor, BoxError> {
    let descriptor = Descriptor::new(MEDIA_TYPE, toc.digest(), toc.size());
    let mut ingest = restow_content::ingest_beside(store, &format!("toc-{}", descriptor.digest))?;
    ingest.restart()?;
    io::copy(&mut toc.read()?, &mut ingest)?;
    ingest.commit(Some(&descriptor), Labels::new())?;
    Ok(descriptor)
}

/// Writes the image of the tables of contents that a conversion put into blobs of their own, and returns its root; there
/// is none where no layer has such a table. As a `referrer`, each manifest says which image it is about, and an index of
/// them which index.
pub fn write_toc_image(
    store: &dyn Store,
    conversion: &Conversion,
    referrer: bool,
    limits: &Limits,
) -> Result<Option<Descriptor>> {
    let mut manifests = Vec::new();
    for image in &conversion.images {
        if let Some(mut manifest) = write_manifest(store, conversion, image, referrer)? {
            manifest.platform = Some(platform(store, image, limits)?);
            manifests.push(manifest);
        }
    }
    if conversion.root.media_type.kind() == Kind::Index && !manifests.is_empty() {
        let mut index = Index::new(manifests);
        if referrer {
            index.set_subject(&bare(&conversion.root));
        }
        return write(store, MediaType::OCI_INDEX, &index.into_bytes()).map(Some);
    }
    Ok(manifests.pop().map(|manifest| Descriptor { platform: None, ..manifest }))
}

fn write_manifest(
    store: &dyn Store,
    conversion: &Conversion,
    image: &ImageReport,
    referrer: bool,
) -> Result<Option<Descriptor>> {
    // Layers that are equal have one table.
    let mut tables = BTreeMap::new();
    for layer in conversion.layers.iter().filter(|layer| layer.manifest == image.source.digest) {
        if let Some(toc) = &layer.toc {
            let mut table = toc.clone();
            let owner = layer.destination.digest.to_string();
            table.annotations.insert(STARGZ_LAYER_DIGEST.to_owned(), owner.clone());
            tables.insert((toc.digest.to_string(), owner), table);
        }
    }
    if tables.is_empty() {
        return Ok(None);
    }
    let config = write(store, MediaType::OCI_CONFIG, CONFIG)?;
    let mut manifest = Manifest::new(config, tables.into_values().collect());
    if referrer {
        manifest.set_subject(&bare(&image.destination));
    }
    write(store, MediaType::OCI_MANIFEST, &manifest.into_bytes()).map(Some)
}

/// Returns a descriptor that says nothing but what is meant.
fn bare(descriptor: &Descriptor) -> Descriptor {
    let Descriptor { media_type, digest, size, .. } = descriptor.clone();
    Descriptor::new(media_type, digest, size)
}

fn platform(store: &dyn Store, image: &ImageReport, limits: &Limits) -> Result<Platform> {
    if let Some(platform) = &image.source.platform {
        return Ok(platform.clone());
    }
    let manifest = read_manifest(store, &image.destination, limits)?;
    Ok(read_config(store, manifest.config(), limits)?.platform().clone())
}

fn write(store: &dyn Store, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
    restow_content::write(store, media_type.clone(), bytes).map_err(|source| Error::Write {
        digest: Digest::sha256(bytes),
        media_type,
        source,
    })
}

/// Reads the image of the tables of contents under `root`: the blob of each table, by the digest of its layer.
///
/// Two tables for one layer are an error: no reader could tell which is meant.
pub fn read_toc_image(
    store: &dyn Provider,
    root: &Descriptor,
    limits: &Limits,
) -> Result<BTreeMap<Digest, Descriptor>> {
    let manifests = match root.media_type.kind() {
        Kind::Index => read_index(store, root, limits)?.manifests().to_vec(),
        _ => vec![root.clone()],
    };
    let mut tables: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for manifest in manifests.iter().filter(|manifest| manifest.media_type.kind() == Kind::Manifest) {
        for table in read_manifest(store, manifest, limits)?.layers() {
            let owner = table.annotations.get(STARGZ_LAYER_DIGEST);
            let owner = owner.and_then(|digest| Digest::parse(digest).ok());
            let owner = owner.ok_or_else(|| Error::Ownerless {
                manifest: manifest.digest.clone(),
                table: table.digest.clone(),
            })?;
            let other = tables.insert(owner.clone(), table.clone());
            if let Some(other) = other.filter(|other| other.digest != table.digest) {
                return Err(Error::Ambiguous { layer: owner, tables: [other.digest, table.digest.clone()] });
            }
        }
    }
    Ok(tables)
}
