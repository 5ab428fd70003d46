//! `restow store import` and `export`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::Args;
use restow::Destination;
use restow_content::Overlay;
use restow_oci::Limits;
use restow_registry::Named;
use restow_registry::Reading;
use restow_registry::Writing;

use super::Place;
use super::images;
use crate::args::LinkArguments;
use crate::output;

/// Bring an image into the store, or all images of a layout or an archive
///
/// Without NAME, an image keeps its name, one from a registry HOST/NAME:TAG. A name that is no more than a tag follows
/// that of the layout or archive: debian:12. Each digest goes to stdout with the names that it got.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME:TAG, an archive, or a path; a layout or archive without TAG means all its images
    #[arg(value_name = "SRC")]
    source: String,
    /// The names it gets in the store
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Give it names that other images have, which lose them
    #[arg(long)]
    force: bool,
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
    images::check_side(&command.source, false)?;
    let (session, access) = (place.session, place.session.access());
    let reference = session.reference(&command.source)?;
    let found = match command.names.as_slice() {
        [] => access.open_named(&reference)?,
        given => {
            let names = images::names(given)?;
            vec![Named { source: access.open_source(&reference, Reading::Once)?, names }]
        }
    };
    let (named, unnamed): (Vec<_>, Vec<_>) = found.iter().partition(|image| !image.names.is_empty());
    anyhow::ensure!(!named.is_empty(), "{} has no name that the store can use; give NAME", command.source);

    let images = place.images()?;
    // Before anything is done.
    refuse_clashes(&named)?;
    if !command.force {
        named.iter().try_for_each(|image| images.refuse_taken(&image.names, &image.source.root.digest))?;
    }
    for Named { source, names } in named {
        let notices = images
            .publish_by(command.link.how(), &*source.provider, &source.root, names)
            .with_context(|| source.name.clone())?;
        for notice in notices {
            output::tell(&format!("warning: {notice}"));
        }
        output::print(&format!("{}  {}", source.root.digest, output::shown(&names.join("  "))))?;
    }
    for Named { source, .. } in unnamed {
        output::tell(&format!(
            "warning: {} has no name that the store can use, and was left out",
            source.name
        ));
    }
    Ok(())
}

/// Refuses to give one name to several images.
fn refuse_clashes(images: &[&Named]) -> anyhow::Result<()> {
    let mut seen = BTreeMap::new();
    for Named { source, names } in images {
        for name in names {
            let first = *seen.entry(name).or_insert(source);
            anyhow::ensure!(
                first.root.digest == source.root.digest,
                "{} and {} would both be {name}; import one at a time, with a NAME",
                first.name,
                source.name
            );
        }
    }
    Ok(())
}

pub(super) fn export(command: &Export, place: &Place<'_>) -> anyhow::Result<()> {
    let limits = Limits::default();
    for destination in &command.destinations {
        images::check_side(destination, false)?;
    }
    let destination = Destination::parse(&command.destinations, &[])?;
    let store = place.open()?;
    let images = restow_registry::StoreImages::of(&store, &limits)?;
    let selector = restow_registry::Reference::parse(&format!("store:{}", command.name))?.selector;
    let root = images.resolve(&selector)?;
    let source = Overlay::new(images.store(), []);
    let place = place.session.access().open_destination(&destination.place, Writing::default())?;
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
