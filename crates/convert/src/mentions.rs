//! Labels and annotations that name digests which a conversion changes.
//!
//! Where the place is known, they name the new digest afterwards. Elsewhere nobody can tell whether a digest is a layer's
//! or only looks like it, so the text stays, and a warning names it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Display;

use restow_oci::Digest;
use restow_oci::annotations::NAMING_DIFF_IDS;

/// What a digest stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    DiffId,
    Blob,
}

/// A digest that names nothing of an image any more.
#[derive(Clone, Debug)]
struct Gone {
    sense: Sense,
    /// Takes its place; nothing where equal layers became different ones.
    new: Option<Digest>,
}

/// The digests that a conversion changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Renamed(BTreeMap<String, Gone>);

/// What has become of a text that may name such digests.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// The text with the new digests, where the label or annotation is known to name them.
    pub(crate) text: Option<String>,
    /// What there is to say of the first digest that stays.
    pub(crate) stale: Option<String>,
}

impl Renamed {
    /// Compares the DiffIDs and the blobs before and after.
    pub(crate) fn new<'a>(
        diff_ids: impl IntoIterator<Item = (&'a Digest, &'a Digest)>,
        blobs: impl IntoIterator<Item = (&'a Digest, &'a Digest)>,
    ) -> Self {
        let (mut gone, mut there) = (BTreeMap::new(), BTreeSet::new());
        let diff_ids = diff_ids.into_iter().map(|pair| (Sense::DiffId, pair));
        for (sense, (old, new)) in diff_ids.chain(blobs.into_iter().map(|pair| (Sense::Blob, pair))) {
            there.insert(new.as_str());
            let found = gone.entry(old.to_string()).or_insert_with(|| Gone { sense, new: Some(new.clone()) });
            // A layer that is not compressed is named by one digest in both senses.
            if found.sense == sense && found.new.as_ref() != Some(new) {
                found.new = None;
            }
        }
        gone.retain(|old, gone| gone.new.is_none() || !there.contains(old.as_str()));
        Self(gone)
    }

    /// Adds a document that has become another one.
    pub(crate) fn add(&mut self, old: &Digest, new: &Digest) {
        if old != new {
            self.0.insert(old.to_string(), Gone { sense: Sense::Blob, new: Some(new.clone()) });
        }
    }

    /// Lets the text of a label or an annotation follow.
    pub(crate) fn follow(&self, key: &str, text: &str) -> Followed {
        let (mut written, mut end, mut stale) = (String::new(), 0, None);
        for place in Digest::mentions(text) {
            let old = &text[place.clone()];
            let Some(Gone { sense, new }) = self.0.get(old) else { continue };
            match new {
                Some(new) if *sense == Sense::DiffId && NAMING_DIFF_IDS.contains(&key) => {
                    written.push_str(&text[end..place.start]);
                    written.push_str(new.as_str());
                    end = place.end;
                }
                new => drop(stale.get_or_insert_with(|| told(*sense, old, new.as_ref()))),
            }
        }
        Followed { text: (end > 0).then(|| written + &text[end..]), stale }
    }

    /// Lets the annotations of `owner` follow, and says which do not.
    pub(crate) fn follow_all(
        &self,
        annotations: &mut BTreeMap<String, String>,
        owner: &dyn Display,
        warnings: &mut Vec<String>,
    ) {
        for (key, value) in annotations {
            let Followed { text, stale } = self.follow(key, value);
            warnings.extend(stale.map(|stale| format!("annotation {key} of {owner} {stale}")));
            text.into_iter().for_each(|text| *value = text);
        }
    }
}

/// Says that a digest is still named, and what can be done.
fn told(sense: Sense, old: &str, new: Option<&Digest>) -> String {
    let now = new.map_or_else(|| "of equal layers that differ now".to_owned(), |new| format!("now {new}"));
    match sense {
        Sense::DiffId => {
            format!(
                "still names DiffID {old}, {now}: set it anew, or let no file move, so that zstd:chunked keeps DiffIDs"
            )
        }
        Sense::Blob => format!("still names {old}, {now}: set it anew"),
    }
}
