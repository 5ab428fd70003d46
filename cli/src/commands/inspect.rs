//! `restow inspect`: what an image is made of.

use std::process::ExitCode;

use clap::Args;
use restow::ReadOptions;
use restow::Session;
use restow::report::InspectReport;
use restow::report::InspectedLayer;
use restow_oci::MediaType;
use restow_oci::Platform;

use crate::args::Format;
use crate::args::TocArguments;
use crate::output;
use crate::output::Table;

/// Print the images of a reference and their layers
///
/// Blobs are looked into, not read in full: `restow verify` does that. What an index names and cannot be had is listed, too.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// Print the table of contents of this layer, counted from 0, as it stands in the blob
    #[arg(long, value_name = "N", conflicts_with = "format")]
    toc: Option<usize>,
    #[command(flatten)]
    elsewhere: TocArguments,
    /// Show only the image for this platform, in all its forms; may be given several times
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// What stdout holds: tables or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = ReadOptions::default();
    options.platforms.clone_from(&arguments.platform);
    options.toc_image = arguments.elsewhere.reference(session)?;
    let image = session.reference(&arguments.reference)?;
    if let Some(position) = arguments.toc {
        session.toc(image, position, &options, output::print_indented)??;
        return Ok(ExitCode::SUCCESS);
    }
    let report = session.inspect(image, &options)?;
    match arguments.format {
        Format::Text => output::print(&tables(&report))?,
        Format::Json => output::print_json(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tables(report: &InspectReport) -> String {
    let mut text =
        vec![format!("{}  {}  {}", output::shown(&report.reference), report.media_type, report.digest)];
    for image in &report.images {
        let platform = image.platform.as_ref().map(|platform| format!("  {platform}")).unwrap_or_default();
        text.push(format!("\nimage {}{}", image.manifest, output::shown(&platform)));
        let mut table = Table::new(&[">layer", "type", ">size", "format", ">entries", "digest", "DiffID"]);
        for layer in &image.layers {
            let InspectedLayer { format, readers, entries, .. } = layer;
            table.row([
                layer.position.to_string(),
                short_type(&layer.media_type),
                output::size(layer.size),
                readers.map_or_else(|| (*format).into(), |readers| format!("{format} ({readers})")),
                entries.map_or_else(|| "-".into(), |entries| entries.to_string()),
                output::short(&layer.digest),
                layer.diff_id.as_ref().map_or_else(|| "-".into(), output::short),
            ]);
        }
        text.push(table.to_string());
        let problems =
            image.layers.iter().filter_map(|layer| Some((layer.position, layer.problem.as_ref()?)));
        text.extend(
            problems.map(|(position, problem)| format!("layer {position}: {}", output::shown(problem))),
        );
    }
    let gaps = report.gaps.iter().map(|gap| format!("not whole: {}", output::shown(&gap.text)));
    text.extend(gaps);
    text.join("\n")
}

/// Returns the part of a layer's media type that tells it from others.
fn short_type(media_type: &MediaType) -> String {
    let text = media_type.as_str();
    let prefixes =
        ["application/vnd.oci.image.layer.v1.", "application/vnd.oci.image.layer.", "application/vnd."];
    let docker =
        text.strip_prefix("application/vnd.docker.image.rootfs.").map(|rest| format!("docker {rest}"));
    docker.unwrap_or_else(|| {
        prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text).to_owned()
    })
}
