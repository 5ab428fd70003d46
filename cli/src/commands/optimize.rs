//! `restow optimize`: convert an image's layers, what is read first put first.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use clap::ValueEnum;
use restow_analyze as analyze;
use restow_analyze::Reading;
use restow_analyze::Wishes;
use restow_analyze::Workload;
use restow_analyze::list;
use restow_analyze::record;
use restow_content::Overlay;
use restow_convert as convert;
use restow_convert::Cancel;
use restow_convert::Conversion;
use restow_convert::Memo;
use restow_convert::NoMemo;
use restow_convert::Observer as _;
use restow_convert::Seekable;
use restow_convert::Selected;
use restow_layer::Depth;
use restow_layer::EncodeOptions;
use restow_layer::Workers;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_registry::Layout;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::open_source;

use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::PlatformArguments;
use crate::args::ProgressArguments;
use crate::destination::Destination;
use crate::format::FormatArguments;
use crate::memo;
use crate::memo::FileMemo;
use crate::output;
use crate::progress::Progress;
use crate::readers::ReadersArguments;
use crate::report::Summary;

const EXAMPLES: &str = "\
Examples:
  restow optimize oci:app:v1 oci:app:v1-lazy --zstdchunked
  restow optimize app.tar ./out:latest --zstdchunked --prefetch-list first.txt --all-platforms";

/// Rewrite an image's layers so that single files can be fetched, those that are read first at the front
///
/// The destination is replaced in one step, once all of it is written and verified. The digest of the new
/// image goes to stdout, everything else to stderr.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_group("seekable", |group| group.required(true)))]
pub(crate) struct Arguments {
    /// The image to read: oci:PATH[:TAG], oci-archive:FILE[:TAG], or a path
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to write it: oci:PATH[:TAG] or a path; several give one layout's image several tags
    #[arg(value_name = "DST", required = true, num_args = 1..)]
    destinations: Vec<String>,
    /// A further tag for the new image in the layout of DST; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,

    #[command(flatten)]
    kind: FormatArguments,
    #[command(flatten)]
    readers: ReadersArguments,
    #[command(flatten)]
    order: OrderArguments,
    // A heading holds for the arguments after it, too.
    #[command(flatten, next_help_heading = "Images")]
    platforms: PlatformArguments,
    /// Keep the images for other platforms in the index, unconverted
    #[arg(long, conflicts_with = "all_platforms")]
    keep_other_platforms: bool,
    /// Keep what says which image this one is about (`subject`), though it changes
    #[arg(long)]
    keep_subject: bool,
    /// What to do about a layer that has no form as a seekable one
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    unsupported: Unsupported,
    /// Accepted and without effect: what a format needs to be OCI, becomes OCI
    #[arg(long)]
    oci: bool,

    #[command(flatten, next_help_heading = "Work")]
    jobs: JobsArguments,
    /// How each new layer is verified before it counts
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    verify: Verify,
    /// Where temporary files go [default: the destination's directory]
    ///
    /// They hold compressed data: the layers in which files move to the front, and tables of contents that
    /// outgrow memory.
    #[arg(long, value_name = "DIR")]
    tmp_dir: Option<PathBuf>,
    /// Where to remember converted layers between runs [default: restow in the user's cache directory]
    ///
    /// What is remembered is a digest and some numbers, at most 64 KiB for each of at most 65,536 layers.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Remember nothing and recall nothing: convert every layer
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,

    #[command(flatten, next_help_heading = "Output")]
    progress: ProgressArguments,
    /// What stdout holds: the digest of the new image, or a document about it and its layers
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Order")]
struct OrderArguments {
    /// Move the files in this list to the front, in its order
    ///
    /// A path or a glob a line; `*` and `?` stop at `/`, `**` does not; `#` starts a comment. A path is followed
    /// through symbolic links, which come along.
    #[arg(long, value_name = "FILE")]
    prefetch_list: Option<PathBuf>,
    /// Move the files in this record of accesses to the front, in its order, after those of the list
    ///
    /// JSON lines, as ctr-remote writes them with --record-out. Where the image has changed since, files are
    /// found again by their paths.
    #[arg(long, value_name = "FILE")]
    record_in: Option<PathBuf>,
    /// Keep the order of the source, whatever else is given
    #[arg(long)]
    no_optimize: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Verify {
    /// The finished layer is read back: each chunk and file, the DiffID, the table of contents
    Full,
    /// Each frame is decoded and compared as it is made; then as toc
    Frames,
    /// The table of contents is read back, and that each chunk's frame starts where it says
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

pub(crate) fn run(arguments: &Arguments, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let limits = Limits::default();
    let progress = Progress::new(&arguments.progress);
    arguments.readers.check()?;
    let destination = Destination::parse(&arguments.destinations, &arguments.tag)?;
    let wishes = arguments.order.wishes()?;
    let source = open_source(&Reference::parse(&arguments.source)?, &limits)?;

    let job = Job { arguments, cancel, limits: &limits, progress: &progress, source: &source };
    let images = job.select()?;
    let workload = job.plan(&images, &wishes)?;
    let misses = workload.misses().to_vec();
    let notices: Vec<_> = workload.notices().iter().map(ToString::to_string).collect();
    for notice in &notices {
        progress.warning(notice);
    }

    let layout = Layout::create(&destination.path, &limits)?;
    let (conversion, uncopied) = match job.convert_into(&layout, workload.into_paths(), &destination.tags) {
        Ok(done) => done,
        Err(error) => {
            // The error says more than what could not be cleaned up after it.
            let _ = layout.discard();
            return Err(error);
        }
    };
    for notice in &uncopied {
        progress.warning(notice);
    }
    let outcome = Summary {
        source: &source,
        destination: &destination,
        images: &images,
        conversion: &conversion,
        misses: &misses,
        notices: notices.into_iter().chain(uncopied).collect(),
        elapsed: started.elapsed(),
    };
    outcome.tell(&progress);
    match arguments.format {
        Format::Text => output::print(conversion.root.digest.as_str())?,
        Format::Json => output::print_json(&outcome.document())?,
    }
    Ok(ExitCode::SUCCESS)
}

impl OrderArguments {
    fn wishes(&self) -> anyhow::Result<Wishes> {
        if self.no_optimize {
            return Ok(Wishes::default());
        }
        Ok(Wishes {
            list: self.prefetch_list.as_deref().map(list::load).transpose()?.unwrap_or_default(),
            record: self.record_in.as_deref().map(record::load).transpose()?.unwrap_or_default(),
        })
    }
}

/// One image to optimize, and how.
struct Job<'a> {
    arguments: &'a Arguments,
    cancel: &'a Cancel,
    limits: &'a Limits,
    progress: &'a Progress,
    source: &'a Source,
}

impl Job<'_> {
    fn select(&self) -> anyhow::Result<Vec<Selected>> {
        let Source { provider, root, name } = self.source;
        let platforms = self.arguments.platforms.choice();
        let selection =
            convert::select(&**provider, root, &platforms, self.limits).with_context(|| name.clone())?;
        Ok(selection.images)
    }

    /// Orders the layers of the images by the wishes.
    fn plan(&self, images: &[Selected], wishes: &Wishes) -> anyhow::Result<Workload> {
        if wishes.is_empty() {
            return Ok(Workload::default());
        }
        let provider = &*self.source.provider;
        let read = |image: &Selected| {
            let bytes = restow_content::read(provider, &image.descriptor, self.limits.manifest_size)?;
            anyhow::Ok(Manifest::parse(bytes, self.limits)?)
        };
        let manifests = images.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
        let manifests: Vec<_> = images
            .iter()
            .zip(&manifests)
            .map(|(image, manifest)| analyze::Manifest {
                digest: &image.descriptor.digest,
                layers: manifest.layers(),
            })
            .collect();
        let reading = Reading {
            provider,
            limits: self.limits,
            threads: self.arguments.jobs.count().get(),
            stop: &|| self.cancel.is_cancelled(),
        };
        let workload = analyze::plan(wishes, &manifests, |manifest| {
            self.progress.step(&format!("listing the files of {}", output::short(manifest.digest)));
            reading.tree(manifest.layers)
        });
        workload.with_context(|| self.source.name.clone())
    }

    /// Converts the source and publishes the result.
    fn convert_into(
        &self,
        layout: &Layout,
        prioritized: convert::Prioritized,
        tags: &[String],
    ) -> anyhow::Result<(Conversion, Vec<String>)> {
        let Source { provider, root, name } = self.source;
        let store = Overlay::new(layout.store(), [&**provider]);
        let converter = self.converter(layout, prioritized)?;
        let conversion = convert::convert(&store, root, &converter, &self.options(), self.progress)
            .with_context(|| name.clone())?;
        // From here on it is quick, and all or nothing.
        self.cancel.check()?;
        let notices = layout.publish(&store, &conversion.root, tags)?;
        Ok((conversion, notices.iter().map(ToString::to_string).collect()))
    }

    fn converter(&self, layout: &Layout, prioritized: convert::Prioritized) -> anyhow::Result<Seekable> {
        let kind = &self.arguments.kind;
        let spool = self.arguments.tmp_dir.clone().unwrap_or_else(|| layout.path().to_owned());
        let codec = kind.codec().context("no format is asked for")?;
        let options = EncodeOptions {
            check_frames: self.arguments.verify == Verify::Frames,
            limits: self.limits.clone(),
            ..kind.options(spool)
        };
        let verify = match self.arguments.verify {
            Verify::Full => Some(Depth::Full),
            Verify::Frames | Verify::Toc => Some(Depth::Toc),
            Verify::None => None,
        };
        let workers = Workers::new(self.arguments.jobs.count().get())?;
        Ok(Seekable::new(codec, options, workers).prioritize(prioritized).verify(verify))
    }

    fn options(&self) -> convert::Options {
        let readers = &self.arguments.readers;
        readers.apply(convert::Options {
            platforms: self.arguments.platforms.choice(),
            keep_other_platforms: self.arguments.keep_other_platforms,
            keep_subject: self.arguments.keep_subject,
            unsupported: match self.arguments.unsupported {
                Unsupported::Fail => convert::Unsupported::Fail,
                Unsupported::Keep => convert::Unsupported::Keep,
            },
            jobs: self.arguments.jobs.count(),
            limits: self.limits.clone(),
            cancel: self.cancel.clone(),
            memo: self.memo(),
            ..convert::Options::default()
        })
    }

    fn memo(&self) -> Arc<dyn Memo> {
        let chosen = self.arguments.cache_dir.clone().or_else(memo::default_directory);
        match chosen.filter(|_| !self.arguments.no_cache) {
            Some(directory) => Arc::new(FileMemo::new(&directory)),
            None => Arc::new(NoMemo),
        }
    }
}
