//! `restow verify`: read everything back and say what holds.

use std::process::ExitCode;

use clap::Args;
use restow::Session;
use restow::VerifyOptions;
use restow::report::ImageReaders;
use restow::report::LayerUse;
use restow::report::VerifiedBlob;
use restow::report::VerifyReport;
use restow_oci::Platform;

use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::TocArguments;
use crate::output;
use crate::output::Table;

/// Read an image back in full and say what of it holds
///
/// Checked are the digest and size of every blob, the DiffID of every layer and, of seekable layers, the table of
/// contents, every chunk and every file. Exits with 1 if something does not hold or is missing.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// Verify only the image for this platform, in all its forms; may be given several times
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Also tell which readers can fetch parts of the layers, and what keeps the others from it
    #[arg(long)]
    readers: bool,
    /// Accept names in layers that go through a parent directory (../x), which some readers refuse
    #[arg(long)]
    allow_parent_refs: bool,
    /// List what is missing, and let it be no failure: docker save leaves out attestations and other platforms
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    toc: TocArguments,
    #[command(flatten)]
    pub(crate) jobs: JobsArguments,
    /// What stdout holds: a table or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = VerifyOptions::default();
    options.platforms.clone_from(&arguments.platform);
    options.readers = arguments.readers;
    options.parent_references = arguments.allow_parent_refs;
    options.toc_image = arguments.toc.reference(session)?;
    let report = session.verify(session.reference(&arguments.reference)?, &options)?;
    match arguments.format {
        Format::Text => {
            output::print(&table(&report.blobs).to_string())?;
            if let Some(images) = &report.readers {
                output::print(&format!("\n{}", readers(images)))?;
            }
        }
        Format::Json => output::print_json(&report)?,
    }
    Ok(judge(&report, arguments.allow_missing))
}

/// Says how many blobs are missing and how many do not hold, and whether that is a failure.
fn judge(report: &VerifyReport, allow_missing: bool) -> ExitCode {
    let problems = report.blobs.iter().filter(|blob| blob.problem.is_some());
    let (missing, wrong): (Vec<_>, Vec<_>) = problems.partition(|blob| blob.missing);
    let all = output::count(report.blobs.len(), "blob");
    let tell = |level: &str, count: usize, [one, many]: [&str; 2]| {
        if count > 0 {
            let verb = if count == 1 { one } else { many };
            output::tell(&format!("{level}: {}: {count} of {all} {verb}", report.reference));
        }
    };
    let level = if allow_missing { "warning" } else { "error" };
    tell(level, missing.len(), ["is missing", "are missing"]);
    tell("error", wrong.len(), ["does not hold", "do not hold"]);
    match wrong.is_empty() && (missing.is_empty() || allow_missing) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn table(blobs: &[VerifiedBlob]) -> Table {
    let mut table = Table::new(&["blob", "digest", ">size", "format", "holds"]);
    for blob in blobs {
        let indent = if matches!(blob.blob, "index" | "manifest") { "" } else { "  " };
        let platform = blob.platform.as_ref().map(|platform| format!(" {platform}")).unwrap_or_default();
        let position = blob.position.map(|position| format!(" {position}")).unwrap_or_default();
        let holds = blob.holds.as_ref().map(|holds| holds.join(", "));
        table.row([
            format!("{indent}{}{position}{platform}", blob.blob),
            output::short(&blob.digest),
            output::size(blob.size),
            blob.format.clone().unwrap_or_default(),
            match (holds, &blob.problem) {
                _ if blob.missing => "missing".to_owned(),
                (Some(holds), _) => holds,
                (None, problem) => format!("FAILED: {}", problem.as_deref().unwrap_or_default()),
            },
        ]);
    }
    table
}

/// Tells of each image how many of its layers each reader fetches in parts, and why not the others.
fn readers(images: &[ImageReaders]) -> Table {
    let mut table = Table::new(&["manifest", "reader", "reads", "the others whole, since"]);
    for image in images {
        let platform = image.platform.as_ref().map(|platform| format!(" {platform}")).unwrap_or_default();
        let name = format!("{}{platform}", output::short(&image.manifest));
        for (reader, how, layers) in
            [("containerd", "lazily", &image.containerd), ("podman", "in part", &image.podman)]
        {
            let usable = layers.iter().filter(|layer| layer.problem.is_none()).count();
            let layers_read = format!("{usable} of {} {how}", output::count(layers.len(), "layer"));
            table.row([name.clone(), reader.to_owned(), layers_read, reasons(layers)]);
        }
    }
    table
}

/// Lists why layers are read whole, each reason once.
fn reasons(layers: &[LayerUse]) -> String {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for layer in layers {
        let Some(reason) = &layer.problem else { continue };
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, positions)) => positions.push(layer.position.to_string()),
            None => reasons.push((reason, vec![layer.position.to_string()])),
        }
    }
    let told = reasons.iter().map(|(reason, positions)| format!("layer {}: {reason}", positions.join(", ")));
    told.collect::<Vec<_>>().join("; ")
}
