//! What may stand on the command line, as close to it as possible, and what several commands share.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::Args;
use clap::CommandFactory as _;
use clap::FromArgMatches as _;
use clap::Id;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use restow_convert::Platforms;
use restow_oci::Platform;
use restow_registry::Transfer;

use crate::access::RegistryArguments;
use crate::commands::cat;
use crate::commands::completions;
use crate::commands::convert;
use crate::commands::copy;
use crate::commands::deploy;
use crate::commands::index;
use crate::commands::inspect;
use crate::commands::ls;
use crate::commands::optimize;
use crate::commands::predict;
use crate::commands::record;
use crate::commands::sandbox;
use crate::commands::store;
use crate::commands::toc_digest;
use crate::commands::verify;
use crate::commands::version;

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
    Version(version::Arguments),
    Completions(completions::Arguments),
    /// Print the manual page in roff
    Man,
}

/// Formats whose name begins the names of flags that mean nothing without them.
const FORMATS: [&str; 4] = ["zstdchunked", "estargz", "zstd", "gzip"];

/// Parses the command line, or says what is wrong with it and exits.
pub(crate) fn parse(words: Vec<OsString>) -> Cli {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(words).unwrap_or_else(|error| error.exit());
    let problem = matches.subcommand().and_then(|(_, matches)| orphan(matches));
    if let Some(problem) = problem {
        command.error(ErrorKind::MissingRequiredArgument, problem).exit();
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// Finds a flag of a format that is not asked for. The parser itself would require the format, but not where another
/// one, which excludes it, is asked for.
fn orphan(matches: &ArgMatches) -> Option<String> {
    let given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let given: Vec<_> = matches.ids().map(Id::as_str).filter(given).collect();
    given.iter().find_map(|id| {
        let of = |format: &&str| id.strip_prefix(*format).is_some_and(|rest| rest.starts_with('_'));
        let format = FORMATS.into_iter().find(of).filter(|format| !given.contains(format))?;
        Some(format!("--{} means something with --{format} only", id.replace('_', "-")))
    })
}

/// Which images of an index are meant.
#[derive(Debug, Args)]
pub(crate) struct PlatformArguments {
    /// Take the image for this platform, for instance linux/arm64/v8; may be given several times
    ///
    /// Without it, the host's platform is taken, or the only image if there is just one.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse, value_delimiter = ',')]
    pub(crate) platform: Vec<Platform>,
    /// Take the images for all platforms
    #[arg(long, conflicts_with = "platform")]
    pub(crate) all_platforms: bool,
}

impl PlatformArguments {
    pub(crate) fn choice(&self) -> Platforms {
        match self.platform.as_slice() {
            _ if self.all_platforms => Platforms::All,
            [] => Platforms::Prefer(Platform::host()),
            platforms => Platforms::Only(platforms.to_vec()),
        }
    }
}

/// How much is told while work goes on.
#[derive(Debug, Args)]
pub(crate) struct ProgressArguments {
    /// How to show progress on stderr: bars on a terminal, a line per layer, JSON lines, or not
    ///
    /// auto is bars on a terminal and plain elsewhere.
    #[arg(long, value_enum, value_name = "HOW", default_value_t, conflicts_with = "quiet")]
    pub(crate) progress: ProgressMode,
    /// Say nothing on stderr but warnings and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    #[default]
    Auto,
    Plain,
    Json,
    None,
}

/// What stdout holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// How many threads work.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct JobsArguments {
    /// How many threads to work with [default: as many as there are CPUs]; the result does not depend on it
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

impl JobsArguments {
    pub(crate) fn count(self) -> NonZeroUsize {
        self.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// How blobs come over.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LinkArguments {
    /// Share files with the other side where the file system can, without reading them
    ///
    /// Only sizes are compared then: for sides that are trusted. Otherwise every byte is verified.
    #[arg(long)]
    link: bool,
}

impl LinkArguments {
    pub(crate) fn how(self) -> Transfer {
        if self.link { Transfer::Link } else { Transfer::Copy }
    }
}

/// Parses a number of bytes, with or without a binary unit.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kib" | "k" => 10,
        "mib" | "m" => 20,
        "gib" | "g" => 30,
        _ => return Err("expected a number of bytes, or one with KiB, MiB or GiB".into()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number of bytes, such as 4MiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than 2^64 bytes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4194304", Some(4 << 20)),
            ("4MiB", Some(4 << 20)),
            ("4 mib", Some(4 << 20)),
            ("64k", Some(64 << 10)),
            ("1GiB", Some(1 << 30)),
            ("1.5MiB", None),
            ("MiB", None),
            ("-1", None),
            ("4MB", None),
            ("18446744073709551616", None),
            ("17179869184GiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }
}
