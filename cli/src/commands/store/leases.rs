//! `restow store leases`.

use std::time::Duration;
use std::time::SystemTime;

use clap::Args;
use clap::Subcommand;
use restow_content::Manager as _;
use restow_content::MetadataStore;
use restow_oci::Digest;
use serde_json::json;

use super::ListArguments;
use super::Place;
use super::parse_duration;
use super::parse_label;
use super::show_time;
use super::to_labels;
use crate::args::Format;
use crate::output;
use crate::output::Table;

/// List leases, which keep blobs for a while, make them or end them
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a lease
    Create {
        /// Its name
        #[arg(value_name = "ID")]
        id: String,
        /// Blobs to keep, and what they refer to
        #[arg(value_name = "DIGEST")]
        digests: Vec<Digest>,
        /// When it ends by itself, as 30s, 15m, 24h or 7d from now; 0 is never
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
        expires: Duration,
        /// A label; containerd.io/gc.flat=yes keeps the blobs alone
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// Add blobs to a lease
    Add {
        #[arg(value_name = "ID")]
        id: String,
        #[arg(value_name = "DIGEST", required = true)]
        digests: Vec<Digest>,
    },
    /// End leases
    Rm {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

pub(super) fn run(arguments: &Arguments, place: &Place<'_>) -> anyhow::Result<()> {
    match &arguments.command {
        None => list(&arguments.list, place),
        Some(Command::Create { id, digests, expires, labels }) => {
            let ends = (!expires.is_zero()).then(|| now().checked_add(*expires)).flatten();
            let store = place.create()?;
            store.create_lease(id, ends, to_labels(labels))?;
            add(&store.under_lease(id), digests).inspect_err(|_| {
                // The error says more than what could not be cleaned up after it.
                let _ = store.delete_lease(id);
            })
        }
        Some(Command::Add { id, digests }) => add(&place.open()?.under_lease(id), digests),
        Some(Command::Rm { ids }) => {
            let store = place.open()?;
            Ok(ids.iter().try_for_each(|id| store.delete_lease(id))?)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "when a lease ends is part of no content")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn add(lease: &MetadataStore, digests: &[Digest]) -> anyhow::Result<()> {
    // Looking at a blob under a lease is what adds it.
    for digest in digests {
        lease.info(digest)?;
    }
    Ok(())
}

fn list(list: &ListArguments, place: &Place<'_>) -> anyhow::Result<()> {
    let filter = list.filter()?;
    let store = place.open()?;
    let mut leases = store.leases()?;
    leases.retain(|lease| filter.matches(lease));
    let expires = |lease: &restow_content::metadata::Lease| lease.expires().map(show_time);
    match list.format {
        Format::Json => {
            let mut documents = Vec::new();
            for lease in &leases {
                let blobs = store.leased(&lease.id)?;
                documents.push(json!({
                    "id": lease.id,
                    "created": show_time(lease.created),
                    "expires": expires(lease),
                    "labels": lease.labels,
                    "blobs": blobs.iter().map(Digest::as_str).collect::<Vec<_>>(),
                }));
            }
            output::print_json(&documents)?;
        }
        Format::Text => {
            let mut table = Table::new(&["id", "created", "expires", ">blobs"]);
            for lease in &leases {
                let blobs = store.leased(&lease.id)?.len();
                table.row([
                    lease.id.clone(),
                    show_time(lease.created),
                    expires(lease).unwrap_or_else(|| "never".into()),
                    blobs.to_string(),
                ]);
            }
            output::print(&table.to_string())?;
        }
    }
    Ok(())
}
