//! `restow completions`: what a shell completes.

use std::process::ExitCode;

use clap::Args;
use clap::Command;
use clap_complete::Shell;

use crate::output;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The shell to complete for
    shell: Shell,
}

/// Prints the script for the command line of this definition.
pub(crate) fn run(arguments: &Arguments, mut definition: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut definition, "restow", &mut script);
    output::print(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
