//! `restow store gc` and `scrub`.

use std::time::Duration;

use clap::Args;
use restow_content::Store;
use restow_content::metadata::Collection;
use restow_content::metadata::Writer;
use restow_convert::Cancel;
use serde_json::json;

use super::Blobs;
use super::Place;
use super::parse_duration;
use crate::args::Format;
use crate::args::JobsArguments;
use crate::failure;
use crate::output;

/// Remove blobs that no image, lease or label keeps, in all namespaces
///
/// Programs that write to the store meanwhile lose nothing. The digests of what was removed go to stdout.
#[derive(Debug, Args)]
pub(super) struct Collect {
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// How long what was being ingested is kept after it was last written to, as 30s, 15m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    ingest_age: Duration,
    /// What stdout holds: digests or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// Read all blobs again, whatever namespace they belong to, and put away those that have rotted
///
/// They go to the directory quarantine of the store, so that they can be brought in again. Exits with 1 if there
/// are any.
#[derive(Debug, Args)]
pub(super) struct Scrub {
    #[command(flatten)]
    jobs: JobsArguments,
    /// Only tell what has rotted
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn collect(command: &Collect, place: &Place<'_>) -> anyhow::Result<()> {
    let store = place.open()?;
    let collection = Collection { dry_run: command.dry_run, ingest_age: command.ingest_age };
    let collected = store.collect_telling(&collection, &mut |writers| output::tell(&waits_for(writers)))?;
    let bytes = collected.blobs.iter().map(|(_, size)| size).sum();
    match command.format {
        Format::Text => {
            for (digest, _) in &collected.blobs {
                output::print(digest.as_str())?;
            }
        }
        Format::Json => {
            let blobs = collected.blobs.iter();
            let blobs: Vec<_> =
                blobs.map(|(digest, size)| json!({ "digest": digest.as_str(), "size": size })).collect();
            output::print_json(&json!({
                "dryRun": command.dry_run,
                "blobs": blobs,
                "bytes": bytes,
                "kept": collected.kept,
                "images": collected.images,
                "leases": collected.leases,
                "ingests": collected.ingests,
            }))?;
        }
    }
    for problem in &collected.problems {
        output::tell(&format!("warning: {problem}"));
    }
    output::tell(&format!(
        "{} {} ({}), {}, {} and {}; {} kept",
        if command.dry_run { "would remove" } else { "removed" },
        output::count(collected.blobs.len(), "blob"),
        output::size(bytes),
        output::count(collected.images.len(), "name"),
        output::count(collected.leases.len(), "lease"),
        output::count(collected.ingests.len(), "ingest"),
        collected.kept,
    ));
    Ok(())
}

/// Says for whom a collection waits.
fn waits_for(writers: &[Writer]) -> String {
    let named =
        writers.iter().map(|Writer { process, program, .. }| format!("process {process} ({program})"));
    let named: Vec<_> = named.collect();
    match named.as_slice() {
        // The kernel names no process of another container.
        [] => "waiting for a program that writes to the store".into(),
        [one] => format!("waiting for {one}, which writes to the store"),
        several => format!("waiting for {}, which write to the store", several.join(", ")),
    }
}

pub(super) fn scrub(command: &Scrub, place: &Place<'_>, cancel: &Cancel) -> anyhow::Result<()> {
    let store = place.blobs()?;
    // A namespace sees its own alone.
    let blobs: &dyn Store = match &store {
        Blobs::Plain(store) => store,
        Blobs::Full(store) => store.blobs(),
    };
    let scrubbed = restow_content::scrub(blobs, command.jobs.or(place.session.settings().threads), &|| {
        cancel.is_cancelled()
    })?;
    cancel.check()?;
    for (digest, error) in scrubbed.rotten.iter() {
        output::print(digest.as_str())?;
        let problem = failure::describe(&anyhow::anyhow!("{error}"));
        let place = match &store {
            _ if command.dry_run => None,
            Blobs::Plain(store) => store.quarantine(digest)?,
            Blobs::Full(store) => store.quarantine(digest)?,
        };
        match place {
            Some(place) => output::tell(&format!("warning: {problem}; now in {}", place.display())),
            None => output::tell(&format!("warning: {problem}")),
        }
    }
    output::tell(&format!(
        "{} read ({})",
        output::count(scrubbed.blobs, "blob"),
        output::size(scrubbed.bytes)
    ));
    let rotten = scrubbed.rotten.len();
    anyhow::ensure!(rotten == 0, "{} of {} rotten", rotten, output::count(scrubbed.blobs, "blob"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_says_for_whom_it_waits() {
        let writer = |process| Writer { process, program: "restow".into() };
        for (writers, expected) in [
            (vec![], "waiting for a program that writes to the store"),
            (vec![writer(7)], "waiting for process 7 (restow), which writes to the store"),
            (
                vec![writer(7), writer(8)],
                "waiting for process 7 (restow), process 8 (restow), which write to the store",
            ),
        ] {
            assert_eq!(waits_for(&writers), expected);
        }
    }
}
