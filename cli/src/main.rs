//! The `restow` command: flags in, words and exit codes out.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests fail by panicking"))]

mod access;
mod args;
mod commands;
mod conversion;
mod destination;
mod directories;
mod failure;
mod format;
mod interrupt;
mod jobs;
mod order;
mod output;
mod progress;
mod readers;
mod readership;
mod reference;
mod report;
mod transfer;
mod workload;
mod workshop;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::parse(command_line(std::env::args_os()));
    // A part of a sandbox ends as the sandbox does, and may have no further threads.
    if let args::Command::Sandbox(arguments) = &cli.command {
        return commands::sandbox::run(arguments).unwrap_or_else(|error| fail(&error));
    }
    reference::set_root(cli.root);
    let cancel = match interrupt::watch() {
        Ok(cancel) => cancel,
        Err(error) => return fail(&error),
    };
    access::set_up(&cli.registries);
    let outcome = commands::run(cli.command, &cancel);
    if cli.registries.registry_stats {
        access::tell_requests();
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
fn command_line(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
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
