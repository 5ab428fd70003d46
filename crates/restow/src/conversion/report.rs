//! What is told of a conversion that is done.

use std::time::Duration;

use restow_convert::ImageReport;
use restow_convert::LayerReport as Converted;
use restow_convert::Selected;
use restow_oci::Digest;
use restow_oci::Platform;
use schemars::JsonSchema;
use serde::Serialize;

use super::Done;
use super::Run;
use crate::Warning;
use crate::WarningKind;
use crate::recorder::Exit;
use crate::report::LayerReport;
use crate::report::LeftOut;
use crate::report::Origin;
use crate::report::Published;
use crate::report::Root;

/// A conversion that is done.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConvertReport {
    /// The digest of the new image.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Whether it is another one than the source's.
    pub changed: bool,
    /// What was converted.
    pub source: Origin,
    /// What came of it.
    pub destination: Published,
    /// The image of the tables of contents, if there is one.
    pub toc_image: Option<TocImageReport>,
    /// The images that were converted, in order.
    pub images: Vec<ConvertedImage>,
    /// The images of the source's index that the result has not.
    pub left_out: Vec<LeftOut>,
    /// The layers of the images that were converted, in order.
    pub layers: Vec<LayerReport>,
    /// Paths that were to come first and are not there.
    pub missing: Vec<MissingPath>,
    /// How the workloads ended that were run to see what they read.
    pub workloads: Vec<WorkloadReport>,
    /// The digests of what was copied beside, since it refers to the source.
    #[schemars(with = "Vec<String>")]
    pub referrers: Vec<Digest>,
    /// The texts of those warnings that are about no layer.
    pub notices: Vec<String>,
    /// What went otherwise than one might expect.
    pub warnings: Vec<Warning>,
    /// How long all of it took.
    pub seconds: f64,
}

/// An image of tables of contents.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TocImageReport {
    /// Its manifest or index.
    pub root: Root,
    /// Its tags.
    pub tags: Vec<String>,
}

/// An image that was converted.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ConvertedImage {
    /// The digest of its manifest before the conversion.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// The digest of its manifest after it; of several forms, of the first.
    #[schemars(with = "String")]
    pub new_manifest: Digest,
    /// What it is for, where that is known.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
    /// What comes first, if anything was moved.
    pub first: Option<First>,
    /// Whether it has OCI's media types in place of Docker's.
    pub became_oci: bool,
}

/// The files at the front of an image's layers.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct First {
    /// How many entries there are.
    pub entries: u64,
    /// Bytes of the layers up to the landmarks.
    pub size: u64,
    /// Their share of the image, from 0 to 1.
    pub share: f64,
    /// The first few of them.
    pub paths: Vec<FirstPath>,
}

/// A file at the front of a layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FirstPath {
    /// The layer's position.
    pub layer: usize,
    /// The file's path.
    pub path: String,
}

/// How a workload ended.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct WorkloadReport {
    /// The manifest of the image that was run.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// The workload's name.
    pub name: String,
    /// The exit status of its program, if that ended before the watching.
    pub exit: Option<i32>,
}

/// A path that was to come first and is not there.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MissingPath {
    /// The manifest of the image without it.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// The path.
    pub path: String,
}

impl WorkloadReport {
    fn of((manifest, exit): &(Digest, Exit)) -> Self {
        Self { manifest: manifest.clone(), name: exit.workload.clone(), exit: exit.code }
    }
}

impl Done {
    pub(super) fn report(self, run: &Run<'_>, elapsed: Duration) -> ConvertReport {
        let (root, layers) = (&self.conversion.root, &self.conversion.layers);
        let toc_image = self.tables.as_ref().zip(run.toc_image());
        let converted = self.conversion.warnings.iter();
        let converted = converted.map(|text| Warning::new(WarningKind::Conversion, text));
        ConvertReport {
            digest: root.digest.clone(),
            changed: root.digest != run.source.root.digest,
            source: Origin { reference: run.source.name.clone(), root: (&run.source.root).into() },
            destination: Published { references: run.destination.names(), root: root.into() },
            toc_image: toc_image
                .map(|(root, image)| TocImageReport { root: root.into(), tags: image.tags.clone() }),
            images: self.images.iter().map(|image| self.image(image)).collect(),
            left_out: self.conversion.left_out.iter().map(LeftOut::from).collect(),
            layers: layers.iter().map(LayerReport::of).collect(),
            missing: self.missing(),
            workloads: self.plan.exits.iter().map(WorkloadReport::of).collect(),
            referrers: self.referrers.iter().map(|referrer| referrer.digest.clone()).collect(),
            notices: self.notices.iter().map(ToString::to_string).collect(),
            warnings: converted.chain(self.notices.iter().cloned()).collect(),
            seconds: elapsed.as_secs_f64(),
        }
    }

    fn image(&self, image: &Selected) -> ConvertedImage {
        let manifest = &image.descriptor.digest;
        let report = self.conversion.images.iter().find(|report| report.source.digest == *manifest);
        let became_oci = |ImageReport { source, destination }: &ImageReport| {
            source.media_type.is_docker() && !destination.media_type.is_docker()
        };
        ConvertedImage {
            manifest: manifest.clone(),
            new_manifest: report.map_or(manifest, |report| &report.destination.digest).clone(),
            platform: image.platform.clone(),
            first: self.first_of(manifest),
            became_oci: report.is_some_and(became_oci),
        }
    }

    /// Returns what of an image comes first, if anything was moved.
    fn first_of(&self, manifest: &Digest) -> Option<First> {
        let layers = self.conversion.layers.iter().filter(|layer| layer.manifest == *manifest);
        let sum = |count: fn(&Converted) -> u64| layers.clone().map(count).sum::<u64>();
        let entries = sum(|layer| layer.statistics.prioritized);
        let (size, all) = (sum(|layer| layer.statistics.prefetch_size), sum(|layer| layer.destination.size));
        let paths = self.plan.first.iter().filter(|(one, ..)| one == manifest);
        (entries > 0).then(|| First {
            entries,
            size,
            share: size as f64 / all.max(1) as f64,
            paths: paths.map(|(_, layer, path)| FirstPath { layer: *layer, path: path.clone() }).collect(),
        })
    }

    /// Returns the paths that were to come first and are not there, whoever noticed.
    fn missing(&self) -> Vec<MissingPath> {
        let missing =
            |manifest: &Digest, path: &String| MissingPath { manifest: manifest.clone(), path: path.clone() };
        let unresolved = self.plan.misses.iter().map(|(manifest, path)| missing(manifest, path));
        let unmoved = self.conversion.layers.iter().flat_map(|layer| {
            layer.statistics.missing.iter().map(move |path| missing(&layer.manifest, path))
        });
        unresolved.chain(unmoved).collect()
    }
}
