//! `restow sandbox`: this program as a part of the sandbox that it makes; not for people.

use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::process::ExitCode;

use clap::Args;
use clap::ValueEnum;
use restow_analyze::sandbox;

use crate::workload::helper;

/// Be a part of a sandbox
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which part
    #[arg(value_enum)]
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Outer,
    Inner,
    Serve,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match arguments.role {
        Role::Outer => {
            let code = sandbox::outer(command("inner")?, caller()?)?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Role::Inner => {
            sandbox::inner(caller()?, command("serve")?)?;
            Ok(ExitCode::SUCCESS)
        }
        Role::Serve => {
            sandbox::serve(caller()?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns the command that starts this program as another part.
fn command(role: &str) -> anyhow::Result<Command> {
    let helper = helper()?;
    let mut command = Command::new(&helper[0]);
    command.args(&helper[1..]).arg(role);
    Ok(command)
}

/// Returns the socket that leads to who makes the sandbox; it speaks both ways.
fn caller() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}
