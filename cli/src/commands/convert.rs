//! `restow convert`: give an image's layers another format.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use restow::Order;
use restow::Session;
use restow::Target;
use restow_analyze::Wishes;
use restow_analyze::record;
use restow_convert::MediaTypes;
use restow_layer::Recompression;

use crate::args::WorkArguments;
use crate::conversion::ConversionArguments;
use crate::conversion::ImageArguments;
use crate::conversion::Job;
use crate::failure::Usage;
use crate::format::FormatArguments;

const EXAMPLES: &str = "\
Examples:
  restow convert oci:app:v1 oci:app:v1-lazy --zstdchunked --zstdchunked-record-in first.json
  restow convert oci:app:v1 oci:app:v1-zstd --zstd --zstd-compression-level 12
  restow convert oci:app:v1 oci:app:v1-docker --gzip --docker";

/// Give an image's layers another format, seekable or not, or the whole image other media types
///
/// What an earlier conversion left in the layers goes: tables of contents, landmarks, annotations. A layer in which no
/// file was moved has its old DiffID again. The destination is replaced in one step, once all of it is written
/// and verified. The digest of the new image goes to stdout, everything else to stderr.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    images: ImageArguments,
    #[command(flatten)]
    format: FormatArguments,
    /// Move the files in this record of accesses to the front, in its order
    ///
    /// JSON lines, as ctr-remote writes them with --record-out. Where the image has changed since, files are
    /// found again by their paths.
    #[arg(long, value_name = "FILE")]
    zstdchunked_record_in: Option<PathBuf>,
    /// The same for eStargz
    #[arg(long, value_name = "FILE")]
    estargz_record_in: Option<PathBuf>,
    #[command(flatten)]
    ordinary: OrdinaryArguments,
    #[command(flatten)]
    conversion: ConversionArguments,
}

#[derive(Debug, Args)]
struct OrdinaryArguments {
    /// Write ordinary zstd layers, in frames of 8 MiB
    #[arg(long, conflicts_with_all = ["zstdchunked", "estargz", "landmark"])]
    zstd: bool,
    /// How hard to compress, from 1 (fast) to 22 (small)
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=22))]
    zstd_compression_level: i32,
    /// Write ordinary gzip layers, in members of 8 MiB
    #[arg(long, conflicts_with_all = ["zstdchunked", "estargz", "landmark", "zstd"])]
    gzip: bool,
    /// How hard to compress, from 1 (fast) to 12 (small)
    #[arg(long, value_name = "LEVEL", default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=12))]
    gzip_compression_level: i32,
    /// Write layers that are not compressed
    #[arg(long, conflicts_with_all = ["zstdchunked", "estargz", "landmark", "zstd", "gzip"])]
    uncompress: bool,
    /// Make the whole image Docker's, whose layers are gzip or not compressed and have no annotations
    #[arg(long, conflicts_with_all = ["zstdchunked", "estargz", "zstd", "oci"])]
    docker: bool,
}

impl OrdinaryArguments {
    fn recompression(&self) -> Option<Recompression> {
        if self.zstd {
            Some(Recompression::Zstd { level: self.zstd_compression_level })
        } else if self.gzip {
            Some(Recompression::Gzip { level: self.gzip_compression_level })
        } else {
            self.uncompress.then_some(Recompression::None)
        }
    }
}

impl Arguments {
    pub(crate) fn job(&self) -> anyhow::Result<Job<'_>> {
        let Arguments { images, format, ordinary, conversion, .. } = self;
        let media_types = if ordinary.docker { MediaTypes::Docker } else { conversion.media_types() };
        let target = match ordinary.recompression() {
            Some(recompression) => Target::Ordinary(recompression),
            None if format.is_given() => {
                let record = self.zstdchunked_record_in.as_ref().or(self.estargz_record_in.as_ref());
                let record = record.map(|path| record::load(path)).transpose()?;
                let wishes = Wishes { record: record.unwrap_or_default(), ..Wishes::default() };
                Target::Seekable(format.layers(Order::Said(wishes), &images.tags()?)?)
            }
            None if media_types != MediaTypes::Keep => Target::Same,
            None => {
                return Err(Usage(
                    "what is the image to become? --zstdchunked, --estargz, --zstd, --gzip and --uncompress say so of its \
                     layers, --oci and --docker of its media types"
                        .into(),
                )
                .into());
            }
        };
        let mut options = conversion.options(target, format.zstdchunked)?;
        options.media_types = media_types;
        Ok(Job { images, arguments: conversion, options })
    }

    pub(crate) fn work(&self) -> &WorkArguments {
        &self.conversion.work
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    arguments.job()?.run(session)
}
