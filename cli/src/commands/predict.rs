//! `restow predict`: tell what a container will read first, without running it.

use std::process::ExitCode;

use clap::Args;
use restow::image::Image;
use restow::prediction::Predictor;
use restow::trees::Trees;
use restow_analyze::Predicted;
use restow_analyze::Prediction;
use restow_analyze::list;
use restow_convert as convert;
use restow_convert::Cancel;
use restow_registry::Source;
use serde_json::Value;
use serde_json::json;

use crate::access::access;
use crate::access::open_source;
use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::PlatformArguments;
use crate::args::parse_size;
use crate::order::DEFAULT_MAX_UNREAD;
use crate::output;
use crate::output::Table;
use crate::reference;

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
    /// Say of each path why it is there, in which layer it is, how large, and how much of it is read
    #[arg(long)]
    explain: bool,
    /// Leave a file out if more than this of it is not read, in bytes or as 64KiB, 4MiB, as `optimize` does
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MAX_UNREAD, value_parser = parse_size)]
    max_unread: u64,
    #[command(flatten)]
    jobs: JobsArguments,
    /// What stdout holds: the paths, or a document about them
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let limits = access().limits().clone();
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
        let (first, left) = split(&prediction, arguments.max_unread);
        for Predicted { path, size, read, .. } in &left {
            let (path, size, read) = (path.escape_debug(), output::size(*size), output::size(*read));
            output::tell(&format!("notice: {path} is left out: of {size}, {read} are read"));
        }
        match arguments.format {
            Format::Json => documents.push(document(image, &prediction, &first, arguments.max_unread)),
            Format::Text if arguments.explain => output::print(&explain(&prediction, &first))?,
            Format::Text => {
                for line in first.iter().filter_map(|file| list::line(&file.path)) {
                    output::print(&line)?;
                }
                output::tell(&summary(&prediction, &first));
            }
        }
    }
    if arguments.format == Format::Json {
        output::print_json(&json!({ "images": documents }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the files that come first, and those of which too much is not read.
fn split(prediction: &Prediction, most_unread: u64) -> (Vec<&Predicted>, Vec<&Predicted>) {
    prediction.files.iter().partition(|file| file.size.saturating_sub(file.read) <= most_unread)
}

fn explain(prediction: &Prediction, first: &[&Predicted]) -> String {
    let mut table = Table::new(&[">layer", ">size", ">read", "path", "why"]);
    for Predicted { path, position, size, read, reason } in first {
        // A name may hold what a terminal would obey.
        let shown = |text: &str| text.escape_debug().to_string();
        let [size, read] = [*size, *read].map(output::size);
        table.row([position.to_string(), size, read, shown(path), shown(reason)]);
    }
    format!("{table}\n{}", summary(prediction, first))
}

/// Returns what comes first of each layer and of all.
fn summary(prediction: &Prediction, first: &[&Predicted]) -> String {
    let mut table = Table::new(&[">layer", ">first", ">bytes", ">of", ">share"]);
    let row = |name: &str, files: &[&Predicted], all: u64| {
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        let share = format!("{:.1} %", bytes as f64 / all.max(1) as f64 * 100.0);
        [name.to_owned(), files.len().to_string(), output::size(bytes), output::size(all), share]
    };
    for (position, all) in prediction.layer_sizes.iter().enumerate() {
        let files: Vec<_> = first.iter().copied().filter(|file| file.position == position).collect();
        table.row(row(&position.to_string(), &files, *all));
    }
    let all = prediction.layer_sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    table.row(row("all", first, all));
    table.to_string()
}

fn document(image: &Image, prediction: &Prediction, first: &[&Predicted], most_unread: u64) -> Value {
    let file = |file: &Predicted| {
        json!({
            "path": file.path,
            "layer": file.position,
            "size": file.size,
            "read": file.read,
            "first": file.size.saturating_sub(file.read) <= most_unread,
            "reason": file.reason,
        })
    };
    let layer = |(position, size): (usize, &u64)| {
        let files = first.iter().filter(|file| file.position == position);
        json!({
            "position": position,
            "files": files.clone().count(),
            "bytes": files.map(|file| file.size).sum::<u64>(),
            "size": size,
        })
    };
    json!({
        "manifest": image.descriptor.digest.as_str(),
        "platform": image.platform.as_ref().map(ToString::to_string),
        "files": prediction.files.iter().map(file).collect::<Vec<_>>(),
        "size": prediction.files.iter().map(|file| file.size).sum::<u64>(),
        "layers": prediction.layer_sizes.iter().enumerate().map(layer).collect::<Vec<_>>(),
        "notices": prediction.notices,
    })
}
