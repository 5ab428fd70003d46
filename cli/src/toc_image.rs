//! The image of the tables of contents that are not in the layers they are about: what it is called, and reading it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::Args;
use restow_convert::read_toc_image;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Limits;
use restow_registry::Reference;
use restow_registry::Selector;
use restow_registry::Source;

use crate::access::open_source;
use crate::reference;

/// What comes behind the tag of an image to make that of its tables. stargz-snapshotter looks there.
const SUFFIX: &str = "-esgztoc";

/// Returns the tag of the image of the tables of the image with this tag.
pub(crate) fn tag(tag: &str) -> String {
    format!("{tag}{SUFFIX}")
}

/// Where the tables of layers are that have none of their own.
#[derive(Debug, Args)]
pub(crate) struct TocArguments {
    /// The image that holds the tables of contents of the eStargz layers without one [default: TAG-esgztoc beside REF]
    #[arg(long, value_name = "REF")]
    toc_image: Option<String>,
}

/// Tables of contents, by the layers they are about.
pub(crate) struct Tables(Option<(Source, BTreeMap<Digest, Descriptor>)>);

impl TocArguments {
    /// Finds the image, which must be there only if it was asked for by name.
    pub(crate) fn open(&self, reference: &Reference, limits: &Limits) -> anyhow::Result<Tables> {
        let source = match (&self.toc_image, reference.tag()) {
            (Some(text), _) => Some(open_source(&reference::parse(text)?)?),
            (None, Some(name)) => {
                let beside = Reference { selector: Selector::Tag(tag(name)), ..reference.clone() };
                open_source(&beside).ok()
            }
            (None, None) => None,
        };
        let Some(source) = source else { return Ok(Tables(None)) };
        let tables = read_toc_image(&*source.provider, &source.root, limits);
        let tables = tables.with_context(|| source.name.clone())?;
        Ok(Tables(Some((source, tables))))
    }
}

impl Tables {
    /// Returns the blob of a layer's table, verified, if there is one.
    pub(crate) fn read(&self, layer: &Digest, limits: &Limits) -> anyhow::Result<Option<Vec<u8>>> {
        let Some((source, tables)) = &self.0 else { return Ok(None) };
        let Some(table) = tables.get(layer) else { return Ok(None) };
        let bytes = restow_content::read(&*source.provider, table, limits.toc_size);
        Ok(Some(bytes.with_context(|| source.name.clone())?))
    }
}
