//! Where the new image goes.

use std::io;
use std::path::Path;

use restow_oci::Descriptor;
use restow_oci::annotations::REF_NAME;
use restow_registry::Place;
use restow_registry::Reference;
use restow_registry::Selector;
use serde_json::Value;

use crate::args::Format;
use crate::failure::Usage;
use crate::output;
use crate::reference;

/// A place, and the names the new image gets there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The layout, the archive, the store or the repository.
    pub(crate) place: Place,
    /// The names, none twice; without any, an image in a layout has none.
    pub(crate) tags: Vec<String>,
}

impl Destination {
    /// Joins the destinations of one command line, all of which must lie in one place, and further tags.
    pub(crate) fn parse(references: &[String], tags: &[String]) -> anyhow::Result<Self> {
        let mut place: Option<Place> = None;
        let mut all = Vec::new();
        for text in references {
            let reference = reference::parse(text)?;
            if let Some(first) = place.as_ref().filter(|first| **first != reference.place) {
                let first = Reference { place: first.clone(), selector: Selector::Only };
                let problem = format!("{text} is not in {first}; convert once for each place");
                return Err(Usage(problem).into());
            }
            match &reference.selector {
                Selector::Tag(tag) => all.push(tag.clone()),
                // What a registry's name means without a tag.
                Selector::Only if matches!(reference.place, Place::Registry(_)) && tags.is_empty() => {
                    all.push("latest".to_owned());
                }
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

    /// Tells whether the new image takes the place of the one that `source` names, of which `root` is the root.
    pub(crate) fn replaces(&self, source: &Reference, root: &Descriptor) -> bool {
        if key(&self.place) != key(&source.place) {
            return false;
        }
        let name = match (&source.place, &source.selector) {
            (Place::Archive(_) | Place::DockerArchive(_), _) => return true,
            (_, Selector::Tag(tag)) => Some(tag.as_str()),
            (Place::Registry(_), Selector::Only) => Some("latest"),
            (_, Selector::Only | Selector::Digest(_)) => root.annotations.get(REF_NAME).map(String::as_str),
        };
        name.map_or(self.tags.is_empty(), |name| self.tags.iter().any(|tag| tag == name))
    }

    /// Refuses a place that holds images of tars and no image of tables of contents.
    pub(crate) fn must_hold_tables(&self) -> anyhow::Result<()> {
        match self.place {
            Place::DockerArchive(_) => {
                let problem = "a docker archive has no place for tables of contents; an OCI one has";
                Err(Usage(problem.into()).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses a place that holds images and nothing about them.
    pub(crate) fn must_hold_referrers(&self) -> anyhow::Result<()> {
        match self.place {
            Place::DockerArchive(_) => {
                let problem = "a docker archive has no place for what refers to an image; an OCI one has";
                Err(Usage(problem.into()).into())
            }
            _ => Ok(()),
        }
    }

    /// Tells whether the new image goes to standard output, where there is then no place for anything else.
    pub(crate) fn is_output(&self) -> bool {
        matches!(&self.place, Place::Archive(path) | Place::DockerArchive(path) if path.as_os_str() == "-")
    }

    /// Prints what became of the new image, unless that is on standard output itself.
    pub(crate) fn print(&self, format: Format, document: &Value) -> io::Result<()> {
        match format {
            _ if self.is_output() => Ok(()),
            Format::Text => output::print(document["digest"].as_str().unwrap_or_default()),
            Format::Json => output::print_json(document),
        }
    }

    /// Returns the references by which the new image is found.
    pub(crate) fn references(&self) -> Vec<Reference> {
        let reference = |selector| Reference { place: self.place.clone(), selector };
        match self.tags.as_slice() {
            [] => vec![reference(Selector::Only)],
            tags => tags.iter().map(|tag| reference(Selector::Tag(tag.clone()))).collect(),
        }
    }

    /// Returns the same in words.
    pub(crate) fn names(&self) -> Vec<String> {
        self.references().iter().map(ToString::to_string).collect()
    }
}

/// Returns the same for the same place, however it is written.
pub(crate) fn key(place: &Place) -> String {
    let path = |kind: &str, path: &Path| {
        let absolute = std::path::absolute(path);
        format!("{kind}:{}", absolute.as_deref().unwrap_or(path).display())
    };
    match place {
        Place::Layout(layout) => path("layout", layout),
        Place::Archive(file) | Place::DockerArchive(file) => path("archive", file),
        Place::Registry(repository) => format!("registry:{repository}"),
        Place::Store(_) => "store".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(references: &[&str], tags: &[&str]) -> Result<(String, String), String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        Destination::parse(&owned(references), &owned(tags))
            .map(|found| {
                let place = Reference { place: found.place, selector: Selector::Only }.to_string();
                (place, found.tags.join(" "))
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn several_destinations_are_tags_of_one_layout() {
        for (references, tags, expected) in [
            (&["oci:out"][..], &[][..], ("oci:out", "")),
            (&["out:a"], &[], ("oci:out", "a")),
            (&["oci:out:a", "out:b", "out:a"], &["c", "b"], ("oci:out", "a b c")),
            (&["out"], &["a"], ("oci:out", "a")),
            (&["store:a", "store:b:v1"], &["c"], ("store:", "a b:v1 c")),
            (&["store:"], &["a"], ("store:", "a")),
            (&["out.tar:a"], &[], ("oci-archive:out.tar", "a")),
            (&["docker://localhost:5000/a"], &[], ("docker://localhost:5000/a", "latest")),
            (&["docker://localhost:5000/a"], &["b"], ("docker://localhost:5000/a", "b")),
            (
                &["docker://localhost:5000/a:b", "docker://localhost:5000/a:c"],
                &[],
                ("docker://localhost:5000/a", "b c"),
            ),
        ] {
            let expected = (expected.0.to_owned(), expected.1.to_owned());
            assert_eq!(parse(references, tags), Ok(expected), "{references:?}");
        }
        for (references, expected) in [
            (&["out:a", "other:b"][..], "other:b is not in oci:out; convert once for each place"),
            (&["out:a", "store:b"], "store:b is not in oci:out; convert once for each place"),
            (&["store:b", "out:a"], "out:a is not in store:; convert once for each place"),
            (&["store:"], "an image in the store needs a name, as in store:NAME"),
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
