//! `restow man`: the manual page.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::output;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let mut page = Vec::new();
    let command = Cli::command();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for command in command.get_subcommands() {
        // One page for all: a section for each command, its title line left out.
        let mut section = Vec::new();
        let man = clap_mangen::Man::new(command.clone().bin_name(format!("restow {}", command.get_name())));
        man.render_synopsis_section(&mut section)?;
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        page.extend(section);
    }
    output::print(String::from_utf8(page)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
