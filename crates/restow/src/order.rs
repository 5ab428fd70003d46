//! Which files come first, by what was asked for and what the images hold.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use restow_analyze as analyze;
use restow_analyze::Access;
use restow_analyze::Wishes;
use restow_analyze::record;
use restow_content::publish;
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

use crate::Result;
use crate::Session;
use crate::Warning;
use crate::WarningKind;
use crate::image::Image;
use crate::memo::Slots;
use crate::observer::Step;
use crate::prediction::Predictor;
use crate::recorder::Exit;
use crate::recorder::Recorder;
use crate::trees::Gathering;
use crate::trees::Repeated;
use crate::trees::Trees;
use crate::workload::Container;

/// Bytes of a file that may be fetched for nothing unless told otherwise.
pub const DEFAULT_MOST_UNREAD: u64 = 16 << 20;

/// Where the order of the files comes from.
#[derive(Clone, Debug)]
pub enum Order {
    /// These files come first. Without any, all stay where they are.
    Said(Wishes),
    /// Files come first that the image's command will read first, told from the image alone.
    Predicted {
        /// The most bytes of such a file that may not be read; one with more keeps its place.
        most_unread: u64,
    },
    /// Files come first that a run of the image reads, after those that are said.
    Run {
        /// The files that come before.
        wishes: Wishes,
        /// How the image is run.
        container: Box<Container>,
        /// A file to write the record of the run to.
        record_out: Option<PathBuf>,
    },
}

impl Default for Order {
    fn default() -> Self {
        Order::Said(Wishes::default())
    }
}

impl Order {
    /// Returns the predicted order, with [`DEFAULT_MOST_UNREAD`].
    pub fn predicted() -> Self {
        Order::Predicted { most_unread: DEFAULT_MOST_UNREAD }
    }

    /// Tells whether files may move.
    pub fn moves(&self) -> bool {
        !matches!(self, Order::Said(wishes) if wishes.is_empty())
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
    /// What went otherwise than one might expect.
    pub(crate) warnings: Vec<Warning>,
    /// How the workloads ended that were run for it, with the manifest.
    pub(crate) exits: Vec<(Digest, Exit)>,
}

impl Plan {
    fn extend(&mut self, other: Self) {
        self.first.extend(other.first);
        self.misses.extend(other.misses);
        self.warnings.extend(other.warnings);
        self.exits.extend(other.exits);
    }
}

/// Orders the layers of images, each when its turn has come.
pub(crate) struct Planner<'a> {
    trees: Trees<'a>,
    session: &'a Session,
    /// Whether layers that are read to tell the order are compressed in the same reading.
    gather: bool,
    /// All images.
    images: &'a [Selected],
    choice: Choice,
    repeated: Repeated,
    /// What has been planned so far.
    made: Mutex<Plan>,
}

/// What decides the order of an image.
#[derive(Debug)]
enum Choice {
    /// What was asked for, or a run has shown.
    Wishes(Wishes),
    /// A prediction.
    Predicted { most_unread: u64 },
}

/// What the images' workloads read, what went otherwise than asked, and how they ended.
#[derive(Default)]
struct Runs {
    record: Vec<Access>,
    warnings: Vec<Warning>,
    exits: Vec<(Digest, Exit)>,
}

impl<'a> Planner<'a> {
    /// Gets ready to order `images`. Workloads that decide the order are run now.
    pub(crate) fn new(
        session: &'a Session,
        trees: Trees<'a>,
        gather: bool,
        images: &'a [Selected],
        order: &Order,
    ) -> Result<Self> {
        let mut made = Plan::default();
        let choice = match order {
            Order::Said(wishes) => Choice::Wishes(wishes.clone()),
            Order::Predicted { most_unread } => Choice::Predicted { most_unread: *most_unread },
            Order::Run { wishes, container, record_out } => {
                let Runs { record, warnings, exits } = run(session, trees, images, container)?;
                if let Some(path) = record_out {
                    publish::write(path, record::write(&record).as_bytes())?;
                }
                (made.warnings, made.exits) = (warnings, exits);
                Choice::Wishes(Wishes { record, ..wishes.clone() })
            }
        };
        let (repeated, made) = (Repeated::default(), Mutex::new(made));
        Ok(Self { trees, session, gather, images, choice, repeated, made })
    }

    /// Returns what there is to say of all images.
    pub(crate) fn into_plan(self) -> Plan {
        self.made.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, begun: &BegunImage<'_>) -> Result<Plan> {
        let gathering = Gathering { image: begun, repeated: &self.repeated };
        let trees = Trees { conversion: self.gather.then_some(gathering), ..self.trees };
        let digest = &begun.source().descriptor.digest;
        let selected = self.images.iter().find(|selected| selected.descriptor.digest == *digest);
        let image = Image::begun(begun.source(), selected.and_then(|selected| selected.platform.clone()));
        match &self.choice {
            Choice::Wishes(wishes) => self.follow(trees, &image, &self.own(wishes, digest)),
            Choice::Predicted { most_unread } => {
                self.session.observer().step(&Step::Predicting(digest));
                let (record, told) = Predictor { trees, memory: self.memo() }.record(&image)?;
                let wishes = Wishes { record, most_unread: Some(*most_unread), ..Wishes::default() };
                let mut plan = self.follow(trees, &image, &wishes)?;
                plan.warnings
                    .extend(told.into_iter().map(|text| Warning::new(WarningKind::Prediction, text)));
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

    fn memo(&self) -> Option<Slots> {
        self.session.cache().map(Slots::of_plans)
    }

    /// Orders the layers of the image by the wishes.
    fn follow(&self, trees: Trees<'_>, image: &Image, wishes: &Wishes) -> Result<Plan> {
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
            self.session.observer().step(&Step::Listing(manifest.digest));
            trees.names(image)
        })?;
        let plan = Plan {
            misses: workload.misses().iter().map(|miss| (miss.manifest.clone(), miss.path.clone())).collect(),
            warnings: workload.notices().iter().map(of_order).collect(),
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

impl Orderer for Planner<'_> {
    fn order(&self, image: &BegunImage<'_>) -> Result<BTreeMap<usize, Vec<String>>, BoxError> {
        let mut plan = self.plan(image)?;
        let paths = std::mem::take(&mut plan.paths);
        self.made.lock().unwrap_or_else(PoisonError::into_inner).extend(plan);
        Ok(paths.into_iter().map(|((_, position), paths)| (position, paths)).collect())
    }
}

/// Runs the images' workloads.
///
/// Of several images, those that the host cannot run are passed over; a single one was meant.
fn run(session: &Session, trees: Trees<'_>, images: &[Selected], container: &Container) -> Result<Runs> {
    let Trees { provider, limits, threads, cancel, .. } = trees;
    let settings = session.settings();
    let (helper, keep) = (&*settings.helper, settings.roots.clone());
    let recorder = Recorder { container, helper, provider, limits, threads: threads.get(), cancel, keep };
    let mut runs = Runs::default();
    for Selected { descriptor, platform, .. } in images {
        if let Some(platform) = platform.as_ref().filter(|_| images.len() > 1)
            && !runs_here(platform)
        {
            let text = format!("{} was not run: it is for {platform}", descriptor.digest.short());
            runs.warnings.push(Warning::new(WarningKind::Workload, text));
            continue;
        }
        session.observer().step(&Step::Running(&descriptor.digest));
        let recording = recorder.record(descriptor)?;
        runs.record.extend(recording.accesses);
        runs.warnings.extend(recording.warnings);
        let exits = recording.exits.into_iter();
        runs.exits.extend(exits.map(|exit| (descriptor.digest.clone(), exit)));
    }
    Ok(runs)
}

fn of_order(notice: impl ToString) -> Warning {
    Warning::new(WarningKind::Order, notice.to_string())
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
            notices: plan.warnings.iter().map(ToString::to_string).collect(),
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
            warnings: self.notices.iter().map(of_order).collect(),
            exits: Vec::new(),
        })
    }
}
