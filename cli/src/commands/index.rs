//! `restow index`: indexes made from what there is.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use clap::Subcommand;
use restow::Session;
use restow::parallel;
use restow_oci::Platform;
use restow_registry::synthesize::Architectures;

use crate::failure;
use crate::output;

/// How many references are looked at together before their results are written.
const BATCH: usize = 256;

/// Make indexes from what there is
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Synthesize(SynthesizeArguments),
}

/// Print an index for each reference, whatever it means: a line of JSON each, in their order
///
/// A manifest becomes the only entry of one. Each entry says its platform and where it is found; equal entries
/// and attestations of what is not there are left out. A reference that means nothing is null, with a warning if a
/// registry has refused to tell; so is one that fails, with an error and exit status 3 at the end.
#[derive(Debug, Args)]
struct SynthesizeArguments {
    /// Images: HOST/NAME[:TAG][@DIGEST] as registries have them, or oci:PATH[:TAG] and the like
    #[arg(value_name = "REF", required_unless_present = "from")]
    references: Vec<String>,
    /// Take references from this file, too, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The annotation that says an entry's architecture
    #[arg(long, value_name = "KEY", default_value = "com.docker.official-images.bashbrew.arch")]
    architecture_key: String,
    /// What the architecture annotation says of a platform, in place of Docker's own words; may be given several times
    #[arg(long = "architecture", value_name = "WORD=OS/ARCH[/VARIANT]", value_parser = parse_architecture)]
    architectures: Vec<(String, Platform)>,
    /// How many references are looked at side by side
    #[arg(long, value_name = "N", default_value = "8")]
    jobs: NonZeroUsize,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let Command::Synthesize(arguments) = &arguments.command;
    let mut architectures =
        Architectures { key: arguments.architecture_key.clone(), ..Architectures::default() };
    if !arguments.architectures.is_empty() {
        architectures.words = arguments.architectures.iter().cloned().collect();
    }
    let mut batch =
        Batch { session, architectures, jobs: arguments.jobs, waiting: Vec::new(), failed: false };
    for reference in &arguments.references {
        batch.add(reference)?;
    }
    match arguments.from.as_deref() {
        Some(path) if path == Path::new("-") => batch.read(std::io::stdin().lock())?,
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            batch.read(std::io::BufReader::new(file))?;
        }
        None => {}
    }
    batch.flush()?;
    Ok(if batch.failed { ExitCode::from(failure::SOME_FAILED) } else { ExitCode::SUCCESS })
}

/// References that wait for each other, so that results keep their order.
struct Batch<'a> {
    session: &'a Session,
    architectures: Architectures,
    jobs: NonZeroUsize,
    waiting: Vec<String>,
    /// Whether any of them failed.
    failed: bool,
}

impl Batch<'_> {
    fn read(&mut self, input: impl std::io::BufRead) -> anyhow::Result<()> {
        for line in input.lines() {
            let line = line?;
            if !line.trim().is_empty() {
                self.add(line.trim())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, reference: &str) -> anyhow::Result<()> {
        self.waiting.push(reference.to_owned());
        if self.waiting.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes the indexes of what waits.
    fn flush(&mut self) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let results = parallel::map(&waiting, self.jobs, |text| {
            self.session.synthesize(text, &self.architectures).with_context(|| text.clone())
        });
        for result in results {
            let index = result.unwrap_or_else(|error| {
                self.failed = true;
                output::tell(&format!("error: {}", failure::describe(&error)));
                None
            });
            output::print_json_text(index.as_deref().unwrap_or("null"))?;
        }
        std::io::stdout().flush()?;
        Ok(())
    }
}

fn parse_architecture(text: &str) -> Result<(String, Platform), String> {
    let (word, platform) =
        text.split_once('=').ok_or("expected WORD=PLATFORM, such as arm64v8=linux/arm64")?;
    Ok((word.to_owned(), Platform::parse(platform).map_err(|error| error.to_string())?))
}
