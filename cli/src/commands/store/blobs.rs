//! `restow store ls`, `info`, `cat`, `rm` and `label`.

use std::io;
use std::io::Write as _;

use clap::Args;
use restow_content::Fields;
use restow_content::Info;
use restow_content::VerifiedReader;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use serde_json::Value;
use serde_json::json;

use super::ListArguments;
use super::Place;
use super::parse_label;
use super::show_labels;
use super::show_time;
use super::to_labels;
use crate::args::Format;
use crate::output;
use crate::output::Table;

/// List blobs
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    list: ListArguments,
}

/// Print what is known of a blob
#[derive(Debug, Args)]
pub(super) struct Show {
    #[arg(value_name = "DIGEST")]
    digest: Digest,
}

/// Write a blob to stdout
///
/// The bytes are verified on their way. The last ones are held back until the digest is known to be right.
#[derive(Debug, Args)]
pub(super) struct Cat {
    #[arg(value_name = "DIGEST")]
    digest: Digest,
}

/// Remove blobs, whatever refers to them
#[derive(Debug, Args)]
pub(super) struct Remove {
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<Digest>,
}

/// Change the labels of a blob
///
/// Labels that are not named stay as they are.
#[derive(Debug, Args)]
pub(super) struct Label {
    #[arg(value_name = "DIGEST")]
    digest: Digest,
    /// A label; with nothing behind the =, it is removed
    #[arg(value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Remove all labels that are not named
    #[arg(long)]
    replace: bool,
}

pub(super) fn list(command: &List, place: &Place<'_>) -> anyhow::Result<()> {
    let filter = command.list.filter()?;
    let mut infos = Vec::new();
    place.blobs()?.walk(&mut |info| {
        infos.extend(filter.matches(&info).then_some(info));
        Ok(())
    })?;
    match command.list.format {
        Format::Json => output::print_json(&infos.iter().map(document).collect::<Vec<_>>())?,
        Format::Text => {
            let mut table = Table::new(&["digest", ">size", "created", "labels"]);
            for Info { digest, size, created, labels, .. } in &infos {
                table.row([
                    digest.to_string(),
                    output::size(*size),
                    show_time(*created),
                    show_labels(labels),
                ]);
            }
            output::print(&table.to_string())?;
        }
    }
    Ok(())
}

pub(super) fn show(command: &Show, place: &Place<'_>) -> anyhow::Result<()> {
    Ok(output::print_json(&document(&place.blobs()?.info(&command.digest)?))?)
}

fn document(info: &Info) -> Value {
    json!({
        "digest": info.digest.as_str(),
        "size": info.size,
        "created": show_time(info.created),
        "updated": show_time(info.updated),
        "labels": info.labels,
    })
}

pub(super) fn cat(command: &Cat, place: &Place<'_>) -> anyhow::Result<()> {
    let store = place.blobs()?;
    let info = store.info(&command.digest)?;
    // What it is does not matter here.
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, info.digest, info.size);
    let mut reader = VerifiedReader::new(store.open(&descriptor)?, &descriptor)?;
    let mut out = io::stdout().lock();
    let mut piece = vec![0; 1 << 20];
    let mut held = Vec::new();
    loop {
        let count = match io::Read::read(&mut reader, &mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        match out.write_all(&held) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        if count == 0 {
            return Ok(out.flush()?);
        }
        held.clear();
        held.extend_from_slice(&piece[..count]);
    }
}

pub(super) fn remove(command: &Remove, place: &Place<'_>) -> anyhow::Result<()> {
    let store = place.blobs()?;
    for digest in &command.digests {
        store.remove(digest)?;
        output::print(digest.as_str())?;
    }
    Ok(())
}

pub(super) fn label(command: &Label, place: &Place<'_>) -> anyhow::Result<()> {
    let mut labels = to_labels(&command.labels);
    let fields = match command.replace {
        true => {
            labels.retain(|_, value| !value.is_empty());
            Fields::All
        }
        false => Fields::Only(labels.keys().cloned().collect()),
    };
    let info = place.blobs()?.update_fields(&command.digest, labels, &fields)?;
    Ok(output::print_json(&document(&info))?)
}
