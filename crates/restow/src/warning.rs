//! What went otherwise than one might expect, and is no error.

use std::fmt;
use std::path::Path;

use restow_content::metadata::Rebuilt;
use restow_registry::Notice;
use schemars::JsonSchema;
use serde::Serialize;

/// Something that went otherwise than one might expect.
#[derive(Clone, Debug, Eq, PartialEq, JsonSchema, Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// A sentence for people, without a full stop.
    pub text: String,
}

/// What a [`Warning`] is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningKind {
    /// A layer or an image was converted otherwise than asked, or not at all.
    Conversion,
    /// Images of an index are not in the result.
    LeftOut,
    /// Entries of an index are left out since something of them is missing or wrong.
    NotWhole,
    /// Files do not come first that were to.
    Order,
    /// The image's command could not be followed to its end.
    Prediction,
    /// A container was run otherwise than asked, or not at all.
    Workload,
    /// What refers to an image is not where the image is, or not known.
    Referrers,
    /// The table of contents of a layer was not found where it was looked for.
    TocImage,
    /// A registry has refused to tell whether something is there.
    Refused,
    /// A layer is of a type whose content is not read.
    Unread,
    /// A blob is not in the destination, and need not be.
    NotCopied,
    /// An archive was replaced that held other images.
    Replaced,
    /// The database of a store was lost, and made again from its blobs.
    StoreRebuilt,
}

impl Warning {
    pub(crate) fn new(kind: WarningKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Warns that the names, labels and leases of the store at `root` are lost.
    pub fn of_rebuilt(root: &Path, rebuilt: &Rebuilt) -> Vec<Self> {
        let (root, blobs) = (root.display(), count(rebuilt.blobs, "blob"));
        let images = count(rebuilt.images.len(), "image");
        let lost = format!(
            "the database of {root} was lost and made again from {blobs}; names are lost, {images} found"
        );
        let unnamed = (rebuilt.roots > 0).then(|| {
            let blobs = count(rebuilt.roots, "blob");
            format!(
                "{blobs} that nothing refers to will stay until the label containerd.io/gc.root is taken off"
            )
        });
        let texts = [lost].into_iter().chain(unnamed);
        texts.map(|text| Self::new(WarningKind::StoreRebuilt, text)).collect()
    }
}

/// Returns `count` and the noun, with an s unless there is exactly one.
pub(crate) fn count(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Notice> for Warning {
    fn from(notice: Notice) -> Self {
        let kind = match notice {
            Notice::Replaced { .. } => WarningKind::Replaced,
            _ => WarningKind::NotCopied,
        };
        Self::new(kind, notice.to_string())
    }
}
