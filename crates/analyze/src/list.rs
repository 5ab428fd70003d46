//! Prefetch lists: one path or glob a line, written by hand.
//!
//! Lines are trimmed; empty lines and lines that start with `#` say nothing. A line with `*`, `?` or
//! `[` is a glob over whole paths: `*` and `?` stop at `/`, `**` does not. Where the image has something
//! at the path that the glob spells, that path is meant: `pages/[id].js` is a name in many of them. Behind
//! `\`, a character means itself. Any other line is a path.

use std::io::Read as _;
use std::path::Path;

use globset::GlobBuilder;
use globset::GlobMatcher;

use crate::Error;
use crate::Result;
use crate::path;

/// A file longer than this is refused: it is not a list somebody wrote.
const MAX_FILE_SIZE: u64 = 64 << 20;
/// The most paths that are kept from one file.
pub(crate) const MAX_PATHS: usize = 1_000_000;
/// Globs are tried on every name of every layer, so there may be fewer of them.
const MAX_GLOBS: usize = 1_000;
/// What is escaped in a path that is to mean itself.
const SPECIAL: [char; 8] = ['*', '?', '[', ']', '{', '}', '!', '\\'];
/// What some editors put before the first line.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// One line of a prefetch list.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// A clean path.
    Literal(String),
    /// A glob over clean paths.
    Glob(Glob),
}

/// A glob over clean paths.
#[derive(Debug, Clone)]
pub struct Glob(GlobMatcher);

impl Glob {
    /// Says whether the clean path is one of those meant.
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }

    /// Returns the glob as it was written.
    pub fn as_str(&self) -> &str {
        self.0.glob().glob()
    }

    /// Returns the directory that everything meant is below, as far as it is spelled out: `a/b` for `a/b/*/c`.
    pub(crate) fn directory(&self) -> &str {
        let glob = self.as_str();
        let plain = &glob[..glob.find(SPECIAL).unwrap_or(glob.len())];
        plain.rsplit_once('/').map_or("", |(directory, _)| directory)
    }
}

/// Reads a prefetch list from a file.
pub fn load(path: &Path) -> Result<Vec<Pattern>> {
    load_with(path, parse)
}

/// Parses a prefetch list; the order of its lines is the order of its patterns.
pub fn parse(text: &str) -> Result<Vec<Pattern>> {
    let mut patterns = Vec::new();
    let mut globs = 0;
    for (number, line) in lines(text) {
        if line.starts_with('#') {
            continue;
        }
        let is_glob = line.contains(['*', '?', '[']);
        let clean = |path: &str| path::parse(path).map_err(|reason| refused(number, line, reason));
        let escaped = Some(line).filter(|_| is_glob).and_then(unescape);
        patterns.push(match escaped {
            Some(path) => Pattern::Literal(clean(&path)?),
            None if is_glob => glob(number, clean(line)?)?,
            None => Pattern::Literal(clean(line)?),
        });
        globs += usize::from(matches!(patterns.last(), Some(Pattern::Glob(_))));
        for (count, limit) in [(patterns.len(), MAX_PATHS), (globs, MAX_GLOBS)] {
            if count > limit {
                return Err(Error::TooMany { line: number, limit });
            }
        }
    }
    Ok(patterns)
}

/// Returns the line of a list that means this very path; a path with a line break has none.
pub fn line(path: &str) -> Option<String> {
    if path.contains(['\n', '\r']) || path.trim() != path {
        return None;
    }
    let is_glob = path.contains(['*', '?', '[']);
    let escaped = |c: char| if SPECIAL.contains(&c) { format!("\\{c}") } else { c.to_string() };
    let line = if is_glob { path.chars().map(escaped).collect() } else { path.to_owned() };
    // From the root on, so that it is no comment.
    Some(format!("/{line}"))
}

/// Returns the path that a line means in which every special character is escaped, as [`line`] writes them.
fn unescape(line: &str) -> Option<String> {
    let mut path = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => path.push(characters.next()?),
            '*' | '?' | '[' | '{' | '}' => return None,
            plain => path.push(plain),
        }
    }
    Some(path)
}

/// Returns the glob that a clean path with special characters is; one that is malformed may still be the name of a file.
fn glob(line: usize, path: String) -> Result<Pattern> {
    match compile(line, &path) {
        Ok(glob) => Ok(Pattern::Glob(glob)),
        Err(_) if !path.contains('\\') => Ok(Pattern::Literal(path)),
        Err(error) => Err(error),
    }
}

fn compile(line: usize, pattern: &str) -> Result<Glob> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| Glob(glob.compile_matcher()))
        .map_err(|error| Error::Pattern { line, pattern: pattern.to_owned(), source: error.into() })
}

/// Yields the lines that are not blank, trimmed, with their numbers from 1.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.strip_prefix(BYTE_ORDER_MARK)
        .unwrap_or(text)
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty())
}

/// Reads a file of accesses and parses it; errors name the file.
pub(crate) fn load_with<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let named = |source| Error::File { path: path.to_owned(), source: Box::new(source) };
    read(path).and_then(|text| parse(&text)).map_err(named)
}

/// Reads a file, no more than is sensible.
fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(Error::Read)?;
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(Error::Read)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(Error::TooLong { limit: MAX_FILE_SIZE });
    }
    String::from_utf8(bytes).map_err(|error| Error::NotText { offset: error.utf8_error().valid_up_to() })
}

/// Names the line and the start of a path that was refused.
pub(crate) fn refused(line: usize, path: &str, reason: &'static str) -> Error {
    Error::Path { line, path: path.chars().take(80).collect(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_trimmed_and_cleaned_and_its_comments_are_dropped() {
        let patterns = parse(
            "\u{feff}# first\n\n  /usr/bin/app \r\n./etc//passwd\nlib/*.so\n\t#x\na#b\n/usr/bin/[\n\u{feff}x",
        )
        .unwrap();
        let words: Vec<_> = patterns
            .iter()
            .map(|pattern| match pattern {
                Pattern::Literal(path) => format!("path {path}"),
                Pattern::Glob(glob) => format!("glob {}", glob.as_str()),
            })
            .collect();
        let expected = [
            "path usr/bin/app",
            "path etc/passwd",
            "glob lib/*.so",
            "path a#b",
            // No glob, so the name of a file.
            "path usr/bin/[",
            "path \u{feff}x",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn a_glob_knows_the_directory_it_is_for() {
        for (glob, expected) in [
            ("*", ""),
            ("a/*", "a"),
            ("a/b/c*/d/*", "a/b"),
            ("a/{b/c,d}/*", "a"),
            (r"a/\[b/*", "a"),
            ("a*", ""),
        ] {
            let Pattern::Glob(parsed) = &parse(glob).unwrap()[0] else { panic!("{glob} is a glob") };
            assert_eq!(parsed.directory(), expected, "{glob}");
        }
    }

    #[test]
    fn one_star_stops_at_a_slash_and_two_do_not() {
        for (glob, path, expected) in [
            ("*.so", "a.so", true),
            ("*.so", "lib/a.so", false),
            ("lib/*", "lib/a", true),
            ("lib/*", "lib/a/b", false),
            ("lib/**", "lib/a/b", true),
            ("lib/**", "lib", false),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("x/**/a", "x/a", true),
            ("x/**/a", "x/y/z/a", true),
            ("**", "x/y", true),
            ("?", "ab", false),
            ("a?b", "a/b", false),
            ("[ab]c", "bc", true),
            ("[!a]c", "bc", true),
            ("[^a]c", "bc", true),
            ("{a,b}*", "bc", true),
            (r"\*[*]", "**", true),
            (".*", "a", false),
            ("*", ".hidden", true),
        ] {
            let Pattern::Glob(parsed) = &parse(glob).unwrap()[0] else { panic!("{glob} is a glob") };
            assert_eq!(parsed.matches(path), expected, "{glob} on {path}");
        }
    }

    #[test]
    fn a_path_is_spelled_so_that_it_means_itself() {
        for path in [
            "usr/bin/[",
            "a*b{c}?",
            "#a",
            "a b",
            r"a\*",
            r"a\",
            "usr/bin/sh",
            "[id].js",
            r"\[id\].js",
            "!a]{,}[",
            "\u{feff}a",
        ] {
            let parsed = parse(&line(path).unwrap()).unwrap();
            assert!(
                matches!(&parsed[..], [Pattern::Literal(literal)] if literal == path),
                "{path}: {parsed:?}"
            );
        }
        assert_eq!((line("a\nb"), line(" a")), (None, None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        let long = format!("ok\n{}", "a/".repeat(3000));
        for (text, expected) in [
            ("a\nb\\?[", r#"line 2: the pattern "b\\?[" is malformed"#),
            ("a\0b", r#"line 1: a zero byte in the path "a\0b""#),
            (&long, "line 2: more than 4096 bytes in the path"),
            (&"*\n".repeat(MAX_GLOBS + 1), "line 1001: more than 1000 paths"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_file_that_is_no_list_is_named() {
        for path in ["no/such/list", "src"] {
            let error = load(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), path);
            assert!(matches!(error, Error::File { source, .. } if matches!(*source, Error::Read(_))));
        }
    }
}
