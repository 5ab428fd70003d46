//! The conversion of an image from one place to another, and the flags that all commands share who convert.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use clap::ValueEnum;
use restow::ConvertOptions;
use restow::Destination;
use restow::SeekableLayers;
use restow::Session;
use restow::Target;
use restow::report::ConvertReport;
use restow_convert as convert;
use restow_convert::MediaTypes;
use restow_registry::Reference;

use crate::args::Format;
use crate::args::PlatformArguments;
use crate::args::ProgressArguments;
use crate::args::RepairArguments;
use crate::args::WorkArguments;
use crate::failure::Usage;
use crate::output;
use crate::progress::JobPrefix;
use crate::progress::Progress;
use crate::readers::ReadersArguments;
use crate::report;

/// Which image is read, and what it is called where it is written.
#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    /// The image to read: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive or a path
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where to write it: the same; several give one place's image several names
    #[arg(value_name = "DST", required = true, num_args = 1..)]
    destinations: Vec<String>,
    /// A further tag for the image in the place of DST; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

impl ImageArguments {
    /// Returns the tags that the image gets.
    pub(crate) fn tags(&self) -> restow::Result<Vec<String>> {
        Ok(Destination::parse(&self.destinations, &self.tag)?.tags)
    }

    /// Returns where the image goes.
    pub(crate) fn destination(&self, session: &Session) -> restow::Result<Destination> {
        let destination = Destination::parse(&self.destinations, &self.tag)?;
        Ok(destination.in_store(session.settings().store.as_deref()))
    }
}

/// How it is converted, whatever its layers become.
#[derive(Debug, Args)]
pub(crate) struct ConversionArguments {
    #[command(flatten)]
    pub(crate) readers: ReadersArguments,
    // A heading holds for the arguments after it, too.
    #[command(flatten, next_help_heading = "Images")]
    platforms: PlatformArguments,
    /// Keep the images for other platforms in the index, unconverted
    #[arg(long, conflicts_with = "all_platforms")]
    keep_other_platforms: bool,
    /// Keep what says which image this one is about (`subject`), though it changes
    #[arg(long)]
    keep_subject: bool,
    /// Copy what refers to the source (signatures, attestations) to DST; it goes on to refer to the source's digest
    #[arg(long)]
    copy_referrers: bool,
    /// Attach a manifest to the new image that says what it and its layers were made of
    #[arg(long)]
    attach_provenance: bool,
    /// What to do about a layer that cannot be converted
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    unsupported: Unsupported,
    /// Accept names in layers that go through a parent directory (../x), which some readers refuse
    #[arg(long)]
    allow_parent_refs: bool,
    /// Keep a layer as it is, once all of it is verified, if it has the format already and no files move in it
    ///
    /// It may be any tool's, with any chunk size and level. Annotations that were lost come back.
    #[arg(long)]
    reuse: bool,
    /// Make Docker images OCI; those with layers that Docker's media types cannot describe become so anyway
    #[arg(long)]
    oci: bool,

    #[command(flatten)]
    repair: RepairArguments,

    #[command(flatten, next_help_heading = "Work")]
    pub(crate) work: WorkArguments,
    /// How each new layer is verified before it counts
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    verify: Verify,

    #[command(flatten, next_help_heading = "Output")]
    progress: ProgressArguments,
    /// What stdout holds: the digest of the new image, or a document about it and its layers
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Verify {
    /// The finished layer is read back: each chunk and file, the DiffID, the table of contents
    Full,
    /// Each frame is decoded and compared as it is made; then as toc
    Frames,
    /// The table of contents is read back, and that each chunk's frame starts where it says; without one, as frames
    #[default]
    Toc,
    /// Nothing
    None,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Unsupported {
    /// Fail
    #[default]
    Fail,
    /// Keep it as it is, with a warning
    Keep,
}

impl ConversionArguments {
    /// Returns whose media types are asked for, but for Docker's.
    pub(crate) fn media_types(&self) -> MediaTypes {
        if self.oci { MediaTypes::Oci } else { MediaTypes::Keep }
    }

    /// Returns what the flags say of a conversion to `target`.
    pub(crate) fn options<'a>(
        &self,
        target: impl Into<Target<'a>>,
        zstdchunked: bool,
    ) -> Result<ConvertOptions<'a>, Usage> {
        self.readers.check(zstdchunked)?;
        let mut options = ConvertOptions::new(target);
        options.platforms = self.platforms.choice();
        options.keep_other_platforms = self.keep_other_platforms;
        options.keep_subject = self.keep_subject;
        options.copy_referrers = self.copy_referrers;
        options.attach_provenance = self.attach_provenance;
        options.media_types = self.media_types();
        options.unsupported = match self.unsupported {
            Unsupported::Fail => convert::Unsupported::Fail,
            Unsupported::Keep => convert::Unsupported::Keep,
        };
        options.parent_references = self.allow_parent_refs;
        options.reuse = self.reuse;
        options.existing = self.repair.existing();
        options.verify = match self.verify {
            Verify::Full => restow::Verify::Full,
            Verify::Frames => restow::Verify::Frames,
            Verify::Toc => restow::Verify::Toc,
            Verify::None => restow::Verify::None,
        };
        self.readers.apply(&mut options);
        Ok(options)
    }
}

/// One image to convert, and how.
pub(crate) struct Job<'a> {
    pub(crate) images: &'a ImageArguments,
    pub(crate) arguments: &'a ConversionArguments,
    pub(crate) options: ConvertOptions<'a>,
}

impl Job<'_> {
    /// Converts the image and tells what became of it.
    pub(crate) fn run(self, session: &Session) -> anyhow::Result<ExitCode> {
        let progress = Arc::new(Progress::new(&self.arguments.progress, JobPrefix::default()));
        let format = self.arguments.format;
        let checked = self.check(session)?;
        let report = checked.perform(session, &progress)?;
        output::print_result(&checked.destination, format, &report.digest, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl<'a> Job<'a> {
    /// Finds what is wrong with the command line before anything is done.
    pub(crate) fn check(self, session: &Session) -> anyhow::Result<Checked<'a>> {
        let destination = self.images.destination(session)?;
        if self.options.copy_referrers || self.options.attach_provenance {
            destination.must_hold_referrers()?;
        }
        let source = session.reference(&self.images.source)?;
        Ok(Checked { options: self.options, source, destination })
    }
}

/// A job that makes sense.
pub(crate) struct Checked<'a> {
    pub(crate) options: ConvertOptions<'a>,
    pub(crate) source: Reference,
    pub(crate) destination: Destination,
}

impl Checked<'_> {
    /// Converts the image and tells what became of it.
    pub(crate) fn perform(
        &self,
        session: &Session,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<ConvertReport> {
        let Self { options, source, destination } = self;
        let session = session.job(progress.clone());
        let report = session.convert(source.clone(), destination.clone(), options.clone())?;
        if options.copy_referrers {
            progress.say(&format!("copied {}", output::count(report.referrers.len(), "referrer")));
        }
        report::tell(&report, progress);
        Ok(report)
    }

    /// Returns the tags of the image of the tables of contents, where there is to be one.
    pub(crate) fn toc_tags(&self) -> &[String] {
        match &self.options.target {
            Target::Seekable(SeekableLayers { toc_image: Some(image), .. }) => &image.tags,
            _ => &[],
        }
    }
}
