//! A job of a batch: the words of a command line, without those that are about the batch as a whole.

use std::ffi::OsString;

use clap::Parser;
use clap::Subcommand;

use crate::commands::convert;
use crate::commands::copy;
use crate::commands::optimize;
use crate::flags::is_given;
use crate::flags::try_parse;

/// What a job of a batch may be.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    Optimize(Box<optimize::Arguments>),
    Convert(Box<convert::Arguments>),
    Copy(copy::Arguments),
}

#[derive(Debug, Parser)]
#[command(name = "restow", no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct JobLine {
    #[command(subcommand)]
    job: Job,
}

/// Flags of a job that have no meaning in a batch, and where to turn instead.
const FOREIGN: [(&str, &str); 8] = [
    ("format", "there is a line of JSON for each job"),
    ("run", "give the workload's record with --record-in; `restow record` writes it"),
    ("jobs", WHOLE_BATCH),
    ("tmp_dir", WHOLE_BATCH),
    ("cache_dir", WHOLE_BATCH),
    ("no_cache", WHOLE_BATCH),
    ("progress", WHOLE_BATCH),
    ("quiet", WHOLE_BATCH),
];
const WHOLE_BATCH: &str = "it is for the batch as a whole";

/// Parses the words of a job of a batch, or returns what is wrong with them.
pub(crate) fn parse_job(words: &[String]) -> Result<Job, String> {
    if words.is_empty() {
        return Err("expected optimize, convert or copy".into());
    }
    let (JobLine { job }, said) =
        try_parse(words.iter().map(OsString::from)).map_err(|error| first_paragraph(&error))?;
    match FOREIGN.iter().find(|(id, _)| is_given(&said, id)) {
        Some((id, why)) => Err(format!("--{} is not for a job of a batch: {why}", id.replace('_', "-"))),
        None => Ok(job),
    }
}

/// Returns what the parser says is wrong on one line, without the usage that it shows behind.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_words_of_a_job_are_consistent() {
        JobLine::command().debug_assert();
    }

    #[test]
    fn a_job_has_the_flags_of_its_command_but_those_of_the_whole_batch() {
        let problem = |line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            parse_job(&words).err()
        };
        for line in [
            "optimize a b --zstdchunked --platform linux/amd64",
            "convert a b --gzip --gzip-compression-level 1",
            "copy a b c --tag d",
        ] {
            assert_eq!(problem(line), None, "{line}");
        }
        let whole = |flag: &str| format!("{flag} is not for a job of a batch: {WHOLE_BATCH}");
        for (line, expected) in [
            ("", "expected optimize, convert or copy"),
            ("verify a", "unrecognized subcommand 'verify'"),
            ("batch jobs", "unrecognized subcommand 'batch'"),
            ("copy a", "the following required arguments were not provided: <DST>..."),
            ("copy a b --help", "unexpected argument '--help' found"),
            ("copy a b --root x", "unexpected argument '--root' found"),
            ("--root x copy a b", "unexpected argument '--root' found"),
            ("copy a b --plain-http", "unexpected argument '--plain-http' found"),
            (
                "convert a b --zstd --estargz-chunk-size 4KiB",
                "--estargz-chunk-size means something with --estargz only",
            ),
            ("copy a b --quiet", &whole("--quiet")),
            ("copy a b --progress none", &whole("--progress")),
            ("optimize a b --zstdchunked --jobs 2", &whole("--jobs")),
            ("convert a b --zstd --no-cache", &whole("--no-cache")),
            (
                "copy a b --format json",
                "--format is not for a job of a batch: there is a line of JSON for each job",
            ),
        ] {
            assert_eq!(problem(line).as_deref(), Some(expected), "{line}");
        }
        let run = problem("optimize a b --zstdchunked --run");
        assert!(run.is_some_and(|problem| problem.starts_with("--run is not for a job of a batch")));
    }
}
