//! `restow cat`: the content of one file of an image.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::files::Files;
use restow::image::Image;
use restow_oci::Platform;

use crate::access::access;
use crate::access::open_source;
use crate::args::JobsArguments;
use crate::args::TocArguments;
use crate::output;
use crate::reference;

/// Print a file of an image, without unpacking it
///
/// PATH is followed through links, as in a container. From a seekable layer nothing but the chunks of the file is read,
/// and every chunk is verified before it is printed; any other layer is read and verified as a whole.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// The file
    #[arg(value_name = "PATH")]
    path: OsString,
    /// Take the image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Option<Platform>,
    #[command(flatten)]
    toc: TocArguments,
    #[command(flatten)]
    jobs: JobsArguments,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let limits = access().limits().clone();
    let reference = reference::parse(&arguments.reference)?;
    let source = open_source(&reference)?;
    let tables = arguments.toc.open(&reference, &source, &limits)?;
    let image = Image::one(&source, arguments.platform.as_slice(), &limits)?;
    let copy = || {
        let files = Files::read(&*source.provider, &image, &tables, &limits, arguments.jobs.count())?;
        output::warn(&files.warnings);
        let file = files.find(&arguments.path)?;
        Ok(files.copy(&file, &mut io::stdout().lock())?)
    };
    match copy() {
        // A reader that has left (`restow cat … | head`) is no error.
        Err(error) if output::is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result.with_context(|| source.name.clone()).map(|()| ExitCode::SUCCESS),
    }
}
