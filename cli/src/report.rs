//! What is told of a conversion that is done, in words.

use restow::WarningKind;
use restow::report::ConvertReport;
use restow::report::ConvertedImage;
use restow::report::First;
use restow::report::LayerOutcome;
use restow::report::LayerReport;

use crate::output;
use crate::output::Table;
use crate::progress::Progress;

/// How many missing paths are named in words; the document has them all.
const NAMED_MISSES: usize = 5;

/// Tells stderr what became of an image.
pub(crate) fn tell(report: &ConvertReport, progress: &Progress) {
    missing(report, progress);
    // Where nobody chose, there is a warning.
    if !report.left_out.is_empty() && !report.warnings.iter().any(|one| one.kind == WarningKind::LeftOut) {
        let platforms = restow::platforms(&report.left_out);
        progress.summary(&format!("the new image leaves out {platforms}"));
    }
    for workload in &report.workloads {
        if let Some(code) = workload.exit {
            progress.say(&format!("{}: the container's program ended with {code}", workload.name));
        }
    }
    for image in &report.images {
        let layers = report.layers.iter().filter(|layer| layer.manifest == image.manifest);
        progress.details(&heading(image));
        progress.table(&table(layers));
        if let Some(first) = &image.first {
            progress.table(&first_table(first));
            progress.details(&first_summary(first));
        }
    }
    if let Some(tables) = &report.toc_image {
        let digest = tables.root.digest.short();
        progress.details(&format!("tables of contents {digest}: {}", tables.tags.join(", ")));
    }
    let total = |size: fn(&LayerReport) -> u64| report.layers.iter().map(size).sum::<u64>();
    let (before, after) = (total(|layer| layer.source.size), total(|layer| layer.destination.size));
    progress.summary(&format!(
        "{} -> {}: {} -> {} in {}",
        report.source.reference,
        report.destination.references.join(", "),
        output::size(before),
        output::size(after),
        output::seconds(report.seconds),
    ));
}

fn missing(report: &ConvertReport, progress: &Progress) {
    let missing = &report.missing;
    if missing.is_empty() {
        return;
    }
    let named: Vec<_> = missing.iter().take(NAMED_MISSES).map(|miss| output::shown(&miss.path)).collect();
    let more = missing.len() - named.len();
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    let paths = output::count(missing.len(), "path");
    progress.warn(&format!("{paths} to put first not found: {}{rest}", named.join(", ")));
}

fn heading(image: &ConvertedImage) -> String {
    let platform = image.platform.as_ref().map(|platform| format!(" for {platform}")).unwrap_or_default();
    let oci = if image.became_oci { ", Docker's before and OCI's now" } else { "" };
    format!("image {}{platform}{oci}", image.manifest.short())
}

fn first_table(first: &First) -> Table {
    let mut table = Table::new(&[">layer", "first"]);
    for path in &first.paths {
        table.row([path.layer.to_string(), path.path.clone()]);
    }
    table
}

fn first_summary(first: &First) -> String {
    let (entries, size) = (output::count(first.entries as usize, "path"), output::size(first.size));
    format!("first come {entries}, {size}, {:.1} % of the image", first.share * 100.0)
}

/// Returns the table of an image's layers.
fn table<'a>(layers: impl IntoIterator<Item = &'a LayerReport>) -> Table {
    let headings = [
        ">layer", ">before", ">after", ">ratio", ">entries", ">chunks", ">moved", ">first", "DiffID", ">time",
    ];
    let mut table = Table::new(&headings);
    for layer in layers {
        let converted = layer.outcome != LayerOutcome::Kept;
        let counted = |number: u64| if converted { number.to_string() } else { "-".into() };
        let (before, after) = (layer.source.size, layer.destination.size);
        table.row([
            layer.position.to_string(),
            output::size(before),
            output::size(after),
            if before == 0 { "-".into() } else { format!("{:.2}", after as f64 / before as f64) },
            counted(layer.entries),
            counted(layer.chunks),
            counted(layer.prioritized),
            if layer.prefetch_size > 0 { output::size(layer.prefetch_size) } else { "-".into() },
            if layer.diff_id_kept { "kept" } else { "new" }.into(),
            match layer.outcome {
                LayerOutcome::Kept => "kept".into(),
                LayerOutcome::Converted => output::seconds(layer.seconds),
                LayerOutcome::Shared => "shared".into(),
                _ => "cached".into(),
            },
        ]);
    }
    table
}
