//! `restow store`: the content store and what is in it. One file for each kind of thing.

mod blobs;
mod collect;
mod images;
mod ingests;
mod leases;
mod transfer;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::time::SystemTime;

use clap::Args;
use clap::Subcommand;
use restow_content::Filter;
use restow_content::Labels;
use restow_content::LocalStore;
use restow_content::MetadataStore;
use restow_content::Store;
use restow_content::metadata::DEFAULT_NAMESPACE;
use restow_content::metadata::Sharing;
use restow_content::metadata::check_namespace;
use restow_convert::Cancel;
use restow_oci::Limits;
use restow_oci::Timestamp;
use restow_registry::StoreImages;

use crate::args::Format;
use crate::failure::Usage;
use crate::reference;

/// Look at the store, bring content in and out, and remove what nothing refers to
///
/// A store keeps images by name and blobs by digest, each blob once. Several programs may use it at a time. What
/// neither an image nor a lease nor a label keeps, `gc` removes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The namespace to see the store from
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = DEFAULT_NAMESPACE,
        value_parser = parse_namespace,
        help_heading = "Store"
    )]
    namespace: String,
    /// Take --root for a directory of blobs without a database, such as containerd's content directory or a layout
    ///
    /// Nothing knows then what refers to a blob: there are no images and leases, and nothing is collected.
    #[arg(long, global = true, conflicts_with = "namespace", help_heading = "Store")]
    plain: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(blobs::List),
    Info(blobs::Show),
    Cat(blobs::Cat),
    Ingest(ingests::Ingest),
    Rm(blobs::Remove),
    Label(blobs::Label),
    Images(images::Arguments),
    Leases(leases::Arguments),
    Gc(collect::Collect),
    Scrub(collect::Scrub),
    Status(ingests::Status),
    Abort(ingests::Abort),
    Import(transfer::Import),
    Export(transfer::Export),
}

pub(crate) fn run(arguments: &Arguments, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    let place = Place { namespace: &arguments.namespace, plain: arguments.plain };
    match &arguments.command {
        Command::Ls(command) => blobs::list(command, &place),
        Command::Info(command) => blobs::show(command, &place),
        Command::Cat(command) => blobs::cat(command, &place),
        Command::Ingest(command) => ingests::ingest(command, &place),
        Command::Rm(command) => blobs::remove(command, &place),
        Command::Label(command) => blobs::label(command, &place),
        Command::Images(command) => images::run(command, &place),
        Command::Leases(command) => leases::run(command, &place),
        Command::Gc(command) => collect::collect(command, &place),
        Command::Scrub(command) => collect::scrub(command, &place, cancel),
        Command::Status(command) => ingests::status(command, &place),
        Command::Abort(command) => ingests::abort(command, &place),
        Command::Import(command) => transfer::import(command, &place),
        Command::Export(command) => transfer::export(command, &place),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Which store, seen from where.
struct Place<'a> {
    namespace: &'a str,
    plain: bool,
}

/// The blobs of a store with or without a database.
enum Blobs {
    Plain(LocalStore),
    Full(Box<MetadataStore>),
}

impl Deref for Blobs {
    type Target = dyn Store;

    fn deref(&self) -> &(dyn Store + 'static) {
        match self {
            Blobs::Plain(store) => store,
            Blobs::Full(store) => &**store,
        }
    }
}

impl Place<'_> {
    /// Opens the blobs of the store, which has to be there.
    fn blobs(&self) -> anyhow::Result<Blobs> {
        if self.plain {
            let root = reference::root().ok_or(restow_registry::Error::NoStore)?;
            self.exists(root)?;
            return Ok(Blobs::Plain(LocalStore::open(root)?));
        }
        Ok(Blobs::Full(Box::new(self.open()?)))
    }

    /// Opens the blobs of the store, which is made where there is none.
    fn blobs_or_new(&self) -> anyhow::Result<Blobs> {
        if self.plain { self.blobs() } else { Ok(Blobs::Full(Box::new(self.create()?))) }
    }

    fn exists(&self, root: &Path) -> anyhow::Result<()> {
        match MetadataStore::exists(root) || (self.plain && root.join("ingest").is_dir()) {
            true => Ok(()),
            false => Err(restow_registry::Error::NoSuchPath { path: root.to_owned() }.into()),
        }
    }

    /// Opens the store, which has to be there.
    fn open(&self) -> anyhow::Result<MetadataStore> {
        self.exists(reference::root().ok_or(restow_registry::Error::NoStore)?)?;
        self.create()
    }

    /// Opens the store, and makes it where there is none.
    fn create(&self) -> anyhow::Result<MetadataStore> {
        let root = reference::root().ok_or(restow_registry::Error::NoStore)?;
        if self.plain {
            return Err(Usage("--plain: images, leases and gc need a store with a database".into()).into());
        }
        let (store, rebuilt) = MetadataStore::create(root, &Limits::default())?;
        if let Some(rebuilt) = rebuilt {
            reference::warn_of_loss(root, &rebuilt);
        }
        Ok(store.namespace(self.namespace, Sharing::default())?)
    }

    /// Returns the images of the store, which is made where there is none.
    fn images(&self) -> anyhow::Result<StoreImages> {
        Ok(StoreImages::of(&self.create()?, &Limits::default())?)
    }
}

/// What is listed, and how.
#[derive(Debug, Args)]
struct ListArguments {
    /// List only what matches one of these, in containerd's syntax, such as labels.KEY==VALUE
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// What stdout holds: a table or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

impl ListArguments {
    fn filter(&self) -> restow_content::Result<Filter> {
        Filter::parse(self.filters.iter().map(String::as_str))
    }
}

/// Parses the name of a namespace.
fn parse_namespace(text: &str) -> restow_content::Result<String> {
    check_namespace(text)?;
    Ok(text.to_owned())
}

/// Parses KEY=VALUE.
fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

fn to_labels(pairs: &[(String, String)]) -> Labels {
    pairs.iter().cloned().collect::<BTreeMap<_, _>>()
}

/// Parses a number of seconds, minutes, hours or days.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || "expected a time such as 30s, 15m, 24h or 7d".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        // Nothing has no unit.
        "" if number == "0" => 1,
        _ => return Err(problem()),
    };
    let number: u64 = number.parse().map_err(|_| problem())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(problem)
}

/// Returns labels as people read them.
fn show_labels(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn show_time(time: SystemTime) -> String {
    Timestamp::from(time).floor().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("30s", Some(30)),
            ("15m", Some(900)),
            ("24h", Some(86_400)),
            ("7d", Some(604_800)),
            ("1", None),
            ("h", None),
            ("-1h", None),
            ("1w", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_label_has_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_label("a="), Ok(("a".into(), String::new())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
