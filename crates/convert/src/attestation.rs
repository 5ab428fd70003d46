//! Attestation manifests that say in `subject` which image they are about.

use std::collections::BTreeMap;

use restow_content::Store;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Limits;

use crate::Error;
use crate::Result;
use crate::image;
use crate::index::Companion;
use crate::index::Fate;
use crate::index::companion;
use crate::index::retarget;
use crate::survey::read_manifest;

/// Edits the attestation manifests in the indexes so that each is about what its image has become. BuildKit writes them
/// with a subject (`oci-artifact=true`) or without; those without stay as they are.
pub(crate) fn follow_subjects(
    store: &dyn Store,
    indexes: &[(Descriptor, Index)],
    fates: &mut BTreeMap<Digest, Fate>,
    limits: &Limits,
) -> Result<()> {
    for entry in indexes.iter().flat_map(|(_, index)| index.manifests()) {
        let Some(found @ Companion::Attestation(_)) = companion(entry) else { continue };
        let Some((subject, Fate::Converted(forms))) =
            found.subject().and_then(|subject| fates.get_key_value(&subject))
        else {
            continue;
        };
        let Some(successor) = forms.successor() else { continue };
        if let Some(new) = follow_subject(store, entry, subject, &successor.descriptor, limits)? {
            fates.insert(entry.digest.clone(), Fate::Edited(Box::new(new)));
        }
    }
    Ok(())
}

/// Returns the attestation manifest about `new` in the place of `old`; nothing where it names no subject, or is not there.
fn follow_subject(
    store: &dyn Store,
    attestation: &Descriptor,
    old: &Digest,
    new: &Descriptor,
    limits: &Limits,
) -> Result<Option<Descriptor>> {
    let mut manifest = match read_manifest(store, attestation, limits) {
        Err(Error::Read { source, .. }) if source.is_not_found() => return Ok(None),
        manifest => manifest?,
    };
    let Some(subject) = manifest.subject().filter(|subject| subject.digest == *old) else { return Ok(None) };
    let subject = retarget(subject, new);
    manifest.set_subject(&subject);
    image::write(store, attestation, manifest.into_bytes()).map(Some)
}
