//! What may stand on the command line, as close to it as possible, and what several commands share.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::Args;
use clap::Id;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use restow::toc_image::Tables;
use restow_convert::Platforms;
use restow_oci::Limits;
use restow_oci::Platform;
use restow_registry::Existing;
use restow_registry::Reference;
use restow_registry::Source;
use restow_registry::Transfer;

use crate::access::RegistryArguments;
use crate::access::access;
use crate::commands::batch;
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
use crate::commands::sync;
use crate::commands::tags;
use crate::commands::toc_digest;
use crate::commands::verify;
use crate::commands::version;
use crate::reference;

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
  3  some of the work of batch, sync or deploy failed, and the rest is done
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
    Batch(batch::Arguments),
    Sync(sync::Arguments),
    Tags(tags::Arguments),
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
    let (cli, _) = try_parse(words).unwrap_or_else(|error| error.exit());
    cli
}

/// Parses words, and returns what they say of the subcommand, too.
fn try_parse<P: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<(P, ArgMatches), clap::Error> {
    let mut command = P::command();
    let mut matches = command.try_get_matches_from_mut(words)?;
    let said = matches.subcommand().map(|(_, matches)| matches.clone()).unwrap_or_default();
    if let Some(problem) = orphan(&said) {
        return Err(command.error(ErrorKind::MissingRequiredArgument, problem));
    }
    let parsed = P::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    Ok((parsed, said))
}

/// What a job of a batch may be.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    Optimize(Box<optimize::Arguments>),
    Convert(Box<convert::Arguments>),
    Copy(copy::Arguments),
}

#[derive(Debug, Parser)]
#[command(name = "restow", no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
struct JobLine {
    #[command(subcommand)]
    job: Job,
}

/// Flags of a job that have no meaning in a batch, and where to turn instead.
const FOREIGN: [(&str, &str); 8] = [
    ("format", "there is a line of JSON for each job"),
    ("run", "give the workload's record with --record-in; `restow record` writes it"),
    ("jobs", WHOLE_BATCH),
    ("tmp_dir", WHOLE_BATCH),
    ("cache_dir", WHOLE_BATCH),
    ("no_cache", WHOLE_BATCH),
    ("progress", WHOLE_BATCH),
    ("quiet", WHOLE_BATCH),
];
const WHOLE_BATCH: &str = "it is for the batch as a whole";

/// Parses the words of a job of a batch, or returns what is wrong with them.
pub(crate) fn parse_job(words: &[String]) -> Result<Job, String> {
    if words.is_empty() {
        return Err("expected optimize, convert or copy".into());
    }
    let (JobLine { job }, said) =
        try_parse(words.iter().map(OsString::from)).map_err(|error| first_paragraph(&error))?;
    let given = |id: &str| {
        said.ids().any(|known| known == id) && said.value_source(id) == Some(ValueSource::CommandLine)
    };
    match FOREIGN.iter().find(|(id, _)| given(id)) {
        Some((id, why)) => Err(format!("--{} is not for a job of a batch: {why}", id.replace('_', "-"))),
        None => Ok(job),
    }
}

/// Returns what the parser says is wrong on one line, without the usage that it shows behind.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
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
    /// Tells whether the images were chosen, or only one of them taken because nobody said which.
    pub(crate) fn said(&self) -> bool {
        self.all_platforms || !self.platform.is_empty()
    }

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

/// Where the tables of layers are that have none of their own.
#[derive(Debug, Args)]
pub(crate) struct TocArguments {
    /// The image that holds the tables of contents of the eStargz layers without one [default: TAG-esgztoc beside REF,
    /// or what refers to REF]
    #[arg(long, value_name = "REF")]
    toc_image: Option<String>,
}

impl TocArguments {
    /// Gets ready to look for the tables of an image. The one that was asked for by name must be there.
    pub(crate) fn open<'a>(
        &self,
        reference: &'a Reference,
        source: &'a Source,
        limits: &'a Limits,
    ) -> anyhow::Result<Tables<'a>> {
        let beside = Tables::beside(access(), reference, source, limits);
        match &self.toc_image {
            Some(text) => Ok(beside.named(&reference::parse(text)?)?),
            None => Ok(beside),
        }
    }
}

/// How many threads work.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct JobsArguments {
    /// How many threads to work with [default: as many as there are CPUs]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = parse_jobs)]
    jobs: Option<NonZeroUsize>,
}

/// More threads than any machine has CPUs only take memory from each other.
const MOST_JOBS: usize = 1024;

fn parse_jobs(text: &str) -> Result<NonZeroUsize, String> {
    let jobs = text.parse().ok().filter(|jobs: &NonZeroUsize| jobs.get() <= MOST_JOBS);
    jobs.ok_or_else(|| format!("it must be a number from 1 to {MOST_JOBS}"))
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

/// What becomes of an image that a registry has already.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RepairArguments {
    /// Look for all parts of the image in the registry, though DST means it already, and send those that are lost
    ///
    /// Without it, a name that means the image is left. Other places are looked through in any case.
    #[arg(long)]
    repair: bool,
}

impl RepairArguments {
    pub(crate) fn existing(self) -> Existing {
        if self.repair { Existing::Repair } else { Existing::Trust }
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
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        JobLine::command().debug_assert();
    }

    #[test]
    fn a_job_has_the_flags_of_its_command_but_those_of_the_whole_batch() {
        let problem = |line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            parse_job(&words).err()
        };
        for line in [
            "optimize a b --zstdchunked --platform linux/amd64",
            "convert a b --gzip --gzip-compression-level 1",
            "copy a b c --tag d",
        ] {
            assert_eq!(problem(line), None, "{line}");
        }
        let whole = |flag: &str| format!("{flag} is not for a job of a batch: {WHOLE_BATCH}");
        for (line, expected) in [
            ("", "expected optimize, convert or copy"),
            ("verify a", "unrecognized subcommand 'verify'"),
            ("batch jobs", "unrecognized subcommand 'batch'"),
            ("copy a", "the following required arguments were not provided: <DST>..."),
            ("copy a b --help", "unexpected argument '--help' found"),
            ("copy a b --root x", "unexpected argument '--root' found"),
            ("--root x copy a b", "unexpected argument '--root' found"),
            ("copy a b --plain-http", "unexpected argument '--plain-http' found"),
            (
                "convert a b --zstd --estargz-chunk-size 4KiB",
                "--estargz-chunk-size means something with --estargz only",
            ),
            ("copy a b --quiet", &whole("--quiet")),
            ("copy a b --progress none", &whole("--progress")),
            ("optimize a b --zstdchunked --jobs 2", &whole("--jobs")),
            ("convert a b --zstd --no-cache", &whole("--no-cache")),
            (
                "copy a b --format json",
                "--format is not for a job of a batch: there is a line of JSON for each job",
            ),
        ] {
            assert_eq!(problem(line).as_deref(), Some(expected), "{line}");
        }
        let run = problem("optimize a b --zstdchunked --run");
        assert!(run.is_some_and(|problem| problem.starts_with("--run is not for a job of a batch")));
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
