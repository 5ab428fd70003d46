//! One file for each command. To add one: a file here, a variant of [`Command`], a line in [`run`].

pub(crate) mod batch;
pub(crate) mod cat;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod deploy;
pub(crate) mod index;
pub(crate) mod inspect;
pub(crate) mod ls;
mod man;
pub(crate) mod optimize;
pub(crate) mod predict;
pub(crate) mod record;
pub(crate) mod sandbox;
pub(crate) mod store;
pub(crate) mod sync;
pub(crate) mod tags;
pub(crate) mod toc_digest;
pub(crate) mod verify;
pub(crate) mod version;

use std::process::ExitCode;

use restow_convert::Cancel;

use crate::args::Command;

/// Runs the command.
pub(crate) fn run(command: Command, cancel: &Cancel) -> anyhow::Result<ExitCode> {
    match command {
        Command::Optimize(arguments) => optimize::run(&arguments, cancel),
        Command::Convert(arguments) => convert::run(&arguments, cancel),
        Command::Copy(arguments) => copy::run(&arguments),
        Command::Batch(arguments) => batch::run(&arguments, cancel),
        Command::Sync(arguments) => sync::run(&arguments, cancel),
        Command::Tags(arguments) => tags::run(&arguments),
        Command::Index(arguments) => index::run(&arguments),
        Command::Deploy(arguments) => deploy::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Cat(arguments) => cat::run(&arguments),
        Command::TocDigest(arguments) => toc_digest::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments, cancel),
        Command::Record(arguments) => record::run(&arguments, cancel),
        Command::Sandbox(arguments) => sandbox::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Store(arguments) => store::run(&arguments, cancel),
        Command::Version(arguments) => version::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man => man::run(),
    }
}
