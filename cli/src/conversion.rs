//! The conversion of an image from one place to another, and the flags that all commands share who convert.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use clap::ValueEnum;
use restow::recorder::Exit;
use restow::referrers;
use restow::toc_image::Tables;
use restow::trees::Repeated;
use restow::trees::Trees;
use restow_analyze::Wishes;
use restow_analyze::record;
use restow_content::MemoryStore;
use restow_content::Overlay;
use restow_content::Provider;
use restow_content::publish;
use restow_convert as convert;
use restow_convert::Cancel;
use restow_convert::Conversion;
use restow_convert::LayerConverter;
use restow_convert::MediaTypes;
use restow_convert::Memo;
use restow_convert::Observer as _;
use restow_convert::Ordered;
use restow_convert::Platforms;
use restow_convert::Recompress;
use restow_convert::Seekable;
use restow_convert::Selected;
use restow_convert::Selection;
use restow_convert::write_toc_image;
use restow_layer::Depth;
use restow_layer::EncodeOptions;
use restow_layer::Recompression;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_registry::Destination as Place;
use restow_registry::Gap;
use restow_registry::Needs;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Whole;
use restow_registry::Writing;
use serde_json::Value;

use crate::access::access;
use crate::access::open_source;
use crate::args::Format;
use crate::args::PlatformArguments;
use crate::args::ProgressArguments;
use crate::args::RepairArguments;
use crate::destination::Destination;
use crate::failure::Usage;
use crate::format::FormatArguments;
use crate::order::Choice;
use crate::order::Order;
use crate::order::Plan;
use crate::order::Planner;
use crate::order::Runner;
use crate::order::Runs;
use crate::output;
use crate::progress::Progress;
use crate::progress::Voice;
use crate::readers::ReadersArguments;
use crate::reference;
use crate::report::Summary;
use crate::report::platforms;
use crate::workshop::WorkArguments;
use crate::workshop::Workshop;
use crate::workshop::give_up;

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
    /// Returns where the image goes.
    pub(crate) fn destination(&self) -> anyhow::Result<Destination> {
        Destination::parse(&self.destinations, &self.tag)
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
    work: WorkArguments,
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
}

/// What layers become.
pub(crate) enum Target<'a> {
    /// Seekable, in that order.
    Seekable { format: &'a FormatArguments, order: Order },
    /// Ordinary ones.
    Ordinary(Recompression),
    /// What they are.
    Same,
}

/// One image to convert, and how.
pub(crate) struct Job<'a> {
    pub(crate) images: &'a ImageArguments,
    pub(crate) arguments: &'a ConversionArguments,
    pub(crate) target: Target<'a>,
    pub(crate) media_types: MediaTypes,
}

impl<'a> Job<'a> {
    /// Converts the image and tells what became of it.
    pub(crate) fn run(self, cancel: &Cancel) -> anyhow::Result<ExitCode> {
        let progress = Progress::new(&self.arguments.progress, Voice::default());
        let workshop = Workshop::new(&self.arguments.work)?;
        let format = self.arguments.format;
        let checked = self.check()?;
        let document = checked.perform(&workshop, &progress, cancel)?;
        checked.destination.print(format, &document)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Finds what is wrong with the command line before anything is done.
    pub(crate) fn check(self) -> anyhow::Result<Checked<'a>> {
        let zstdchunked = matches!(&self.target, Target::Seekable { format, .. } if format.zstdchunked);
        self.arguments.readers.check(zstdchunked)?;
        let destination = self.images.destination()?;
        if self.arguments.copy_referrers || self.arguments.attach_provenance {
            destination.must_hold_referrers()?;
        }
        let toc_tags = match &self.target {
            Target::Seekable { format, order } => {
                format.check(order.moves())?;
                format.toc_tags(&destination.tags)?
            }
            Target::Ordinary(_) | Target::Same => None,
        };
        if toc_tags.is_some() {
            destination.must_hold_tables()?;
        }
        let reference = reference::parse(&self.images.source)?;
        Ok(Checked { job: self, reference, destination, toc_tags })
    }
}

/// A job that makes sense.
pub(crate) struct Checked<'a> {
    job: Job<'a>,
    pub(crate) reference: Reference,
    pub(crate) destination: Destination,
    /// The tags of the image of the tables of contents, where there is to be one.
    pub(crate) toc_tags: Option<Vec<String>>,
}

impl Checked<'_> {
    /// Converts the image, tells what became of it, and returns that as a document, too.
    pub(crate) fn perform(
        &self,
        workshop: &Workshop,
        progress: &Progress,
        cancel: &Cancel,
    ) -> anyhow::Result<Value> {
        let started = Instant::now();
        let Self { job, reference, destination, toc_tags } = self;
        let parent_references = job.arguments.allow_parent_refs;
        let limits = Limits { parent_references, ..Limits::default() };
        let source = open_source(reference)?;
        let Whole { root, documents, gaps } = whole(&source, &limits)?;
        let gaps = self.tell_of(&source, &gaps, progress)?;

        let memo = workshop.memo(&destination.place);
        let run = Run {
            job,
            limits: &limits,
            progress,
            reference,
            source: &source,
            root: &root,
            documents: &documents,
            workshop,
            memo,
            cancel,
        };
        let selection = run.select()?;
        let images = selection.images.clone();
        anyhow::ensure!(!images.is_empty() || gaps.is_empty(), "{}: no image of it is whole", source.name);
        self.check_place(&source, &selection.others)?;
        let subjects = || std::iter::once(&source.root).chain(images.iter().map(|image| &image.descriptor));
        let referrers = match job.arguments.copy_referrers {
            true => referrers::find(access(), reference, subjects())?,
            false => Vec::new(),
        };
        let existing = job.arguments.repair.existing();
        let writing = Writing { source: Some(&source), observer: Some(progress.uploads()), existing };
        let place = workshop.open(&destination.place, writing)?;
        let names = Names { image: &destination.tags, tables: toc_tags.as_deref(), referrers: &referrers };
        let converted = run.convert_into(&**place, selection, &names);
        let Converted { conversion, tables, first, misses, notices, exits } = match converted {
            Ok(done) => done,
            Err(error) => {
                give_up(place);
                return Err(error);
            }
        };
        // Not before: if the image is damaged, that is what there is to say.
        for notice in &notices {
            progress.warning(notice);
        }
        let notices = gaps.into_iter().chain(notices).collect();
        if job.arguments.copy_referrers {
            progress.step(&format!("copied {}", output::count(referrers.len(), "referrer")));
        } else if conversion.root.digest != source.root.digest {
            for warning in referrers::warnings(access(), reference, subjects()) {
                progress.warning(&warning.text);
            }
        }
        let outcome = Summary {
            source: &source,
            destination,
            images: &images,
            conversion: &conversion,
            // Where nobody chose, nobody may expect it.
            unasked: !job.arguments.platforms.said(),
            tables: tables.as_ref().zip(toc_tags.as_deref()),
            first: &first,
            misses: &misses,
            notices,
            exits: &exits,
            elapsed: started.elapsed(),
        };
        outcome.tell(progress);
        Ok(outcome.document())
    }

    /// Refuses to put what is left of an index in its own place, unless that was asked for.
    fn check_place(&self, source: &Source, left_out: &[Selected]) -> anyhow::Result<()> {
        let arguments = self.job.arguments;
        let asked = arguments.platforms.said() || arguments.keep_other_platforms;
        if asked || left_out.is_empty() || !self.destination.replaces(&self.reference, &source.root) {
            return Ok(());
        }
        Err(Usage(format!(
            "{} would lose the images for other platforms ({}): --all-platforms converts them, too, \
             --keep-other-platforms keeps them, --platform says that they may go",
            source.name,
            platforms(left_out),
        ))
        .into())
    }
}

impl Checked<'_> {
    /// Tells what is left out of an index because it cannot be used, and returns that.
    fn tell_of(&self, source: &Source, gaps: &[Gap], progress: &Progress) -> anyhow::Result<Vec<String>> {
        if let Some(gap) = self.asked_for(source, gaps) {
            anyhow::bail!("{}: {gap}; choose with --platform what is there", source.name);
        }
        let told: Vec<_> = gaps.iter().map(|gap| format!("{} is taken without {gap}", source.name)).collect();
        told.iter().for_each(|text| progress.warning(text));
        Ok(told)
    }

    /// Returns an image that is meant though it cannot be used. Where nobody says what is meant, nothing that is not there
    /// is: an archive may have been saved for another platform than this one.
    fn asked_for<'a>(&self, source: &Source, gaps: &'a [Gap]) -> Option<&'a Gap> {
        if gaps.is_empty() {
            return None;
        }
        let platforms = self.job.arguments.platforms.choice();
        let mut images = gaps.iter().filter(|gap| !gap.is_attestation());
        if matches!(platforms, Platforms::All) {
            return images.next();
        }
        let is_said = matches!(platforms, Platforms::Only(_));
        let meant = convert::select(&*source.provider, &source.root, &platforms, access().limits()).ok()?;
        let is_meant =
            |gap: &&Gap| meant.images.iter().any(|image| image.descriptor.digest == gap.entry.digest);
        images.filter(|gap| is_said || !gap.is_absent).find(is_meant)
    }
}

/// Looks what of the source is there. A registry would be sent a request for each blob; it has them all.
fn whole(source: &Source, limits: &Limits) -> anyhow::Result<Whole> {
    match source.repository {
        None => Whole::of(&*source.provider, &source.root, Needs::Everything, limits),
        Some(_) => Ok(Whole::all(&source.root)),
    }
    .with_context(|| source.name.clone())
}

/// The tags of what is published together, and what has none.
struct Names<'a> {
    image: &'a [String],
    /// Of the image of the tables of contents, where there is to be one.
    tables: Option<&'a [String]>,
    /// What refers to the source, and goes where the result goes.
    referrers: &'a [Descriptor],
}

/// What has been published.
struct Converted {
    conversion: Conversion,
    /// The image of the tables of contents.
    tables: Option<Descriptor>,
    /// Manifest, layer and path of what comes first, a few of each image.
    first: Vec<(Digest, usize, String)>,
    /// Paths to put first that no image has, with the manifest that lacks it.
    misses: Vec<(Digest, String)>,
    notices: Vec<String>,
    /// How the workloads ended that were run, with the manifest.
    exits: Vec<(Digest, Exit)>,
}

/// A job under way.
struct Run<'a> {
    job: &'a Job<'a>,
    limits: &'a Limits,
    progress: &'a Progress,
    reference: &'a Reference,
    source: &'a Source,
    /// What is converted: the source's root, or what of it is there.
    root: &'a Descriptor,
    /// Indexes that the source does not hold.
    documents: &'a MemoryStore,
    workshop: &'a Workshop,
    memo: Arc<dyn Memo>,
    cancel: &'a Cancel,
}

impl Run<'_> {
    fn select(&self) -> anyhow::Result<Selection> {
        let Source { provider, name, .. } = self.source;
        let provider = Overlay::new(self.documents, [&**provider]);
        let platforms = self.job.arguments.platforms.choice();
        convert::select(&provider, self.root, &platforms, self.limits).with_context(|| name.clone())
    }

    /// Converts the source and publishes the result.
    fn convert_into(
        &self,
        place: &dyn Place,
        selection: Selection,
        names: &Names<'_>,
    ) -> anyhow::Result<Converted> {
        let Source { provider, root, .. } = self.source;
        let others: &dyn Provider = self.workshop;
        let documents: &dyn Provider = self.documents;
        let lower = [documents, &**provider].into_iter().chain(place.held()).chain([others]);
        let store = Overlay::new(place.store(), lower);
        let (conversion, plan) = self.convert(&store, place.scratch(), selection)?;
        let tables = match (&self.job.target, names.tables) {
            (Target::Seekable { format, .. }, Some(_)) => {
                write_toc_image(&store, &conversion, format.toc_referrer(), self.limits)?
            }
            _ => None,
        };
        let provenance = match self.job.arguments.attach_provenance {
            true => Some(referrers::write_provenance(root, &conversion, place.store())?),
            false => None,
        };
        // From here on it is quick, and all or nothing.
        self.cancel.check()?;
        let mut roots = vec![(&conversion.root, names.image)];
        roots.extend(tables.as_ref().zip(names.tables));
        let unnamed: &[String] = &[];
        roots.extend(names.referrers.iter().chain(&provenance).map(|referrer| (referrer, unnamed)));
        let mut notices = plan.notices;
        notices.extend(place.publish_all(&store, &roots)?.iter().map(ToString::to_string));
        Ok(Converted {
            conversion,
            tables,
            first: plan.first,
            misses: plan.misses,
            notices,
            exits: plan.exits,
        })
    }

    /// Converts the layers of the images, and returns what there is to say of their order, too.
    fn convert(
        &self,
        store: &Overlay<'_>,
        scratch: &Path,
        selection: Selection,
    ) -> anyhow::Result<(Conversion, Plan)> {
        let ConversionArguments { verify, reuse, .. } = self.job.arguments;
        match &self.job.target {
            Target::Same => Ok((self.convert_by(store, selection, &convert::Keep)?, Plan::default())),
            Target::Ordinary(recompression) => {
                let workers = self.workshop.workers.clone();
                let converter = Recompress::new(*recompression, self.limits.clone(), workers);
                let converter = converter.check(matches!(verify, Verify::Frames | Verify::Toc));
                let converter = converter.read_back(*verify == Verify::Full).reuse(*reuse);
                Ok((self.convert_by(store, selection, &converter)?, Plan::default()))
            }
            Target::Seekable { format, order } => {
                let tables = self.tables(format, &selection.images);
                let seekable = self.seekable(format, scratch)?.tables(tables);
                if !order.moves() {
                    return Ok((self.convert_by(store, selection, &seekable)?, Plan::default()));
                }
                let images = selection.images.clone();
                let planner = self.planner(&images, order)?;
                let conversion = self.convert_by(store, selection, &Ordered::new(seekable, &planner))?;
                Ok((conversion, planner.into_plan()))
            }
        }
    }

    fn convert_by(
        &self,
        store: &Overlay<'_>,
        selection: Selection,
        converter: &dyn LayerConverter,
    ) -> anyhow::Result<Conversion> {
        convert::convert_selection(store, selection, converter, &self.options(), self.progress)
            .with_context(|| self.source.name.clone())
    }

    fn seekable(&self, format: &FormatArguments, scratch: &Path) -> anyhow::Result<Seekable> {
        let ConversionArguments { verify, reuse, .. } = self.job.arguments;
        let codec = format.codec().context("no format is asked for")?;
        let spool = self.workshop.tmp_dir.clone().unwrap_or_else(|| scratch.to_owned());
        let options = EncodeOptions {
            check_frames: *verify == Verify::Frames,
            limits: self.limits.clone(),
            ..format.options(spool)
        };
        let depth = match verify {
            Verify::Full => Some(Depth::Full),
            Verify::Frames | Verify::Toc => Some(Depth::Toc),
            Verify::None => None,
        };
        let converter = Seekable::new(codec, options, self.workshop.workers.clone());
        Ok(converter.verify(depth).reuse(*reuse))
    }

    /// Finds the tables of contents of layers that might be kept without one of their own. What is wrong with them only
    /// means that such layers are converted.
    fn tables(&self, format: &FormatArguments, images: &[Selected]) -> BTreeMap<Digest, Descriptor> {
        let mut found = BTreeMap::new();
        if !self.job.arguments.reuse || !format.external_toc() {
            return found;
        }
        let tables = Tables::beside(access(), self.reference, self.source, self.limits);
        for image in images {
            match tables.all(&image.descriptor.digest) {
                Ok(tables) => found.extend(tables),
                Err(error) => {
                    let error = restow::describe(&error);
                    self.progress.warning(&format!("no layer is kept for its table of contents: {error}"));
                }
            }
        }
        found
    }

    /// Returns who orders the layers of the images. Workloads that decide that are run now.
    fn planner<'p>(&'p self, images: &'p [Selected], order: &Order) -> anyhow::Result<Planner<'p>> {
        let trees = Trees {
            provider: &*self.source.provider,
            limits: self.limits,
            threads: self.workshop.layers,
            cancel: self.cancel,
            conversion: None,
        };
        let (mut made, progress) = (Plan::default(), self.progress);
        let choice = match order {
            Order::Said(wishes) => Choice::Wishes(wishes.clone()),
            Order::Predicted { most_unread } => Choice::Predicted { most_unread: *most_unread },
            Order::Run { wishes, container, record_out } => {
                let runner = Runner { trees, progress, roots: self.workshop.roots.clone() };
                let runs = runner.run(images, container).with_context(|| self.source.name.clone())?;
                let Runs { record, notices, exits } = runs;
                if let Some(path) = record_out {
                    publish::write(path, record::write(&record).as_bytes())?;
                }
                (made.notices, made.exits) = (notices, exits);
                Choice::Wishes(Wishes { record, ..wishes.clone() })
            }
        };
        Ok(Planner {
            trees,
            progress,
            cache: self.workshop.cache.clone(),
            // What may stay as it is need not be compressed.
            gather: !self.job.arguments.reuse,
            images,
            choice,
            repeated: Repeated::default(),
            made: Mutex::new(made),
        })
    }

    fn options(&self) -> convert::Options {
        let arguments = self.job.arguments;
        arguments.readers.apply(convert::Options {
            platforms: arguments.platforms.choice(),
            keep_other_platforms: arguments.keep_other_platforms,
            keep_subject: arguments.keep_subject,
            media_types: self.job.media_types,
            unsupported: match arguments.unsupported {
                Unsupported::Fail => convert::Unsupported::Fail,
                Unsupported::Keep => convert::Unsupported::Keep,
            },
            jobs: self.workshop.layers,
            limits: self.limits.clone(),
            cancel: self.cancel.clone(),
            memo: self.memo.clone(),
            ..convert::Options::default()
        })
    }
}
