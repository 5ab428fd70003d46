//! Images of which not all is there.

use restow_content::Overlay;
use restow_content::Store;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_convert::Selected;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_registry::Gap;
use restow_registry::Needs;
use restow_registry::Source;
use restow_registry::Whole;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Error;
use crate::Result;
use crate::Warning;
use crate::WarningKind;
use crate::error::Context as _;

/// An entry of an index of which something is missing or wrong.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct GapReport {
    /// The digest of the entry.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Its media type.
    #[schemars(with = "String")]
    pub media_type: MediaType,
    /// What it is for, where that is known.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
    /// Whether it is nothing but said of another entry.
    pub attestation: bool,
    /// What is missing or wrong.
    pub problem: String,
    /// All of it in a few words.
    #[serde(skip)]
    pub text: String,
}

impl From<&Gap> for GapReport {
    fn from(gap: &Gap) -> Self {
        Self {
            digest: gap.entry.digest.clone(),
            media_type: gap.entry.media_type.clone(),
            platform: gap.entry.platform.clone(),
            attestation: gap.is_attestation(),
            problem: gap.problem.clone(),
            text: gap.to_string(),
        }
    }
}

/// Looks what of the source is there. A registry would be sent a request for each blob; it has them all.
pub(crate) fn whole(source: &Source, limits: &Limits) -> Result<Whole> {
    match source.repository {
        None => Whole::of(&*source.provider, &source.root, Needs::Everything, limits),
        Some(_) => Ok(Whole::all(&source.root)),
    }
    .with_context(|| source.name.clone())
}

/// Refuses an image that is meant though it cannot be used. Where nobody says what is meant, nothing that is not there is:
/// an archive may have been saved for another platform than this one.
pub(crate) fn must_not_be_meant(
    source: &Source,
    gaps: &[Gap],
    platforms: &Platforms,
    limits: &Limits,
) -> Result<()> {
    let mut images = gaps.iter().filter(|gap| !gap.is_attestation());
    let meant = match (gaps, platforms) {
        ([], _) => None,
        (_, Platforms::All) => images.next(),
        _ => {
            let is_said = matches!(platforms, Platforms::Only(_));
            let meant = convert::select(&*source.provider, &source.root, platforms, limits);
            let meant = meant.map(|selection| selection.images).unwrap_or_default();
            let is_meant = |gap: &&Gap| meant.iter().any(|image| image.descriptor.digest == gap.entry.digest);
            images.filter(|gap| is_said || !gap.is_absent).find(is_meant)
        }
    };
    meant.map_or(Ok(()), |gap| Err(not_whole(source, gap.to_string())))
}

/// Warns of what is left out.
pub(crate) fn warnings(source: &Source, gaps: &[Gap]) -> Vec<Warning> {
    let text = |gap: &Gap| format!("{} is taken without {gap}", source.name);
    gaps.iter().map(|gap| Warning::new(WarningKind::NotWhole, text(gap))).collect()
}

/// Fails if something of an image is missing that its destination does not have either.
pub(crate) fn must_be_whole(
    source: &Source,
    root: &Descriptor,
    there: &dyn Store,
    limits: &Limits,
) -> Result<()> {
    let both = Overlay::new(there, [&*source.provider]);
    let whole = Whole::of(&both, root, Needs::Everything, limits);
    match whole.with_context(|| source.name.clone())?.gaps.as_slice() {
        [] => Ok(()),
        [gap] => Err(not_whole(source, gap.to_string())),
        [gap, rest @ ..] => Err(not_whole(source, format!("{gap}, and {} more", rest.len()))),
    }
}

/// Chooses images, if need be without the entries of the index that cannot be read.
pub(crate) fn select_readable(
    source: &Source,
    platforms: &Platforms,
    limits: &Limits,
) -> Result<Vec<Selected>> {
    let Source { provider, root, name, .. } = source;
    let error = match convert::select(&**provider, root, platforms, limits) {
        Ok(selection) => return Ok(selection.images),
        Err(error) => error,
    };
    let whole = Whole::of(&**provider, root, Needs::Documents, limits);
    let selection = match whole.with_context(|| name.clone())? {
        Whole { gaps, .. } if gaps.is_empty() => Err(error),
        Whole { root, documents, .. } => {
            let provider = Overlay::new(&documents, [&**provider]);
            convert::select(&provider, &root, platforms, limits)
        }
    };
    Ok(selection.with_context(|| name.clone())?.images)
}

fn not_whole(source: &Source, gap: String) -> Error {
    Error::NotWhole { name: source.name.clone(), gap }
}
