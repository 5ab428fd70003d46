//! `restow copy`: an image from one place to another, every byte as it is.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use restow::CopyOptions;
use restow::Destination;
use restow::Session;
use restow::report::CopyReport;
use restow_convert::Platforms;
use restow_oci::Platform;
use restow_registry::Place;
use restow_registry::Reference;

use crate::args::Format;
use crate::args::LinkArguments;
use crate::args::ProgressArguments;
use crate::args::RepairArguments;
use crate::conversion::ImageArguments;
use crate::output;
use crate::progress::JobPrefix;
use crate::progress::Progress;

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
    pub(crate) fn check(&self, session: &Session) -> anyhow::Result<Checked> {
        let destination = self.images.destination(session)?;
        if self.referrers {
            destination.must_hold_referrers()?;
        }
        let mut options = CopyOptions::default();
        options.platforms = self.platforms.choice(&destination.place);
        options.referrers = self.referrers;
        options.transfer = self.link.how();
        options.existing = self.repair.existing();
        Ok(Checked { options, source: session.reference(&self.images.source)?, destination })
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let checked = arguments.check(session)?;
    let progress = Arc::new(Progress::new(&arguments.progress, JobPrefix::default()));
    let report = checked.perform(session, &progress)?;
    output::print_result(&checked.destination, arguments.format, &report.digest, &report)?;
    Ok(ExitCode::SUCCESS)
}

/// A copy that makes sense.
pub(crate) struct Checked {
    pub(crate) options: CopyOptions,
    pub(crate) source: Reference,
    pub(crate) destination: Destination,
}

impl Checked {
    /// Copies the image and tells what became of it.
    pub(crate) fn perform(&self, session: &Session, progress: &Arc<Progress>) -> anyhow::Result<CopyReport> {
        let session = session.job(progress.clone());
        let report = session.copy(self.source.clone(), self.destination.clone(), &self.options)?;
        let with = match report.referrers.len() {
            0 => String::new(),
            referrers => format!(" with {}", output::count(referrers, "referrer")),
        };
        let elapsed = output::seconds(report.seconds);
        let references = report.destination.join(", ");
        if matches!(self.options.platforms, Platforms::Only(_)) && !report.left_out.is_empty() {
            progress.say(&format!("{references} leaves out {}", restow::platforms(&report.left_out)));
        }
        progress.say(&format!("{} -> {references}{with} in {elapsed}", report.source));
        Ok(report)
    }
}
