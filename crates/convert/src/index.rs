//! Edits an index so that it leads to what its images have become.

use std::collections::BTreeMap;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::MediaType;
use restow_oci::annotations::DOCKER_REFERENCE_DIGEST;
use restow_oci::annotations::DOCKER_REFERENCE_TYPE;

use crate::MediaTypes;

/// BuildKit's provenance and SBOMs: manifests beside the image they are about.
const ATTESTATION: &str = "attestation-manifest";

/// What becomes of the entries of an index that point to a digest.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Kept,
    Dropped,
    /// Points to this from now on.
    Replaced(Box<Descriptor>),
}

/// Returns what an attestation manifest is about: `None` for another entry, `Some("")` where it does not say.
pub(crate) fn attested(entry: &Descriptor) -> Option<&str> {
    let about = || entry.annotations.get(DOCKER_REFERENCE_DIGEST).map_or("", String::as_str);
    (entry.annotations.get(DOCKER_REFERENCE_TYPE)? == ATTESTATION).then(about)
}

/// Points an entry to what its target has become, and forgets what held for the old bytes only.
pub(crate) fn retarget(entry: &Descriptor, target: &Descriptor) -> Descriptor {
    let mut entry = entry.clone();
    entry.media_type = target.media_type.clone();
    if entry.digest != target.digest {
        entry.digest = target.digest.clone();
        entry.data = None;
        entry.urls.clear();
    }
    entry.size = target.size;
    entry
}

/// Edits the entries of an index by their fates; those without one are kept.
///
/// Attestations share the fate of the image they are about. One about something that is not under the root stays.
pub(crate) fn edit(
    index: &mut Index,
    fates: &BTreeMap<Digest, Fate>,
    media_types: MediaTypes,
) -> Result<(), restow_oci::Error> {
    let entries: Vec<_> = index.manifests().iter().map(|entry| follow(entry, fates)).collect();
    for (position, entry) in entries.iter().enumerate() {
        if let Some(entry) = entry {
            index.set_manifest(position, entry)?;
        }
    }
    index.retain(|position, _| entries[position].is_some());
    // A Docker list must not lead to what has become OCI; attestations always are.
    let foreign = index.manifests().iter().any(|entry| !entry.media_type.is_docker());
    match media_types {
        MediaTypes::Docker if !foreign => {
            index.set_media_type(&index.media_type().to_docker().unwrap_or(MediaType::DOCKER_MANIFEST_LIST));
        }
        MediaTypes::Oci => index.set_media_type(&index.media_type().to_oci()),
        _ if index.is_changed() && foreign => index.set_media_type(&index.media_type().to_oci()),
        _ => {}
    }
    Ok(())
}

fn follow(entry: &Descriptor, fates: &BTreeMap<Digest, Fate>) -> Option<Descriptor> {
    let about = attested(entry).map(|subject| Digest::parse(subject).ok());
    let fate = match &about {
        Some(subject) => subject.as_ref().and_then(|subject| fates.get(subject)),
        None => fates.get(&entry.digest),
    };
    match fate {
        None | Some(Fate::Kept) => Some(entry.clone()),
        Some(Fate::Dropped) => None,
        Some(Fate::Replaced(image)) if about.is_some() => {
            let mut entry = entry.clone();
            entry.annotations.insert(DOCKER_REFERENCE_DIGEST.to_owned(), image.digest.to_string());
            Some(entry)
        }
        Some(Fate::Replaced(target)) => Some(retarget(entry, target)),
    }
}
