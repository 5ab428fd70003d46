//! Which files come first, by what was asked for and what the images hold.

use std::path::PathBuf;

use restow_analyze as analyze;
use restow_analyze::Access;
use restow_analyze::Tree;
use restow_analyze::Wishes;
use restow_analyze::record;
use restow_content::publish;
use restow_convert::Prioritized;
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

/// Which files come first in which layer, and what there is to say about it.
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

/// What the images' workloads read, what went otherwise than asked, and how they ended.
#[derive(Default)]
struct Runs {
    record: Vec<Access>,
    warnings: Vec<Warning>,
    exits: Vec<(Digest, Exit)>,
}

impl Plan {
    fn extend(&mut self, other: Self) {
        self.paths.extend(other.paths);
        self.first.extend(other.first);
        self.misses.extend(other.misses);
        self.warnings.extend(other.warnings);
        self.exits.extend(other.exits);
    }
}

/// Orders the layers of images.
pub(crate) struct Planner<'a> {
    pub(crate) trees: Trees<'a>,
    pub(crate) session: &'a Session,
}

impl Planner<'_> {
    /// Orders the layers of the images.
    pub(crate) fn plan(&self, images: &[Image], order: &Order) -> Result<Plan> {
        match order {
            Order::Said(wishes) => self.follow(images, wishes),
            Order::Predicted { most_unread } => {
                let (mut plan, mut warnings) = (Plan::default(), Vec::new());
                for (image, (record, told)) in images.iter().zip(self.predict(images)?) {
                    let wishes = Wishes { record, most_unread: Some(*most_unread), ..Wishes::default() };
                    // Each on its own: of what the command of another image reads, this one's says nothing.
                    plan.extend(self.follow(std::slice::from_ref(image), &wishes)?);
                    warnings.extend(told.into_iter().map(|text| Warning::new(WarningKind::Prediction, text)));
                }
                plan.warnings.extend(warnings);
                Ok(plan)
            }
            Order::Run { wishes, container, record_out } => {
                let Runs { record, warnings, exits } = self.run(images, container)?;
                if let Some(path) = record_out {
                    publish::write(path, record::write(&record).as_bytes())?;
                }
                let mut plan = self.follow(images, &Wishes { record, ..wishes.clone() })?;
                plan.warnings.extend(warnings);
                plan.exits = exits;
                Ok(plan)
            }
        }
    }

    /// Predicts what is read first of each image, and returns it with what could not be followed.
    fn predict(&self, images: &[Image]) -> Result<Vec<(Vec<Access>, Vec<String>)>> {
        let predictor = Predictor { trees: self.trees, memory: self.memo() };
        let predict = |image: &Image| {
            self.session.observer().step(&Step::Predicting(&image.descriptor.digest));
            predictor.record(image)
        };
        images.iter().map(predict).collect()
    }

    /// Runs the images' workloads and returns what they read, and what went otherwise than asked.
    ///
    /// Of several images, those that the host cannot run are passed over; a single one was meant.
    fn run(&self, images: &[Image], container: &Container) -> Result<Runs> {
        let Trees { provider, limits, threads, cancel, .. } = self.trees;
        let settings = self.session.settings();
        let (helper, keep) = (&*settings.helper, settings.roots.clone());
        let recorder = Recorder { container, helper, provider, limits, threads: threads.get(), cancel, keep };
        let mut runs = Runs::default();
        for Image { descriptor, platform, .. } in images {
            if let Some(platform) = platform.as_ref().filter(|_| images.len() > 1)
                && !runs_here(platform)
            {
                let text = format!("{} was not run: it is for {platform}", descriptor.digest.short());
                runs.warnings.push(Warning::new(WarningKind::Workload, text));
                continue;
            }
            self.session.observer().step(&Step::Running(&descriptor.digest));
            let recording = recorder.record(descriptor)?;
            runs.record.extend(recording.accesses);
            runs.warnings.extend(recording.warnings);
            let exits = recording.exits.into_iter();
            runs.exits.extend(exits.map(|exit| (descriptor.digest.clone(), exit)));
        }
        Ok(runs)
    }

    fn memo(&self) -> Option<Slots> {
        self.session.cache().map(Slots::of_plans)
    }

    /// Orders the layers of the images by the wishes.
    fn follow(&self, images: &[Image], wishes: &Wishes) -> Result<Plan> {
        if wishes.is_empty() {
            return Ok(Plan::default());
        }
        let manifests = images.iter().map(|Image { descriptor, manifest, .. }| analyze::Manifest {
            digest: &descriptor.digest,
            layers: manifest.layers(),
        });
        let manifests: Vec<_> = manifests.collect();
        // What is not for distribution counts as empty where it is not there, and it may come.
        let settled =
            |layer: &Descriptor| !matches!(layer.media_type.kind(), Kind::Layer { distributable: false, .. });
        let memo = self.memo().filter(|_| manifests.iter().all(|one| one.layers.iter().all(settled)));
        let key = key(wishes, &manifests);
        let recalled =
            memo.as_ref().and_then(|memo| memo.recall::<Remembered>(&key)).and_then(Remembered::into_plan);
        if let Some(plan) = recalled {
            return Ok(plan);
        }
        let workload = analyze::plan(wishes, &manifests, |manifest| {
            self.session.observer().step(&Step::Listing(manifest.digest));
            let image = images.iter().find(|image| image.descriptor.digest == *manifest.digest);
            image.map_or_else(|| Ok(Tree::default()), |image| self.trees.names(image))
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
fn key(wishes: &Wishes, manifests: &[analyze::Manifest<'_>]) -> String {
    let wishes = Digest::sha256(format!("{wishes:?}").as_bytes());
    let manifests: Vec<_> = manifests.iter().map(|manifest| manifest.digest.as_str()).collect();
    format!("rules={RULES} {wishes} {}", manifests.join(" "))
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
