//! What is told on stderr while work goes on.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use restow::Observer;
use restow::Part;
use restow::Step;
use restow::Warning;
use restow::WarningKind;
use restow::report::LayerOutcome;
use restow::report::LayerReport;
use restow_oci::Digest;
use serde_json::Value;
use serde_json::json;

use crate::args::ProgressArguments;
use crate::args::ProgressMode;
use crate::output;
use crate::output::Table;

/// How often a layer in progress is reported by JSON lines.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
/// How often in plain words: seldom, but before a build system takes silence for a hang.
const PLAIN_INTERVAL: Duration = Duration::from_secs(20);
/// How often a blob that is moved is reported by either.
const BLOB_INTERVAL: Duration = Duration::from_secs(5);

/// Tells of nothing but warnings.
pub(crate) struct Warnings;

impl Observer for Warnings {
    fn warning(&self, warning: &Warning) {
        let word = match warning.kind {
            WarningKind::Prediction | WarningKind::Workload => "notice",
            _ => "warning",
        };
        output::tell(&format!("{word}: {warning}"));
    }
}

/// Shows the progress of layers and blobs in the form that was asked for.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: Mode,
    quiet: bool,
    prefix: JobPrefix,
    running: Mutex<BTreeMap<Key, Running>>,
}

/// A layer by its manifest and position, or a blob by its digest.
type Key = (Digest, Option<usize>);

/// What lines begin with where several jobs of a batch share stderr.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobPrefix {
    /// The number of the job, if there are several.
    job: Option<usize>,
    /// The bars of all, since they are drawn together.
    bars: MultiProgress,
}

impl JobPrefix {
    /// Returns the prefix of one of several jobs.
    pub(crate) fn of_job(&self, number: usize) -> Self {
        Self { job: Some(number), bars: self.bars.clone() }
    }

    /// Tells a line of text after the name of the job.
    fn tell(&self, line: &str) {
        output::tell(&(self.name() + line));
    }

    /// Tells an event as a line of JSON.
    fn event(&self, mut event: Value) {
        if let (Some(job), Some(fields)) = (self.job, event.as_object_mut()) {
            fields.insert("job".into(), job.into());
        }
        output::tell_json(&event);
    }

    /// Returns what text begins with.
    fn name(&self) -> String {
        self.job.map(|job| format!("job {job}: ")).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bars,
    Plain,
    Json,
    None,
}

#[derive(Debug)]
struct Running {
    read: u64,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(arguments: &ProgressArguments, prefix: JobPrefix) -> Self {
        let mode = match arguments.progress {
            _ if arguments.quiet => Mode::None,
            ProgressMode::Auto if std::io::stderr().is_terminal() => Mode::Bars,
            ProgressMode::Auto | ProgressMode::Plain => Mode::Plain,
            ProgressMode::Json => Mode::Json,
            ProgressMode::None => Mode::None,
        };
        Self { mode, quiet: arguments.quiet, prefix, running: Mutex::default() }
    }

    /// Tells a sentence about the work under way.
    pub(crate) fn say(&self, text: &str) {
        match self.mode {
            Mode::Bars | Mode::Plain => self.line(text),
            Mode::Json => self.prefix.event(json!({"event": "step", "text": text})),
            Mode::None => {}
        }
    }

    /// Tells a warning that comes of a report.
    pub(crate) fn warn(&self, text: &str) {
        match self.mode {
            Mode::Json => self.prefix.event(json!({"event": "warning", "text": text})),
            _ => self.line(&format!("warning: {text}")),
        }
    }

    /// Tells what came of it all, unless only problems are to be told or stderr holds JSON lines.
    pub(crate) fn summary(&self, text: &str) {
        if !self.quiet && self.mode != Mode::Json {
            self.line(text);
        }
    }

    /// Tells why it came to nothing.
    pub(crate) fn failure(&self, error: &str, hint: Option<&str>) {
        if self.mode == Mode::Json {
            self.prefix.event(json!({"event": "error", "text": error, "hint": hint}));
        } else {
            self.line(&format!("error: {error}"));
            if let Some(hint) = hint {
                self.line(&format!("hint: {hint}"));
            }
        }
    }

    /// Tells more of it, unless there are many such jobs.
    pub(crate) fn details(&self, text: &str) {
        if self.prefix.job.is_none() {
            self.summary(text);
        }
    }

    /// Tells a table of it, unless there are many such jobs.
    pub(crate) fn table(&self, table: &Table) {
        if self.prefix.job.is_none() && !self.quiet && self.mode != Mode::Json {
            self.above_bars(|| output::tell_table("", table));
        }
    }

    fn line(&self, text: &str) {
        self.above_bars(|| self.prefix.tell(text));
    }

    fn above_bars(&self, tell: impl FnOnce()) {
        match self.mode {
            // Bars are drawn below; without `suspend` the text would be drawn over.
            Mode::Bars => self.prefix.bars.suspend(tell),
            _ => tell(),
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Key, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bar(&self, part: &Part<'_>) -> ProgressBar {
        const LAYER: &str = "{prefix} [{bar:24}] {binary_bytes:>10} of {binary_total_bytes:>10}  {binary_bytes_per_sec:>12}  {eta:>4} left";
        const BLOB: &str =
            "{prefix} [{bar:24}] {binary_bytes:>10} of {binary_total_bytes:>10}  {binary_bytes_per_sec:>12}";
        let template = if matches!(part, Part::Layer { .. }) { LAYER } else { BLOB };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(part.descriptor().size).with_style(style.progress_chars("=> "));
        self.prefix.bars.add(bar.with_prefix(format!("{}{}", self.prefix.name(), name(part))))
    }

    /// Returns how often a part is told of where no bar moves.
    fn interval(&self, part: &Part<'_>) -> Option<Duration> {
        match (self.mode, part) {
            (Mode::Bars | Mode::None, _) => None,
            (Mode::Json, Part::Layer { .. }) => Some(JSON_INTERVAL),
            (Mode::Plain, Part::Layer { .. }) => Some(PLAIN_INTERVAL),
            _ => Some(BLOB_INTERVAL),
        }
    }
}

impl Observer for Progress {
    fn step(&self, step: &Step<'_>) {
        match step {
            Step::Listing(manifest) => self.say(&format!("listing the files of {}", manifest.short())),
            Step::Predicting(manifest) => {
                self.say(&format!("predicting what {} reads first", manifest.short()));
            }
            Step::Running(manifest) => self.say(&format!("running {}", manifest.short())),
            _ => {}
        }
    }

    fn warning(&self, warning: &Warning) {
        self.warn(&warning.text);
    }

    fn started(&self, part: &Part<'_>) {
        let mut running = self.running();
        // A layer may have been read for its order before.
        if matches!(part, Part::Layer { .. }) && running.contains_key(&key(part)) {
            return;
        }
        let bar = (self.mode == Mode::Bars).then(|| self.bar(part));
        running.insert(key(part), Running { read: 0, told: Instant::now(), bar });
        drop(running);
        if self.mode == Mode::Json {
            self.prefix.event(event("started", part, 0));
        }
    }

    fn advanced(&self, part: &Part<'_>, bytes: u64) {
        let mut all = self.running();
        let Some(running) = all.get_mut(&key(part)) else { return };
        running.read += bytes;
        if let Some(bar) = &running.bar {
            bar.inc(bytes);
        }
        if self.interval(part).is_none_or(|interval| running.told.elapsed() < interval) {
            return;
        }
        running.told = Instant::now();
        let read = running.read;
        drop(all);
        if self.mode == Mode::Json {
            self.prefix.event(event("progress", part, read));
        } else {
            let (read, size) = (output::size(read), output::size(part.descriptor().size));
            self.prefix.tell(&format!("{}: {read} of {size}", name(part)));
        }
    }

    fn finished(&self, part: &Part<'_>, whole: bool) {
        let Some(running) = self.running().remove(&key(part)) else { return };
        if let Some(bar) = running.bar {
            bar.finish_and_clear();
        }
        match self.mode {
            Mode::Json if whole => self.prefix.event(event("finished", part, running.read)),
            Mode::Plain if whole => {
                self.prefix.tell(&format!("{}: {}", name(part), output::size(running.read)));
            }
            _ => {}
        }
    }

    fn layer_finished(&self, layer: &LayerReport) {
        let running = self.running().remove(&(layer.manifest.clone(), Some(layer.position)));
        if let Some(bar) = running.and_then(|running| running.bar) {
            bar.finish_and_clear();
        }
        match self.mode {
            Mode::Plain => {
                let name = layer_name(layer.position, &layer.source.digest);
                self.prefix.tell(&format!("{name}: {}", outcome(layer)));
            }
            Mode::Json => {
                let mut event = json!(layer);
                event["event"] = "finished".into();
                self.prefix.event(event);
            }
            Mode::Bars | Mode::None => {}
        }
    }
}

fn key(part: &Part<'_>) -> Key {
    match part {
        Part::Layer { manifest, position, .. } => ((*manifest).clone(), Some(*position)),
        part => (part.descriptor().digest.clone(), None),
    }
}

fn name(part: &Part<'_>) -> String {
    let digest = &part.descriptor().digest;
    match part {
        Part::Layer { position, .. } => layer_name(*position, digest),
        Part::Upload(_) => format!("upload {}", digest.short()),
        _ => format!("blob {}", digest.short()),
    }
}

fn layer_name(position: usize, digest: &Digest) -> String {
    format!("layer {position} {}", digest.short())
}

/// Returns in a few words what became of a layer.
fn outcome(layer: &LayerReport) -> String {
    let sizes = format!("{} -> {}", output::size(layer.source.size), output::size(layer.destination.size));
    match layer.outcome {
        LayerOutcome::Kept => "kept as it is".into(),
        _ if layer.destination.digest == layer.source.digest => "the same bytes".into(),
        LayerOutcome::Converted => format!("{sizes} in {}", output::seconds(layer.seconds)),
        LayerOutcome::Shared => format!("{sizes}, as an equal layer"),
        _ => format!("{sizes}, converted before"),
    }
}

fn event(event: &str, part: &Part<'_>, read: u64) -> Value {
    let blob = part.descriptor();
    let digest = blob.digest.as_str();
    match part {
        Part::Layer { manifest, position, .. } => json!({
            "event": event,
            "manifest": manifest.as_str(),
            "position": position,
            "digest": digest,
            "read": read,
            "size": blob.size,
        }),
        // Layers have events of these names, too.
        Part::Upload(_) => {
            json!({"event": format!("upload {event}"), "digest": digest, "read": read, "size": blob.size})
        }
        _ => json!({"event": event, "digest": digest, "read": read, "size": blob.size}),
    }
}
