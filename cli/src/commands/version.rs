//! `restow version`: what decides the bytes that are written.

use std::process::ExitCode;

use clap::Args;
use restow::report::VersionReport;

use crate::args::Format;
use crate::output;

/// Print the version of the program, and of each format it writes with its compressor
///
/// Where the line of a format is the same, so are the bytes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What stdout holds: words or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let report = VersionReport::new();
    match arguments.format {
        Format::Text => output::print(&format!("restow {}\n{}", report.version, report.formats.join("\n")))?,
        Format::Json => output::print_json(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}
