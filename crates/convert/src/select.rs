//! Chooses the images to convert.

use std::sync::Arc;

use restow_content::Provider;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_oci::Platform;
use restow_oci::PlatformMatcher;

use crate::Error;
use crate::Result;
use crate::survey::Candidate;
use crate::survey::Survey;

/// Which images of an index are meant.
#[derive(Clone, Debug)]
pub enum Platforms {
    /// All of them.
    All,
    /// The images for exactly these platforms, whichever way they are spelled; a platform without any is an error.
    Only(Vec<Platform>),
    /// The images that run best on this platform, or else the only image there is.
    Prefer(Platform),
}

/// The images chosen, and the others.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The images in the order of the index.
    pub images: Vec<Selected>,
    /// Those that were not chosen.
    pub others: Vec<Selected>,
    /// What is worth telling about the choice.
    pub notice: Option<String>,
    /// All that was read to choose.
    pub(crate) survey: Arc<Survey>,
}

/// An image that is chosen, or is not.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The descriptor of the image's manifest.
    pub descriptor: Descriptor,
    /// What it is for, where the index or the config says.
    pub platform: Option<Platform>,
    /// The entries of an index that are other forms of it: those marked as zstd, for the same platform.
    pub forms: Vec<Descriptor>,
}

/// Chooses images under a root, which is an index or the manifest of an image.
///
/// Manifests whose descriptor names a platform are not opened, so those that are not chosen need not be in the store.
pub fn select(
    store: &dyn Provider,
    root: &Descriptor,
    platforms: &Platforms,
    limits: &Limits,
) -> Result<Selection> {
    let survey = Survey::new(store, root, limits)?;
    choose(survey, platforms)
}

fn choose(survey: Survey, platforms: &Platforms) -> Result<Selection> {
    let candidates = survey.images.as_slice();
    let mut notice = None;
    let chosen = match platforms {
        Platforms::All => vec![true; candidates.len()],
        Platforms::Only(wanted) => {
            let matcher = |platform| PlatformMatcher::strict([platform]);
            let choices: Vec<_> =
                wanted.iter().map(|platform| best(candidates, &matcher(platform))).collect();
            let missing = wanted.iter().zip(&choices).filter(|(_, choice)| !choice.contains(&true));
            let missing: Vec<_> = missing.map(|(platform, _)| platform.to_string()).collect();
            if !missing.is_empty() {
                return Err(no_match(missing.join(", "), candidates));
            }
            (0..candidates.len()).map(|place| choices.iter().any(|choice| choice[place])).collect()
        }
        Platforms::Prefer(platform) => {
            let choice = best(candidates, &PlatformMatcher::only([platform]));
            match candidates {
                _ if choice.contains(&true) => choice,
                [] => {
                    notice = Some("there is no image to convert".to_owned());
                    choice
                }
                [only] => {
                    notice =
                        Some(format!("no image for {platform}; taking the only one, for {}", name(only)));
                    vec![true]
                }
                _ => return Err(no_match(platform.to_string(), candidates)),
            }
        }
    };
    let (images, others): (Vec<_>, Vec<_>) = candidates.iter().zip(chosen).partition(|(_, chosen)| *chosen);
    let selected =
        |images: Vec<(&Candidate, bool)>| images.into_iter().map(|(image, _)| image.into()).collect();
    let (images, others) = (selected(images), selected(others));
    Ok(Selection { images, others, notice, survey: Arc::new(survey) })
}

impl From<&Candidate> for Selected {
    fn from(candidate: &Candidate) -> Self {
        Self {
            descriptor: candidate.descriptor.clone(),
            platform: candidate.platforms.first().cloned(),
            forms: candidate.forms.clone(),
        }
    }
}

/// Marks the candidates that suit equally well and better than the others: an image for this very processor hides
/// those for older ones, which would run too.
fn best(candidates: &[Candidate], matcher: &PlatformMatcher) -> Vec<bool> {
    let rank = |candidate: &Candidate| candidate.platforms.iter().filter_map(|own| matcher.rank(own)).min();
    let ranks: Vec<_> = candidates.iter().map(rank).collect();
    let best = ranks.iter().flatten().min();
    ranks.iter().map(|rank| rank.is_some() && rank.as_ref() == best).collect()
}

fn no_match(wanted: String, candidates: &[Candidate]) -> Error {
    let mut available: Vec<_> = candidates.iter().map(name).collect();
    available.dedup();
    if available.is_empty() {
        available.push("none at all".to_owned());
    }
    Error::NoMatch { wanted, available: available.join(", ") }
}

fn name(candidate: &Candidate) -> String {
    candidate.platforms.first().map_or_else(|| "an unknown platform".to_owned(), Platform::to_string)
}
