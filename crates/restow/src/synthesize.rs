//! An index of whatever a reference leads to.

use restow_registry as registry;
use restow_registry::Name;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Selector;
use restow_registry::synthesize::Architectures;
use restow_registry::synthesize::Subject;
use restow_registry::synthesize::synthesize;

use crate::Result;
use crate::Session;
use crate::Warning;
use crate::WarningKind;
use crate::error::describe;
use crate::toc_image::means_nothing;

impl Session {
    /// Makes an index of what a reference leads to: each entry says its platform and where it is found. Returns nothing
    /// for a reference that leads nowhere, with a warning if a registry has refused to tell.
    ///
    /// `name` is what the image is called in a registry, with its tag, which a digest in the reference does not hide.
    ///
    /// The index is JSON on one line.
    pub fn synthesize(&self, name: &str, architectures: &Architectures) -> Result<Option<String>> {
        let whole = match Reference::has_prefix(name) {
            true => name.to_owned(),
            false => format!("docker://{name}"),
        };
        let reference = self.reference(&whole)?;
        let source = match self.access().open_source(&reference, Reading::Once) {
            Err(error) if means_nothing(&error) => {
                if matches!(error, registry::Error::Unauthorized { .. }) {
                    let text = format!("{name}: {}", describe(&error));
                    self.warn(&Warning::new(WarningKind::Refused, text));
                }
                return Ok(None);
            }
            source => source?,
        };
        let found = place_name(name, reference)?;
        let subject = Subject { root: &source.root, provider: &*source.provider, name: &found };
        Ok(Some(synthesize(&subject, architectures, self.limits())?.to_string()))
    }
}

/// Returns what an image is called without its digest.
fn place_name(text: &str, reference: Reference) -> Result<String> {
    let Reference { place, selector } = reference;
    if let Place::Registry(_) = place {
        let name = Name::parse(text.strip_prefix("docker://").unwrap_or(text))?;
        return Ok(Name { digest: None, ..name }.to_string());
    }
    let selector = match selector {
        Selector::Tag(tag) => Selector::Tag(tag),
        Selector::Only | Selector::Digest(_) => Selector::Only,
    };
    Ok(Reference { place, selector }.to_string())
}
