//! What is told on stderr while blobs are copied.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_registry::Observer;
use serde_json::json;

use crate::args::ProgressArguments;
use crate::args::ProgressMode;
use crate::output;
use crate::progress;
use crate::progress::Voice;

/// How often a blob under way is told of where no bar moves.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far each blob has come, in the form that was asked for.
#[derive(Debug)]
pub(crate) struct Transfer {
    mode: ProgressMode,
    /// Whether what is told of is sent to a registry, beside a conversion that tells of its own.
    uploads: bool,
    voice: Voice,
    running: Mutex<BTreeMap<Digest, Running>>,
}

#[derive(Debug)]
struct Running {
    read: u64,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Transfer {
    pub(crate) fn new(arguments: &ProgressArguments, voice: Voice) -> Self {
        Self { mode: progress::mode(arguments), uploads: false, voice, running: Mutex::default() }
    }

    /// Tells of blobs that are sent while a conversion goes on, with the bars of that.
    pub(crate) fn of_uploads(mode: ProgressMode, voice: Voice) -> Self {
        Self { mode, uploads: true, voice, running: Mutex::default() }
    }

    fn name(&self, blob: &Descriptor) -> String {
        let what = if self.uploads { "upload" } else { "blob" };
        format!("{what} {}", output::short(&blob.digest))
    }

    /// Tells a sentence of its own.
    pub(crate) fn line(&self, text: &str) {
        match self.mode {
            ProgressMode::Json => self.voice.event(json!({"event": "step", "text": text})),
            ProgressMode::None => {}
            ProgressMode::Auto | ProgressMode::Plain => self.words(text),
        }
    }

    pub(crate) fn warning(&self, text: &str) {
        match self.mode {
            ProgressMode::Json => self.voice.event(json!({"event": "warning", "text": text})),
            _ => self.words(&format!("warning: {text}")),
        }
    }

    fn words(&self, text: &str) {
        match self.mode {
            ProgressMode::Auto => self.voice.bars.suspend(|| self.voice.tell(text)),
            _ => self.voice.tell(text),
        }
    }

    fn tell(&self, event: &str, blob: &Descriptor, read: u64) {
        let name = self.name(blob);
        match self.mode {
            ProgressMode::Json => {
                // Layers have events of these names, too.
                let event = if self.uploads { format!("upload {event}") } else { event.to_owned() };
                let digest = blob.digest.as_str();
                self.voice.event(json!({"event": event, "digest": digest, "read": read, "size": blob.size}));
            }
            ProgressMode::Plain if event == "finished" => {
                self.voice.tell(&format!("{name}: {}", output::size(read)));
            }
            ProgressMode::Plain if event == "progress" => {
                self.voice.tell(&format!("{name}: {} of {}", output::size(read), output::size(blob.size)));
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
            let prefix = format!("{}{}", self.voice.name(), self.name(blob));
            self.voice.bars.add(bar.with_prefix(prefix))
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
