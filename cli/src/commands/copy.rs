//! `restow copy`: an image from one place to another, every byte as it is.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use restow::referrers;
use restow_content::Overlay;
use restow_content::Store;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_convert::Selected;
use restow_convert::Selection;
use restow_oci::Descriptor;
use restow_oci::Kind;
use restow_oci::Platform;
use restow_registry::Needs;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Watched;
use restow_registry::Whole;
use restow_registry::Writing;
use serde_json::Value;
use serde_json::json;

use crate::access::access;
use crate::access::open_destination;
use crate::args::Format;
use crate::args::LinkArguments;
use crate::args::ProgressArguments;
use crate::args::RepairArguments;
use crate::conversion::ImageArguments;
use crate::destination::Destination;
use crate::failure::Usage;
use crate::output;
use crate::progress::Voice;
use crate::reference;
use crate::report;
use crate::transfer::Transfer;
use crate::workshop::Opened;
use crate::workshop::give_up;

const EXAMPLES: &str = "\
Examples:
  restow copy docker://debian:12 oci:debian:12
  restow copy --platform linux/arm64 docker://debian:12 docker://localhost:5000/debian:12-arm64
  restow copy oci:app:v1 docker-archive:- | docker load";

/// Copy an image from one place to another, every byte and every digest as it is
///
/// Of an index, all images are copied, unless --platform says which. A docker archive holds one: the host's is taken then.
/// Only what the destination lacks is sent. The digest of the image goes to stdout, everything else to stderr.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    images: ImageArguments,
    #[command(flatten)]
    platforms: CopyPlatforms,
    /// Copy what refers to the image or to one that its index names, too: signatures, attestations and the like
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    repair: RepairArguments,
    #[command(flatten)]
    link: LinkArguments,
    #[command(flatten)]
    progress: ProgressArguments,
    /// What stdout holds: the digest of the image, or a document about it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// Which images of an index are copied.
#[derive(Debug, Args)]
struct CopyPlatforms {
    /// Copy the image for this platform alone, for instance linux/arm64/v8
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Copy the images for all platforms, wherever they go; a docker archive takes none of several
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
}

impl CopyPlatforms {
    fn choice(&self, place: &Place) -> Platforms {
        match (&self.platform, place) {
            (Some(platform), _) => Platforms::Only(vec![platform.clone()]),
            (None, Place::DockerArchive(_)) if !self.all_platforms => Platforms::Prefer(Platform::host()),
            (None, _) => Platforms::All,
        }
    }
}

impl Arguments {
    /// Finds what is wrong with the command line before anything is done.
    pub(crate) fn check(&self) -> anyhow::Result<Checked<'_>> {
        let destination = self.images.destination()?;
        if self.referrers {
            destination.must_hold_referrers()?;
        }
        let reference = reference::parse(&self.images.source)?;
        Ok(Checked { arguments: self, reference, destination })
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let checked = arguments.check()?;
    let transfer = Transfer::new(&arguments.progress, Voice::default());
    let document =
        checked.perform(|place, writing| Ok(Arc::new(open_destination(place, writing)?)), transfer)?;
    checked.destination.print(arguments.format, &document)?;
    Ok(ExitCode::SUCCESS)
}

/// A copy that makes sense.
pub(crate) struct Checked<'a> {
    arguments: &'a Arguments,
    pub(crate) reference: Reference,
    pub(crate) destination: Destination,
}

impl Checked<'_> {
    /// Copies the image to a place that `open` opens, tells what became of it, and returns that as a document, too.
    pub(crate) fn perform(
        &self,
        open: impl FnOnce(&Place, Writing<'_>) -> restow_registry::Result<Opened>,
        transfer: Transfer,
    ) -> anyhow::Result<Value> {
        let started = Instant::now();
        let Self { arguments, reference, destination } = self;
        let source = access().open_source(reference, Reading::Once)?;
        let (root, left_out) = choose(&source, &arguments.platforms.choice(&destination.place))?;
        if arguments.platforms.platform.is_none()
            && !left_out.is_empty()
            && destination.replaces(reference, &source.root)
        {
            let left_out = report::platforms(&left_out);
            let problem = format!("{} would lose {left_out}; --platform says that they may go", source.name);
            return Err(Usage(problem).into());
        }
        let existing = arguments.repair.existing();
        let writing = Writing { source: Some(&source), existing, ..Writing::default() };
        let place = open(&destination.place, writing)?;
        if let Err(error) = self.look(&source, &root, place.store()) {
            give_up(place);
            return Err(error);
        }

        let transfer = Arc::new(transfer);
        let watched = Watched::new(&*source.provider, transfer.clone());
        let copied = match arguments.referrers {
            true => {
                referrers::find(access(), reference, [&root].into_iter().chain(&images_of(&source, &root)?))?
            }
            false => Vec::new(),
        };
        let unnamed: &[String] = &[];
        let mut images = vec![(&root, &destination.tags[..])];
        images.extend(copied.iter().map(|referrer| (referrer, unnamed)));
        let notices = match place.publish_each(arguments.link.how(), &watched, &images) {
            Ok(notices) => notices,
            Err(error) => {
                give_up(place);
                return Err(error).with_context(|| source.name.clone());
            }
        };
        for notice in &notices {
            transfer.warning(&notice.to_string());
        }
        let references = destination.names();
        let with = if copied.is_empty() {
            String::new()
        } else {
            format!(" with {}", output::count(copied.len(), "referrer"))
        };
        let elapsed = output::seconds(started.elapsed());
        if !left_out.is_empty() {
            let told = format!("{} leaves out {}", references.join(", "), report::platforms(&left_out));
            match arguments.platforms.platform {
                Some(_) => transfer.line(&told),
                None => transfer.warning(&format!("{told}: a docker archive holds one image")),
            }
        }
        transfer.line(&format!("{} -> {}{with} in {elapsed}", source.name, references.join(", ")));
        Ok(json!({
            "source": source.name,
            "destination": references,
            "mediaType": root.media_type.as_str(),
            "digest": root.digest.as_str(),
            "size": root.size,
            "leftOut": report::left_out_document(&left_out),
            "referrers": copied.iter().map(|referrer| referrer.digest.as_str()).collect::<Vec<_>>(),
            "notices": notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))
    }
}

impl Checked<'_> {
    /// Fails if something is missing that the destination does not have either. Registries know best what they have.
    fn look(&self, source: &Source, root: &Descriptor, there: &dyn Store) -> anyhow::Result<()> {
        if source.repository.is_some() || matches!(self.destination.place, Place::Registry(_)) {
            return Ok(());
        }
        let both = Overlay::new(there, [&*source.provider]);
        let whole = Whole::of(&both, root, Needs::Everything, access().limits());
        match whole.with_context(|| source.name.clone())?.gaps.as_slice() {
            [] => Ok(()),
            [gap, rest @ ..] => {
                let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
                anyhow::bail!("{}: {gap}{more}; choose with --platform what is there", source.name)
            }
        }
    }
}

/// Returns the images of an index.
fn images_of(source: &Source, root: &Descriptor) -> anyhow::Result<Vec<Descriptor>> {
    if root.media_type.kind() != Kind::Index {
        return Ok(Vec::new());
    }
    let selection = convert::select(&*source.provider, root, &Platforms::All, access().limits());
    let images = selection.with_context(|| source.name.clone())?.images;
    Ok(images.into_iter().map(|image| image.descriptor).collect())
}

/// Returns what is to be copied, all there is or the image of one platform, and the images that are not.
fn choose(source: &Source, platforms: &Platforms) -> anyhow::Result<(Descriptor, Vec<Selected>)> {
    if matches!(platforms, Platforms::All) || source.root.media_type.kind() != Kind::Index {
        return Ok((source.root.clone(), Vec::new()));
    }
    let selection = convert::select(&*source.provider, &source.root, platforms, access().limits());
    let Selection { images, others, .. } = selection.with_context(|| source.name.clone())?;
    match images.as_slice() {
        [image] => Ok((image.descriptor.clone(), others)),
        [] => anyhow::bail!("{} leads to no image; --all-platforms copies the index as it is", source.name),
        images => anyhow::bail!("{}: {} images match, choose one by its digest", source.name, images.len()),
    }
}
