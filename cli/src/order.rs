//! Which files come first, by what the command line says and the images hold.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use clap::Args;
use restow::image::Image;
use restow::memo::Slots;
use restow::prediction::Predictor;
use restow::recorder::Exit;
use restow::recorder::Recorder;
use restow::trees::Gathering;
use restow::trees::Repeated;
use restow::trees::Trees;
use restow::workload::Container;
use restow_analyze as analyze;
use restow_analyze::Access;
use restow_analyze::Wishes;
use restow_analyze::list;
use restow_analyze::record;
use restow_convert::BegunImage;
use restow_convert::BoxError;
use restow_convert::Orderer;
use restow_convert::Prioritized;
use restow_convert::Selected;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Platform;
use serde::Deserialize;
use serde::Serialize;

use crate::args::parse_size;
use crate::failure::Usage;
use crate::output;
use crate::progress::Progress;
use crate::workload;
use crate::workload::WorkloadArguments;

/// Bytes of a file that may be fetched for nothing.
pub(crate) const DEFAULT_MAX_UNREAD: &str = "16MiB";

/// The flags by which files are put first. Without any, a prediction says which.
#[derive(Debug, Args)]
#[command(next_help_heading = "Order")]
pub(crate) struct OrderArguments {
    /// Move the files in this list to the front, in its order
    ///
    /// A path or a glob a line; `*` and `?` stop at `/`, `**` does not; `#` starts a comment. A path is followed
    /// through symbolic links, which come along. Where the image has what a glob spells, as `[id].js`, that is meant.
    #[arg(long, value_name = "FILE")]
    prefetch_list: Option<PathBuf>,
    /// Move the files in this record of accesses to the front, in its order, after those of the list
    ///
    /// JSON lines, as ctr-remote writes them with --record-out. Where the image has changed since, files are
    /// found again by their paths.
    #[arg(long, value_name = "FILE")]
    record_in: Option<PathBuf>,
    /// Leave a recorded or predicted file where it is if more than this of it is not needed, in bytes or as 64KiB, 4MiB
    ///
    /// What comes first is fetched whole; of what keeps its place, the chunks that are read. Of chunks of 4 MiB, restow's
    /// records say how many were; predictions know it of a few kinds of files.
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MAX_UNREAD, value_parser = parse_size)]
    max_unread: u64,
    /// Run the image's workload and move what it reads to the front, after the files of the list
    ///
    /// The workload's flags say how. That takes runc, and root or user namespaces and FUSE. Of several images, those for
    /// other platforms than the host's are not run.
    #[arg(long)]
    run: bool,
    /// Write what the workload reads to this file, as --record-in takes it
    #[arg(long, value_name = "FILE", requires = "run", conflicts_with = "no_optimize")]
    record_out: Option<PathBuf>,
    /// Keep the order of the source, whatever else is given; nothing is run then
    #[arg(long)]
    no_optimize: bool,
    #[command(flatten)]
    workload: WorkloadArguments,
}

/// Where the order of the files comes from.
#[derive(Debug)]
pub(crate) enum Order {
    /// What the user said.
    Said(Wishes),
    /// What the image's command will read first, told from the image alone, but for files of which more is not read.
    Predicted { most_unread: u64 },
    /// A run of the image, after what the user said.
    Run { wishes: Wishes, container: Box<Container>, record_out: Option<PathBuf> },
}

impl Default for Order {
    fn default() -> Self {
        Order::Said(Wishes::default())
    }
}

impl Order {
    /// Tells whether files may move.
    pub(crate) fn moves(&self) -> bool {
        !matches!(self, Order::Said(wishes) if wishes.is_empty())
    }
}

impl OrderArguments {
    pub(crate) fn order(&self) -> anyhow::Result<Order> {
        if self.no_optimize {
            for (flag, file) in [("prefetch-list", &self.prefetch_list), ("record-in", &self.record_in)] {
                if file.is_some() {
                    output::tell(&format!("warning: with --no-optimize, --{flag} is not heeded"));
                }
            }
            return Ok(Order::default());
        }
        if self.run && self.record_in.is_some() {
            return Err(
                Usage("--run and --record-in both say what is read first; give one of them".into()).into()
            );
        }
        if self.workload.given() && !self.run {
            return Err(Usage("the workload's flags mean nothing without --run".into()).into());
        }
        let list = self.prefetch_list.as_deref().map(list::load).transpose()?;
        let record = self.record_in.as_deref().map(record::load).transpose()?;
        let wishes = Wishes {
            list: list.unwrap_or_default(),
            record: record.unwrap_or_default(),
            most_unread: Some(self.max_unread),
        };
        Ok(if self.run {
            Order::Run {
                wishes,
                container: Box::new(self.workload.container()?),
                record_out: self.record_out.clone(),
            }
        } else if self.prefetch_list.is_none() && self.record_in.is_none() {
            Order::Predicted { most_unread: self.max_unread }
        } else {
            Order::Said(wishes)
        })
    }
}

/// Which files come first in which layer of an image, and what there is to say about it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The paths, by manifest and position of the layer.
    pub(crate) paths: Prioritized,
    /// Manifest, layer and path of the first few of each image, in the order of all its layers.
    pub(crate) first: Vec<(Digest, usize, String)>,
    /// Wishes that no file fulfils, with the manifest that lacks it.
    pub(crate) misses: Vec<(Digest, String)>,
    /// What the user should know.
    pub(crate) notices: Vec<String>,
    /// How the workloads ended that were run for it, with the manifest.
    pub(crate) exits: Vec<(Digest, Exit)>,
}

/// What the images' workloads read, what there is to say about it, and how they ended.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) record: Vec<Access>,
    pub(crate) notices: Vec<String>,
    pub(crate) exits: Vec<(Digest, Exit)>,
}

impl Plan {
    fn extend(&mut self, other: Self) {
        self.first.extend(other.first);
        self.misses.extend(other.misses);
        self.notices.extend(other.notices);
        self.exits.extend(other.exits);
    }
}

/// Orders the layers of images, each when its turn has come.
pub(crate) struct Planner<'a> {
    pub(crate) trees: Trees<'a>,
    pub(crate) progress: &'a Progress,
    /// Where plans made in earlier runs are.
    pub(crate) cache: Option<PathBuf>,
    /// Whether layers that are read to tell the order are compressed in the same reading.
    pub(crate) gather: bool,
    /// All images.
    pub(crate) images: &'a [Selected],
    pub(crate) choice: Choice,
    pub(crate) repeated: Repeated,
    /// What has been planned so far.
    pub(crate) made: Mutex<Plan>,
}

/// What decides the order of an image.
#[derive(Debug)]
pub(crate) enum Choice {
    /// What the user said, or a run has shown.
    Wishes(Wishes),
    /// A prediction.
    Predicted { most_unread: u64 },
}

impl Planner<'_> {
    /// Returns what there is to say of all images.
    pub(crate) fn into_plan(self) -> Plan {
        self.made.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, image: &BegunImage<'_>) -> anyhow::Result<Plan> {
        let gathering = Gathering { image, repeated: &self.repeated };
        let trees = Trees { conversion: self.gather.then_some(gathering), ..self.trees };
        let digest = &image.source().descriptor.digest;
        let selected = self.images.iter().find(|selected| selected.descriptor.digest == *digest);
        let image = Image::begun(image.source(), selected.and_then(|selected| selected.platform.clone()));
        match &self.choice {
            Choice::Wishes(wishes) => self.follow(trees, &image, &self.own(wishes, digest)),
            Choice::Predicted { most_unread } => {
                let (record, notices) = self.predict(trees, &image)?;
                let wishes = Wishes { record, most_unread: Some(*most_unread), ..Wishes::default() };
                let mut plan = self.follow(trees, &image, &wishes)?;
                plan.notices.extend(notices);
                Ok(plan)
            }
        }
    }

    /// Returns the wishes without those that were recorded of other images of this conversion, if some were of this one.
    fn own(&self, wishes: &Wishes, digest: &Digest) -> Wishes {
        let of = |access: &Access, digest: &Digest| access.manifest_digest.as_ref() == Some(digest);
        let mut own = wishes.clone();
        if wishes.record.iter().any(|access| of(access, digest)) {
            let others =
                || self.images.iter().map(|image| &image.descriptor.digest).filter(|other| *other != digest);
            own.record.retain(|access| !others().any(|other| of(access, other)));
        }
        own
    }

    /// Predicts what is read first of an image, and returns it with what could not be followed.
    fn predict(&self, trees: Trees<'_>, image: &Image) -> anyhow::Result<(Vec<Access>, Vec<String>)> {
        let predictor = Predictor { trees, memory: self.memo() };
        let digest = output::short(&image.descriptor.digest);
        self.progress.step(&format!("predicting what {digest} reads first"));
        Ok(predictor.record(image)?)
    }
}

impl Orderer for Planner<'_> {
    fn order(&self, image: &BegunImage<'_>) -> Result<BTreeMap<usize, Vec<String>>, BoxError> {
        let mut plan = self.plan(image)?;
        let paths = std::mem::take(&mut plan.paths);
        self.made.lock().unwrap_or_else(PoisonError::into_inner).extend(plan);
        Ok(paths.into_iter().map(|((_, position), paths)| (position, paths)).collect())
    }
}

impl Planner<'_> {
    fn memo(&self) -> Option<Slots> {
        self.cache.as_deref().map(Slots::of_plans)
    }

    /// Orders the layers of the image by the wishes.
    fn follow(&self, trees: Trees<'_>, image: &Image, wishes: &Wishes) -> anyhow::Result<Plan> {
        if wishes.is_empty() {
            return Ok(Plan::default());
        }
        let Image { descriptor, manifest, .. } = image;
        let manifest = analyze::Manifest { digest: &descriptor.digest, layers: manifest.layers() };
        // What is not for distribution counts as empty where it is not there, and it may come.
        let settled =
            |layer: &Descriptor| !matches!(layer.media_type.kind(), Kind::Layer { distributable: false, .. });
        let memo = self.memo().filter(|_| manifest.layers.iter().all(settled));
        let key = key(wishes, &manifest);
        let recalled =
            memo.as_ref().and_then(|memo| memo.recall::<Remembered>(&key)).and_then(Remembered::into_plan);
        if let Some(plan) = recalled {
            return Ok(plan);
        }
        let workload = analyze::plan(wishes, &[manifest], |manifest| {
            self.progress.step(&format!("listing the files of {}", output::short(manifest.digest)));
            trees.names(image)
        })?;
        let plan = Plan {
            misses: workload.misses().iter().map(|miss| (miss.manifest.clone(), miss.path.clone())).collect(),
            notices: workload.notices().iter().map(ToString::to_string).collect(),
            first: workload.first().to_vec(),
            paths: workload.into_paths(),
            exits: Vec::new(),
        };
        if let Some(memo) = memo {
            memo.remember(&key, &Remembered::new(&plan));
        }
        Ok(plan)
    }
}

/// Runs images.
pub(crate) struct Runner<'a> {
    pub(crate) trees: Trees<'a>,
    pub(crate) progress: &'a Progress,
    /// Below which directory images unpacked in them are.
    pub(crate) roots: Option<PathBuf>,
}

impl Runner<'_> {
    /// Runs the images' workloads and returns what they read, and what the user should know.
    ///
    /// Of several images, those that the host cannot run are passed over; a single one was meant.
    pub(crate) fn run(&self, images: &[Selected], container: &Container) -> anyhow::Result<Runs> {
        let Trees { provider, limits, threads, cancel, .. } = self.trees;
        let recorder = Recorder {
            container,
            helper: &workload::helper()?,
            provider,
            limits,
            threads: threads.get(),
            cancel,
            keep: self.roots.clone(),
        };
        let mut runs = Runs::default();
        for image in images {
            let digest = output::short(&image.descriptor.digest);
            if let Some(platform) = image.platform.as_ref().filter(|_| images.len() > 1)
                && !runs_here(platform)
            {
                runs.notices.push(format!("{digest} was not run: it is for {platform}"));
                continue;
            }
            self.progress.step(&format!("running {digest}"));
            let recording = recorder.record(&image.descriptor)?;
            workload::tell(&recording);
            runs.record.extend(recording.accesses);
            let manifest = &image.descriptor.digest;
            runs.exits.extend(recording.exits.into_iter().map(|exit| (manifest.clone(), exit)));
        }
        Ok(runs)
    }
}

/// Says whether an image is for the platform of the host, in whatever variant.
fn runs_here(platform: &Platform) -> bool {
    let (platform, host) = (platform.normalized(), Platform::host());
    (platform.os, platform.architecture) == (host.os, host.architecture)
}

/// The version of the rules by which wishes become an order. Plans made by others are made anew.
const RULES: u32 = 3;

/// Names all that decides a plan.
fn key(wishes: &Wishes, manifest: &analyze::Manifest<'_>) -> String {
    let wishes = Digest::sha256(format!("{wishes:?}").as_bytes());
    format!("rules={RULES} {wishes} {}", manifest.digest)
}

/// A plan as it is kept.
#[derive(Serialize, Deserialize)]
struct Remembered {
    paths: Vec<(String, usize, Vec<String>)>,
    first: Vec<(String, usize, String)>,
    misses: Vec<(String, String)>,
    notices: Vec<String>,
}

impl Remembered {
    fn new(plan: &Plan) -> Self {
        let paths = plan.paths.iter();
        let misses = plan.misses.iter();
        Self {
            paths: paths
                .map(|((manifest, layer), paths)| (manifest.to_string(), *layer, paths.clone()))
                .collect(),
            first: plan
                .first
                .iter()
                .map(|(manifest, layer, path)| (manifest.to_string(), *layer, path.clone()))
                .collect(),
            misses: misses.map(|(manifest, path)| (manifest.to_string(), path.clone())).collect(),
            notices: plan.notices.clone(),
        }
    }

    /// Returns the plan, unless it is garbled.
    fn into_plan(self) -> Option<Plan> {
        let digest = |text: &str| Digest::parse(text).ok();
        let paths = self.paths.into_iter();
        let misses = self.misses.into_iter();
        let first = self.first.into_iter();
        Some(Plan {
            first: first
                .map(|(manifest, layer, path)| Some((digest(&manifest)?, layer, path)))
                .collect::<Option<_>>()?,
            paths: paths
                .map(|(manifest, layer, paths)| Some(((digest(&manifest)?, layer), paths)))
                .collect::<Option<_>>()?,
            misses: misses.map(|(manifest, path)| Some((digest(&manifest)?, path))).collect::<Option<_>>()?,
            notices: self.notices,
            exits: Vec::new(),
        })
    }
}
