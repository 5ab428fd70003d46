//! `restow toc-digest`: what vouches for the tables of contents of an image's layers.

use std::process::ExitCode;

use clap::Args;
use restow::ReadOptions;
use restow::Session;
use restow_oci::Digest;
use restow_oci::Platform;

use crate::args::TocArguments;
use crate::output;

/// Print the digest of a layer's table of contents, or of the tables of all layers
///
/// The table is read, checked, and held to what the manifest says of it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// The layer, counted from 0; without it each layer gets a line: position, digest, digest of the table or -
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    #[command(flatten)]
    elsewhere: TocArguments,
    /// Take the image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Option<Platform>,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = ReadOptions::default();
    options.platforms.extend(arguments.platform.clone());
    options.toc_image = arguments.elsewhere.reference(session)?;
    let image = session.reference(&arguments.reference)?;
    for found in session.toc_digests(image, arguments.layer, &options)? {
        let toc = found.toc.as_ref().map_or("-", Digest::as_str);
        match arguments.layer {
            Some(_) => output::print(toc)?,
            None => output::print(&format!("{} {} {toc}", found.position, found.layer))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
