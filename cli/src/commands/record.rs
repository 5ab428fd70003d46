//! `restow record`: run an image's workload and write down what it reads.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use restow::recorder::Exit;
use restow::recorder::Recorder;
use restow::recorder::Recording;
use restow::recorder::total;
use restow_analyze::record;
use restow_content::publish;
use restow_convert as convert;
use restow_convert::Cancel;
use serde_json::json;

use crate::access::access;
use crate::access::open_source;
use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::PlatformArguments;
use crate::failure::Usage;
use crate::output;
use crate::output::Table;
use crate::reference;
use crate::workload;
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

pub(crate) fn run(arguments: &Arguments, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let limits = access().limits().clone();
    let source = open_source(&reference::parse(&arguments.source)?)?;
    let images =
        convert::select(&*source.provider, &source.root, &arguments.platforms.choice(), &limits)?.images;
    let [image] = images.as_slice() else {
        anyhow::ensure!(!images.is_empty(), "{} is no image and leads to none", source.name);
        return Err(Usage(format!("{} images are meant, choose one with --platform", images.len())).into());
    };
    let keep = reference::roots(arguments.cache_dir.as_deref()).filter(|_| !arguments.no_cache);
    let recorder = Recorder {
        container: &arguments.workload.container()?,
        helper: &workload::helper()?,
        provider: &*source.provider,
        limits: &limits,
        threads: arguments.jobs.count().get(),
        cancel,
        keep,
    };
    let recording = recorder.record(&image.descriptor)?;
    workload::tell(&recording);
    publish::write(&arguments.out, record::write(&recording.accesses).as_bytes())?;
    match arguments.format {
        Format::Text => output::print(&told(&recording))?,
        Format::Json => output::print_json(&document(&recording))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Files and bytes for each layer.
fn layers(recording: &Recording) -> Vec<(usize, usize, u64)> {
    let mut layers: Vec<(usize, usize, u64)> = Vec::new();
    for access in &recording.accesses {
        let position = access.layer_index.unwrap_or_default();
        let size = recording.tree.size(&access.path).unwrap_or_default();
        match layers.iter_mut().find(|(found, ..)| *found == position) {
            Some((_, files, bytes)) => {
                *files += 1;
                *bytes += size;
            }
            None => layers.push((position, 1, size)),
        }
    }
    layers.sort_unstable();
    layers
}

fn told(recording: &Recording) -> String {
    let mut first = Table::new(&[">layer", ">size", "first read"]);
    for access in recording.accesses.iter().take(SHOWN) {
        let size = recording.tree.size(&access.path).unwrap_or_default();
        let position = access.layer_index.unwrap_or_default();
        first.row([position.to_string(), output::size(size), access.path.escape_debug().to_string()]);
    }
    let mut all = Table::new(&[">layer", ">files", ">bytes"]);
    let (mut files, mut bytes) = (0, 0);
    for (position, count, size) in layers(recording) {
        files += count;
        bytes += size;
        all.row([position.to_string(), count.to_string(), output::size(size)]);
    }
    let share = bytes as f64 * 100.0 / total(&recording.tree).max(1) as f64;
    format!(
        "{first}\n\n{all}\n{}, {}, {share:.1} % of the image",
        output::count(files, "file"),
        output::size(bytes)
    )
}

fn document(recording: &Recording) -> serde_json::Value {
    let layers = layers(recording);
    let layer = |(position, files, bytes): &(usize, usize, u64)| json!({ "position": position, "files": files, "size": bytes });
    let file = |access: &restow_analyze::Access| json!({ "path": access.path, "layer": access.layer_index, "size": recording.tree.size(&access.path) });
    let exit = |exit: &Exit| json!({ "name": exit.workload, "exit": exit.code });
    json!({
        "workloads": recording.exits.iter().map(exit).collect::<Vec<_>>(),
        "files": recording.accesses.iter().map(file).collect::<Vec<_>>(),
        "size": layers.iter().map(|(_, _, bytes)| bytes).sum::<u64>(),
        "imageSize": total(&recording.tree),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}
