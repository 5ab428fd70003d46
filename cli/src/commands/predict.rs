//! `restow predict`: tell what a container will read first, without running it.

use std::process::ExitCode;

use clap::Args;
use restow_analyze::Predicted;
use restow_analyze::Prediction;
use restow_analyze::list;
use restow_convert as convert;
use restow_convert::Cancel;
use restow_oci::Limits;
use restow_registry::Source;
use serde_json::Value;
use serde_json::json;

use crate::access::open_source;
use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::PlatformArguments;
use crate::image::Image;
use crate::output;
use crate::output::Table;
use crate::prediction::Predictor;
use crate::reference;
use crate::trees::Trees;

const EXAMPLES: &str = "\
Examples:
  restow predict oci:app:v1 > first.txt
  restow predict app.tar --explain";

/// Tell what a container will read first, without running it
///
/// The image's command is followed through its files: the program, its loader and libraries, its interpreter, what the
/// script imports. The paths go to stdout in the order of their first reading, as --prefetch-list takes them.
/// `optimize` does the same unless it is told otherwise.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The image to read: oci:PATH[:TAG], oci-archive:FILE[:TAG], or a path
    #[arg(value_name = "SRC")]
    source: String,
    #[command(flatten)]
    platforms: PlatformArguments,
    /// Say of each path why it is there, in which layer it is and how large
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    jobs: JobsArguments,
    /// What stdout holds: the paths, or a document about them
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let limits = Limits::default();
    let source = open_source(&reference::parse(&arguments.source)?)?;
    let Source { provider, root, .. } = &source;
    let images = convert::select(&**provider, root, &arguments.platforms.choice(), &limits)?.images;
    let images = Image::of(&source, &images, &limits)?;
    let threads = arguments.jobs.count();
    let trees = Trees { provider: &**provider, limits: &limits, threads, cancel, conversion: None };
    let predictor = Predictor { trees, memory: None };
    let mut documents = Vec::new();
    for image in &images {
        let prediction = predictor.predict(image)?;
        for notice in &prediction.notices {
            output::tell(&format!("notice: {notice}"));
        }
        match arguments.format {
            Format::Json => documents.push(document(image, &prediction)),
            Format::Text if arguments.explain => output::print(&explain(&prediction))?,
            Format::Text => {
                for line in prediction.files.iter().filter_map(|file| list::line(&file.path)) {
                    output::print(&line)?;
                }
            }
        }
    }
    if arguments.format == Format::Json {
        output::print_json(&json!({ "images": documents }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(prediction: &Prediction) -> String {
    let mut table = Table::new(&[">layer", ">size", "path", "why"]);
    for Predicted { path, position, size, reason } in &prediction.files {
        // A name may hold what a terminal would obey.
        let shown = |text: &str| text.escape_debug().to_string();
        table.row([position.to_string(), output::size(*size), shown(path), shown(reason)]);
    }
    let bytes = prediction.files.iter().map(|file| file.size).sum();
    format!("{table}\n{}, {}", output::count(prediction.files.len(), "path"), output::size(bytes))
}

fn document(image: &Image, prediction: &Prediction) -> Value {
    let file = |file: &Predicted| json!({ "path": file.path, "layer": file.position, "size": file.size, "reason": file.reason });
    json!({
        "manifest": image.descriptor.digest.as_str(),
        "platform": image.platform.as_ref().map(ToString::to_string),
        "files": prediction.files.iter().map(file).collect::<Vec<_>>(),
        "size": prediction.files.iter().map(|file| file.size).sum::<u64>(),
        "notices": prediction.notices,
    })
}
