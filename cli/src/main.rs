//! The `restow` command: flags in, words and exit codes out.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod access;
mod args;
mod command_line;
mod commands;
mod conversion;
mod directories;
mod failure;
mod flags;
mod format;
mod interrupt;
mod jobs;
mod order;
mod output;
mod progress;
mod readers;
mod report;
mod workload;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use restow::Session;

use crate::command_line::Command;
use crate::progress::Warnings;

fn main() -> ExitCode {
    let cli = command_line::parse(words(std::env::args_os()));
    // A part of a sandbox ends as the sandbox does, and may have no further threads.
    if let Command::Sandbox(arguments) = &cli.command {
        return commands::sandbox::run(arguments).unwrap_or_else(|error| fail(&error));
    }
    let session = match Session::new(cli.settings()) {
        Ok(session) => session.job(Arc::new(Warnings)),
        Err(error) => return fail(&error.into()),
    };
    if let Err(error) = interrupt::watch(&session) {
        return fail(&error);
    }
    let outcome = cli.command.run(&session);
    if cli.registries.registry_stats {
        access::tell_requests(&session);
    }
    match outcome {
        Ok(code) => code,
        // Whatever an interrupted command says is about the interruption.
        Err(_) if interrupt::happened() => {
            output::tell("interrupted");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => fail(&error),
    }
}

/// Returns the arguments to parse: the program called by the name `optimize` is `restow optimize`.
fn words(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = arguments.collect();
    let called = arguments.first().and_then(|name| Path::new(name).file_stem());
    if called.is_some_and(|name| name == "optimize") {
        arguments.splice(..1, ["restow".into(), "optimize".into()]);
    }
    arguments
}

fn fail(error: &anyhow::Error) -> ExitCode {
    output::tell(&format!("error: {}", failure::describe(error)));
    if let Some(hint) = failure::hint(error) {
        output::tell(&format!("hint: {hint}"));
    }
    ExitCode::from(if failure::is_usage(error) { 2 } else { 1 })
}
