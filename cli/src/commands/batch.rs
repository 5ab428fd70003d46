//! `restow batch`: many jobs, each a line of a file.

mod words;

use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::Session;
use restow_library::Only;

use crate::args::WorkArguments;
use crate::jobs;
use crate::jobs::At;
use crate::jobs::Draft;
use crate::jobs::Earlier;
use crate::jobs::RunArguments;

use self::words::words;

const EXAMPLES: &str = "\
A file of jobs:
  # base images
  optimize docker://debian:12 oci:out:debian-12 --zstdchunked
  convert oci:app:v1 'oci:my images:v1' --estargz
  [\"copy\", \"oci:app:v1\", \"docker://localhost:5000/app:v1\"]

Examples:
  restow batch jobs > results
  restow batch jobs --resume results > results.2";

/// Do many jobs, each a line of a file: optimize, convert or copy, and what stands behind it on the command line
///
/// Words are quoted as in a shell, or strings of a JSON array. Everything is read and checked before anything is done;
/// then a job that fails leaves the others alone. A layer that several need is converted once, where they write to
/// layouts or the store. A job whose source, options and destination are what they were when it was done last is
/// skipped. For each job there is a line of JSON on stdout, in the order of the file, as soon as it and those before it
/// are done.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The file of jobs; - is standard input
    #[arg(value_name = "JOBS")]
    file: PathBuf,
    /// Skip jobs that were done when this was printed, and whose destination still is what they made
    ///
    /// What an earlier run printed, of this file or another one. A job is known by its words, whatever its source is
    /// by now.
    #[arg(long, value_name = "RESULTS")]
    resume: Option<PathBuf>,
    /// Do jobs again whose source, options and destination have not changed
    #[arg(long)]
    always: bool,
    /// Print a line for each job that says whether it would be done and why, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    run: RunArguments,
}

impl Arguments {
    pub(crate) fn work(&self) -> &WorkArguments {
        self.run.work()
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let file = arguments.file.display().to_string();
    let only = if arguments.always { Only::Always } else { Only::Changed };
    let mut drafts = Vec::new();
    for (number, text) in read(&arguments.file)?.lines().enumerate() {
        let at = At { file: file.clone(), line: number + 1, column: None };
        let words = words(text.trim()).map_err(|problem| at.wrong(&problem))?;
        if let Some(words) = words {
            drafts.push(Draft::parse(at, words, only)?);
        }
    }
    if arguments.dry_run {
        return jobs::plan(&drafts, &arguments.run, session);
    }
    let earlier = match &arguments.resume {
        Some(path) => Earlier::load(path)?,
        None => Earlier::default(),
    };
    jobs::run(&drafts, earlier, &arguments.run, session)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().lock().read_to_string(&mut text),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.with_context(|| path.display().to_string())?;
    Ok(text)
}
