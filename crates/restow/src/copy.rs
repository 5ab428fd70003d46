//! Copying an image from one place to another, every byte as it is.

use restow_convert as convert;
use restow_convert::Platforms;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Transfer;
use restow_registry::Watched;
use serde::Serialize;

use crate::Destination;
use crate::Error;
use crate::Result;
use crate::Session;
use crate::Warning;
use crate::error::Context as _;
use crate::observer::Blobs;
use crate::referrers;
use crate::session::give_up;

/// How an image is copied.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Which image of an index is copied, or the index with all of them; that for this machine's platform, unless told
    /// otherwise.
    pub platforms: Platforms,
    /// Whether what refers to the image, or to one that its index names, is copied, too.
    pub referrers: bool,
    /// How blobs come over.
    pub transfer: Transfer,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            platforms: Platforms::Prefer(Platform::host()),
            referrers: false,
            transfer: Transfer::default(),
        }
    }
}

/// A copy that is done.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CopyReport {
    /// The reference of what was copied.
    pub source: String,
    /// The references of the copy.
    pub destination: Vec<String>,
    /// Whether it is a manifest or an index, and of which kind.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// The size of that document.
    pub size: u64,
    /// The digests of what was copied beside, since it refers to the image.
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
        let root = choose(&source, &options.platforms, self.limits())?;
        let place = self.open_place(&destination.place, &source, false)?;

        let watched = Watched::new(&*source.provider, Blobs::copies(self.observer().clone()));
        let referrers = match options.referrers {
            true => {
                let images = images_of(&source, &root, self.limits())?;
                referrers::find(self.access(), &reference, [&root].into_iter().chain(&images))?
            }
            false => Vec::new(),
        };
        let unnamed: &[String] = &[];
        let mut images = vec![(&root, &destination.tags[..])];
        images.extend(referrers.iter().map(|referrer| (referrer, unnamed)));
        let notices = match place.publish_each(options.transfer, &watched, &images) {
            Ok(notices) => notices,
            Err(error) => {
                give_up(place);
                return Err(error).with_context(|| source.name.clone());
            }
        };
        let warnings: Vec<_> = notices.into_iter().map(Warning::from).collect();
        warnings.iter().for_each(|warning| self.warn(warning));
        Ok(CopyReport {
            source: source.name,
            destination: destination.names(),
            media_type: root.media_type,
            digest: root.digest,
            size: root.size,
            referrers: referrers.into_iter().map(|referrer| referrer.digest).collect(),
            notices: warnings.iter().map(ToString::to_string).collect(),
            warnings,
            seconds: self.now().saturating_sub(started).as_secs_f64(),
        })
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

/// Returns the root of the copy: all there is, or the image of one platform.
fn choose(source: &Source, platforms: &Platforms, limits: &Limits) -> Result<Descriptor> {
    if matches!(platforms, Platforms::All) || source.root.media_type.kind() != Kind::Index {
        return Ok(source.root.clone());
    }
    if matches!(platforms, Platforms::Only(chosen) if chosen.len() > 1) {
        let problem = "an index of some platforms has another digest: copy one platform or --all-platforms";
        return Err(Error::Options(problem.into()));
    }
    let selection = convert::select(&*source.provider, &source.root, platforms, limits);
    let images = selection.with_context(|| source.name.clone())?.images;
    match images.as_slice() {
        [image] => Ok(image.descriptor.clone()),
        [] => Err(Error::NothingToCopy { name: source.name.clone() }),
        images => Err(Error::SeveralMatch { name: source.name.clone(), count: images.len() }),
    }
}
