//! `restow store ingest`, `status` and `abort`.

use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use restow_content::Expected;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::MediaType;
use serde_json::json;

use super::ListArguments;
use super::Place;
use super::parse_label;
use super::show_time;
use super::to_labels;
use crate::args::Format;
use crate::output;
use crate::output::Table;

/// What keeps a blob from being collected.
const ROOT: &str = "containerd.io/gc.root";

/// Bring a file or stdin into the store as a blob and print its digest
///
/// The blob is kept until it is removed or loses its label containerd.io/gc.root. What was interrupted goes on
/// where it stopped, if the input starts as it did then; programs that bring in the same file at once all succeed.
/// With --plain there are no labels but those of --label.
#[derive(Debug, Args)]
pub(super) struct Ingest {
    /// The file [default: stdin]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The name of the ingest, by which it is found if it is interrupted [default: the file's]
    ///
    /// One program at a time may have it.
    #[arg(long = "ref", value_name = "NAME")]
    key: Option<String>,
    /// The digest that the blob must have
    #[arg(long, value_name = "DIGEST")]
    expected_digest: Option<Digest>,
    /// The number of bytes that the blob must have
    #[arg(long, value_name = "BYTES", requires = "expected_digest")]
    expected_size: Option<u64>,
    /// A label for the blob; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Let the next gc remove the blob, unless something refers to it by then
    #[arg(long)]
    collectable: bool,
}

/// List what is being ingested, or was interrupted
///
/// A filter is one on the name, such as ref~=^layer-
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    list: ListArguments,
}

/// Give up what was being ingested
#[derive(Debug, Args)]
pub(super) struct Abort {
    /// The name of the ingest
    #[arg(value_name = "REF", required = true)]
    keys: Vec<String>,
}

pub(super) fn ingest(command: &Ingest, place: &Place<'_>) -> anyhow::Result<()> {
    let store = place.blobs_or_new()?;
    let mut labels = to_labels(&command.labels);
    // Where nothing is collected, or by others, it would only be a mark in their directory.
    if !command.collectable && !place.plain {
        labels.entry(ROOT.to_owned()).or_insert_with(|| "restow store ingest".to_owned());
    }
    let (mut input, name, size): (Box<dyn Read>, _, _) = match &command.file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            let size = file.metadata().ok().filter(Metadata::is_file).map(|found| found.len());
            (Box::new(file), path.display().to_string(), size)
        }
        None => (Box::new(io::stdin().lock()), "stdin".to_owned(), None),
    };
    let key = command.key.as_ref().unwrap_or(&name);
    let expected = Expected { digest: command.expected_digest.clone(), size: command.expected_size.or(size) };
    let begun = match &command.key {
        Some(key) => store.begin(key, &expected),
        None => restow_content::begin_beside(&*store, key, &expected),
    };
    let mut ingest = match begun {
        Err(restow_content::Error::Exists { digest }) => {
            let info = store.info(&digest)?;
            let fields = restow_content::Fields::Only(labels.keys().cloned().collect());
            store.update_fields(&digest, labels, &fields)?;
            return Ok(output::print(info.digest.as_str())?);
        }
        ingest => ingest?,
    };
    // Without a name or a digest nothing says that it was the same input.
    if command.key.is_none() && command.expected_digest.is_none() {
        ingest.restart()?;
    }
    let present = ingest.offset();
    if present > 0 {
        let held = ingest.digest();
        let mut digester = Digester::new(held.algorithm())?;
        let skipped = pour(&mut input.by_ref().take(present), &name, |bytes| {
            digester.update(bytes);
            Ok(())
        })?;
        anyhow::ensure!(
            skipped == present,
            "{name} has {skipped} bytes, but ingest {key:?} already holds {present}; restow store abort gives it up"
        );
        anyhow::ensure!(
            digester.finish() == held,
            "{name} does not begin with what ingest {key:?} already holds; restow store abort gives it up"
        );
    }
    pour(&mut input, &name, |bytes| {
        ingest.write_all(bytes).with_context(|| format!("cannot write ingest {key:?}"))
    })?;
    let descriptor = command.expected_digest.clone().map(|digest| {
        let size = command.expected_size.unwrap_or(ingest.offset());
        Descriptor::new(MediaType::OCI_LAYER, digest, size)
    });
    let info = ingest.commit(descriptor.as_ref(), labels)?;
    Ok(output::print(info.digest.as_str())?)
}

/// Reads the input to its end and returns how much that was.
fn pour(
    input: &mut dyn Read,
    name: &str,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                take(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
        }
    }
}

pub(super) fn status(command: &Status, place: &Place<'_>) -> anyhow::Result<()> {
    let filter = command.list.filter()?;
    let mut found = place.blobs()?.ingests()?;
    found.retain(|status| filter.matches(status));
    match command.list.format {
        Format::Json => {
            let documents = found.iter().map(|status| {
                json!({
                    "ref": status.key,
                    "offset": status.offset,
                    "total": status.total,
                    "started": show_time(status.started),
                    "updated": show_time(status.updated),
                })
            });
            output::print_json(&documents.collect::<Vec<_>>())?;
        }
        Format::Text => {
            let mut table = Table::new(&["ref", ">offset", ">total", "started", "updated"]);
            for status in &found {
                table.row([
                    status.key.clone(),
                    output::size(status.offset),
                    status.total.map(output::size).unwrap_or_default(),
                    show_time(status.started),
                    show_time(status.updated),
                ]);
            }
            output::print(&table.to_string())?;
        }
    }
    Ok(())
}

pub(super) fn abort(command: &Abort, place: &Place<'_>) -> anyhow::Result<()> {
    let store = place.blobs()?;
    Ok(command.keys.iter().try_for_each(|key| store.abort(key))?)
}
