//! Running an image's workloads and recording which files they read.

use restow_analyze::Access;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_oci::Platform;
use restow_registry::Reference;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Error;
use crate::Result;
use crate::Session;
use crate::Warning;
use crate::recorder::Recorder;
use crate::recorder::Recording;
use crate::recorder::total;
use crate::workload::Container;

/// What is recorded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecordOptions {
    /// Which image of an index, which must be one; that for this machine's platform, unless told otherwise.
    pub platforms: Platforms,
    /// How it is run.
    pub container: Container,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self { platforms: Platforms::Prefer(Platform::host()), container: Container::default() }
    }
}

/// What the workloads of an image read.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RecordReport {
    /// How each workload ended.
    pub workloads: Vec<WorkloadExit>,
    /// The files that were read, in the order of their first opening.
    pub files: Vec<RecordedFile>,
    /// Their bytes.
    pub size: u64,
    /// The bytes of all files of the image.
    pub image_size: u64,
    /// What was read of each layer of which something was.
    pub layers: Vec<RecordedLayer>,
    /// What went otherwise than asked.
    pub warnings: Vec<Warning>,
    /// The record itself; [`restow_analyze::record::write`] makes a file of it.
    #[serde(skip)]
    pub accesses: Vec<Access>,
}

/// How a workload ended.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WorkloadExit {
    /// Its name.
    pub name: String,
    /// The exit status of its program, if that ended before the watching.
    pub exit: Option<i32>,
}

/// A file that was read.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RecordedFile {
    /// Its path.
    pub path: String,
    /// The position of its layer.
    pub layer: Option<usize>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// What was read of a layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RecordedLayer {
    /// Its position.
    pub position: usize,
    /// How many files.
    pub files: usize,
    /// Their bytes.
    pub size: u64,
}

impl Session {
    /// Runs the workloads of an image and records what they read.
    pub fn record<S>(&self, source: S, options: &RecordOptions) -> Result<RecordReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let (_, source) = self.open(source)?;
        let limits = self.limits();
        let selection = convert::select(&*source.provider, &source.root, &options.platforms, limits)?;
        let image = match selection.images.as_slice() {
            [image] => image,
            [] => return Err(Error::NoImage { name: source.name }),
            images => {
                let problem = format!("{} images are meant, choose one with --platform", images.len());
                return Err(Error::Options(problem));
            }
        };
        let settings = self.settings();
        let recorder = Recorder {
            container: &options.container,
            helper: &settings.helper,
            provider: &*source.provider,
            limits,
            threads: settings.threads.get(),
            cancel: self.stop(),
            keep: settings.roots.clone(),
        };
        let recording = recorder.record(&image.descriptor)?;
        recording.warnings.iter().for_each(|warning| self.warn(warning));
        Ok(RecordReport::new(recording))
    }
}

impl RecordReport {
    fn new(recording: Recording) -> Self {
        let Recording { accesses, exits, warnings, tree } = recording;
        let file = |access: &Access| RecordedFile {
            path: access.path.clone(),
            layer: access.layer_index,
            size: tree.size(&access.path),
        };
        let files: Vec<_> = accesses.iter().map(file).collect();
        let layers = layers(&files);
        Self {
            workloads: exits
                .into_iter()
                .map(|exit| WorkloadExit { name: exit.workload, exit: exit.code })
                .collect(),
            size: layers.iter().map(|layer| layer.size).sum(),
            image_size: total(&tree),
            files,
            layers,
            warnings,
            accesses,
        }
    }
}

fn layers(files: &[RecordedFile]) -> Vec<RecordedLayer> {
    let mut layers: Vec<RecordedLayer> = Vec::new();
    for file in files {
        let (position, size) = (file.layer.unwrap_or_default(), file.size.unwrap_or_default());
        match layers.iter_mut().find(|layer| layer.position == position) {
            Some(layer) => {
                layer.files += 1;
                layer.size += size;
            }
            None => layers.push(RecordedLayer { position, files: 1, size }),
        }
    }
    layers.sort_unstable_by_key(|layer| layer.position);
    layers
}
