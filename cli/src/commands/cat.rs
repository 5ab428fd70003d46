//! `restow cat`: the content of one file of an image.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Args;
use restow::ReadOptions;
use restow::Session;
use restow_oci::Platform;

use crate::args::JobsArguments;
use crate::args::TocArguments;

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
    pub(crate) jobs: JobsArguments,
}

pub(crate) fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<ExitCode> {
    let mut options = ReadOptions::default();
    options.platforms.extend(arguments.platform.clone());
    options.toc_image = arguments.toc.reference(session)?;
    let image = session.reference(&arguments.reference)?;
    match session.cat(image, &arguments.path, &options, &mut io::stdout().lock()) {
        // A reader that has left (`restow cat … | head`) is no error.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => Ok(result.map(|()| ExitCode::SUCCESS)?),
    }
}

fn is_broken_pipe(error: &restow::Error) -> bool {
    match error {
        restow::Error::At { source, .. } => is_broken_pipe(source),
        restow::Error::Io(error) => error.kind() == io::ErrorKind::BrokenPipe,
        _ => false,
    }
}
