//! `restow schema`: the shapes of the documents that the other commands print.

use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use restow::report;

use crate::output;

/// Print the JSON Schema of a document that another command prints with --format json
///
/// `$id` ends with the version of the shape. New fields may come without a new version; none goes or changes its meaning.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The command that prints the document; optimize prints that of convert
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(report::names()))]
    name: String,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(schema) = report::schema(&arguments.name) {
        output::print_json(&schema)?;
    }
    Ok(ExitCode::SUCCESS)
}
