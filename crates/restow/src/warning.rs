//! What went otherwise than one might expect, and is no error.

use std::fmt;

use restow_registry::Notice;
use serde::Serialize;

/// Something that went otherwise than one might expect.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// A sentence for people, without a full stop.
    pub text: String,
}

/// What a [`Warning`] is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningKind {
    /// A layer or an image was converted otherwise than asked, or not at all.
    Conversion,
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
