//! `restow copy`: an image from one place to another, every byte as it is.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use restow::CopyOptions;
use restow::Destination;
use restow::Session;
use restow::report::CopyReport;
use restow_registry::Reference;

use crate::args::Format;
use crate::args::LinkArguments;
use crate::args::PlatformArguments;
use crate::args::ProgressArguments;
use crate::conversion::ImageArguments;
use crate::output;
use crate::progress::JobPrefix;
use crate::progress::Progress;

const EXAMPLES: &str = "\
Examples:
  restow copy docker://debian:12 oci:debian:12
  restow copy --all-platforms docker://debian:12 docker://localhost:5000/debian:12
  restow copy oci:app:v1 docker-archive:- | docker load";

/// Copy an image from one place to another, every byte and every digest as it is
///
/// Only what the destination lacks is sent. The digest of the image goes to stdout, everything else to stderr.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    images: ImageArguments,
    #[command(flatten)]
    platforms: PlatformArguments,
    /// Copy what refers to the image or to one that its index names, too: signatures, attestations and the like
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    link: LinkArguments,
    #[command(flatten)]
    progress: ProgressArguments,
    /// What stdout holds: the digest of the image, or a document about it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

impl Arguments {
    /// Finds what is wrong with the command line before anything is done.
    pub(crate) fn check(&self, session: &Session) -> anyhow::Result<Checked> {
        let destination = self.images.destination(session)?;
        if self.referrers {
            destination.must_hold_referrers()?;
        }
        let mut options = CopyOptions::default();
        options.platforms = self.platforms.choice();
        options.referrers = self.referrers;
        options.transfer = self.link.how();
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
    options: CopyOptions,
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
        let elapsed = output::seconds(Duration::try_from_secs_f64(report.seconds).unwrap_or_default());
        let references = report.destination.join(", ");
        progress.say(&format!("{} -> {references}{with} in {elapsed}", report.source));
        Ok(report)
    }
}
