//! `restow store images`.

use clap::Args;
use clap::Subcommand;
use restow::Destination;
use restow_oci::Descriptor;
use restow_oci::Limits;
use restow_registry::Place as Where;
use restow_registry::Reference;
use restow_registry::StoreImages;
use serde_json::json;

use super::ListArguments;
use super::Place;
use super::show_time;
use crate::args::Format;
use crate::failure::Usage;
use crate::output;
use crate::output::Table;

/// List images, give them further names, or take names away
///
/// The blobs of an image whose last name is gone stay until the next gc.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give an image a further name
    Tag {
        /// The name it has
        #[arg(value_name = "NAME")]
        name: String,
        /// The names it gets
        #[arg(value_name = "NEW", required = true)]
        new: Vec<String>,
    },
    /// Take names away
    Rm {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

pub(super) fn run(arguments: &Arguments, place: &Place<'_>) -> anyhow::Result<()> {
    match &arguments.command {
        None => list(&arguments.list, place),
        Some(Command::Tag { name, new }) => tag(name, new, place),
        Some(Command::Rm { names }) => {
            let store = place.open()?;
            // All of them or none.
            names.iter().try_for_each(|name| store.image(name).map(drop))?;
            Ok(names.iter().try_for_each(|name| store.remove_image(name))?)
        }
    }
}

fn list(list: &ListArguments, place: &Place<'_>) -> anyhow::Result<()> {
    let filter = list.filter()?;
    let store = place.open()?;
    let mut images = store.images()?;
    images.retain(|image| filter.matches(image));
    match list.format {
        Format::Json => {
            let documents = images.iter().map(|image| {
                let Descriptor { media_type, digest, size, .. } = &image.target;
                json!({
                    "name": image.name,
                    "target": { "mediaType": media_type.as_str(), "digest": digest.as_str(), "size": size },
                    "labels": image.labels,
                    "created": show_time(image.created),
                    "updated": show_time(image.updated),
                })
            });
            output::print_json(&documents.collect::<Vec<_>>())?;
        }
        Format::Text => {
            let mut table = Table::new(&["name", "digest", "media type", "updated"]);
            for image in &images {
                table.row([
                    image.name.clone(),
                    image.target.digest.to_string(),
                    image.target.media_type.to_string(),
                    show_time(image.updated),
                ]);
            }
            output::print(&table.to_string())?;
        }
    }
    Ok(())
}

fn tag(name: &str, new: &[String], place: &Place<'_>) -> anyhow::Result<()> {
    let images = StoreImages::of(&place.open()?, &Limits::default())?;
    let root = images.store().image(name)?.target;
    images.publish(images.store(), &root, &names(new)?)?;
    Ok(())
}

/// Holds names for images in the store to the rules of references.
pub(super) fn names(names: &[String]) -> anyhow::Result<Vec<String>> {
    let references: Vec<_> = names.iter().map(|name| format!("store:{name}")).collect();
    Ok(Destination::parse(&references, &[])?.tags)
}

/// Refuses a reference to something outside of the store, where `inside`, or in it.
pub(super) fn check_side(text: &str, inside: bool) -> anyhow::Result<()> {
    let place = Reference::parse(text)?.place;
    match matches!(place, Where::Store(_)) == inside {
        true => Ok(()),
        false if inside => Err(Usage(format!("{text} is not in the store")).into()),
        false => Err(Usage(format!("{text} is in the store already")).into()),
    }
}
