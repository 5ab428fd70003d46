//! Copying an image from one place to another, every byte as it is.

use restow_convert as convert;
use restow_convert::Platforms;
use restow_convert::Selection;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_registry::Existing;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Transfer;
use restow_registry::Watched;
use restow_registry::Writing;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Destination;
use crate::Error;
use crate::Result;
use crate::Session;
use crate::Warning;
use crate::WarningKind;
use crate::error::Context as _;
use crate::gaps;
use crate::observer::Blobs;
use crate::referrers;
use crate::report::LeftOut;
use crate::report::platforms;
use crate::session::give_up;

/// How an image is copied.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Which image of an index is copied; the index with all of them, unless told otherwise.
    pub platforms: Platforms,
    /// Whether what refers to the image, or to one that its index names, is copied, too.
    pub referrers: bool,
    /// How blobs come over.
    pub transfer: Transfer,
    /// What becomes of an image that a registry has already.
    pub existing: Existing,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            platforms: Platforms::All,
            referrers: false,
            transfer: Transfer::default(),
            existing: Existing::default(),
        }
    }
}

/// A copy that is done.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CopyReport {
    /// The reference of what was copied.
    pub source: String,
    /// The references of the copy.
    pub destination: Vec<String>,
    /// Whether it is a manifest or an index, and of which kind.
    #[schemars(with = "String")]
    pub media_type: MediaType,
    /// Its digest.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// The size of that document.
    pub size: u64,
    /// The images of the source's index that the copy has not.
    pub left_out: Vec<LeftOut>,
    /// The digests of what was copied beside, since it refers to the image.
    #[schemars(with = "Vec<String>")]
    pub referrers: Vec<Digest>,
    /// The texts of the warnings.
    pub notices: Vec<String>,
    /// What went otherwise than one might expect.
    pub warnings: Vec<Warning>,
    /// How long all of it took.
    pub seconds: f64,
}

impl Session {
    /// Copies an image: only what the destination lacks is sent, and its names change once all of it is there.
    pub fn copy<S, D>(&self, source: S, destination: D, options: &CopyOptions) -> Result<CopyReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
        D: TryInto<Destination, Error: Into<Error>>,
    {
        let started = self.now();
        let destination = destination.try_into().map_err(Into::into)?;
        let destination = destination.in_store(self.settings().store.as_deref());
        if options.referrers {
            destination.must_hold_referrers()?;
        }
        let reference = source.try_into().map_err(Into::into)?;
        let reference = reference.in_store(self.settings().store.as_deref());
        let source = self.access().open_source(&reference, Reading::Once)?;
        let (root, left_out) = choose(&source, &options.platforms, self.limits())?;
        let chosen = matches!(options.platforms, Platforms::Only(_));
        if !chosen && !left_out.is_empty() && destination.replaces(&reference, &source.root) {
            let left_out = platforms(&left_out);
            let problem = format!("{} would lose {left_out}; --platform says that they may go", source.name);
            return Err(Error::Options(problem));
        }
        let (referrers, mut warnings) = self.copy_blobs(&reference, &source, &root, &destination, options)?;
        if !chosen && !left_out.is_empty() {
            let (copy, left_out) = (destination.names().join(", "), platforms(&left_out));
            let text = format!("{copy} leaves out {left_out}: a docker archive holds one image");
            warnings.push(Warning::new(WarningKind::LeftOut, text));
        }
        warnings.iter().for_each(|warning| self.warn(warning));
        Ok(CopyReport {
            source: source.name,
            destination: destination.names(),
            media_type: root.media_type,
            digest: root.digest,
            size: root.size,
            left_out,
            referrers: referrers.into_iter().map(|referrer| referrer.digest).collect(),
            notices: warnings.iter().map(ToString::to_string).collect(),
            warnings,
            seconds: self.now().saturating_sub(started).as_secs_f64(),
        })
    }

    /// Copies all below a root, and what refers to it if that is asked for, and returns the latter.
    fn copy_blobs(
        &self,
        reference: &Reference,
        source: &Source,
        root: &Descriptor,
        destination: &Destination,
        options: &CopyOptions,
    ) -> Result<(Vec<Descriptor>, Vec<Warning>)> {
        let writing = Writing { source: Some(source), existing: options.existing, ..Writing::default() };
        let place = self.open_place(&destination.place, writing)?;
        // Registries know best what they have.
        if source.repository.is_none()
            && !matches!(destination.place, Place::Registry(_))
            && let Err(error) = gaps::must_be_whole(source, root, place.store(), self.limits())
        {
            give_up(place);
            return Err(error);
        }
        let watched = Watched::new(&*source.provider, Blobs::copies(self.observer().clone()));
        let referrers = match options.referrers {
            true => {
                let images = images_of(source, root, self.limits())?;
                referrers::find(self.access(), reference, [root].into_iter().chain(&images))?
            }
            false => Vec::new(),
        };
        let unnamed: &[String] = &[];
        let mut images = vec![(root, &destination.tags[..])];
        images.extend(referrers.iter().map(|referrer| (referrer, unnamed)));
        match place.publish_each(options.transfer, &watched, &images) {
            Ok(notices) => Ok((referrers, notices.into_iter().map(Warning::from).collect())),
            Err(error) => {
                give_up(place);
                Err(error).with_context(|| source.name.clone())
            }
        }
    }
}

/// Returns the images of an index.
fn images_of(source: &Source, root: &Descriptor, limits: &Limits) -> Result<Vec<Descriptor>> {
    if root.media_type.kind() != Kind::Index {
        return Ok(Vec::new());
    }
    let selection = convert::select(&*source.provider, root, &Platforms::All, limits);
    let images = selection.with_context(|| source.name.clone())?.images;
    Ok(images.into_iter().map(|image| image.descriptor).collect())
}

/// Returns the root of the copy, all there is or the image of one platform, and the images that are not copied.
fn choose(source: &Source, platforms: &Platforms, limits: &Limits) -> Result<(Descriptor, Vec<LeftOut>)> {
    if matches!(platforms, Platforms::All) || source.root.media_type.kind() != Kind::Index {
        return Ok((source.root.clone(), Vec::new()));
    }
    if matches!(platforms, Platforms::Only(chosen) if chosen.len() > 1) {
        let problem = "an index of some platforms has another digest: copy one platform or --all-platforms";
        return Err(Error::Options(problem.into()));
    }
    let selection = convert::select(&*source.provider, &source.root, platforms, limits);
    let Selection { images, others, .. } = selection.with_context(|| source.name.clone())?;
    match images.as_slice() {
        [image] => Ok((image.descriptor.clone(), others.iter().map(LeftOut::from).collect())),
        [] => Err(Error::NothingToCopy { name: source.name.clone() }),
        images => Err(Error::SeveralMatch { name: source.name.clone(), count: images.len() }),
    }
}
