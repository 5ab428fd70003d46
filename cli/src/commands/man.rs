//! `restow man`: the manual page.

use std::process::ExitCode;

use clap::Command;

use crate::output;

/// Prints the page for the command line of this definition.
pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let mut page = Vec::new();
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
