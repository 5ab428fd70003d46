//! The document: groups of sources, and what is done with their images.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;
use semver::VersionReq;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::Error;
use crate::Position;
use crate::Result;
use crate::duration;
use crate::error::wrong;
use crate::source::Source;
use crate::tags::Choice;
use crate::tags::Pattern;
use crate::template::Template;

/// The most bytes of rules that are read.
const LIMIT: u64 = 1 << 20;

/// What is done with the images of a group.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Operation {
    /// `restow optimize`.
    #[default]
    Optimize,
    /// `restow convert`.
    Convert,
    /// `restow copy`.
    Copy,
}

impl Operation {
    /// Returns the name of the command.
    pub fn command(self) -> &'static str {
        match self {
            Operation::Optimize => "optimize",
            Operation::Convert => "convert",
            Operation::Copy => "copy",
        }
    }
}

/// Which images are worked on.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Only {
    /// Those whose destination does not exist.
    Missing,
    /// Those, and those whose source or options have changed since the destination was made.
    #[default]
    Changed,
    /// All of them.
    Always,
}

/// Rules that have been read. [`Rules::expand`] makes jobs of them.
#[derive(Debug)]
pub struct Rules {
    pub(crate) groups: Vec<Group>,
}

/// Sources that are treated alike.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Option<String>,
    pub(crate) sources: Vec<(Position, Source)>,
    pub(crate) choice: Choice,
    /// How old an image may be.
    pub(crate) within: Option<Duration>,
    pub(crate) destination: (Position, Template),
    pub(crate) operation: Operation,
    /// Words of a command line.
    pub(crate) options: Vec<String>,
    pub(crate) only: Only,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    defaults: Section,
    groups: Spanned<Vec<Spanned<Section>>>,
}

/// A group as it is written, or what groups have where they say nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    name: Option<Spanned<String>>,
    sources: Option<Spanned<Vec<Spanned<String>>>>,
    tags: Option<Tags>,
    platforms: Option<Vec<Spanned<String>>>,
    destination: Option<Spanned<String>>,
    operation: Option<Operation>,
    #[serde(default)]
    options: BTreeMap<String, Spanned<Value>>,
    only: Option<Only>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tags {
    #[serde(default)]
    include: Vec<Spanned<String>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    regex: Option<Spanned<String>>,
    semver: Option<Spanned<String>>,
    newest: Option<usize>,
    within: Option<Spanned<String>>,
}

/// The value of an option.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Value {
    /// Whether a flag stands there.
    Switch(bool),
    Number(i64),
    Text(String),
    /// The option stands there several times.
    Several(Vec<String>),
}

impl Rules {
    /// Parses a document of at most 1 MiB.
    pub fn parse(text: &str) -> Result<Rules> {
        if text.len() as u64 > LIMIT {
            return Err(Error::TooLarge { limit: LIMIT });
        }
        let Document { defaults, groups } = serde_saphyr::from_str(text).map_err(malformed)?;
        if let Some(sources) = &defaults.sources {
            return Err(wrong(sources.referenced, "`defaults` has no sources; groups have"));
        }
        if groups.value.is_empty() {
            return Err(wrong(groups.referenced, "there is no group"));
        }
        let parsed = groups.value.iter().map(|group| Group::new(group, &defaults));
        Ok(Rules { groups: parsed.collect::<Result<_>>()? })
    }

    /// Returns the most bytes of rules that [`parse`](Rules::parse) takes.
    pub fn limit() -> u64 {
        LIMIT
    }
}

fn malformed(error: serde_saphyr::Error) -> Error {
    let at = error.location().map_or(Position { line: 1, column: 1 }, Position::from);
    let text = error.without_snippet().to_string();
    // The position stands in front of every problem already.
    let problem = text.split_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    Error::Rules { at, problem: problem.trim_start_matches("error: ").to_owned() }
}

impl Group {
    fn new(group: &Spanned<Section>, defaults: &Section) -> Result<Group> {
        let Section { name, sources, tags, destination, operation, only, .. } = &group.value;
        let sources = sources.as_ref().filter(|sources| !sources.value.is_empty());
        let sources = sources.ok_or_else(|| wrong(group.referenced, "the group has no sources"))?;
        let source = |text: &Spanned<String>| {
            let source = Source::parse(&text.value).map_err(|problem| wrong(text.referenced, problem))?;
            Ok((Position::from(text.referenced), source))
        };
        let destination = destination
            .as_ref()
            .or(defaults.destination.as_ref())
            .ok_or_else(|| wrong(group.referenced, "the group has no destination"))?;
        let template =
            Template::parse(&destination.value).map_err(|problem| wrong(destination.referenced, problem))?;
        let tags = tags.as_ref().or(defaults.tags.as_ref());
        Ok(Group {
            name: name.as_ref().map(|name| name.value.clone()),
            sources: sources.value.iter().map(source).collect::<Result<_>>()?,
            choice: tags.map(choice).transpose()?.unwrap_or_default(),
            within: tags.and_then(|tags| tags.within.as_ref()).map(span).transpose()?,
            destination: (destination.referenced.into(), template),
            operation: operation.or(defaults.operation).unwrap_or_default(),
            options: words(&group.value, defaults)?,
            only: only.or(defaults.only).unwrap_or_default(),
        })
    }
}

/// Returns the options of a group, and those of the defaults that it does not have itself, as words.
fn words(group: &Section, defaults: &Section) -> Result<Vec<String>> {
    let mut options = defaults.options.clone();
    options.extend(group.options.clone());
    let mut words = Vec::new();
    for (name, value) in &options {
        if name.is_empty() || name.starts_with('-') || name.contains('=') {
            let problem = format!("{name:?} is not the name of an option; leave out the dashes");
            return Err(wrong(value.referenced, problem));
        }
        match &value.value {
            Value::Switch(true) => words.push(format!("--{name}")),
            Value::Switch(false) => {}
            Value::Number(number) => words.push(format!("--{name}={number}")),
            Value::Text(text) => words.push(format!("--{name}={text}")),
            Value::Several(texts) => words.extend(texts.iter().map(|text| format!("--{name}={text}"))),
        }
    }
    let platforms = group.platforms.as_ref().or(defaults.platforms.as_ref());
    let platforms: Vec<_> = platforms.into_iter().flatten().map(|platform| platform.value.as_str()).collect();
    match platforms[..] {
        [] => {}
        ["all"] => words.push("--all-platforms".into()),
        _ => words.push(format!("--platform={}", platforms.join(","))),
    }
    Ok(words)
}

fn choice(tags: &Tags) -> Result<Choice> {
    let patterns = |texts: &[Spanned<String>]| {
        let pattern = |text: &Spanned<String>| {
            Pattern::tag(&text.value)
                .map_err(|problem| wrong(text.referenced, format!("{}: {problem}", text.value)))
        };
        texts.iter().map(pattern).collect::<Result<Vec<_>>>()
    };
    let regex = tags.regex.as_ref().map(|text| {
        let whole = Regex::new(&format!(r"\A(?:{})\z", text.value));
        whole.map_err(|_| wrong(text.referenced, format!("{} is not a regular expression", text.value)))
    });
    let semver = tags.semver.as_ref().map(|text| {
        let range = VersionReq::parse(&text.value);
        range.map_err(|error| {
            wrong(text.referenced, format!("{} is not a range of versions: {error}", text.value))
        })
    });
    Ok(Choice {
        include: patterns(&tags.include)?,
        exclude: patterns(&tags.exclude)?,
        regex: regex.transpose()?,
        semver: semver.transpose()?,
        newest: tags.newest,
    })
}

fn span(text: &Spanned<String>) -> Result<Duration> {
    duration::parse(&text.value)
        .ok_or_else(|| wrong(text.referenced, "expected a span of time such as 12h, 30d or 8w"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
defaults:
  operation: optimize
  options: {zstdchunked: true, zstdchunked-compression-level: 5, reuse: true}
  platforms: [linux/amd64, linux/arm64]
  destination: docker://localhost:5000/{repository}:{tag}-zc
groups:
  - name: bases
    sources:
      - docker://h.example/library/*
      - oci:images
    tags: {include: ['3.*'], exclude: ['*-rc'], semver: '>=3.18', newest: 2, within: 30d}
    only: missing
  - sources: [docker://h.example/team/app:v1]
    operation: copy
    options: {zstdchunked: false, zstdchunked-compression-level: false, reuse: false, tag: [a, b]}
    platforms: [all]
    destination: oci:out:{name}
";

    #[test]
    fn groups_have_what_they_say_and_the_defaults() {
        let groups = Rules::parse(WHOLE).unwrap().groups;
        let [bases, app] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!(bases.name.as_deref(), Some("bases"));
        assert_eq!(bases.sources[1].0, Position { line: 10, column: 9 });
        assert_eq!(
            bases.options,
            [
                "--reuse",
                "--zstdchunked",
                "--zstdchunked-compression-level=5",
                "--platform=linux/amd64,linux/arm64"
            ]
        );
        assert_eq!((bases.only, bases.operation), (Only::Missing, Operation::Optimize));
        assert_eq!(bases.within, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(app.options, ["--tag=a", "--tag=b", "--all-platforms"]);
        assert_eq!((app.only, app.operation), (Only::Changed, Operation::Copy));
    }

    #[test]
    fn every_mistake_has_a_line_and_a_column() {
        let group = "groups:\n  - sources: [oci:a]\n    destination: oci:b:{tag}\n";
        let with = |line: &str| format!("{group}    {line}\n");
        for (text, at, problem) in [
            (String::new(), (1, 1), "unexpected end of input"),
            ("defaults: {}".to_owned(), (1, 1), "groups"),
            ("groups: []".to_owned(), (1, 9), "there is no group"),
            ("groups:\n  - destination: oci:a".to_owned(), (2, 5), "the group has no sources"),
            ("groups:\n  - sources: [oci:a]".to_owned(), (2, 5), "the group has no destination"),
            (with("destinations: x"), (4, 5), "unknown field"),
            (with("sources: [oci:c]"), (4, 5), "duplicate"),
            (with("operation: move"), (4, 16), "unknown variant"),
            (with("only: sometimes"), (4, 11), "unknown variant"),
            (with("tags: {include: ['[']}"), (4, 22), "[: "),
            (with("tags: {regex: '('}"), (4, 19), "( is not a regular expression"),
            (with("tags: {semver: 'one'}"), (4, 20), "one is not a range of versions"),
            (with("tags: {within: 30}"), (4, 20), "expected a span of time"),
            (with("tags: {glob: x}"), (4, 12), "unknown field"),
            (with("tags: 'x'"), (4, 11), ""),
            (with("options: {--zstdchunked: true}"), (4, 30), "leave out the dashes"),
            (with("options: [zstdchunked]"), (4, 14), ""),
            (format!("{group}\t- x"), (3, 18), "tab"),
            (group.replace("{tag}", "{tags}"), (3, 18), "unknown field {tags}"),
            (group.replace("oci:a", "''"), (2, 15), "a source must name a place"),
            (format!("defaults:\n  sources: [oci:a]\n{group}"), (2, 12), "`defaults` has no sources"),
            ("groups: *x".to_owned(), (1, 9), ""),
            ("\u{0}".to_owned(), (1, 1), ""),
        ] {
            let error = Rules::parse(&text).unwrap_err();
            let Error::Rules { at: found, problem: said } = &error else { panic!("{error}") };
            assert!(said.contains(problem), "{text}: {error}");
            assert_eq!((found.line, found.column), at, "{text}: {error}");
            assert!(!said.contains('\n'), "{text}: {error}");
        }
        let large = " ".repeat(LIMIT as usize + 1);
        assert!(matches!(Rules::parse(&large), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
        }
        assert!(Rules::parse(&format!("{text}groups: *a11")).is_err());
    }
}
