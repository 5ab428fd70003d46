//! What is told on stderr while layers are converted.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use restow_convert::Layer;
use restow_convert::LayerReport;
use restow_convert::Observer;
use restow_oci::Descriptor;
use restow_oci::Digest;
use serde_json::Value;
use serde_json::json;

use crate::args::ProgressArguments;
use crate::args::ProgressMode;
use crate::output;
use crate::report;
use crate::transfer::Transfer;

/// How often a layer in progress is reported by JSON lines.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
/// How often in plain words: seldom, but before a build system takes silence for a hang.
const PLAIN_INTERVAL: Duration = Duration::from_secs(20);

/// Shows the progress of each layer in the form that was asked for.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: Mode,
    quiet: bool,
    voice: Voice,
    layers: Mutex<BTreeMap<(Digest, usize), Running>>,
}

/// Who speaks, where several jobs of a batch share stderr.
#[derive(Debug, Clone, Default)]
pub(crate) struct Voice {
    /// The number of the job, if there are several.
    job: Option<usize>,
    /// The bars of all, since they are drawn together.
    pub(crate) bars: MultiProgress,
}

impl Voice {
    /// Returns the voice of one of several jobs.
    pub(crate) fn of_job(&self, number: usize) -> Self {
        Self { job: Some(number), bars: self.bars.clone() }
    }

    /// Tells lines of text, each after the name of the job.
    pub(crate) fn tell(&self, text: &str) {
        let name = self.name();
        let lines: Vec<_> = text.lines().map(|line| format!("{name}{line}")).collect();
        output::tell(&lines.join("\n"));
    }

    /// Tells an event as a line of JSON.
    pub(crate) fn event(&self, mut event: Value) {
        if let (Some(job), Some(fields)) = (self.job, event.as_object_mut()) {
            fields.insert("job".into(), job.into());
        }
        output::tell(&event.to_string());
    }

    /// Returns what text begins with.
    pub(crate) fn name(&self) -> String {
        self.job.map(|job| format!("job {job}: ")).unwrap_or_default()
    }
}

#[derive(Debug)]
enum Mode {
    Bars(MultiProgress),
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
    pub(crate) fn new(arguments: &ProgressArguments, voice: Voice) -> Self {
        let mode = match mode(arguments) {
            ProgressMode::Auto => Mode::Bars(voice.bars.clone()),
            ProgressMode::Plain => Mode::Plain,
            ProgressMode::Json => Mode::Json,
            ProgressMode::None => Mode::None,
        };
        Self { mode, quiet: arguments.quiet, voice, layers: Mutex::default() }
    }

    /// Returns who tells of blobs that are sent meanwhile, in the same form.
    pub(crate) fn uploads(&self) -> Arc<Transfer> {
        let mode = match &self.mode {
            Mode::Bars(_) => ProgressMode::Auto,
            Mode::Plain => ProgressMode::Plain,
            Mode::Json => ProgressMode::Json,
            Mode::None => ProgressMode::None,
        };
        Arc::new(Transfer::of_uploads(mode, self.voice.clone()))
    }

    /// Tells of something that may take a while and has no layer.
    pub(crate) fn step(&self, what: &str) {
        match &self.mode {
            Mode::Bars(_) | Mode::Plain => self.line(what),
            Mode::Json => self.voice.event(json!({"event": "step", "text": what})),
            Mode::None => {}
        }
    }

    /// Tells what came of it all, unless only problems are to be told or stderr holds JSON lines.
    pub(crate) fn summary(&self, text: &str) {
        if !self.quiet && !matches!(self.mode, Mode::Json) {
            self.line(text);
        }
    }

    /// Tells why it came to nothing.
    pub(crate) fn failure(&self, error: &str, hint: Option<&str>) {
        if matches!(self.mode, Mode::Json) {
            self.voice.event(json!({"event": "error", "text": error, "hint": hint}));
        } else {
            let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            self.line(&format!("error: {error}{hint}"));
        }
    }

    /// Tells more of it, unless there are many such jobs.
    pub(crate) fn details(&self, text: &str) {
        if self.voice.job.is_none() {
            self.summary(text);
        }
    }

    fn line(&self, text: &str) {
        match &self.mode {
            // Bars are drawn below; without `suspend` the line would be drawn over.
            Mode::Bars(bars) => bars.suspend(|| self.voice.tell(text)),
            _ => self.voice.tell(text),
        }
    }

    fn layers(&self) -> MutexGuard<'_, BTreeMap<(Digest, usize), Running>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Progress {
    fn layer_started(&self, layer: &Layer<'_>) {
        if self.layers().contains_key(&(layer.manifest.clone(), layer.position)) {
            // It was read for its order before.
            return;
        }
        let bar = match &self.mode {
            Mode::Bars(bars) => Some(bars.add(bar(layer, &self.voice))),
            Mode::Json => {
                self.voice.event(event("started", layer, 0));
                None
            }
            Mode::Plain | Mode::None => None,
        };
        let running = Running { read: 0, told: Instant::now(), bar };
        self.layers().insert((layer.manifest.clone(), layer.position), running);
    }

    fn advanced(&self, layer: &Layer<'_>, bytes: u64) {
        let mut layers = self.layers();
        let Some(running) = layers.get_mut(&(layer.manifest.clone(), layer.position)) else { return };
        running.read += bytes;
        if let Some(bar) = &running.bar {
            bar.inc(bytes);
        }
        let due = match self.mode {
            Mode::Json => running.told.elapsed() >= JSON_INTERVAL,
            Mode::Plain => running.told.elapsed() >= PLAIN_INTERVAL,
            Mode::Bars(_) | Mode::None => false,
        };
        if !due {
            return;
        }
        running.told = Instant::now();
        let read = running.read;
        drop(layers);
        if matches!(self.mode, Mode::Json) {
            self.voice.event(event("progress", layer, read));
        } else {
            let name = name(layer.position, layer.descriptor);
            self.voice.tell(&format!(
                "{name}: {} of {}",
                output::size(read),
                output::size(layer.descriptor.size)
            ));
        }
    }

    fn layer_finished(&self, report: &LayerReport) {
        let running = self.layers().remove(&(report.manifest.clone(), report.position));
        if let Some(bar) = running.and_then(|running| running.bar) {
            bar.finish_and_clear();
        }
        match self.mode {
            Mode::Plain => {
                let name = name(report.position, &report.source);
                self.voice.tell(&format!("{name}: {}", report::outcome(report)));
            }
            Mode::Json => {
                let mut event = report::layer_document(report);
                event.insert("event".into(), "finished".into());
                self.voice.event(Value::Object(event));
            }
            Mode::Bars(_) | Mode::None => {}
        }
    }

    fn warning(&self, text: &str) {
        match self.mode {
            Mode::Json => self.voice.event(json!({"event": "warning", "text": text})),
            _ => self.line(&format!("warning: {text}")),
        }
    }
}

/// Settles what to show: [`ProgressMode::Auto`] is left where stderr is a terminal, for bars.
pub(crate) fn mode(arguments: &ProgressArguments) -> ProgressMode {
    match arguments.progress {
        _ if arguments.quiet => ProgressMode::None,
        ProgressMode::Auto if !std::io::stderr().is_terminal() => ProgressMode::Plain,
        mode => mode,
    }
}

fn name(position: usize, descriptor: &Descriptor) -> String {
    format!("layer {position} {}", output::short(&descriptor.digest))
}

fn event(event: &str, layer: &Layer<'_>, read: u64) -> Value {
    json!({
        "event": event,
        "manifest": layer.manifest.as_str(),
        "position": layer.position,
        "digest": layer.descriptor.digest.as_str(),
        "read": read,
        "size": layer.descriptor.size,
    })
}

fn bar(layer: &Layer<'_>, voice: &Voice) -> ProgressBar {
    const TEMPLATE: &str = "{prefix} [{bar:24}] {binary_bytes:>10} of {binary_total_bytes:>10}  {binary_bytes_per_sec:>12}  {eta:>4} left";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(layer.descriptor.size).with_style(style.progress_chars("=> "));
    bar.with_prefix(voice.name() + &name(layer.position, layer.descriptor))
}
