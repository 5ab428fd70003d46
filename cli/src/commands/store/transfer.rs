//! `restow store import` and `export`.

use anyhow::Context as _;
use clap::Args;
use restow_content::Overlay;
use restow_oci::Limits;
use restow_registry::Layout;
use restow_registry::Place as Where;
use restow_registry::Selector;
use restow_registry::Writing;

use super::Place;
use super::images;
use crate::access::open_destination;
use crate::access::open_source;
use crate::args::LinkArguments;
use crate::destination::Destination;
use crate::output;
use crate::reference;

/// Bring an image into the store, or all images of a layout
///
/// Without NAME, an image keeps the name it has there, one from a registry HOST/NAME:TAG. The digests go to stdout.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME:TAG, an archive, or a path; a layout without TAG means all its names
    #[arg(value_name = "SRC")]
    source: String,
    /// The names it gets in the store
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    link: LinkArguments,
}

/// Write an image of the store to a layout
///
/// The digest goes to stdout.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The name of the image, or @ and its digest
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write it: oci:PATH[:TAG] or a path; several give it several tags
    #[arg(value_name = "DST", required = true)]
    destinations: Vec<String>,
    #[command(flatten)]
    link: LinkArguments,
}

pub(super) fn import(command: &Import, place: &Place<'_>) -> anyhow::Result<()> {
    let limits = Limits::default();
    images::check_side(&command.source, false)?;
    let source = reference::parse(&command.source)?;
    let images = place.images()?;
    let how = command.link.how();
    let publish = |selector: Selector, names: &[String]| -> anyhow::Result<()> {
        let reference = restow_registry::Reference { place: source.place.clone(), selector };
        let source = open_source(&reference)?;
        let notices = images
            .publish_by(how, &*source.provider, &source.root, names)
            .with_context(|| source.name.clone())?;
        for notice in notices {
            output::tell(&format!("warning: {notice}"));
        }
        Ok(output::print(source.root.digest.as_str())?)
    };
    match (&source.place, &source.selector) {
        (_, selector) if !command.names.is_empty() => {
            publish(selector.clone(), &images::names(&command.names)?)
        }
        (Where::Layout(path), Selector::Only) => {
            let tags = Layout::open(path, &limits)?.tags()?;
            anyhow::ensure!(!tags.is_empty(), "{} names no image; give NAME", command.source);
            tags.into_iter().try_for_each(|tag| publish(Selector::Tag(tag.clone()), &[tag]))
        }
        // By its tag alone it would take the name of any other image's.
        (Where::Registry(repository), Selector::Tag(tag)) => {
            publish(source.selector.clone(), &images::names(&[format!("{repository}:{tag}")])?)
        }
        (_, Selector::Tag(tag)) => {
            publish(source.selector.clone(), &images::names(std::slice::from_ref(tag))?)
        }
        _ => anyhow::bail!("{} has no name; give NAME", command.source),
    }
}

pub(super) fn export(command: &Export, place: &Place<'_>) -> anyhow::Result<()> {
    let limits = Limits::default();
    for destination in &command.destinations {
        images::check_side(destination, false)?;
    }
    let destination = Destination::parse(&command.destinations, &[])?;
    let store = place.open()?;
    let images = restow_registry::StoreImages::of(&store, &limits)?;
    let selector = reference::parse(&format!("store:{}", command.name))?.selector;
    let root = images.resolve(&selector)?;
    let source = Overlay::new(images.store(), []);
    let place = open_destination(&destination.place, Writing::default())?;
    let images = [(&root, &*destination.tags)];
    let notices = match place.publish_each(command.link.how(), &source, &images) {
        Ok(notices) => notices,
        Err(error) => {
            // The error says more than what could not be cleaned up after it.
            let _ = place.discard();
            return Err(error).with_context(|| command.name.clone());
        }
    };
    for notice in notices {
        output::tell(&format!("warning: {notice}"));
    }
    Ok(output::print(root.digest.as_str())?)
}
