//! Parsing words, with the one rule that the parser cannot be told.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::Id;
use clap::Parser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;

/// Formats whose name begins the names of flags that require them.
const FORMATS: [&str; 4] = ["zstdchunked", "estargz", "zstd", "gzip"];

/// Parses words, and returns what they say of the subcommand, too.
pub(crate) fn try_parse<P: Parser>(
    words: impl IntoIterator<Item = OsString>,
) -> Result<(P, ArgMatches), clap::Error> {
    let mut command = P::command();
    let mut matches = command.try_get_matches_from_mut(words)?;
    let said = matches.subcommand().map(|(_, matches)| matches.clone()).unwrap_or_default();
    if let Some(problem) = orphan(&said) {
        return Err(command.error(ErrorKind::MissingRequiredArgument, problem));
    }
    let parsed = P::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok((parsed, said))
}

/// Tells whether an argument stands among the words, and is not only a default.
pub(crate) fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.ids().any(|known| known == id) && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// Finds a flag of a format that is not asked for. The parser itself would require the format, but not where another
/// one, which excludes it, is asked for.
fn orphan(matches: &ArgMatches) -> Option<String> {
    let given: Vec<_> = matches.ids().map(Id::as_str).filter(|id| is_given(matches, id)).collect();
    given.iter().find_map(|id| {
        let of = |format: &&str| id.strip_prefix(*format).is_some_and(|rest| rest.starts_with('_'));
        let format = FORMATS.into_iter().find(of).filter(|format| !given.contains(format))?;
        Some(format!("--{} means something with --{format} only", id.replace('_', "-")))
    })
}
