//! What is told of a conversion that is done: a table for people, a document for programs.

use std::time::Duration;

use restow::recorder::Exit;
use restow_convert::Conversion;
use restow_convert::ImageReport;
use restow_convert::LayerReport;
use restow_convert::Observer as _;
use restow_convert::Outcome;
use restow_convert::Selected;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_registry::Source;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::destination::Destination;
use crate::output;
use crate::output::Table;
use crate::progress::Progress;

/// How many missing paths are named in words; the document has them all.
const NAMED_MISSES: usize = 5;
/// How many of the platforms that are left out.
const NAMED_PLATFORMS: usize = 12;

/// A conversion that is done.
pub(crate) struct Summary<'a> {
    pub(crate) source: &'a Source,
    pub(crate) destination: &'a Destination,
    pub(crate) images: &'a [Selected],
    pub(crate) conversion: &'a Conversion,
    /// Whether the images for other platforms are left out without a word of the user.
    pub(crate) unasked: bool,
    /// The image of the tables of contents and its tags, if there is one.
    pub(crate) tables: Option<(&'a Descriptor, &'a [String])>,
    /// Manifest, layer and path of what comes first, a few of each image.
    pub(crate) first: &'a [(Digest, usize, String)],
    /// Wishes that no file fulfilled.
    pub(crate) misses: &'a [(Digest, String)],
    /// What was told beside the conversion's own warnings.
    pub(crate) notices: Vec<String>,
    /// How the workloads ended that were run, with the manifest.
    pub(crate) exits: &'a [(Digest, Exit)],
    /// How long all of it took.
    pub(crate) elapsed: Duration,
}

impl Summary<'_> {
    /// Tells stderr what became of the image.
    pub(crate) fn tell(&self, progress: &Progress) {
        let misses = self.misses();
        if !misses.is_empty() {
            let named: Vec<_> =
                misses.iter().take(NAMED_MISSES).map(|(_, path)| path.escape_debug().to_string()).collect();
            let more = misses.len() - named.len();
            let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
            let wishes = output::count(misses.len(), "path");
            progress.warning(&format!("{wishes} to put first not found: {}{rest}", named.join(", ")));
        }
        self.tell_left_out(progress);
        for image in self.images {
            let manifest = &image.descriptor.digest;
            let layers = self.conversion.layers.iter().filter(|layer| layer.manifest == *manifest);
            let platform =
                image.platform.as_ref().map(|platform| format!(" for {platform}")).unwrap_or_default();
            let oci = if self.became_oci(manifest) { ", Docker's before and OCI's now" } else { "" };
            progress.details(&format!("image {}{platform}{oci}\n{}", output::short(manifest), table(layers)));
            if let Some(first) = self.first_of(manifest) {
                progress.details(&first.told());
            }
        }
        if let Some((root, tags)) = self.tables {
            let digest = output::short(&root.digest);
            progress.details(&format!("tables of contents {digest}: {}", tags.join(", ")));
        }
        let total = |size: fn(&LayerReport) -> u64| self.conversion.layers.iter().map(size).sum::<u64>();
        let (before, after) = (total(|layer| layer.source.size), total(|layer| layer.destination.size));
        progress.summary(&format!(
            "{} -> {}: {} -> {} in {}",
            self.source.name,
            self.destination.names().join(", "),
            output::size(before),
            output::size(after),
            output::seconds(self.elapsed),
        ));
    }

    fn tell_left_out(&self, progress: &Progress) {
        let left_out = &self.conversion.left_out;
        if left_out.is_empty() {
            return;
        }
        let left_out = format!("the new image leaves out {}", platforms(left_out));
        if self.unasked {
            let remedy = "--all-platforms converts them, too, --keep-other-platforms keeps them as they are";
            progress.warning(&format!("{left_out}: {remedy}"));
        } else {
            progress.summary(&left_out);
        }
    }

    /// Tells whether an image has OCI's media types in place of Docker's.
    fn became_oci(&self, manifest: &Digest) -> bool {
        let report = self.conversion.images.iter().find(|report| report.source.digest == *manifest);
        report.is_some_and(|ImageReport { source, destination }| {
            source.media_type.is_docker() && !destination.media_type.is_docker()
        })
    }

    /// Returns all of it for programs.
    pub(crate) fn document(&self) -> Value {
        let root = &self.conversion.root;
        let images = self.images.iter().map(|image| {
            let platform = image.platform.as_ref().map(ToString::to_string);
            let manifest = &image.descriptor.digest;
            json!({
                "manifest": manifest.as_str(),
                "platform": platform,
                "first": self.first_of(manifest).map(|first| first.document()),
                "becameOci": self.became_oci(manifest),
            })
        });
        let misses = self.misses().into_iter();
        let workload = |(manifest, exit): &(Digest, Exit)| json!({ "manifest": manifest.as_str(), "name": exit.workload, "exit": exit.code });
        json!({
            "digest": root.digest.as_str(),
            "changed": root.digest != self.source.root.digest,
            "source": { "reference": self.source.name, "root": root_document(&self.source.root) },
            "destination": { "references": self.destination.names(), "root": root_document(root) },
            "tocImage": self.tables.map(|(root, tags)| json!({ "root": root_document(root), "tags": tags })),
            "images": images.collect::<Vec<_>>(),
            "leftOut": left_out_document(&self.conversion.left_out),
            "layers": self.conversion.layers.iter().map(layer_document).collect::<Vec<_>>(),
            "missing": misses.map(|(manifest, path)| json!({ "manifest": manifest, "path": path })).collect::<Vec<_>>(),
            "workloads": self.exits.iter().map(workload).collect::<Vec<_>>(),
            "notices": self.notices,
            "warnings": self.conversion.warnings,
            "seconds": self.elapsed.as_secs_f64(),
        })
    }

    /// Returns what of an image comes first, if anything was moved.
    fn first_of(&self, manifest: &Digest) -> Option<First<'_>> {
        let layers = self.conversion.layers.iter().filter(|layer| layer.manifest == *manifest);
        let sum = |count: fn(&LayerReport) -> u64| layers.clone().map(count).sum::<u64>();
        let entries = sum(|layer| layer.statistics.prioritized);
        let paths = self.first.iter().filter(|(one, ..)| one == manifest);
        (entries > 0).then(|| First {
            entries,
            size: sum(|layer| layer.statistics.prefetch_size),
            image_size: sum(|layer| layer.destination.size),
            paths: paths.map(|(_, layer, path)| (*layer, path.as_str())).collect(),
        })
    }

    /// Returns the manifest and path of what was to come first and is not there, whoever noticed.
    fn misses(&self) -> Vec<(&str, &str)> {
        let unresolved = self.misses.iter().map(|(manifest, path)| (manifest.as_str(), path.as_str()));
        let layers = self.conversion.layers.iter();
        let unmoved = layers.flat_map(|layer| {
            layer.statistics.missing.iter().map(|path| (layer.manifest.as_str(), path.as_str()))
        });
        unresolved.chain(unmoved).collect()
    }
}

/// What of an image is at the front of its layers.
struct First<'a> {
    entries: u64,
    /// Bytes of the layers up to the landmarks.
    size: u64,
    image_size: u64,
    /// Layer and path of the first few.
    paths: Vec<(usize, &'a str)>,
}

impl First<'_> {
    fn share(&self) -> f64 {
        self.size as f64 / self.image_size.max(1) as f64
    }

    fn told(&self) -> String {
        let mut table = Table::new(&[">layer", "first"]);
        for (layer, path) in &self.paths {
            table.row([layer.to_string(), path.escape_debug().to_string()]);
        }
        let (entries, size) = (output::count(self.entries as usize, "path"), output::size(self.size));
        format!("{table}\nfirst come {entries}, {size}, {:.1} % of the image", self.share() * 100.0)
    }

    fn document(&self) -> Value {
        let path = |(layer, path): &(usize, &str)| json!({ "layer": layer, "path": path });
        json!({
            "entries": self.entries,
            "size": self.size,
            "share": self.share(),
            "paths": self.paths.iter().map(path).collect::<Vec<_>>(),
        })
    }
}

/// Names the platforms of images.
pub(crate) fn platforms(images: &[Selected]) -> String {
    let unknown = || "an unknown platform".to_owned();
    let name = |image: &Selected| image.platform.as_ref().map_or_else(unknown, ToString::to_string);
    let mut named: Vec<_> = images.iter().take(NAMED_PLATFORMS).map(name).collect();
    if images.len() > NAMED_PLATFORMS {
        named.push(format!("{} more", images.len() - NAMED_PLATFORMS));
    }
    named.join(", ")
}

/// Returns the images that an index had and the result has not.
pub(crate) fn left_out_document(images: &[Selected]) -> Value {
    let image = |image: &Selected| {
        let platform = image.platform.as_ref().map(ToString::to_string);
        json!({ "manifest": image.descriptor.digest.as_str(), "platform": platform })
    };
    images.iter().map(image).collect()
}

/// Returns in a few words what became of a layer.
pub(crate) fn outcome(report: &LayerReport) -> String {
    let sizes = format!("{} -> {}", output::size(report.source.size), output::size(report.destination.size));
    match report.outcome {
        Outcome::Kept => "kept as it is".into(),
        _ if report.destination.digest == report.source.digest => "the same bytes".into(),
        Outcome::Converted => format!("{sizes} in {}", output::seconds(report.elapsed)),
        Outcome::Shared => format!("{sizes}, as an equal layer"),
        Outcome::Recalled => format!("{sizes}, converted before"),
    }
}

/// Returns the table of an image's layers.
pub(crate) fn table<'a>(reports: impl IntoIterator<Item = &'a LayerReport>) -> Table {
    let headings = [
        ">layer", ">before", ">after", ">ratio", ">entries", ">chunks", ">moved", ">first", "DiffID", ">time",
    ];
    let mut table = Table::new(&headings);
    for report in reports {
        let statistics = &report.statistics;
        let converted = report.outcome != Outcome::Kept;
        let counted = |number: u64| if converted { number.to_string() } else { "-".into() };
        table.row([
            report.position.to_string(),
            output::size(report.source.size),
            output::size(report.destination.size),
            ratio(&report.source, &report.destination),
            counted(statistics.entries),
            counted(statistics.chunks),
            counted(statistics.prioritized),
            if statistics.prefetch_size > 0 { output::size(statistics.prefetch_size) } else { "-".into() },
            if report.diff_id_kept { "kept" } else { "new" }.into(),
            match report.outcome {
                Outcome::Kept => "kept".into(),
                Outcome::Converted => output::seconds(report.elapsed),
                Outcome::Shared => "shared".into(),
                Outcome::Recalled => "cached".into(),
            },
        ]);
    }
    table
}

fn ratio(before: &Descriptor, after: &Descriptor) -> String {
    if before.size == 0 { "-".into() } else { format!("{:.2}", after.size as f64 / before.size as f64) }
}

/// Returns what is known of a converted layer.
pub(crate) fn layer_document(report: &LayerReport) -> Map<String, Value> {
    let statistics = &report.statistics;
    let outcome = match report.outcome {
        Outcome::Kept => "kept",
        Outcome::Converted => "converted",
        Outcome::Shared => "shared",
        Outcome::Recalled => "cached",
    };
    let Value::Object(document) = json!({
        "manifest": report.manifest.as_str(),
        "position": report.position,
        "outcome": outcome,
        "source": descriptor_document(&report.source),
        "destination": descriptor_document(&report.destination),
        "diffIdKept": report.diff_id_kept,
        "uncompressedSize": statistics.uncompressed_size,
        "entries": statistics.entries,
        "chunks": statistics.chunks,
        "prioritized": statistics.prioritized,
        "prefetchSize": statistics.prefetch_size,
        "missing": statistics.missing,
        "seconds": report.elapsed.as_secs_f64(),
    }) else {
        unreachable!("the document above is an object");
    };
    document
}

/// Returns what a descriptor says of its blob.
fn descriptor_document(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type.as_str(),
        "digest": descriptor.digest.as_str(),
        "size": descriptor.size,
        "annotations": descriptor.annotations,
    })
}

/// Returns what names an image, without the annotations by which an index did.
fn root_document(root: &Descriptor) -> Value {
    json!({ "mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.size })
}
