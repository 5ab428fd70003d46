//! `restow sync`: a library of images, as rules say.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Args;
use restow::Session;
use restow_content::read;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_library::Catalogue;
use restow_library::Rules;
use restow_library::Selected;
use restow_oci::Config;
use restow_oci::Manifest;
use restow_oci::Platform;
use restow_oci::Timestamp;
use restow_registry::Place;
use restow_registry::Reading;
use restow_registry::Reference;
use restow_registry::Selector;

use crate::args::WorkArguments;
use crate::failure::Usage;
use crate::jobs;
use crate::jobs::At;
use crate::jobs::Draft;
use crate::jobs::Earlier;
use crate::jobs::RunArguments;
use crate::output;

const EXAMPLES: &str = "\
A file of rules:
  defaults:
    operation: optimize
    options: {zstdchunked: true}
    platforms: [linux/amd64, linux/arm64]
    destination: docker://registry.example/{repository}:{tag}-zc
  groups:
    - name: bases
      sources: [docker://registry.example/library/*]
      tags: {include: ['3.*'], semver: '>=3.18', newest: 5}
    - name: app
      sources: [docker://registry.example/team/app]
      tags: {exclude: ['*-rc', '*-zc'], within: 90d}
      only: missing

Examples:
  restow sync rules.yaml --dry-run
  restow sync rules.yaml --journal night.jsonl";

/// Convert or copy all images that rules select, and skip those that have not changed
///
/// Rules select repositories and tags, and say where their images go and what is done with them. Each image is a job as
/// `restow batch` has them; for each there is a line of JSON on stdout.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The file of rules, in YAML; - is standard input
    #[arg(value_name = "RULES")]
    file: PathBuf,
    /// Print a line for each job that says whether it would be done and why, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    run: RunArguments,
}

impl Arguments {
    pub(crate) fn work(&self) -> &WorkArguments {
        self.run.work()
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let file = arguments.file.display().to_string();
    let rules = Rules::parse(&load(arguments)?).map_err(|error| wrong(&file, error))?;
    let expanded = rules.expand(&Places { session }, now()).map_err(|error| wrong(&file, error))?;
    for (at, source) in &expanded.empty {
        output::tell(&format!("warning: {file}:{at}: {source} has no image that the rules select"));
    }
    let mut drafts = Vec::new();
    for job in expanded.jobs {
        let at = At {
            file: file.clone(),
            line: usize::try_from(job.at.line).unwrap_or(usize::MAX),
            column: Some(usize::try_from(job.at.column).unwrap_or(usize::MAX)),
        };
        if session.reference(&job.source)? == session.reference(&job.destination)? {
            return Err(at.wrong(&format!("{} is source and destination", job.source)).into());
        }
        drafts.push(Draft::parse(at, job.words, job.only)?.of_group(job.group));
    }
    match arguments.dry_run {
        true => jobs::plan(&drafts, &arguments.run, session),
        false => jobs::run(&drafts, Earlier::default(), &arguments.run, session),
    }
}

#[expect(clippy::disallowed_methods, reason = "rules count ages from the time at which they are used")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Reads the rules, and of a file that is too large only as much as shows that.
fn load(arguments: &Arguments) -> anyhow::Result<String> {
    let name = || arguments.file.display().to_string();
    let most = Rules::limit() + 1;
    let mut text = String::new();
    let read = match arguments.file.as_os_str() == "-" {
        true => std::io::stdin().lock().take(most).read_to_string(&mut text),
        false => File::open(&arguments.file).and_then(|file| file.take(most).read_to_string(&mut text)),
    };
    read.with_context(name)?;
    Ok(text)
}

/// Says which file is wrong; what cannot be listed is no mistake in it.
fn wrong(file: &str, error: restow_library::Error) -> anyhow::Error {
    match error {
        restow_library::Error::Listing { .. } => anyhow::Error::from(error).context(file.to_owned()),
        restow_library::Error::TooLarge { .. } => Usage(format!("{file}:1:1: {error}")).into(),
        error => Usage(format!("{file}:{error}")).into(),
    }
}

/// The places that this program reaches.
struct Places<'a> {
    session: &'a Session,
}

impl Catalogue for Places<'_> {
    type Error = restow::Error;

    fn repositories(&self, host: &str) -> Result<Vec<String>, Self::Error> {
        Ok(self.session.access().client()?.repositories(host)?)
    }

    fn tags(&self, source: &str) -> Result<Option<Selected>, Self::Error> {
        let Reference { place, selector } = self.session.reference(source)?;
        let name = |place: &Place| Reference { place: place.clone(), selector: Selector::Only }.to_string();
        let (tags, exact) = match selector {
            Selector::Tag(tag) => (vec![tag], true),
            Selector::Digest(_) => {
                let problem = "rules select tags, not digests";
                return Err(restow_registry::Error::Unusable { reference: source.to_owned(), problem }.into());
            }
            Selector::Only => match self.session.access().tags(&place) {
                Ok(tags) => (tags, false),
                Err(restow_registry::Error::NoSuchPath { .. }) => return Ok(None),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Some(Selected { place: name(&place), tags, exact }))
    }

    /// The time that the config of the host's image says, or that of the first one.
    fn created(&self, image: &str) -> Result<Option<SystemTime>, Self::Error> {
        let source = self.session.access().open_source(&self.session.reference(image)?, Reading::Once)?;
        let limits = self.session.access().limits();
        let created = || {
            let platforms = Platforms::Prefer(Platform::host());
            let selected = convert::select(&*source.provider, &source.root, &platforms, limits).ok()?;
            let manifest = &selected.images.first()?.descriptor;
            let bytes = read(&*source.provider, manifest, limits.manifest_size).ok()?;
            let manifest = Manifest::parse(bytes, limits).ok()?;
            let config = read(&*source.provider, manifest.config(), limits.config_size).ok()?;
            let config = Config::parse(config, limits).ok()?;
            let created: Timestamp = config.get("created")?.as_str()?.parse().ok()?;
            Some(SystemTime::from(created))
        };
        Ok(created())
    }
}
