//! Where the new image goes.

use restow_registry::Place;
use restow_registry::Selector;

use crate::failure::Usage;
use crate::reference;

/// A layout or a store, and the names the new image gets there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The layout or the store.
    pub(crate) place: Place,
    /// The names, none twice; without any, an image in a layout has none.
    pub(crate) tags: Vec<String>,
}

impl Destination {
    /// Joins the destinations of one command line, all of which must lie in one layout, and further tags.
    pub(crate) fn parse(references: &[String], tags: &[String]) -> anyhow::Result<Self> {
        let mut place: Option<Place> = None;
        let mut all = Vec::new();
        for text in references {
            let reference = reference::parse(text)?;
            if let Place::Archive(_) = &reference.place {
                return Err(Usage(format!("{text}: an archive cannot be written to, only a layout")).into());
            }
            match &place {
                Some(Place::Layout(first)) if reference.place != Place::Layout(first.clone()) => {
                    let first = first.display();
                    return Err(Usage(format!(
                        "{text} is not in the layout {first}; convert once for each layout"
                    ))
                    .into());
                }
                Some(Place::Store(_)) if !matches!(reference.place, Place::Store(_)) => {
                    return Err(
                        Usage(format!("{text} is not in the store; convert once for each place")).into()
                    );
                }
                _ => {}
            }
            match &reference.selector {
                Selector::Tag(tag) => all.push(tag.clone()),
                Selector::Only => {}
                Selector::Digest(_) => {
                    return Err(Usage(format!(
                        "{text}: the new image's digest cannot be chosen, name a tag"
                    ))
                    .into());
                }
            }
            place.get_or_insert(reference.place);
        }
        for tag in tags {
            // As part of a reference it is held to the rules of tags now, not when the work is done.
            let reference = reference::parse(&format!("oci:.:{tag}"))?;
            if reference.tag() != Some(tag) {
                return Err(Usage(format!("--tag {tag}: this is not a tag")).into());
            }
            all.push(tag.clone());
        }
        let mut seen = Vec::new();
        for tag in all {
            if !seen.contains(&tag) {
                seen.push(tag);
            }
        }
        let place = place.ok_or_else(|| Usage("no destination".into()))?;
        if seen.is_empty() && matches!(place, Place::Store(_)) {
            return Err(Usage("an image in the store needs a name, as in store:NAME".into()).into());
        }
        Ok(Self { place, tags: seen })
    }

    /// Returns the references by which the new image is found.
    pub(crate) fn references(&self) -> Vec<String> {
        let reference =
            |selector| restow_registry::Reference { place: self.place.clone(), selector }.to_string();
        match self.tags.as_slice() {
            [] => vec![reference(Selector::Only)],
            tags => tags.iter().map(|tag| reference(Selector::Tag(tag.clone()))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(references: &[&str], tags: &[&str]) -> Result<(String, String), String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        Destination::parse(&owned(references), &owned(tags))
            .map(|found| {
                let place = match found.place {
                    Place::Layout(path) | Place::Archive(path) => path.display().to_string(),
                    Place::Store(_) => "the store".to_owned(),
                };
                (place, found.tags.join(" "))
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn several_destinations_are_tags_of_one_layout() {
        for (references, tags, expected) in [
            (&["oci:out"][..], &[][..], ("out", "")),
            (&["out:a"], &[], ("out", "a")),
            (&["oci:out:a", "out:b", "out:a"], &["c", "b"], ("out", "a b c")),
            (&["out"], &["a"], ("out", "a")),
            (&["store:a", "store:b:v1"], &["c"], ("the store", "a b:v1 c")),
            (&["store:"], &["a"], ("the store", "a")),
        ] {
            let expected = (expected.0.to_owned(), expected.1.to_owned());
            assert_eq!(parse(references, tags), Ok(expected), "{references:?}");
        }
        for (references, expected) in [
            (&["out:a", "other:b"][..], "other:b is not in the layout out; convert once for each layout"),
            (&["out:a", "store:b"], "store:b is not in the layout out; convert once for each layout"),
            (&["store:b", "out:a"], "out:a is not in the store; convert once for each place"),
            (&["store:"], "an image in the store needs a name, as in store:NAME"),
            (&["out.tar:a"], "out.tar:a: an archive cannot be written to, only a layout"),
            (
                &["out@sha256:0000000000000000000000000000000000000000000000000000000000000000"],
                "out@sha256:0000000000000000000000000000000000000000000000000000000000000000: \
                 the new image's digest cannot be chosen, name a tag",
            ),
        ] {
            assert_eq!(parse(references, &[]), Err(expected.to_owned()));
        }
        for tag in ["", "a b", "@sha256:00", ":"] {
            assert!(parse(&["out"], &[tag]).is_err(), "{tag:?}");
        }
    }
}
