//! `restow toc-digest`: what vouches for the tables of contents of an image's layers.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::blob::LayerBlob;
use restow::image::Image;
use restow::toc_image::Tables;
use restow_layer::Depth;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_layer::verify;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Platform;
use restow_registry::Source;

use crate::access::access;
use crate::access::open_source;
use crate::args::TocArguments;
use crate::output;
use crate::reference;

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

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let limits = access().limits().clone();
    let reference = reference::parse(&arguments.reference)?;
    let source = open_source(&reference)?;
    let elsewhere = arguments.elsewhere.open(&reference, &source, &limits)?;
    let image = Image::one(&source, arguments.platform.as_slice(), &limits)?;
    let digest = |position: usize, layer: &Descriptor| {
        let digest = toc_digest(&source, &elsewhere, &image.descriptor.digest, layer, &limits);
        digest.with_context(|| format!("{}: layer {position}, {}", source.name, layer.digest))
    };
    if let Some(position) = arguments.layer {
        let found = digest(position, image.layer(&source, position)?)?;
        let missing = || format!("{}: layer {position} has no table of contents", source.name);
        output::print(found.with_context(missing)?.as_str())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (position, layer) in image.manifest.layers().iter().enumerate() {
        let found = digest(position, layer)?;
        let found = found.as_ref().map_or("-", Digest::as_str);
        output::print(&format!("{position} {} {found}", layer.digest))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the digest of a layer's table, or nothing if it has none of its own.
fn toc_digest(
    source: &Source,
    elsewhere: &Tables<'_>,
    manifest: &Digest,
    layer: &Descriptor,
    limits: &Limits,
) -> anyhow::Result<Option<Digest>> {
    if !matches!(layer.media_type.kind(), Kind::Layer { .. }) {
        return Ok(None);
    }
    let blob = LayerBlob::open(&*source.provider, layer)?.with_table(manifest, &layer.digest, elsewhere)?;
    if !blob.is_seekable() {
        return Ok(None);
    }
    let hints = blob.hints().clone();
    let options =
        VerifyOptions { hints, depth: Depth::Toc, limits: limits.clone(), ..VerifyOptions::default() };
    Ok(Some(verify(&blob, &options, &Workers::new(1)?)?.toc_digest))
}
