//! What is told on stderr while blobs are copied.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use indicatif::MultiProgress;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_registry::Observer;
use serde_json::json;

use crate::args::ProgressArguments;
use crate::args::ProgressMode;
use crate::output;
use crate::progress;

/// How often a blob under way is told of where no bar moves.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far each blob has come, in the form that was asked for.
#[derive(Debug)]
pub(crate) struct Transfer {
    mode: ProgressMode,
    bars: MultiProgress,
    /// Whether what is told of is sent to a registry, beside a conversion that tells of its own.
    uploads: bool,
    running: Mutex<BTreeMap<Digest, Running>>,
}

#[derive(Debug)]
struct Running {
    read: u64,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Transfer {
    pub(crate) fn new(arguments: &ProgressArguments) -> Self {
        let mode = progress::mode(arguments);
        let bars = MultiProgress::with_draw_target(match mode {
            ProgressMode::Auto => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        });
        Self { mode, bars, uploads: false, running: Mutex::default() }
    }

    /// Tells of blobs that are sent while a conversion goes on, with the bars of that.
    pub(crate) fn of_uploads(mode: ProgressMode, bars: MultiProgress) -> Self {
        Self { mode, bars, uploads: true, running: Mutex::default() }
    }

    fn what(&self) -> &'static str {
        if self.uploads { "upload" } else { "blob" }
    }

    /// Tells a sentence of its own.
    pub(crate) fn line(&self, text: &str) {
        match self.mode {
            ProgressMode::Json => output::tell(&json!({"event": "step", "text": text}).to_string()),
            ProgressMode::None => {}
            ProgressMode::Auto | ProgressMode::Plain => self.bars.suspend(|| output::tell(text)),
        }
    }

    pub(crate) fn warning(&self, text: &str) {
        match self.mode {
            ProgressMode::Json => output::tell(&json!({"event": "warning", "text": text}).to_string()),
            _ => self.bars.suspend(|| output::tell(&format!("warning: {text}"))),
        }
    }

    fn tell(&self, event: &str, blob: &Descriptor, read: u64) {
        let name = format!("{} {}", self.what(), output::short(&blob.digest));
        match self.mode {
            ProgressMode::Json => {
                // Layers have events of these names, too.
                let event = if self.uploads { format!("upload {event}") } else { event.to_owned() };
                let document =
                    json!({"event": event, "digest": blob.digest.as_str(), "read": read, "size": blob.size});
                output::tell(&document.to_string());
            }
            ProgressMode::Plain if event == "finished" => {
                output::tell(&format!("{name}: {}", output::size(read)));
            }
            ProgressMode::Plain if event == "progress" => {
                output::tell(&format!("{name}: {} of {}", output::size(read), output::size(blob.size)));
            }
            _ => {}
        }
    }
}

impl Observer for Transfer {
    fn started(&self, blob: &Descriptor) {
        let bar = (self.mode == ProgressMode::Auto).then(|| {
            const TEMPLATE: &str = "{prefix} [{bar:24}] {binary_bytes:>10} of {binary_total_bytes:>10}  {binary_bytes_per_sec:>12}";
            let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(blob.size).with_style(style.progress_chars("=> "));
            self.bars.add(bar.with_prefix(format!("{} {}", self.what(), output::short(&blob.digest))))
        });
        let running = Running { read: 0, told: Instant::now(), bar };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest.clone(), running);
        self.tell("started", blob, 0);
    }

    fn advanced(&self, blob: &Descriptor, bytes: u64) {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = all.get_mut(&blob.digest) else { return };
        running.read += bytes;
        if let Some(bar) = &running.bar {
            bar.inc(bytes);
        }
        if running.told.elapsed() < INTERVAL {
            return;
        }
        running.told = Instant::now();
        let read = running.read;
        drop(all);
        self.tell("progress", blob, read);
    }

    fn finished(&self, blob: &Descriptor, whole: bool) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.digest);
        let Some(running) = running else { return };
        if let Some(bar) = running.bar {
            bar.finish_and_clear();
        }
        if whole {
            self.tell("finished", blob, running.read);
        }
    }
}
