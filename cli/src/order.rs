//! Which files come first, by what the command line says and the images hold.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use restow_analyze as analyze;
use restow_analyze::Reading;
use restow_analyze::Wishes;
use restow_analyze::Workload;
use restow_analyze::list;
use restow_analyze::record;
use restow_content::Provider;
use restow_convert::Cancel;
use restow_convert::Selected;
use restow_oci::Limits;
use restow_oci::Manifest;

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

/// Orders the layers of images.
pub(crate) struct Planner<'a> {
    pub(crate) provider: &'a dyn Provider,
    pub(crate) limits: &'a Limits,
    pub(crate) threads: NonZeroUsize,
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a Cancel,
}

impl Planner<'_> {
    /// Orders the layers of the images by the wishes.
    pub(crate) fn plan(&self, images: &[Selected], wishes: &Wishes) -> anyhow::Result<Workload> {
        if wishes.is_empty() {
            return Ok(Workload::default());
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
        let reading = Reading {
            provider: self.provider,
            limits: self.limits,
            threads: self.threads.get(),
            stop: &|| self.cancel.is_cancelled(),
        };
        let workload = analyze::plan(wishes, &manifests, |manifest| {
            self.progress.step(&format!("listing the files of {}", output::short(manifest.digest)));
            reading.tree(manifest.layers)
        });
        Ok(workload?)
    }
}
