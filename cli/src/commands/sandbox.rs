//! `restow sandbox`: this program as a part of the sandbox that it makes; not for people.

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use clap::Args;
use clap::ValueEnum;
use restow_analyze::sandbox;

use crate::recorder;

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
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match arguments.role {
        Role::Outer => {
            let code = sandbox::outer(recorder::helper("inner")?)?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Role::Inner => {
            // A socket: it speaks both ways.
            sandbox::inner(io::stdout().as_fd().try_clone_to_owned()?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
