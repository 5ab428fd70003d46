//! Putting an image into a layout.

use std::fmt;

use restow_content::Overlay;
use restow_content::Provider;
use restow_content::copy;
use restow_oci::Descriptor;
use restow_oci::Kind;

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
pub enum Notice {
    /// A blob is not there and need not be: it may not be distributed, or can be had elsewhere.
    NotCopied {
        /// The blob.
        descriptor: Descriptor,
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
        }
    }
}

impl Layout {
    /// Copies the image `root` from `source`, verified, and names it by each of `tags`, or not at all.
    ///
    /// Blobs that are in the layout with the right size are left alone; `source` may be without them. A tag
    /// that is in use then names the new image. The index changes at once, after all blobs are in place for
    /// good: a reader sees all tags or none of them, and after a failure the old images.
    pub fn publish(&self, source: &dyn Provider, root: &Descriptor, tags: &[String]) -> Result<Vec<Notice>> {
        if let Some(tag) = tags.iter().find(|tag| !reference::is_tag(tag)) {
            let reference = self.path.display().to_string();
            return Err(Error::InvalidTag { reference, tag: tag.clone() });
        }
        let source = Overlay::new(&self.store, [source]);
        let graph = graph::walk(&source, root, &self.limits)?;
        let outcomes = parallel::each(&graph.leaves, COPIES, |blob| self.copy_one(&source, blob))?;
        let mut missing = graph.missing;
        let mut notices = Vec::new();
        for (descriptor, outcome) in graph.leaves.into_iter().zip(outcomes) {
            match outcome {
                Outcome::There => {}
                Outcome::Missing if may_be_absent(&descriptor) => {
                    notices.push(Notice::NotCopied { descriptor })
                }
                Outcome::Missing => missing.push(descriptor.digest),
            }
        }
        if !missing.is_empty() {
            return Err(Error::MissingBlobs { root: root.digest.clone(), missing });
        }
        for document in &graph.documents {
            copy(&source, &self.store, document)?;
        }
        self.edit(|catalogue| match tags {
            [] => catalogue.set(root, None),
            tags => tags.iter().try_for_each(|tag| catalogue.set(root, Some(tag))),
        })?;
        Ok(notices)
    }

    fn copy_one(&self, source: &dyn Provider, blob: &Descriptor) -> Result<Outcome> {
        match copy(source, &self.store, blob) {
            Ok(()) => Ok(Outcome::There),
            Err(error) if error.is_not_found() => Ok(Outcome::Missing),
            Err(error) => Err(error.into()),
        }
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
