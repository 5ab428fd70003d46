//! `restow ls`: the files of an image.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::files::File;
use restow::files::Files;
use restow::files::Stat;
use restow::image::Image;
use restow_layer::Kind;
use restow_oci::Platform;
use serde_json::Value;
use serde_json::json;

use crate::access::access;
use crate::access::open_source;
use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::TocArguments;
use crate::output;
use crate::output::Table;
use crate::reference;

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
    jobs: JobsArguments,
    /// What stdout holds: a table or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let limits = access().limits().clone();
    let reference = reference::parse(&arguments.reference)?;
    let source = open_source(&reference)?;
    let tables = arguments.toc.open(&reference, &source, &limits)?;
    let image = Image::one(&source, arguments.platform.as_slice(), &limits)?;
    let list = || {
        let files = Files::read(&*source.provider, &image, &tables, &limits, arguments.jobs.count())?;
        output::warn(&files.warnings);
        let found = files.find(&arguments.path)?;
        if found.stat.as_ref().is_none_or(|stat| stat.kind == Kind::Directory) {
            files.list(&found.path, arguments.recursive)
        } else {
            Ok(vec![found])
        }
    };
    let files = list().with_context(|| source.name.clone())?;
    match arguments.format {
        Format::Text => output::print(&table(&files).to_string())?,
        Format::Json => output::print_json(&files.iter().map(document).collect())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(files: &[File]) -> Table {
    let mut table = Table::new(&["mode", ">owner", ">size", "modified", ">layer", "path"]);
    for file in files {
        let layer = file.layer.map_or_else(|| "-".into(), |layer| layer.to_string());
        let path = printable(&file.path);
        let Some(stat) = &file.stat else {
            table.row(["d?????????".into(), "-".into(), "-".into(), "-".into(), layer, path]);
            continue;
        };
        let link = match &file.hard_link {
            Some(target) => format!(" link to {}", printable(target)),
            None if stat.kind == Kind::Symlink => format!(" -> {}", printable(&stat.target)),
            None => String::new(),
        };
        table.row([
            mode(stat),
            format!("{}:{}", stat.uid, stat.gid),
            match stat.kind {
                Kind::Character | Kind::Block => format!("{},{}", stat.device.0, stat.device.1),
                _ => stat.size.to_string(),
            },
            stat.modified.map_or_else(|| "-".into(), |time| time.to_string()),
            layer,
            path + &link,
        ]);
    }
    table
}

fn document(file: &File) -> Value {
    let stat = file.stat.as_ref();
    let device =
        stat.filter(|stat| matches!(stat.kind, Kind::Character | Kind::Block)).map(|stat| stat.device);
    json!({
        "path": file.path,
        "layer": file.layer,
        "type": stat.map_or("directory", |stat| kind(stat.kind).0),
        "mode": stat.map(|stat| format!("{:04o}", stat.mode & 0o7777)),
        "uid": stat.map(|stat| stat.uid),
        "gid": stat.map(|stat| stat.gid),
        "size": stat.map(|stat| stat.size),
        "modified": stat.and_then(|stat| stat.modified).map(|time| time.to_string()),
        "device": device,
        "target": stat.filter(|stat| stat.kind == Kind::Symlink).map(|stat| &stat.target),
        "linkTo": file.hard_link,
    })
}

/// Returns the name of a kind, and the letter for it.
fn kind(kind: Kind) -> (&'static str, char) {
    match kind {
        Kind::Regular | Kind::Sparse => ("file", '-'),
        Kind::Hardlink => ("hard link", 'h'),
        Kind::Symlink => ("symlink", 'l'),
        Kind::Character => ("character device", 'c'),
        Kind::Block => ("block device", 'b'),
        Kind::Directory => ("directory", 'd'),
        Kind::Fifo => ("fifo", 'p'),
        Kind::Other(_) => ("other", '?'),
    }
}

/// Returns the kind and the permissions of a file in ten letters.
fn mode(stat: &Stat) -> String {
    let mut letters = vec![kind(stat.kind).1];
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = stat.mode >> shift;
        letters.push(if bits & 4 != 0 { 'r' } else { '-' });
        letters.push(if bits & 2 != 0 { 'w' } else { '-' });
        letters.push(match (bits & 1 != 0, stat.mode & special != 0) {
            (true, false) => 'x',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (false, false) => '-',
        });
    }
    letters.into_iter().collect()
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
            (Kind::Regular, 0o644, "-rw-r--r--"),
            (Kind::Directory, 0o1777, "drwxrwxrwt"),
            (Kind::Regular, 0o4755, "-rwsr-xr-x"),
            (Kind::Regular, 0o7000, "---S--S--T"),
            (Kind::Symlink, 0o120_777, "lrwxrwxrwx"),
        ] {
            let stat = Stat {
                kind,
                mode: bits,
                size: 0,
                uid: 0,
                gid: 0,
                modified: None,
                target: String::new(),
                device: (0, 0),
            };
            assert_eq!(mode(&stat), expected);
        }
    }
}
