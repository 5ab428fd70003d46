//! Where the new image goes.

use std::path::PathBuf;

use restow_registry::Place;
use restow_registry::Reference;
use restow_registry::Selector;

use crate::failure::Usage;

/// A layout, and the tags the new image gets there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The layout's directory.
    pub(crate) path: PathBuf,
    /// The tags, none twice; without any, the image has no name.
    pub(crate) tags: Vec<String>,
}

impl Destination {
    /// Joins the destinations of one command line, all of which must lie in one layout, and further tags.
    pub(crate) fn parse(references: &[String], tags: &[String]) -> anyhow::Result<Self> {
        let mut path: Option<PathBuf> = None;
        let mut all = Vec::new();
        for text in references {
            let reference = Reference::parse(text)?;
            let Place::Layout(directory) = &reference.place else {
                return Err(Usage(format!("{text}: an archive cannot be written to, only a layout")).into());
            };
            if let Some(first) = path.as_ref().filter(|first| *first != directory) {
                let first = first.display();
                return Err(Usage(format!(
                    "{text} is not in the layout {first}; convert once for each layout"
                ))
                .into());
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
            path.get_or_insert_with(|| directory.clone());
        }
        for tag in tags {
            // As part of a reference it is held to the rules of tags now, not when the work is done.
            let reference = Reference::parse(&format!("oci:.:{tag}"))?;
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
        let path = path.ok_or_else(|| Usage("no destination".into()))?;
        Ok(Self { path, tags: seen })
    }

    /// Returns the references by which the new image is found.
    pub(crate) fn references(&self) -> Vec<String> {
        let reference =
            |selector| Reference { place: Place::Layout(self.path.clone()), selector }.to_string();
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
            .map(|found| (found.path.display().to_string(), found.tags.join(" ")))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn several_destinations_are_tags_of_one_layout() {
        for (references, tags, expected) in [
            (&["oci:out"][..], &[][..], ("out", "")),
            (&["out:a"], &[], ("out", "a")),
            (&["oci:out:a", "out:b", "out:a"], &["c", "b"], ("out", "a b c")),
            (&["out"], &["a"], ("out", "a")),
        ] {
            let expected = (expected.0.to_owned(), expected.1.to_owned());
            assert_eq!(parse(references, tags), Ok(expected), "{references:?}");
        }
        for (references, expected) in [
            (&["out:a", "other:b"][..], "other:b is not in the layout out; convert once for each layout"),
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
