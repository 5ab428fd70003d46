//! Many jobs in one run: what a file of jobs and rules have in common.

mod conflict;
mod line;
mod results;
mod state;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use restow::Destination;
use restow::Session;
use restow::parallel;
use restow_library::Journal;
use restow_library::Only;
use restow_registry::Existing;
use restow_registry::Place;
use restow_registry::Reference;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::args::ProgressArguments;
use crate::args::RepairArguments;
use crate::args::WorkArguments;
use crate::commands::copy;
use crate::conversion;
use crate::failure;
use crate::failure::Usage;
use crate::output;
use crate::progress::JobPrefix;
use crate::progress::Progress;

pub(crate) use self::results::Earlier;
use self::results::Results;
use self::state::State;
use self::state::States;

/// How long the first pause before a retry takes; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a pause looks whether the run is to end.
const PAUSE_STEP: Duration = Duration::from_millis(100);

/// How many jobs are run.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// How many images are worked on side by side
    #[arg(long, value_name = "N", default_value = "2")]
    images: NonZeroUsize,
    /// Begin no other job once one has failed; those under way are finished
    #[arg(long)]
    fail_fast: bool,
    /// Try a job again so many times where that may help: after network failures and refusals for too many requests
    #[arg(long, value_name = "N", default_value = "1")]
    retry: u32,
    /// Keep a line of JSON for each job that has ended in this file, and go on from those that are there
    ///
    /// The file survives a run that is killed. A job that it says is done is skipped if its source and destination are
    /// what they were then.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    #[command(flatten)]
    repair: RepairArguments,
    #[command(flatten, next_help_heading = "Work")]
    work: WorkArguments,
    #[command(flatten, next_help_heading = "Output")]
    progress: ProgressArguments,
}

impl RunArguments {
    pub(crate) fn work(&self) -> &WorkArguments {
        &self.work
    }
}

/// Where a job is written down.
#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) file: String,
    pub(crate) line: usize,
    /// Counted from 1, in rules.
    pub(crate) column: Option<usize>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        self.column.map_or(Ok(()), |column| write!(f, ":{column}"))
    }
}

impl At {
    /// Says that something is wrong there.
    pub(crate) fn wrong(&self, problem: &str) -> Usage {
        Usage(format!("{self}: {problem}"))
    }
}

/// A job as it is written, with its words parsed.
#[derive(Debug)]
pub(crate) struct Draft {
    at: At,
    /// What its group of rules is called.
    group: Option<String>,
    words: Vec<String>,
    job: line::Job,
    only: Only,
}

impl Draft {
    /// Parses the words of a job.
    pub(crate) fn parse(at: At, words: Vec<String>, only: Only) -> Result<Self, Usage> {
        let job = line::parse_job(&words).map_err(|problem| at.wrong(&problem))?;
        Ok(Self { at, group: None, words, job, only })
    }

    /// Says what its group of rules is called.
    pub(crate) fn of_group(self, group: Option<String>) -> Self {
        Self { group, ..self }
    }
}

/// A job that makes sense.
struct Job<'a> {
    /// Counted from 1.
    number: usize,
    draft: &'a Draft,
    work: Work<'a>,
}

impl Job<'_> {
    /// Says where the job is written down, to somebody who reads about another one of the same file.
    fn place(&self) -> String {
        let At { line, column, .. } = &self.draft.at;
        column.map_or_else(|| format!("line {line}"), |column| format!("line {line}, column {column}"))
    }
}

enum Work<'a> {
    Convert(conversion::Checked<'a>),
    Copy(copy::Checked),
}

impl<'a> Work<'a> {
    /// Finds what is wrong with a job before anything is done.
    fn check(job: &'a line::Job, session: &Session) -> anyhow::Result<Self> {
        let work = match job {
            line::Job::Optimize(arguments) => Work::Convert(arguments.job()?.check(session)?),
            line::Job::Convert(arguments) => Work::Convert(arguments.job()?.check(session)?),
            line::Job::Copy(arguments) => Work::Copy(arguments.check(session)?),
        };
        let piped = |place: &Place| archive(place).is_some_and(|path| path == Path::new("-"));
        if piped(&work.source().place) || piped(&work.destination().place) {
            return Err(Usage("a job of a batch cannot read or write -".into()).into());
        }
        Ok(work)
    }

    /// Looks for all parts of an image that is where it goes, whatever the job says.
    fn repair(mut self) -> Self {
        match &mut self {
            Work::Convert(checked) => checked.options.existing = Existing::Repair,
            Work::Copy(checked) => checked.options.existing = Existing::Repair,
        }
        self
    }

    fn source(&self) -> &Reference {
        match self {
            Work::Convert(checked) => &checked.source,
            Work::Copy(checked) => &checked.source,
        }
    }

    fn destination(&self) -> &Destination {
        match self {
            Work::Convert(checked) => &checked.destination,
            Work::Copy(checked) => &checked.destination,
        }
    }

    /// Returns all names that images get.
    fn names(&self) -> impl Iterator<Item = &String> {
        let tables = match self {
            Work::Convert(checked) => checked.toc_tags(),
            Work::Copy(_) => &[],
        };
        self.destination().tags.iter().chain(tables)
    }
}

fn archive(place: &Place) -> Option<&Path> {
    match place {
        Place::Archive(path) | Place::DockerArchive(path) => Some(path),
        Place::Layout(_) | Place::Registry(_) | Place::Store(_) => None,
    }
}

/// Checks all jobs before anything is done.
fn check<'a>(drafts: &'a [Draft], existing: Existing, session: &Session) -> anyhow::Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    for (number, draft) in drafts.iter().enumerate() {
        let work = Work::check(&draft.job, session);
        let work = work.map_err(|error| draft.at.wrong(&failure::describe(&error)))?;
        let work = if existing == Existing::Repair { work.repair() } else { work };
        jobs.push(Job { number: number + 1, draft, work });
    }
    match conflict::find(&jobs) {
        Some((job, problem)) => Err(job.draft.at.wrong(&problem).into()),
        None => Ok(jobs),
    }
}

/// Tells what would be done, and does nothing.
pub(crate) fn plan(
    drafts: &[Draft],
    arguments: &RunArguments,
    session: &Session,
) -> anyhow::Result<ExitCode> {
    let jobs = check(drafts, arguments.repair.existing(), session)?;
    let states = States::new(session);
    let planned = parallel::map(&jobs, arguments.images, |job| {
        let state = states.explain(&job.work, &job.draft.words, job.draft.only);
        let mut line = head(job);
        line.insert("source".into(), job.work.source().to_string().into());
        line.insert("destinations".into(), job.work.destination().names().into());
        match state {
            Ok(state) => line.extend(state.document()),
            Err(error) => {
                line.insert("action".into(), "fail".into());
                line.extend(reason(&error.into()));
            }
        }
        line
    });
    for line in &planned {
        output::print_json_line(line)?;
    }
    let counted = |action: &str| planned.iter().filter(|line| line["action"] == action).count();
    let (run, skip, fail) = (counted("run"), counted("skip"), counted("fail"));
    let progress = Progress::new(&arguments.progress, JobPrefix::default());
    progress.summary(&format!(
        "{}: {run} to run, {skip} to skip, {fail} that fail",
        output::count(jobs.len(), "job")
    ));
    Ok(ended(fail))
}

/// Does the jobs. What was done `earlier` and is there is not done again.
pub(crate) fn run(
    drafts: &[Draft],
    mut earlier: Earlier,
    arguments: &RunArguments,
    session: &Session,
) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let jobs = check(drafts, arguments.repair.existing(), session)?;
    let journal = match &arguments.journal {
        Some(path) => Some(Journal::open(path, |line| earlier.add(line))?),
        None => None,
    };
    let prefix = JobPrefix::default();
    let shared = session.batch(arguments.images);
    let states = States::new(&shared);
    let failed = OnceLock::new();
    let run = Run { arguments, session: &shared, states, prefix: &prefix, earlier, journal, failed };
    let results = Results::default();
    let done = parallel::map(&jobs, arguments.images, |job| {
        let line = run.perform(job);
        let outcome = Outcome::of(job, line.as_ref());
        results.add(job.number, line, session.stop());
        outcome
    });
    drop(run);
    // What was left in new layouts goes now.
    drop(shared);
    results.finish()?;
    session.stop().check()?;
    let progress = Progress::new(&arguments.progress, prefix);
    Ok(ended(summarize(&done, started.elapsed(), &progress)))
}

fn ended(failed: usize) -> ExitCode {
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(failure::SOME_FAILED) }
}

/// What became of a job, for the summary.
struct Outcome {
    name: String,
    /// Nothing if it is done.
    cause: Option<String>,
}

impl Outcome {
    fn of(job: &Job<'_>, line: Option<&Map<String, Value>>) -> Self {
        let done = line.is_some_and(|line| line["ok"] == true);
        let cause = line.and_then(|line| line.get("cause")).and_then(Value::as_str);
        let name = format!("job {}: {}", job.number, job.work.source());
        Self { name, cause: (!done).then(|| cause.unwrap_or("not begun").to_owned()) }
    }
}

/// Tells how many jobs failed, and which. Returns their number.
fn summarize(outcomes: &[Outcome], elapsed: Duration, progress: &Progress) -> usize {
    let failed = outcomes.iter().filter_map(|outcome| Some((&outcome.name, outcome.cause.as_ref()?)));
    for (name, cause) in failed.clone() {
        progress.summary(&format!("failed ({cause}): {name}"));
    }
    let count = failed.count();
    let (jobs, elapsed) = (output::count(outcomes.len(), "job"), output::seconds(elapsed.as_secs_f64()));
    progress.summary(&format!("{jobs}, {count} failed, in {elapsed}"));
    count
}

/// Returns what each line says of its job.
fn head(job: &Job<'_>) -> Map<String, Value> {
    let Draft { at, group, words, .. } = job.draft;
    let mut line = Map::new();
    line.insert("job".into(), job.number.into());
    line.insert("line".into(), at.line.into());
    line.extend(at.column.map(|column| ("column".into(), column.into())));
    line.extend(group.as_ref().map(|group| ("group".into(), json!(group))));
    line.insert("command".into(), words.as_slice().into());
    line
}

/// Returns what is said of an error.
fn reason(error: &anyhow::Error) -> Map<String, Value> {
    let cause = failure::cause(error);
    let mut fields = Map::new();
    fields.insert("error".into(), failure::describe(error).into());
    fields.extend(failure::hint(error).map(|hint| ("hint".to_owned(), json!(hint))));
    fields.insert("cause".into(), cause.name().into());
    fields.insert("retryMayHelp".into(), cause.may_pass().into());
    fields
}

/// A run under way.
struct Run<'a> {
    arguments: &'a RunArguments,
    session: &'a Session,
    states: States<'a>,
    prefix: &'a JobPrefix,
    earlier: Earlier,
    journal: Option<Journal>,
    /// The number of the first job that failed.
    failed: OnceLock<usize>,
}

impl Run<'_> {
    /// Does a job and returns the line about it, or none where an interruption was in its way.
    fn perform(&self, job: &Job<'_>) -> Option<Map<String, Value>> {
        if self.session.stop().is_cancelled() {
            return None;
        }
        let mut line = head(job);
        let failed = self.failed.get().filter(|_| self.arguments.fail_fast);
        if let Some(other) = failed {
            line.insert("ok".into(), false.into());
            line.insert("error".into(), format!("not begun, since job {other} has failed").into());
            return Some(line);
        }
        let started = Instant::now();
        let progress = Arc::new(Progress::new(&self.arguments.progress, self.prefix.of_job(job.number)));
        if let Some(fields) = self.skip(job, &progress) {
            line.extend(fields);
            return Some(line);
        }
        let (attempts, result) = self.attempts(job, &progress);
        match result {
            Ok(document) => {
                line.insert("ok".into(), true.into());
                line.extend(document);
            }
            // Whatever it says is about the interruption.
            Err(_) if self.session.stop().is_cancelled() => return None,
            Err(error) => {
                let _ = self.failed.set(job.number);
                progress.failure(&failure::describe(&error), failure::hint(&error));
                line.insert("ok".into(), false.into());
                line.extend(reason(&error));
            }
        }
        line.insert("attempts".into(), attempts.into());
        line.insert("seconds".into(), started.elapsed().as_secs_f64().into());
        self.keep(&line, &progress);
        Some(line)
    }

    /// Returns what is said of a job that need not be done.
    fn skip(&self, job: &Job<'_>, progress: &Progress) -> Option<Map<String, Value>> {
        // Then only a look at all parts tells whether there is something to do.
        if self.arguments.repair.existing() == Existing::Repair {
            return None;
        }
        let Draft { words, only, .. } = job.draft;
        if let Some(done) = self.earlier.find(words).filter(|done| self.states.is_there(&job.work, done)) {
            progress.summary("done before");
            let mut earlier = done.line.clone();
            earlier.insert("resumed".into(), true.into());
            for key in ["job", "line", "column", "group", "command"] {
                earlier.remove(key);
            }
            return Some(earlier);
        }
        // What cannot be told is not in the way: the job itself says what is wrong.
        let state = self.states.of(&job.work, words, *only).ok()?;
        let State::Unchanged(digest) = state else { return None };
        progress.summary("unchanged");
        let mut fields = Map::new();
        fields.insert("ok".into(), true.into());
        fields.insert("unchanged".into(), true.into());
        fields.insert("digest".into(), digest.as_str().into());
        Some(fields)
    }

    /// Does a job, again where that may help. Returns how often, too.
    fn attempts(&self, job: &Job<'_>, progress: &Arc<Progress>) -> (u32, anyhow::Result<Map<String, Value>>) {
        let (mut attempts, mut pause) = (1, FIRST_PAUSE);
        loop {
            let error = match self.attempt(job, progress) {
                Ok(document) => return (attempts, Ok(document)),
                Err(error) => error,
            };
            let stopped = self.session.stop().is_cancelled();
            if attempts > self.arguments.retry || !failure::cause(&error).may_pass() || stopped {
                return (attempts, Err(error));
            }
            let seconds = output::seconds(pause.as_secs_f64());
            progress.warn(&format!("{}; tried again in {seconds}", failure::describe(&error)));
            self.wait(pause);
            attempts += 1;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn attempt(&self, job: &Job<'_>, progress: &Arc<Progress>) -> anyhow::Result<Map<String, Value>> {
        let source = self.states.source(&job.work);
        let document = match &job.work {
            Work::Convert(checked) => json!(checked.perform(self.session, progress)?),
            Work::Copy(checked) => json!(checked.perform(self.session, progress)?),
        };
        let Value::Object(mut document) = document else { return Ok(Map::new()) };
        if let Some(source) = source {
            document.insert("sourceDigest".into(), source.as_str().into());
            self.states.note(&job.work, &job.draft.words, &source, &document);
        }
        Ok(document)
    }

    /// Waits, unless the run is to end.
    fn wait(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.session.stop().is_cancelled() {
            std::thread::sleep(PAUSE_STEP.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Writes the line to the journal. A journal that cannot be written ends the run: nobody could go on from it.
    fn keep(&self, line: &Map<String, Value>, progress: &Progress) {
        let Some(Err(error)) = self.journal.as_ref().map(|journal| journal.add(line)) else { return };
        let error = anyhow::Error::from(error);
        progress.failure(&failure::describe(&error), failure::hint(&error));
        self.session.stop().cancel();
    }
}
