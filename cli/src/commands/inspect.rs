//! `restow inspect`: what an image is made of.

use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::blob::LayerBlob;
use restow::image::Image;
use restow::toc_image::Tables;
use restow_convert::Platforms;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_registry::Gap;
use restow_registry::Needs;
use restow_registry::Source;
use restow_registry::Whole;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::json;

use crate::access::access;
use crate::access::open_source;
use crate::args::Format;
use crate::args::TocArguments;
use crate::output;
use crate::output::Table;
use crate::reference;

/// Print the images of a reference and their layers
///
/// Blobs are looked into, not read in full: `restow verify` does that. What an index names and cannot be had is listed, too.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// Print the table of contents of this layer, counted from 0, as it stands in the blob
    #[arg(long, value_name = "N", conflicts_with = "format")]
    toc: Option<usize>,
    #[command(flatten)]
    elsewhere: TocArguments,
    /// Show only the image for this platform, in all its forms; may be given several times
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// What stdout holds: tables or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let limits = access().limits().clone();
    let reference = reference::parse(&arguments.reference)?;
    let source = open_source(&reference)?;
    if let Some(position) = arguments.toc {
        let elsewhere = arguments.elsewhere.open(&reference, &source, &limits)?;
        let image = Image::one(&source, &arguments.platform, &limits)?;
        print_toc(&source, &elsewhere, &image, position, &limits)?;
        return Ok(ExitCode::SUCCESS);
    }
    let platforms = match arguments.platform.as_slice() {
        [] => Platforms::All,
        platforms => Platforms::Only(platforms.to_vec()),
    };
    let Looked { source, images, gaps } = look(source, &platforms, &limits)?;
    let elsewhere = arguments.elsewhere.open(&reference, &source, &limits)?;
    match arguments.format {
        Format::Text => {
            let gaps = gaps.iter().map(|gap| format!("\nnot whole: {gap}"));
            let text = [tables(&source, &elsewhere, &images, &limits)].into_iter().chain(gaps);
            output::print(&text.collect::<String>())?;
        }
        Format::Json => {
            let mut document = document(&source, &elsewhere, &images, &limits);
            document["gaps"] = gaps.iter().map(gap).collect();
            output::print_json(&document)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Looked {
    source: Source,
    images: Vec<Image>,
    /// The entries of indexes of which something is missing or wrong.
    gaps: Vec<Gap>,
}

/// Reads the documents of the images that have some.
fn look(source: Source, platforms: &Platforms, limits: &Limits) -> anyhow::Result<Looked> {
    let whole = |source: &Source, needs| Whole::of(&*source.provider, &source.root, needs, limits);
    // A registry would be sent a request for each blob.
    let mut gaps = match source.repository {
        None => whole(&source, Needs::Everything)?.gaps,
        Some(_) => Vec::new(),
    };
    let error = match Image::all(&source, platforms, limits) {
        Ok(images) => return Ok(Looked { source, images, gaps }),
        Err(error) => error,
    };
    let documents = whole(&source, Needs::Documents)?;
    if documents.gaps.is_empty() {
        return Err(error.into());
    }
    if gaps.is_empty() {
        gaps.clone_from(&documents.gaps);
    }
    let root = source.root.clone();
    let source = documents.of_source(source);
    let images = Image::all(&source, platforms, limits)?;
    Ok(Looked { source: Source { root, ..source }, images, gaps })
}

fn gap(gap: &Gap) -> Value {
    let Gap { entry, problem, .. } = gap;
    json!({
        "digest": entry.digest.as_str(),
        "mediaType": entry.media_type.as_str(),
        "platform": entry.platform.as_ref().map(ToString::to_string),
        "attestation": gap.is_attestation(),
        "problem": problem,
    })
}

/// What is told of a layer.
struct Row {
    format: &'static str,
    readers: Option<&'static str>,
    entries: Option<usize>,
    /// Why no more is told.
    problem: Option<String>,
}

impl Row {
    fn of(
        source: &Source,
        elsewhere: &Tables<'_>,
        image: &Image,
        layer: &Descriptor,
        limits: &Limits,
    ) -> Self {
        let mut row = Row { format: "?", readers: None, entries: None, problem: None };
        if let Err(error) = row.look(source, elsewhere, image, layer, limits) {
            row.problem = Some(crate::failure::describe(&error));
        }
        row
    }

    fn look(
        &mut self,
        source: &Source,
        elsewhere: &Tables<'_>,
        image: &Image,
        layer: &Descriptor,
        limits: &Limits,
    ) -> anyhow::Result<()> {
        if !matches!(layer.media_type.kind(), Kind::Layer { .. }) {
            self.format = "opaque";
            return Ok(());
        }
        let blob = LayerBlob::open(&*source.provider, layer)?;
        let blob = blob.with_table(&image.descriptor.digest, &layer.digest, elsewhere)?;
        (self.format, self.readers) = blob.format()?;
        if blob.is_seekable() {
            self.entries = Some(blob.entries(limits)?);
        }
        Ok(())
    }
}

fn tables(source: &Source, elsewhere: &Tables<'_>, images: &[Image], limits: &Limits) -> String {
    let mut text = vec![format!("{}  {}  {}", source.name, source.root.media_type, source.root.digest)];
    for image in images {
        let platform = image.platform.as_ref().map(|platform| format!("  {platform}")).unwrap_or_default();
        text.push(format!("\nimage {}{platform}", image.descriptor.digest));
        let mut table = Table::new(&[">layer", "type", ">size", "format", ">entries", "digest", "DiffID"]);
        let mut problems = Vec::new();
        for (position, layer) in image.manifest.layers().iter().enumerate() {
            let row = Row::of(source, elsewhere, image, layer, limits);
            problems.extend(row.problem.map(|problem| format!("layer {position}: {problem}")));
            table.row([
                position.to_string(),
                short_type(&layer.media_type),
                output::size(layer.size),
                row.readers
                    .map_or_else(|| row.format.into(), |readers| format!("{} ({readers})", row.format)),
                row.entries.map_or_else(|| "-".into(), |entries| entries.to_string()),
                output::short(&layer.digest),
                image.diff_ids.get(position).map_or_else(|| "-".into(), output::short),
            ]);
        }
        text.push(table.to_string());
        text.extend(problems);
    }
    text.join("\n")
}

fn document(source: &Source, elsewhere: &Tables<'_>, images: &[Image], limits: &Limits) -> Value {
    let layer = |image: &Image, position: usize, layer: &Descriptor| {
        let row = Row::of(source, elsewhere, image, layer, limits);
        json!({
            "position": position,
            "mediaType": layer.media_type.as_str(),
            "digest": layer.digest.as_str(),
            "size": layer.size,
            "annotations": layer.annotations,
            "diffId": image.diff_ids.get(position).map(Digest::as_str),
            "format": row.format,
            "readers": row.readers,
            "entries": row.entries,
            "problem": row.problem,
        })
    };
    let image = |image: &Image| {
        let layers = image.manifest.layers().iter().enumerate();
        json!({
            "manifest": image.descriptor.digest.as_str(),
            "platform": image.platform.as_ref().map(ToString::to_string),
            "config": image.manifest.config().digest.as_str(),
            "layers": layers.map(|(position, found)| layer(image, position, found)).collect::<Vec<_>>(),
        })
    };
    json!({
        "reference": source.name,
        "mediaType": source.root.media_type.as_str(),
        "digest": source.root.digest.as_str(),
        "size": source.root.size,
        "images": images.iter().map(image).collect::<Vec<_>>(),
    })
}

fn print_toc(
    source: &Source,
    elsewhere: &Tables<'_>,
    image: &Image,
    position: usize,
    limits: &Limits,
) -> anyhow::Result<()> {
    let layer = image.layer(source, position)?;
    let print = || -> anyhow::Result<()> {
        let blob = LayerBlob::open(&*source.provider, layer)?;
        let blob = blob.with_table(&image.descriptor.digest, &layer.digest, elsewhere)?;
        // Once to see whether it is JSON at all, and once to print it: it may be larger than memory.
        blob.read_toc(limits, |json| {
            let sound = serde_json::from_reader::<_, IgnoredAny>(BufReader::new(json));
            sound.map(|_| ()).context("the table of contents is not JSON")
        })??;
        blob.read_toc(limits, output::print_indented)?
    };
    print().with_context(|| format!("{}: layer {position}, {}", source.name, layer.digest))
}

/// Returns the part of a layer's media type that tells it from others.
fn short_type(media_type: &MediaType) -> String {
    let text = media_type.as_str();
    let prefixes =
        ["application/vnd.oci.image.layer.v1.", "application/vnd.oci.image.layer.", "application/vnd."];
    let docker =
        text.strip_prefix("application/vnd.docker.image.rootfs.").map(|rest| format!("docker {rest}"));
    docker.unwrap_or_else(|| {
        prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text).to_owned()
    })
}
