//! The flags that say which files come first.

use std::path::PathBuf;

use clap::Args;
use restow::Order;
use restow_analyze::Wishes;
use restow_analyze::list;
use restow_analyze::record;

use crate::args::parse_size;
use crate::failure::Usage;
use crate::output;
use crate::workload::WorkloadArguments;

/// Bytes of a file that may be fetched for nothing.
pub(crate) const DEFAULT_MAX_UNREAD: &str = "16MiB";

/// The flags by which files are put first. Without any, a prediction says which.
#[derive(Debug, Args)]
#[command(next_help_heading = "Order")]
pub(crate) struct OrderArguments {
    /// Move the files in this list to the front, in its order
    ///
    /// A path or a glob a line; `*` and `?` stop at `/`, `**` does not; `#` starts a comment. A path is followed
    /// through symbolic links, which come along. Where the image has what a glob spells, as `[id].js`, that is meant.
    #[arg(long, value_name = "FILE")]
    prefetch_list: Option<PathBuf>,
    /// Move the files in this record of accesses to the front, in its order, after those of the list
    ///
    /// JSON lines, as ctr-remote writes them with --record-out. Where the image has changed since, files are
    /// found again by their paths.
    #[arg(long, value_name = "FILE")]
    record_in: Option<PathBuf>,
    /// Leave a recorded or predicted file where it is if more than this of it is not needed, in bytes or as 64KiB, 4MiB
    ///
    /// What comes first is fetched whole; of what keeps its place, the chunks that are read. Of chunks of 4 MiB, restow's
    /// records say how many were; predictions know it of a few kinds of files.
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MAX_UNREAD, value_parser = parse_size)]
    max_unread: u64,
    /// Run the image's workload and move what it reads to the front, after the files of the list
    ///
    /// The workload's flags say how. That takes runc, and root or user namespaces and FUSE. Of several images, those for
    /// other platforms than the host's are not run.
    #[arg(long)]
    run: bool,
    /// Write what the workload reads to this file, as --record-in takes it
    #[arg(long, value_name = "FILE", requires = "run", conflicts_with = "no_optimize")]
    record_out: Option<PathBuf>,
    /// Keep the order of the source, whatever else is given; nothing is run then
    #[arg(long)]
    no_optimize: bool,
    #[command(flatten)]
    workload: WorkloadArguments,
}

impl OrderArguments {
    pub(crate) fn order(&self) -> anyhow::Result<Order> {
        if self.no_optimize {
            for (flag, file) in [("prefetch-list", &self.prefetch_list), ("record-in", &self.record_in)] {
                if file.is_some() {
                    output::tell(&format!("warning: with --no-optimize, --{flag} is not heeded"));
                }
            }
            return Ok(Order::default());
        }
        if self.run && self.record_in.is_some() {
            return Err(
                Usage("--run and --record-in both say what is read first; give one of them".into()).into()
            );
        }
        if self.workload.given() && !self.run {
            return Err(Usage("the workload's flags mean nothing without --run".into()).into());
        }
        let list = self.prefetch_list.as_deref().map(list::load).transpose()?;
        let record = self.record_in.as_deref().map(record::load).transpose()?;
        let wishes = Wishes {
            list: list.unwrap_or_default(),
            record: record.unwrap_or_default(),
            most_unread: Some(self.max_unread),
        };
        Ok(if self.run {
            Order::Run {
                wishes,
                container: Box::new(self.workload.container()?),
                record_out: self.record_out.clone(),
            }
        } else if self.prefetch_list.is_none() && self.record_in.is_none() {
            Order::Predicted { most_unread: self.max_unread }
        } else {
            Order::Said(wishes)
        })
    }
}
