//! `restow optimize`: convert an image's layers, what is read first put first.

use std::process::ExitCode;

use clap::Args;
use restow::Order;
use restow::Session;

use crate::args::WorkArguments;
use crate::conversion::ConversionArguments;
use crate::conversion::ImageArguments;
use crate::conversion::Job;
use crate::format::FormatArguments;
use crate::order::OrderArguments;

const EXAMPLES: &str = "\
Examples:
  restow optimize oci:app:v1 oci:app:v1-lazy --zstdchunked
  restow optimize app.tar ./out:latest --zstdchunked --prefetch-list first.txt --all-platforms";

/// Rewrite an image's layers so that single files can be fetched, those that are read first at the front
///
/// The destination is replaced in one step, once all of it is written and verified. The digest of the new
/// image goes to stdout, everything else to stderr.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[command(mut_group("seekable", |group| group.required(true)))]
pub(crate) struct Arguments {
    #[command(flatten)]
    images: ImageArguments,
    #[command(flatten)]
    format: FormatArguments,
    #[command(flatten)]
    order: OrderArguments,
    #[command(flatten)]
    conversion: ConversionArguments,
}

impl Arguments {
    pub(crate) fn job(&self) -> anyhow::Result<Job<'_>> {
        let Arguments { images, format, order, conversion } = self;
        let order = match order.order()? {
            // Nothing may move there, and nobody asked that it should.
            Order::Predicted { .. } if format.keeps_order() => Order::default(),
            order => order,
        };
        let layers = format.layers(order, &images.tags()?)?;
        let options = conversion.options(layers, format.zstdchunked)?;
        Ok(Job { images, arguments: conversion, options })
    }

    pub(crate) fn work(&self) -> &WorkArguments {
        &self.conversion.work
    }
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    arguments.job()?.run(session)
}
