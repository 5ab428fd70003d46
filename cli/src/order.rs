//! Which files come first, by what the command line says and the images hold.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use restow_analyze as analyze;
use restow_analyze::Reading;
use restow_analyze::Wishes;
use restow_analyze::list;
use restow_analyze::record;
use restow_content::Provider;
use restow_convert::Cancel;
use restow_convert::Prioritized;
use restow_convert::Selected;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use serde::Deserialize;
use serde::Serialize;

use crate::memo::Slots;
use crate::output;
use crate::progress::Progress;

/// The flags by which files are put first.
#[derive(Debug, Args)]
#[command(next_help_heading = "Order")]
pub(crate) struct OrderArguments {
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

impl OrderArguments {
    pub(crate) fn wishes(&self) -> anyhow::Result<Wishes> {
        if self.no_optimize {
            return Ok(Wishes::default());
        }
        Ok(Wishes {
            list: self.prefetch_list.as_deref().map(list::load).transpose()?.unwrap_or_default(),
            record: self.record_in.as_deref().map(record::load).transpose()?.unwrap_or_default(),
        })
    }
}

/// Which files come first in which layer, and what there is to say about it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The paths, by manifest and position of the layer.
    pub(crate) paths: Prioritized,
    /// Wishes that no file fulfils, with the manifest that lacks it.
    pub(crate) misses: Vec<(Digest, String)>,
    /// What the user should know.
    pub(crate) notices: Vec<String>,
}

/// Orders the layers of images.
pub(crate) struct Planner<'a> {
    pub(crate) provider: &'a dyn Provider,
    pub(crate) limits: &'a Limits,
    pub(crate) threads: NonZeroUsize,
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a Cancel,
    /// Plans made in earlier runs.
    pub(crate) memo: Option<Slots>,
}

impl Planner<'_> {
    /// Orders the layers of the images by the wishes.
    pub(crate) fn plan(&self, images: &[Selected], wishes: &Wishes) -> anyhow::Result<Plan> {
        if wishes.is_empty() {
            return Ok(Plan::default());
        }
        let read = |image: &Selected| {
            let bytes = restow_content::read(self.provider, &image.descriptor, self.limits.manifest_size)?;
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
        // What is not for distribution counts as empty where it is not there, and it may come.
        let settled =
            |layer: &Descriptor| !matches!(layer.media_type.kind(), Kind::Layer { distributable: false, .. });
        let memo = self.memo.as_ref().filter(|_| manifests.iter().all(|one| one.layers.iter().all(settled)));
        let key = key(wishes, &manifests);
        let recalled = memo.and_then(|memo| memo.recall::<Remembered>(&key)).and_then(Remembered::into_plan);
        if let Some(plan) = recalled {
            return Ok(plan);
        }
        let reading = Reading {
            provider: self.provider,
            limits: self.limits,
            threads: self.threads.get(),
            stop: &|| self.cancel.is_cancelled(),
        };
        let workload = analyze::plan(wishes, &manifests, |manifest| {
            self.progress.step(&format!("listing the files of {}", output::short(manifest.digest)));
            reading.tree(manifest.layers)
        })?;
        let plan = Plan {
            misses: workload.misses().iter().map(|miss| (miss.manifest.clone(), miss.path.clone())).collect(),
            notices: workload.notices().iter().map(ToString::to_string).collect(),
            paths: workload.into_paths(),
        };
        if let Some(memo) = memo {
            memo.remember(&key, &Remembered::new(&plan));
        }
        Ok(plan)
    }
}

/// The version of the rules by which wishes become an order. Plans made by others are made anew.
const RULES: u32 = 1;

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
            misses: misses.map(|(manifest, path)| (manifest.to_string(), path.clone())).collect(),
            notices: plan.notices.clone(),
        }
    }

    /// Returns the plan, unless it is garbled.
    fn into_plan(self) -> Option<Plan> {
        let digest = |text: &str| Digest::parse(text).ok();
        let paths = self.paths.into_iter();
        let misses = self.misses.into_iter();
        Some(Plan {
            paths: paths
                .map(|(manifest, layer, paths)| Some(((digest(&manifest)?, layer), paths)))
                .collect::<Option<_>>()?,
            misses: misses.map(|(manifest, path)| Some((digest(&manifest)?, path))).collect::<Option<_>>()?,
            notices: self.notices,
        })
    }
}
