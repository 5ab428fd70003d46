//! `restow batch`: many jobs, each a line of a file.

mod line;
mod results;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use restow::Destination;
use restow::Session;
use restow::parallel;
use restow::place_key;
use restow_registry::Existing;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Selector;
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

use self::results::Earlier;
use self::results::Results;

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
/// layouts or the store. For each job there is a line of JSON on stdout, in the order of the file, as soon as it and those
/// before it are done.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The file of jobs; - is standard input
    #[arg(value_name = "JOBS")]
    file: PathBuf,
    /// How many images are worked on side by side
    #[arg(long, value_name = "N", default_value = "2")]
    images: NonZeroUsize,
    /// Begin no other job once one has failed; those under way are finished
    #[arg(long)]
    fail_fast: bool,
    /// Skip jobs that were done when this was printed, and whose destination still is what they made
    ///
    /// What an earlier run printed, of this file or another one. A job is known by its words, whatever its source is
    /// by now.
    #[arg(long, value_name = "RESULTS", conflicts_with = "repair")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    repair: RepairArguments,
    #[command(flatten, next_help_heading = "Work")]
    work: WorkArguments,
    #[command(flatten, next_help_heading = "Output")]
    progress: ProgressArguments,
}

impl Arguments {
    pub(crate) fn work(&self) -> &WorkArguments {
        &self.work
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let file = arguments.file.display();
    let wrong = |line: usize, problem: String| Usage(format!("{file}:{line}: {problem}"));
    let lines = read(&arguments.file)?;
    let mut parsed = Vec::new();
    for (line, text) in lines.lines().enumerate().map(|(number, text)| (number + 1, text.trim())) {
        let Some(words) = words(text).map_err(|problem| wrong(line, problem))? else { continue };
        let job = line::parse_job(&words).map_err(|problem| wrong(line, problem))?;
        parsed.push((line, words, job));
    }
    let mut jobs = Vec::new();
    for (number, (line, words, job)) in parsed.iter().enumerate() {
        let work = Work::check(job, session).map_err(|error| wrong(*line, failure::describe(&error)))?;
        let work = if arguments.repair.existing() == Existing::Repair { work.repair() } else { work };
        jobs.push(Job { number: number + 1, line: *line, words, work });
    }
    if let Some((job, problem)) = conflict(&jobs) {
        return Err(wrong(job.line, problem).into());
    }
    let earlier = match &arguments.resume {
        Some(path) => Earlier::load(path)?,
        None => Earlier::default(),
    };

    let batch = Batch {
        arguments,
        session: session.batch(arguments.images),
        prefix: JobPrefix::default(),
        earlier,
        failed: OnceLock::new(),
    };
    let results = Results::default();
    let done = parallel::map(&jobs, arguments.images, |job| {
        let line = batch.perform(job);
        let done = line.as_ref().is_some_and(|line| line["ok"] == true);
        results.add(job.number, line, session.stop());
        done
    });
    let Batch { session: shared, prefix, .. } = batch;
    // What was left in new layouts goes now.
    drop(shared);
    results.finish()?;
    session.stop().check()?;
    let failed = done.iter().filter(|done| !**done).count();
    let elapsed = output::seconds(started.elapsed().as_secs_f64());
    let count = output::count(jobs.len(), "job");
    Progress::new(&arguments.progress, prefix).summary(&format!("{count}, {failed} failed, in {elapsed}"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(failure::SOME_FAILED) })
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

/// Returns the words of a line, if there are any.
fn words(text: &str) -> Result<Option<Vec<String>>, String> {
    if text.starts_with('[') {
        let words = serde_json::from_str(text);
        return words.map(Some).map_err(|error| format!("expected an array of strings: {error}"));
    }
    let words =
        shlex::split(text).ok_or("a quotation mark is missing, or there is a backslash at the end")?;
    Ok((!words.is_empty()).then_some(words))
}

/// A line that makes sense.
struct Job<'a> {
    /// Counted from 1.
    number: usize,
    line: usize,
    words: &'a [String],
    work: Work<'a>,
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
            return Err(Usage("- is nothing that a job of a batch can read or write".into()).into());
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

/// Finds a job in whose way another one is: what comes of the two would depend on which is first.
fn conflict<'a>(jobs: &'a [Job<'a>]) -> Option<(&'a Job<'a>, String)> {
    let mut by_place: BTreeMap<String, Vec<&Job<'_>>> = BTreeMap::new();
    let mut by_name: BTreeMap<(String, String), &Job<'_>> = BTreeMap::new();
    for job in jobs {
        let destination = job.work.destination();
        let place = place_key(&destination.place);
        let others = by_place.entry(place.clone()).or_default();
        if let (Some(_), Some(other)) = (archive(&destination.place), others.first()) {
            return Some((job, format!("line {} writes this archive, too", other.line)));
        }
        others.push(job);
        for name in job.work.names() {
            if let Some(other) = by_name.insert((place.clone(), name.clone()), job) {
                return Some((job, format!("line {} writes {name} in this place, too", other.line)));
            }
        }
    }
    jobs.iter().find_map(|job| {
        let Reference { place, selector } = job.work.source();
        let of_name = |name: &str| by_name.get(&(place_key(place), name.to_owned())).copied();
        let other = match (place, selector) {
            (Place::Archive(_) | Place::DockerArchive(_), _) | (_, Selector::Only)
                if !matches!(place, Place::Registry(_)) =>
            {
                let writers = by_place.get(&place_key(place)).into_iter().flatten();
                writers.copied().find(|writer| writer.number != job.number)
            }
            (_, Selector::Tag(tag)) => of_name(tag),
            (_, Selector::Only) => of_name("latest"),
            (_, Selector::Digest(_)) => None,
        };
        let other = other.filter(|other| other.number != job.number)?;
        let problem =
            format!("line {} writes what is read here; do one in a batch after the other", other.line);
        Some((job, problem))
    })
}

fn archive(place: &Place) -> Option<&Path> {
    match place {
        Place::Archive(path) | Place::DockerArchive(path) => Some(path),
        Place::Layout(_) | Place::Registry(_) | Place::Store(_) => None,
    }
}

/// A batch under way.
struct Batch<'a> {
    arguments: &'a Arguments,
    session: Session,
    prefix: JobPrefix,
    earlier: Earlier,
    /// The number of the first job that failed.
    failed: OnceLock<usize>,
}

impl Batch<'_> {
    /// Does a job and returns the line about it, or none where an interruption was in its way.
    fn perform(&self, job: &Job<'_>) -> Option<Map<String, Value>> {
        let mut line = Map::new();
        line.insert("job".into(), job.number.into());
        line.insert("line".into(), job.line.into());
        line.insert("command".into(), job.words.into());
        let progress = Arc::new(Progress::new(&self.arguments.progress, self.prefix.of_job(job.number)));
        if self.session.stop().is_cancelled() {
            return None;
        }
        if let Some(other) = self.failed.get().filter(|_| self.arguments.fail_fast) {
            line.insert("ok".into(), false.into());
            line.insert("error".into(), format!("not begun, since job {other} has failed").into());
            return Some(line);
        }
        if let Some(earlier) =
            self.earlier.find(job.words).filter(|earlier| self.is_there(&job.work, earlier))
        {
            progress.summary("done before");
            let fields = earlier.iter().filter(|(key, _)| !line.contains_key(*key));
            let fields: Vec<_> = fields.map(|(key, value)| (key.clone(), value.clone())).collect();
            line.extend(fields);
            line.insert("resumed".into(), true.into());
            return Some(line);
        }
        self.finish(job, &progress, line)
    }

    /// Does the work of a job and adds to the line what came of it.
    fn finish(
        &self,
        job: &Job<'_>,
        progress: &Arc<Progress>,
        mut line: Map<String, Value>,
    ) -> Option<Map<String, Value>> {
        let result = match &job.work {
            Work::Convert(checked) => checked.perform(&self.session, progress).map(|report| json!(report)),
            Work::Copy(checked) => checked.perform(&self.session, progress).map(|report| json!(report)),
        };
        match result {
            Ok(document) => {
                line.insert("ok".into(), true.into());
                if let Value::Object(fields) = document {
                    line.extend(fields);
                }
            }
            // Whatever it says is about the interruption.
            Err(_) if self.session.stop().is_cancelled() => return None,
            Err(error) => {
                let _ = self.failed.set(job.number);
                let (error, hint) = (failure::describe(&error), failure::hint(&error));
                progress.failure(&error, hint);
                line.insert("ok".into(), false.into());
                line.insert("error".into(), error.into());
                line.extend(hint.map(|hint| ("hint".to_owned(), json!(hint))));
            }
        }
        Some(line)
    }

    /// Tells whether a job's destination still is what it once became.
    fn is_there(&self, work: &Work<'_>, earlier: &Map<String, Value>) -> bool {
        let digest = earlier.get("digest").and_then(Value::as_str);
        work.destination().references().iter().all(|reference| {
            let found = self.session.access().open_source(reference, Reading::Once);
            found.is_ok_and(|found| Some(found.root.digest.as_str()) == digest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_words_in_either_form_or_nothing() {
        let some = |words: &[&str]| Ok(Some(words.iter().map(|&word| word.to_owned()).collect()));
        for (line, expected) in [
            ("", Ok(None)),
            ("# copy a b", Ok(None)),
            ("copy a b # why", some(&["copy", "a", "b"])),
            (r#"copy 'a b' "c\"d" e\ f g#h $x *"#, some(&["copy", "a b", "c\"d", "e f", "g#h", "$x", "*"])),
            (r#"["copy", "a b", "", "c'"]"#, some(&["copy", "a b", "", "c'"])),
            ("[]", some(&[])),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        for line in ["copy 'a", "copy a\\", "[\"copy\", 1]", "[\"copy\"", "[\"copy\"] a"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    /// Returns the line in whose way another one is, and the problem.
    fn found(lines: &[&str]) -> Option<(usize, String)> {
        let words: Vec<_> = lines.iter().map(|line| words(line).unwrap().unwrap()).collect();
        let parsed: Vec<_> = words.iter().map(|words| line::parse_job(words).unwrap()).collect();
        let session = Session::new(restow::Settings::default()).unwrap();
        let jobs = words.iter().zip(&parsed).zip(1..).map(|((words, job), number)| Job {
            number,
            line: number,
            words,
            work: Work::check(job, &session).unwrap(),
        });
        let jobs: Vec<_> = jobs.collect();
        conflict(&jobs).map(|(job, problem)| (job.line, problem))
    }

    #[test]
    fn jobs_that_get_in_each_others_way_are_found() {
        let (first, second) = ("copy oci:a:1 oci:b:1", "line 1 writes 1 in this place, too");
        let reads = "line 1 writes what is read here; do one in a batch after the other";
        for (line, problem) in [
            ("copy oci:c:1 oci:b:1", Some(second)),
            ("copy oci:c:1 ./b:2 --tag 1", Some(second)),
            ("copy oci:c:1 oci:b:2", None),
            ("copy oci:c:1 docker://localhost/b:1", None),
            ("copy oci:b:1 oci:c:1", Some(reads)),
            ("copy oci:./b oci:c:1", Some(reads)),
            ("copy oci:b:2 oci:c:1", None),
            ("copy oci:a:1 oci:a:2", None),
        ] {
            assert_eq!(found(&[first, line]), problem.map(|problem| (2, problem.to_owned())), "{line}");
        }
        // The one that reads may stand before.
        assert_eq!(found(&["copy oci:b:1 oci:c:1", first]).map(|(line, _)| line), Some(1));
        let archives = ["copy oci:a:1 oci-archive:x.tar:1", "copy oci:a:2 docker-archive:x.tar:y"];
        assert_eq!(found(&archives), Some((2, "line 1 writes this archive, too".into())));
        assert_eq!(found(&["copy a:1 docker://h/x", "copy docker://h/x b:1"]), Some((2, reads.into())));
        let tables = ["convert a:1 b:1 --estargz --estargz-external-toc", "copy a:2 b:1-esgztoc"];
        assert_eq!(found(&tables), Some((2, "line 1 writes 1-esgztoc in this place, too".into())));
        assert_eq!(found(&["copy oci:a:1 oci:a:2", "copy oci:a:1 oci:b:2"]), None);
    }
}
