//! `restow deploy`: deployment as data.

use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::Session;
use restow::parallel;
use restow_registry::Name;
use restow_registry::deploy::Deployment;
use restow_registry::deploy::Input;
use restow_registry::deploy::rounds;
use serde_json::Value;

use crate::args::RepairArguments;
use crate::failure;
use crate::output;

/// Push manifests and blobs as lines of JSON say, and nothing else
///
/// Each has a `type` (manifest or blob), `refs` to push to, and `data`: JSON, or a text in base64. Without data,
/// what `lookup` names is copied. `lookup` says by digest where parts are found; "" stands for all others. Inputs
/// that others need come first. A name that means the thing already is looked at and left. Printed is each input with
/// its digest; the exit status is 3 if some of them failed.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file to read; standard input without it
    #[arg(value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Push nothing; print the inputs, and of those only the refs, that are not in place
    #[arg(long, conflicts_with = "repair")]
    dry_run: bool,
    #[command(flatten)]
    repair: RepairArguments,
    /// How many inputs are worked on side by side
    #[arg(long, value_name = "N", default_value = "4")]
    jobs: NonZeroUsize,
    /// Say nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let deployments = match arguments.input == Path::new("-") {
        true => read(std::io::stdin().lock()),
        false => {
            let file = std::fs::File::open(&arguments.input);
            let file = file.with_context(|| arguments.input.display().to_string())?;
            read(std::io::BufReader::new(file))
        }
    };
    // All of it is read, and found to make sense, before any of it is done.
    let deployments = deployments?;
    let client = session.access().client()?;
    let mut failed = 0;
    let mut outcomes: Vec<Option<Vec<Name>>> = vec![None; deployments.len()];
    for round in rounds(&deployments) {
        let results = parallel::map(&round, arguments.jobs, |&position| {
            let deployment = &deployments[position];
            if arguments.dry_run {
                return deployment.pending(client);
            }
            let digest = Some(deployment.run(client, arguments.repair.existing())?);
            let named = deployment.names().iter().cloned();
            Ok(named.map(|name| Name { digest: digest.clone(), ..name }).collect())
        });
        for (position, result) in round.into_iter().zip(results) {
            let deployment = &deployments[position];
            match result {
                Ok(names) => {
                    if !arguments.quiet && !arguments.dry_run {
                        output::tell(&names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
                    }
                    outcomes[position] = Some(names);
                }
                Err(error) => {
                    failed += 1;
                    let name = deployment.names().first().map(ToString::to_string).unwrap_or_default();
                    let error = anyhow::Error::from(error).context(name);
                    output::tell(&format!("error: {}", failure::describe(&error)));
                }
            }
        }
    }
    for (deployment, names) in deployments.iter().zip(&outcomes) {
        let Some(names) = names.as_ref().filter(|names| !names.is_empty()) else { continue };
        output::print_json_line(&document(deployment, names, arguments.dry_run))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(failure::SOME_FAILED) })
}

/// Returns the input with the refs that it has, and once it is pushed with its digest in place of the data.
fn document(deployment: &Deployment, names: &[Name], dry_run: bool) -> Value {
    let mut document = deployment.to_json(names);
    if !dry_run && let Some(document) = document.as_object_mut() {
        document.remove("data");
        let digest = names.first().and_then(|name| name.digest.as_ref()).map(ToString::to_string);
        document.insert("digest".to_owned(), digest.into());
    }
    document
}

fn read(input: impl std::io::Read) -> anyhow::Result<Vec<Deployment>> {
    let inputs = serde_json::Deserializer::from_reader(input).into_iter::<Input>();
    let mut deployments = Vec::new();
    for (number, input) in inputs.enumerate() {
        let input = input.with_context(|| format!("input {}", number + 1))?;
        deployments.push(Deployment::parse(input).with_context(|| format!("input {}", number + 1))?);
    }
    Ok(deployments)
}
