//! Arguments that several commands share.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;
use restow::Session;
use restow::Settings;
use restow_convert::Platforms;
use restow_oci::Platform;
use restow_registry::Existing;
use restow_registry::Reference;
use restow_registry::Transfer;

use crate::directories;

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

/// Where the tables of layers are that have none of their own.
#[derive(Debug, Args)]
pub(crate) struct TocArguments {
    /// The image that holds the tables of contents of the eStargz layers without one [default: TAG-esgztoc beside REF,
    /// or what refers to REF]
    #[arg(long, value_name = "REF")]
    toc_image: Option<String>,
}

impl TocArguments {
    /// Returns the image that was named.
    pub(crate) fn reference(&self, session: &Session) -> restow::Result<Option<Reference>> {
        self.toc_image.as_deref().map(|text| session.reference(text)).transpose()
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
    /// Writes the number into the settings, if one was given.
    pub(crate) fn apply(self, settings: &mut Settings) {
        settings.threads = self.or(settings.threads);
    }

    /// Returns the number that was given, or else `default`.
    pub(crate) fn or(self, default: NonZeroUsize) -> NonZeroUsize {
        self.jobs.unwrap_or(default)
    }
}

/// What the work takes, whatever is done.
#[derive(Debug, Args)]
pub(crate) struct WorkArguments {
    #[command(flatten)]
    jobs: JobsArguments,
    /// Where temporary files go [default: the destination's directory]
    ///
    /// They hold compressed data: the layers in which files move to the front, and tables of contents that
    /// outgrow memory.
    #[arg(long, value_name = "DIR")]
    tmp_dir: Option<PathBuf>,
    /// Where to remember things between runs [default: restow in the user's cache directory]
    ///
    /// Of a converted layer, a digest and some numbers are remembered, at most 64 KiB for each of at most 65,536 layers;
    /// of an image, the order of its files, at most 1 MiB for each of at most 256 images. With --run, images are unpacked
    /// there too [default: where the store is].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Remember nothing and recall nothing of other runs: convert every layer
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,
}

impl WorkArguments {
    /// Writes them into the settings.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        self.jobs.apply(settings);
        settings.temporary.clone_from(&self.tmp_dir);
        if !self.no_cache {
            settings.cache = self.cache_dir.clone().or_else(directories::cache);
            settings.roots = self.cache_dir.clone().or_else(|| settings.store.clone());
        }
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
    use super::*;

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
