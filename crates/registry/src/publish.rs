//! Putting an image into a layout or a store.

use std::fmt;
use std::path::PathBuf;

use restow_content::Overlay;
use restow_content::Provider;
use restow_content::Store;
use restow_content::copy;
use restow_content::link;
use restow_oci::Descriptor;
use restow_oci::Kind;
use restow_oci::Limits;

use crate::Error;
use crate::Layout;
use crate::Result;
use crate::graph;
use crate::parallel;
use crate::reference;

/// How many blobs are copied side by side: enough that a small one need not wait for a large one.
const COPIES: usize = 4;

/// Something about a published image that its user should know.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there are few, and none for most images")]
pub enum Notice {
    /// A blob is not there and need not be: it may not be distributed, or can be had elsewhere.
    NotCopied {
        /// The blob.
        descriptor: Descriptor,
    },
    /// An archive held other images, too, and does no more.
    Replaced {
        /// The archive.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::NotCopied { descriptor } => {
                write!(
                    f,
                    "blob {} ({}) is not in the source and was not copied",
                    descriptor.digest, descriptor.media_type
                )
            }
            Notice::Replaced { path, names } => {
                write!(f, "{} was replaced and no longer holds {}", path.display(), names.join(", "))
            }
        }
    }
}

/// How blobs come over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transfer {
    /// They are read and verified.
    #[default]
    Copy,
    /// Where both sides lie on one file system, files are shared and not read, all but documents: only sizes are
    /// compared.
    Link,
}

impl Layout {
    /// Copies the image `root` from `source`, verified, and names it by each of `tags`, or not at all.
    ///
    /// Blobs that are in the layout with the right size are left alone; `source` may be without them. A tag
    /// that is in use then names the new image. The index changes at once, after all blobs are in place for
    /// good: a reader sees all tags or none of them, and after a failure the old images.
    pub fn publish(&self, source: &dyn Provider, root: &Descriptor, tags: &[String]) -> Result<Vec<Notice>> {
        self.publish_each(Transfer::Copy, source, &[(root, tags)])
    }

    /// Publishes images that belong together, each with its tags, at one moment.
    pub fn publish_all(
        &self,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        self.publish_each(Transfer::Copy, source, images)
    }

    pub(crate) fn publish_each(
        &self,
        how: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        let mut tags = images.iter().flat_map(|(_, tags)| tags.iter());
        if let Some(tag) = tags.find(|tag| !reference::is_tag(tag)) {
            let reference = self.path.display().to_string();
            return Err(Error::InvalidTag { reference, tag: tag.clone() });
        }
        let mut notices = Vec::new();
        for (root, _) in images {
            notices.extend(transfer(how, source, &self.store, root, &self.limits)?);
        }
        self.edit(|catalogue| {
            images.iter().try_for_each(|(root, tags)| match tags {
                [] => catalogue.set(root, None),
                tags => tags.iter().try_for_each(|tag| catalogue.set(root, Some(tag))),
            })
        })?;
        Ok(notices)
    }
}

/// Copies the image `root` from `source` into `store`, verified. Blobs that are there with the right size are left
/// alone; `source` may be without them. Documents come last, after all that they refer to.
pub(crate) fn transfer(
    how: Transfer,
    source: &dyn Provider,
    store: &dyn Store,
    root: &Descriptor,
    limits: &Limits,
) -> Result<Vec<Notice>> {
    let source = Overlay::new(store, [source]);
    let graph = graph::walk(&source, root, limits)?;
    if !graph.missing.is_empty() {
        // Nothing is copied in vain.
        let missing = graph.missing_from(&source)?;
        return Err(Error::MissingBlobs { root: root.digest.clone(), missing });
    }
    let outcomes = copy_all(how, &source, store, &graph.leaves)?;
    let (mut missing, mut notices) = (Vec::new(), Vec::new());
    for (descriptor, outcome) in graph.leaves.into_iter().zip(outcomes) {
        match outcome {
            Outcome::There => {}
            Outcome::Missing if may_be_absent(&descriptor) => notices.push(Notice::NotCopied { descriptor }),
            Outcome::Missing => missing.push(descriptor.digest),
        }
    }
    if !missing.is_empty() {
        return Err(Error::MissingBlobs { root: root.digest.clone(), missing });
    }
    for document in &graph.documents {
        copy(&source, store, document)?;
    }
    Ok(notices)
}

/// Copies blobs side by side and returns what became of each, or the error of the first that failed.
fn copy_all(
    how: Transfer,
    source: &dyn Provider,
    store: &dyn Store,
    blobs: &[Descriptor],
) -> Result<Vec<Outcome>> {
    parallel::each(blobs, COPIES, |blob| copy_one(how, source, store, blob))
}

fn copy_one(how: Transfer, source: &dyn Provider, store: &dyn Store, blob: &Descriptor) -> Result<Outcome> {
    let result = match how {
        Transfer::Copy => copy(source, store, blob),
        Transfer::Link => link(source, store, blob),
    };
    match result {
        Ok(()) => Ok(Outcome::There),
        Err(error) => match Error::from(error) {
            error if error.is_not_found() => Ok(Outcome::Missing),
            error => Err(error),
        },
    }
}

enum Outcome {
    There,
    Missing,
}

pub(crate) fn may_be_absent(descriptor: &Descriptor) -> bool {
    let kept_back = matches!(descriptor.media_type.kind(), Kind::Layer { distributable: false, .. });
    kept_back || !descriptor.urls.is_empty()
}

#[cfg(test)]
mod tests;
