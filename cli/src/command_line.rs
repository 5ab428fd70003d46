//! The command line as a whole: its flags, its commands, and which of them runs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use restow::Session;
use restow::Settings;

use crate::access::RegistryArguments;
use crate::commands::batch;
use crate::commands::cat;
use crate::commands::completions;
use crate::commands::convert;
use crate::commands::copy;
use crate::commands::deploy;
use crate::commands::index;
use crate::commands::inspect;
use crate::commands::ls;
use crate::commands::man;
use crate::commands::optimize;
use crate::commands::predict;
use crate::commands::record;
use crate::commands::sandbox;
use crate::commands::schema;
use crate::commands::store;
use crate::commands::sync;
use crate::commands::tags;
use crate::commands::toc_digest;
use crate::commands::verify;
use crate::commands::version;
use crate::directories;
use crate::flags::try_parse;
use crate::workload;

const REFERENCES: &str = "\
References:
  oci:PATH[:TAG]            an OCI image layout in a directory
  oci-archive:FILE[:TAG]    an OCI image layout in a tar file; FILE may be -
  docker-archive:FILE[:NAME]  what docker save writes; FILE may be -
  docker://HOST/NAME[:TAG]  a registry's image; without HOST, Docker Hub's
  store:NAME                an image in the store that --root says
  PATH[:TAG]                the same: a layout, or an archive if PATH ends in .tar
  A TAG may be left out where the layout holds one image. @DIGEST names one, too.

Exit status:
  0  done
  1  failed; the destination is as it was
  2  the command line is wrong
  3  some of the work of batch, sync or deploy failed, and the rest is done
  130  interrupted; the destination is as it was";

/// Rewrites container image layers so that what a container needs first can be fetched first, verified, file by file
#[derive(Debug, Parser)]
#[command(name = "restow", version, after_help = REFERENCES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Where the store is [default: restow/store in the user's data directory]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Store")]
    pub(crate) root: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) registries: RegistryArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Optimize(Box<optimize::Arguments>),
    Convert(Box<convert::Arguments>),
    Copy(copy::Arguments),
    Batch(batch::Arguments),
    Sync(sync::Arguments),
    Tags(tags::Arguments),
    Index(index::Arguments),
    Deploy(deploy::Arguments),
    Inspect(inspect::Arguments),
    Ls(ls::Arguments),
    Cat(cat::Arguments),
    TocDigest(toc_digest::Arguments),
    Predict(predict::Arguments),
    Record(Box<record::Arguments>),
    #[command(hide = true)]
    Sandbox(sandbox::Arguments),
    Verify(verify::Arguments),
    Store(Box<store::Arguments>),
    Schema(schema::Arguments),
    Version(version::Arguments),
    Completions(completions::Arguments),
    /// Print the manual page in roff
    Man,
}

/// Parses the command line, or says what is wrong with it and exits.
pub(crate) fn parse(words: Vec<OsString>) -> Cli {
    let (cli, _) = try_parse(words).unwrap_or_else(|error| error.exit());
    cli
}

impl Cli {
    /// Returns what the session works with.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        let default = || Some(directories::user("XDG_DATA_HOME", ".local/share")?.join("restow/store"));
        settings.store = self.root.clone().or_else(default);
        self.registries.apply(&mut settings);
        // Where this program is not to be found, nothing can be run, which is told when something is.
        settings.helper = workload::helper().unwrap_or_default();
        match &self.command {
            Command::Optimize(arguments) => arguments.work().apply(&mut settings),
            Command::Convert(arguments) => arguments.work().apply(&mut settings),
            Command::Batch(arguments) => arguments.work().apply(&mut settings),
            Command::Sync(arguments) => arguments.work().apply(&mut settings),
            Command::Record(arguments) => arguments.apply(&mut settings),
            Command::Ls(arguments) => arguments.jobs.apply(&mut settings),
            Command::Cat(arguments) => arguments.jobs.apply(&mut settings),
            Command::Predict(arguments) => arguments.jobs.apply(&mut settings),
            Command::Verify(arguments) => arguments.jobs.apply(&mut settings),
            _ => {}
        }
        settings
    }
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(self, session: &Session) -> anyhow::Result<ExitCode> {
        match self {
            Command::Optimize(arguments) => optimize::run(&arguments, session),
            Command::Convert(arguments) => convert::run(&arguments, session),
            Command::Copy(arguments) => copy::run(&arguments, session),
            Command::Batch(arguments) => batch::run(&arguments, session),
            Command::Sync(arguments) => sync::run(&arguments, session),
            Command::Tags(arguments) => tags::run(&arguments, session),
            Command::Index(arguments) => index::run(&arguments, session),
            Command::Deploy(arguments) => deploy::run(&arguments, session),
            Command::Inspect(arguments) => inspect::run(&arguments, session),
            Command::Ls(arguments) => ls::run(&arguments, session),
            Command::Cat(arguments) => cat::run(&arguments, session),
            Command::TocDigest(arguments) => toc_digest::run(&arguments, session),
            Command::Predict(arguments) => predict::run(&arguments, session),
            Command::Record(arguments) => record::run(&arguments, session),
            Command::Sandbox(arguments) => sandbox::run(&arguments),
            Command::Verify(arguments) => verify::run(&arguments, session),
            Command::Store(arguments) => store::run(&arguments, session),
            Command::Schema(arguments) => schema::run(&arguments),
            Command::Version(arguments) => version::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments, definition()),
            Command::Man => man::run(&definition()),
        }
    }
}

/// Returns the command line as the parser knows it.
pub(crate) fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        definition().debug_assert();
    }
}
