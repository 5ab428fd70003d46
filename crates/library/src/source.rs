//! Where images come from: one image, all tags of a place, or the repositories of a registry that match a pattern.

use crate::tags::Pattern;

const REGISTRY: &str = "docker://";

/// A source as rules name it.
#[derive(Clone, Debug)]
pub enum Source {
    /// The repositories of a registry that match a pattern.
    Repositories {
        /// The registry, `HOST[:PORT]`.
        host: String,
        /// What their paths match.
        pattern: Pattern,
    },
    /// A repository, layout, archive or store, whose tags are selected.
    Place(String),
}

/// What a source's image is called, for templates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// `HOST[:PORT]`, where it is in a registry.
    pub(crate) registry: Option<&'a str>,
    /// The path of the repository; of a layout, an archive or a store, the last part of its path.
    pub(crate) repository: &'a str,
    pub(crate) tag: &'a str,
}

impl Source {
    /// Parses what rules say.
    pub(crate) fn parse(text: &str) -> Result<Source, String> {
        if text.trim().is_empty() {
            return Err(
                "a source must name a place, for instance docker://HOST/REPOSITORY or oci:PATH".into()
            );
        }
        let Some(rest) = text.strip_prefix(REGISTRY).filter(|rest| rest.contains(['*', '?', '['])) else {
            return Ok(Source::Place(text.to_owned()));
        };
        let (host, path) = rest
            .split_once('/')
            .filter(|(host, _)| !host.contains(['*', '?', '[']) && is_host(host))
            .ok_or("a pattern of repositories begins with a registry, as in docker://HOST/team/*")?;
        if path.contains([':', '@']) {
            return Err("a pattern of repositories has no tag; `tags` selects some".into());
        }
        let pattern = Pattern::path(path).map_err(|problem| format!("{path}: {problem}"))?;
        Ok(Source::Repositories { host: host.to_owned(), pattern })
    }
}

impl<'a> Origin<'a> {
    /// Returns what the image `tag` of a place is called.
    pub(crate) fn of(place: &'a str, tag: &'a str) -> Origin<'a> {
        match place.strip_prefix(REGISTRY) {
            Some(name) => match name.split_once('/').filter(|(host, _)| is_host(host)) {
                Some((host, repository)) => Origin { registry: Some(host), repository, tag },
                None => Origin { registry: Some("docker.io"), repository: name, tag },
            },
            None => {
                let path = place.split_once(':').map_or(place, |(_, path)| path).trim_end_matches('/');
                Origin { registry: None, repository: path.rsplit('/').next().unwrap_or(path), tag }
            }
        }
    }
}

/// Tells a registry's host from the first part of a familiar name, by the rule that docker has.
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_its_registry() {
        let parse = |text| match Source::parse(text) {
            Ok(Source::Repositories { host, pattern }) => {
                format!("{host} {} {}", pattern.matches("team/app"), pattern.matches("team/a/b"))
            }
            Ok(Source::Place(place)) => place,
            Err(problem) => format!("error: {problem}"),
        };
        for (text, expected) in [
            ("docker://h:5000/team/*", "h:5000 true false"),
            ("docker://h.example/**", "h.example true true"),
            ("docker://localhost/{a,team}/a*", "localhost true false"),
            ("docker://h.example/team/app", "docker://h.example/team/app"),
            ("oci:dir[1]", "oci:dir[1]"),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        for text in ["", "docker://*/app", "docker://team/*", "docker://h:1/a*:tag", "docker://h:1/[a"] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_told_apart_from_places() {
        let of = |place| {
            let Origin { registry, repository, .. } = Origin::of(place, "v1");
            format!("{} {repository}", registry.unwrap_or("-"))
        };
        for (place, expected) in [
            ("docker://localhost:5000/team/app", "localhost:5000 team/app"),
            ("docker://debian", "docker.io debian"),
            ("docker://library/debian", "docker.io library/debian"),
            ("oci:images/base", "- base"),
            ("images/base/", "- base"),
            ("store:", "- "),
        ] {
            assert_eq!(of(place), expected, "{place}");
        }
    }
}
