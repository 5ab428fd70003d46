//! `restow predict`: tell what a container will read first, without running it.

use std::process::ExitCode;

use clap::Args;
use restow::PredictOptions;
use restow::Session;
use restow::report::PredictedFile;
use restow::report::PredictedImage;
use restow::report::PredictedLayer;
use restow_analyze::list;

use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::PlatformArguments;
use crate::args::parse_size;
use crate::order::DEFAULT_MAX_UNREAD;
use crate::output;
use crate::output::Table;

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
    pub(crate) jobs: JobsArguments,
    /// What stdout holds: the paths, or a document about them
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = PredictOptions::default();
    options.platforms = arguments.platforms.choice();
    options.most_unread = arguments.max_unread;
    let report = session.predict(session.reference(&arguments.source)?, &options)?;
    for image in &report.images {
        for PredictedFile { path, size, read, .. } in image.files.iter().filter(|file| !file.first) {
            let (path, size, read) = (output::shown(path), output::size(*size), output::size(*read));
            output::tell(&format!("notice: {path} is left out: of {size}, {read} are read"));
        }
        match arguments.format {
            Format::Json => {}
            Format::Text if arguments.explain => output::print(&explain(image))?,
            Format::Text => {
                for line in first(image).filter_map(|file| list::line(&file.path)) {
                    output::print_line(&line)?;
                }
                output::tell_table("", &summary(image));
            }
        }
    }
    if arguments.format == Format::Json {
        output::print_json(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the files that come first.
fn first(image: &PredictedImage) -> impl Iterator<Item = &PredictedFile> {
    image.files.iter().filter(|file| file.first)
}

fn explain(image: &PredictedImage) -> String {
    let mut table = Table::new(&[">layer", ">size", ">read", "path", "why"]);
    for PredictedFile { path, layer, size, read, reason, .. } in first(image) {
        let [size, read] = [*size, *read].map(output::size);
        table.row([layer.to_string(), size, read, path.clone(), reason.clone()]);
    }
    format!("{table}\n{}", summary(image))
}

/// Returns what comes first of each layer and of all.
fn summary(image: &PredictedImage) -> Table {
    let mut table = Table::new(&[">layer", ">first", ">bytes", ">of", ">share"]);
    let row = |name: &str, files: usize, bytes: u64, all: u64| {
        let share = format!("{:.1} %", bytes as f64 / all.max(1) as f64 * 100.0);
        [name.to_owned(), files.to_string(), output::size(bytes), output::size(all), share]
    };
    for layer in &image.layers {
        table.row(row(&layer.position.to_string(), layer.files, layer.bytes, layer.size));
    }
    let files = image.layers.iter().map(|layer| layer.files).sum();
    let sum = |bytes: fn(&PredictedLayer) -> u64| image.layers.iter().map(bytes).fold(0, u64::saturating_add);
    table.row(row("all", files, sum(|layer| layer.bytes), sum(|layer| layer.size)));
    table
}
