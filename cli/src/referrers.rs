//! What refers to an image: signatures, attestations, and where it came from.

use anyhow::Context as _;
use restow_content::Overlay;
use restow_content::Provider;
use restow_content::write;
use restow_convert::Conversion;
use restow_convert::Observer as _;
use restow_oci::Descriptor;
use restow_oci::MediaType;
use restow_registry::Destination;
use restow_registry::Reference;
use restow_registry::Source;
use serde_json::json;

use crate::access::access;
use crate::failure;
use crate::output;
use crate::progress::Progress;

/// The artifact that says what an image was made of.
const PROVENANCE: &str = "application/vnd.restow.conversion.v1+json";

/// What refers to the source of a conversion, and to its result.
pub(crate) struct Referring<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) source: &'a Source,
    pub(crate) place: &'a dyn Destination,
    pub(crate) conversion: &'a Conversion,
}

impl Referring<'_> {
    /// Copies what refers to the source, or tells that there is some: what was said of the source is not said
    /// of the result. Attaches to the result what it was made of, if that is wanted.
    pub(crate) fn settle(&self, copied: bool, provenance: bool, progress: &Progress) -> anyhow::Result<()> {
        let root = &self.source.root;
        if copied {
            let copied = copy(self.reference, root, &*self.source.provider, self.place)?;
            progress.step(&format!("copied {}", output::count(copied.len(), "referrer")));
        } else if self.conversion.root.digest != root.digest {
            match access().referrers(self.reference, &root.digest) {
                Ok(found) if found.is_empty() => {}
                Ok(found) => progress.warning(&format!(
                    "{} of {} stay with it; --copy-referrers copies them",
                    output::count(found.len(), "referrer"),
                    root.digest
                )),
                // The image is converted; that nothing is known of its referrers does not change it.
                Err(error) => {
                    let error = failure::describe(&error.into());
                    progress.warning(&format!("referrers of {} are not known: {error}", root.digest));
                }
            }
        }
        if provenance { self.attach() } else { Ok(()) }
    }

    /// Publishes a manifest whose subject is the result and whose only layer says what it was made of.
    fn attach(&self) -> anyhow::Result<()> {
        let result = &self.conversion.root;
        let layers = self.conversion.layers.iter().map(|layer| {
            json!({
                "manifest": layer.manifest.as_str(),
                "position": layer.position,
                "source": layer.source.digest.as_str(),
                "result": layer.destination.digest.as_str(),
            })
        });
        let statement = json!({
            "generator": concat!("restow ", env!("CARGO_PKG_VERSION")),
            "source": {"mediaType": self.source.root.media_type.as_str(), "digest": self.source.root.digest.as_str()},
            "result": {"mediaType": result.media_type.as_str(), "digest": result.digest.as_str()},
            "layers": layers.collect::<Vec<_>>(),
        });
        let store = self.place.store();
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
        let manifest = write(store, MediaType::OCI_MANIFEST, manifest.to_string().as_bytes())?;
        self.place.publish(&Overlay::new(store, []), &manifest, &[])?;
        Ok(())
    }
}

/// Copies all that refers to `subject` where `reference` lies, and what refers to that, to `place`. The
/// subject stays what it is, so it need not be there.
pub(crate) fn copy(
    reference: &Reference,
    subject: &Descriptor,
    source: &dyn Provider,
    place: &dyn Destination,
) -> anyhow::Result<Vec<Descriptor>> {
    let mut copied: Vec<Descriptor> = Vec::new();
    let mut subjects = vec![subject.digest.clone()];
    while let Some(subject) = subjects.pop() {
        for referrer in access().referrers(reference, &subject)? {
            if copied.iter().any(|known| known.digest == referrer.digest) {
                continue;
            }
            anyhow::ensure!(copied.len() < access().limits().nodes, "{subject} has too many referrers");
            // What a list says of a manifest is not said where it goes.
            let plain = Descriptor::new(referrer.media_type.clone(), referrer.digest.clone(), referrer.size);
            place.publish(source, &plain, &[]).with_context(|| format!("referrer {}", referrer.digest))?;
            subjects.push(referrer.digest.clone());
            copied.push(referrer);
        }
    }
    Ok(copied)
}
