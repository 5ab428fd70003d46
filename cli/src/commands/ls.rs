//! `restow ls`: the files of an image.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;
use restow::ReadOptions;
use restow::Session;
use restow::report::FileKind;
use restow::report::FileReport;
use restow_oci::Platform;

use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::TocArguments;
use crate::output;
use crate::output::Table;

/// List the files of an image as a container sees them, without unpacking it
///
/// Layers are merged, what they delete is left out, and PATH is followed through symbolic links. Bytes of names that are
/// not UTF-8 are spelled \xNN; PATH may be either. Layers with a table of
/// contents that the manifest vouches for are not read any further; others are, to their ends.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// A directory to list the files of, or a file
    #[arg(value_name = "PATH", default_value = "/", hide_default_value = true)]
    path: OsString,
    /// List what is in directories below, too
    #[arg(short, long)]
    recursive: bool,
    /// Take the image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Option<Platform>,
    #[command(flatten)]
    toc: TocArguments,
    #[command(flatten)]
    pub(crate) jobs: JobsArguments,
    /// What stdout holds: a table or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = ReadOptions::default();
    options.platforms.extend(arguments.platform.clone());
    options.toc_image = arguments.toc.reference(session)?;
    let image = session.reference(&arguments.reference)?;
    let report = session.list(image, &arguments.path, arguments.recursive, &options)?;
    match arguments.format {
        Format::Text => output::print(&table(&report.files).to_string())?,
        Format::Json => output::print_json(&report)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(files: &[FileReport]) -> Table {
    let mut table = Table::new(&["mode", ">owner", ">size", "modified", ">layer", "path"]);
    for file in files {
        let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let path = printable(&file.path);
        let link = match (&file.link_to, &file.target) {
            (Some(target), _) => format!(" link to {}", printable(target)),
            (None, Some(target)) => format!(" -> {}", printable(target)),
            (None, None) => String::new(),
        };
        let size = match file.device {
            Some((major, minor)) => Some(format!("{major},{minor}")),
            None => file.size.map(|size| size.to_string()),
        };
        table.row([
            file.mode.map_or_else(|| "d?????????".into(), |bits| mode(file.kind, bits)),
            known(file.uid.zip(file.gid).map(|(user, group)| format!("{user}:{group}"))),
            known(size),
            known(file.modified.map(|time| time.to_string())),
            known(file.layer.map(|layer| layer.to_string())),
            path + &link,
        ]);
    }
    table
}

/// Returns the kind and the permissions of a file in ten letters.
fn mode(kind: FileKind, bits: i64) -> String {
    let mut letters = vec![letter(kind)];
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let of = bits >> shift;
        letters.push(if of & 4 != 0 { 'r' } else { '-' });
        letters.push(if of & 2 != 0 { 'w' } else { '-' });
        letters.push(match (of & 1 != 0, bits & special != 0) {
            (true, false) => 'x',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (false, false) => '-',
        });
    }
    letters.into_iter().collect()
}

fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::File => '-',
        FileKind::HardLink => 'h',
        FileKind::Symlink => 'l',
        FileKind::CharacterDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Directory => 'd',
        FileKind::Fifo => 'p',
        _ => '?',
    }
}

/// Returns a name that keeps to its line, and to the colours of the terminal.
fn printable(name: &str) -> String {
    let printable = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    name.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_ten_letters() {
        for (kind, bits, expected) in [
            (FileKind::File, 0o644, "-rw-r--r--"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::File, 0o4755, "-rwsr-xr-x"),
            (FileKind::File, 0o7000, "---S--S--T"),
            (FileKind::Symlink, 0o120_777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode(kind, bits), expected);
        }
    }
}
