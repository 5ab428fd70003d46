//! Which tags of a place are meant.

use std::cmp::Ordering;

use globset::GlobBuilder;
use globset::GlobMatcher;
use regex::Regex;
use semver::Version;
use semver::VersionReq;

/// A glob: `*` and `?` are any characters, `[a-c]` one of some, `{a,b}` one or the other.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.glob().glob())
    }
}

impl Pattern {
    /// Parses a glob for tags, in which `*` passes over everything.
    pub fn tag(text: &str) -> Result<Pattern, String> {
        compile(text, false)
    }

    /// Parses a glob for paths, in which `*` and `?` stop at `/`, and `**` does not.
    pub fn path(text: &str) -> Result<Pattern, String> {
        compile(text, true)
    }

    /// Tells whether all of the text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

fn compile(text: &str, separated: bool) -> Result<Pattern, String> {
    let glob = GlobBuilder::new(text).literal_separator(separated).build();
    glob.map(|glob| Pattern(glob.compile_matcher())).map_err(|error| error.kind().to_string())
}

/// What is asked of tags. All of it must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// One of these matches, if there are any.
    pub(crate) include: Vec<Pattern>,
    /// None of these matches.
    pub(crate) exclude: Vec<Pattern>,
    /// All of the tag matches.
    pub(crate) regex: Option<Regex>,
    pub(crate) semver: Option<VersionReq>,
    /// So many, the highest versions of what is left.
    pub(crate) newest: Option<usize>,
}

impl Choice {
    /// Returns the tags that are meant, in their order.
    pub(crate) fn select(&self, tags: &[String]) -> Vec<String> {
        let mut chosen: Vec<&String> = tags.iter().filter(|tag| self.admits(tag)).collect();
        if let Some(newest) = self.newest {
            let mut ordered = chosen.clone();
            ordered.sort_by(|a, b| compare(b, a));
            ordered.truncate(newest);
            chosen.retain(|tag| ordered.contains(tag));
        }
        chosen.into_iter().cloned().collect()
    }

    fn admits(&self, tag: &str) -> bool {
        let matched = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(tag));
        let in_range = |range: &VersionReq| version(tag).is_some_and(|version| range.matches(&version));
        (self.include.is_empty() || matched(&self.include))
            && !matched(&self.exclude)
            && self.regex.as_ref().is_none_or(|regex| regex.is_match(tag))
            && self.semver.as_ref().is_none_or(in_range)
    }
}

/// Parses a version as tags spell it: with a `v` or without, with one, two or three numbers.
fn version(tag: &str) -> Option<Version> {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let missing = match numbers.split('.').count() {
        1 => ".0.0",
        2 => ".0",
        _ => "",
    };
    Version::parse(&format!("{numbers}{missing}{rest}")).ok()
}

/// Orders tags as versions where they are some, and after all that are none. Of equal versions the longer text is higher,
/// so that `3.20.1` comes after `3.20`.
fn compare(a: &str, b: &str) -> Ordering {
    version(a).cmp(&version(b)).then_with(|| natural(a).cmp(&natural(b)))
}

/// Cuts a text into texts and numbers, which are compared as such.
fn natural(text: &str) -> Vec<(u128, &str)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let word = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let value = if number.is_empty() { 0 } else { number.parse().unwrap_or(u128::MAX) };
        parts.push((value, &after[..word]));
        rest = &after[word..];
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(choice: &Choice) -> String {
        let tags =
            ["latest", "3.9", "3.10", "v3.10.2", "3.20-alpine", "3.20", "4", "nightly-2", "nightly-10"];
        choice.select(&tags.map(str::to_owned)).join(" ")
    }

    #[test]
    fn tags_are_chosen_by_all_that_is_asked() {
        let glob = |text: &str| vec![Pattern::tag(text).unwrap()];
        let range = |text: &str| Some(VersionReq::parse(text).unwrap());
        for (choice, expected) in [
            (Choice::default(), "latest 3.9 3.10 v3.10.2 3.20-alpine 3.20 4 nightly-2 nightly-10"),
            (Choice { include: glob("3.*"), ..Choice::default() }, "3.9 3.10 3.20-alpine 3.20"),
            (
                Choice { include: glob("3.*"), exclude: glob("*-alpine"), ..Choice::default() },
                "3.9 3.10 3.20",
            ),
            (Choice { regex: Regex::new(r"\A(?:nightly-\d)\z").ok(), ..Choice::default() }, "nightly-2"),
            (Choice { semver: range(">=3.10, <4"), ..Choice::default() }, "3.10 v3.10.2 3.20"),
            (Choice { newest: Some(2), semver: range("3"), ..Choice::default() }, "v3.10.2 3.20"),
            (Choice { newest: Some(2), ..Choice::default() }, "3.20 4"),
            (Choice { newest: Some(1), include: glob("nightly-*"), ..Choice::default() }, "nightly-10"),
            (Choice { newest: Some(0), ..Choice::default() }, ""),
            (Choice { include: glob("{4,latest}"), ..Choice::default() }, "latest 4"),
        ] {
            assert_eq!(select(&choice), expected, "{choice:?}");
        }
    }

    #[test]
    fn numbers_in_tags_are_compared_as_numbers() {
        for pair in
            [["a2", "a10"], ["3.9", "3.10"], ["build-9", "build-10-x"], ["x", "1.0"], ["3.20", "3.20.1"]]
        {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        let long = "9".repeat(100);
        assert_eq!(compare(&long, &long), Ordering::Equal);
    }
}
