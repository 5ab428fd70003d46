//! `restow tags`: what a place holds.

use std::process::ExitCode;

use clap::Args;
use restow::Session;
use restow_library::Pattern;
use restow_registry::Reference;
use restow_registry::Selector;
use serde_json::json;

use crate::args::Format;
use crate::failure::Usage;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  restow tags docker://debian
  restow tags docker://localhost:5000/app '3.*' '!*-rc'
  restow tags oci:images --format json";

/// List the tags of a repository, a layout, an archive or the store, a line each
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The place: docker://HOST/NAME, oci:PATH, store:, an archive or a path, without a tag
    #[arg(value_name = "REF")]
    reference: String,
    /// List only tags that one of these globs matches, and none of those that begin with !
    #[arg(value_name = "GLOB")]
    globs: Vec<String>,
    /// What stdout holds: a tag a line, or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let Reference { place, selector } = session.reference(&arguments.reference)?;
    if selector != Selector::Only {
        return Err(Usage(format!("{} names an image; name its place", arguments.reference)).into());
    }
    let (excluded, included): (Vec<&str>, Vec<&str>) =
        arguments.globs.iter().map(String::as_str).partition(|glob| glob.starts_with('!'));
    let included = patterns(&included)?;
    let excluded = patterns(&excluded)?;
    let mut tags = session.access().tags(&place)?;
    let matched = |patterns: &[Pattern], tag: &str| patterns.iter().any(|pattern| pattern.matches(tag));
    tags.retain(|tag| (included.is_empty() || matched(&included, tag)) && !matched(&excluded, tag));
    match arguments.format {
        Format::Text => tags.iter().try_for_each(|tag| output::print_line(tag))?,
        Format::Json => {
            let place = Reference { place, selector }.to_string();
            output::print_json(&json!({ "place": place, "tags": tags }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn patterns(globs: &[&str]) -> anyhow::Result<Vec<Pattern>> {
    let pattern = |glob: &&str| {
        let text = glob.strip_prefix('!').unwrap_or(glob);
        Pattern::tag(text).map_err(|problem| Usage(format!("{glob}: {problem}")).into())
    };
    globs.iter().map(pattern).collect()
}
