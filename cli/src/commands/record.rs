//! `restow record`: run an image's workload and write down what it reads.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use restow::RecordOptions;
use restow::Session;
use restow::Settings;
use restow::report::RecordReport;
use restow::report::WorkloadExit;
use restow_analyze::record;
use restow_content::publish;

use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::PlatformArguments;
use crate::output;
use crate::output::Table;
use crate::workload::WorkloadArguments;

const EXAMPLES: &str = "\
Examples:
  restow record oci:app:v1 --out app.record
  restow record app.tar --out app.record --args '[\"serve\"]' --wait-on-line ready";

/// Paths that are shown.
const SHOWN: usize = 20;

/// Run an image's workload and write down what it reads, in order
///
/// The container runs on a throw-away copy of the image, without network and with nothing of the host unless told, and is
/// gone when the watching ends. That takes runc, and root or user namespaces and FUSE. `optimize --record-in` takes what is
/// written.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The image to run: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive or a path
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to write the record: JSON lines, as ctr-remote's --record-out
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    platforms: PlatformArguments,
    #[command(flatten)]
    workload: WorkloadArguments,
    #[command(flatten)]
    jobs: JobsArguments,
    /// Where to keep the unpacked image for the next run [default: where the store is, see --root]
    ///
    /// It goes to `roots` there, and stays until 8 GiB of others were used later; `store gc` leaves it alone.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Keep nothing for the next run
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,
    /// What stdout holds: a table of what was read, or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

impl Arguments {
    /// Writes into the settings what the work takes.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        self.jobs.apply(settings);
        if !self.no_cache {
            settings.roots = self.cache_dir.clone().or_else(|| settings.store.clone());
        }
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = RecordOptions::default();
    options.platforms = arguments.platforms.choice();
    options.container = arguments.workload.container()?;
    let report = session.record(session.reference(&arguments.source)?, &options)?;
    for WorkloadExit { name, exit, .. } in &report.workloads {
        if let Some(code) = exit {
            output::tell(&format!("{name}: the container's program ended with {code}"));
        }
    }
    publish::write(&arguments.out, record::write(&report.accesses).as_bytes())?;
    match arguments.format {
        Format::Text => output::print(&told(&report))?,
        Format::Json => output::print_json(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn told(report: &RecordReport) -> String {
    let mut first = Table::new(&[">layer", ">size", "first read"]);
    for file in report.files.iter().take(SHOWN) {
        let position = file.layer.unwrap_or_default();
        let size = output::size(file.size.unwrap_or_default());
        first.row([position.to_string(), size, file.path.clone()]);
    }
    let mut all = Table::new(&[">layer", ">files", ">bytes"]);
    for layer in &report.layers {
        all.row([layer.position.to_string(), layer.files.to_string(), output::size(layer.size)]);
    }
    let share = report.size as f64 * 100.0 / report.image_size.max(1) as f64;
    let (files, size) = (output::count(report.files.len(), "file"), output::size(report.size));
    format!("{first}\n\n{all}\n{files}, {size}, {share:.1} % of the image")
}
