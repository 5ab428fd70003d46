//! What refers to an image: signatures, attestations, and where it came from.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use restow_content::Store;
use restow_content::write;
use restow_convert::Conversion;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use restow_registry::Access;
use restow_registry::Reference;
use serde_json::json;

use crate::Error;
use crate::Result;
use crate::Warning;
use crate::WarningKind;
use crate::error::describe;
use crate::parallel;

/// The artifact that says what an image was made of.
const PROVENANCE: &str = "application/vnd.restow.conversion.v1+json";

/// How many subjects are asked about side by side.
const QUESTIONS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Returns all that refers to one of `subjects` where `reference` lies, and what refers to that. The subjects themselves
/// need not go where these go.
pub fn find<'a>(
    access: &Access,
    reference: &Reference,
    subjects: impl IntoIterator<Item = &'a Descriptor>,
) -> Result<Vec<Descriptor>> {
    let mut found: Vec<Descriptor> = Vec::new();
    let mut subjects: Vec<_> = digests(subjects);
    while !subjects.is_empty() {
        let answers = parallel::map(&subjects, QUESTIONS, |subject| access.referrers(reference, subject));
        let mut next = Vec::new();
        for (subject, referrers) in subjects.iter().zip(answers) {
            for referrer in referrers? {
                if found.iter().any(|known| known.digest == referrer.digest) {
                    continue;
                }
                if found.len() >= access.limits().nodes {
                    return Err(Error::TooManyReferrers { subject: subject.clone() });
                }
                next.push(referrer.digest.clone());
                // What a list says of a manifest is not said where it goes.
                found.push(Descriptor::new(referrer.media_type, referrer.digest, referrer.size));
            }
        }
        subjects = next;
    }
    Ok(found)
}

/// Warns that something refers to what a conversion was made of, which its result does not have: what was said of the
/// one is not said of the other.
pub fn warnings<'a>(
    access: &Access,
    reference: &Reference,
    subjects: impl IntoIterator<Item = &'a Descriptor>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |text: String| warnings.push(Warning::new(WarningKind::Referrers, text));
    let subjects = digests(subjects);
    let answers = parallel::map(&subjects, QUESTIONS, |subject| access.referrers(reference, subject));
    for (subject, answer) in subjects.iter().zip(answers) {
        match answer {
            Ok(found) if found.is_empty() => {}
            Ok(found) => warn(format!(
                "{} referrer{} of {subject} stay with it; --copy-referrers copies them",
                found.len(),
                if found.len() == 1 { "" } else { "s" },
            )),
            // The image is converted; that nothing is known of its referrers does not change it.
            Err(error) => warn(format!("referrers of {subject} are not known: {}", describe(&error))),
        }
    }
    warnings
}

/// Returns the digests, each once.
fn digests<'a>(descriptors: impl IntoIterator<Item = &'a Descriptor>) -> Vec<Digest> {
    let mut seen = BTreeSet::new();
    let digests = descriptors.into_iter().map(|descriptor| descriptor.digest.clone());
    digests.filter(|digest| seen.insert(digest.clone())).collect()
}

/// Writes a manifest whose subject is the result and whose only layer says what it was made of.
pub fn write_provenance(
    source: &Descriptor,
    conversion: &Conversion,
    store: &dyn Store,
) -> Result<Descriptor> {
    let result = &conversion.root;
    let layers = conversion.layers.iter().map(|layer| {
        json!({
            "manifest": layer.manifest.as_str(),
            "position": layer.position,
            "source": layer.source.digest.as_str(),
            "result": layer.destination.digest.as_str(),
        })
    });
    let statement = json!({
        "generator": concat!("restow ", env!("CARGO_PKG_VERSION")),
        "source": {"mediaType": source.media_type.as_str(), "digest": source.digest.as_str()},
        "result": {"mediaType": result.media_type.as_str(), "digest": result.digest.as_str()},
        "layers": layers.collect::<Vec<_>>(),
    });
    let config = write(store, MediaType::EMPTY, b"{}")?;
    let layer = write(store, MediaType::parse(PROVENANCE)?, statement.to_string().as_bytes())?;
    let part = |part: &Descriptor| json!({"mediaType": part.media_type.as_str(), "digest": part.digest.as_str(), "size": part.size});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST.as_str(),
        "artifactType": PROVENANCE,
        "config": part(&config),
        "layers": [part(&layer)],
        "subject": part(result),
    });
    Ok(write(store, MediaType::OCI_MANIFEST, manifest.to_string().as_bytes())?)
}
