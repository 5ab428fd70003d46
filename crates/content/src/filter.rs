//! Filters in containerd's grammar, for blobs, ingests and images.
//!
//! ```text
//! filter   := selector ("," selector)*                all of them must match
//! selector := path [("==" | "!=" | "~=") value]       alone: the field is there
//! path     := field ("." field)*
//! field    := [A-Za-z0-9_]+ | quoted
//! value    := [^\s,]+ | quoted                        behind ~= a regular expression, which may match anywhere
//! quoted   := "…" with the escapes of Go, and behind ~= also /…/ and |…|
//! ```
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/pkg/filters/parser.go>

use regex::Regex;

use crate::Error;
use crate::Info;
use crate::IngestStatus;
use crate::Labels;
use crate::Result;

/// Something that a filter can choose.
pub trait Filterable {
    /// Returns the value of the field, if there is one.
    fn field(&self, path: &[String]) -> Option<String>;
}

impl Filterable for Info {
    fn field(&self, path: &[String]) -> Option<String> {
        match path.split_first()? {
            (first, []) if first == "digest" => Some(self.digest.to_string()),
            (first, []) if first == "size" => Some(self.size.to_string()),
            (first, rest) if first == "labels" => label(&self.labels, rest),
            _ => None,
        }
    }
}

impl Filterable for IngestStatus {
    fn field(&self, path: &[String]) -> Option<String> {
        matches!(path, [only] if only == "ref").then(|| self.key.clone())
    }
}

/// Returns the label whose key is `path`, whose dots separate fields to the parser.
pub(crate) fn label(labels: &Labels, path: &[String]) -> Option<String> {
    labels.get(&path.join(".")).cloned()
}

/// Says which things are meant: those that match any of its alternatives, or all where there are none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    alternatives: Vec<Vec<Selector>>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    Different(String),
    Matches(Regex),
}

impl Filter {
    /// Parses alternatives. An empty text matches everything.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Filter> {
        let alternatives = texts.into_iter().map(|text| Parser { text, position: 0 }.filter());
        Ok(Filter { alternatives: alternatives.collect::<Result<_>>()? })
    }

    /// Returns whether `thing` is meant.
    pub fn matches(&self, thing: &impl Filterable) -> bool {
        let all = |selectors: &Vec<Selector>| selectors.iter().all(|selector| selector.matches(thing));
        self.alternatives.is_empty() || self.alternatives.iter().any(all)
    }
}

impl Selector {
    fn matches(&self, thing: &impl Filterable) -> bool {
        let value = thing.field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(expected) => value.as_ref() == Some(expected),
            // As containerd has it: what is absent is empty here.
            Test::Different(other) => value.unwrap_or_default() != *other,
            Test::Matches(regex) => regex.is_match(&value.unwrap_or_default()),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
}

impl Parser<'_> {
    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut selectors = Vec::new();
        self.skip_space();
        if self.text.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            self.skip_space();
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => self.advance(1),
                Some(_) => return Err(self.problem("expected a comma or the end")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.advance(1);
            path.push(self.field()?);
        }
        self.skip_space();
        let operator = self.take_while(|letter| "=!~".contains(letter));
        let start = self.position;
        let test = match operator.as_str() {
            "" => Test::Present,
            "==" => Test::Equal(self.value(&['"'])?),
            "!=" => Test::Different(self.value(&['"'])?),
            "~=" => {
                let value = self.value(&['"', '/', '|'])?;
                let malformed = |error: regex::Error| Error::InvalidFilter {
                    filter: self.text.to_owned(),
                    position: start,
                    problem: error.to_string(),
                };
                Test::Matches(Regex::new(&value).map_err(malformed)?)
            }
            _ => return Err(self.problem("expected ==, != or ~=")),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted('"'),
            _ => {
                let field = self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '_');
                if field.is_empty() { Err(self.problem("expected a field")) } else { Ok(field) }
            }
        }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some(quote) if quotes.contains(&quote) => self.quoted(quote),
            // A separator, a quote or an operator starts no bare value.
            None | Some('.' | ',' | '"' | '/' | '|' | '=' | '!' | '~') => {
                Err(self.problem("expected a value"))
            }
            Some(_) => Ok(self.take_while(|letter| letter != ',' && !letter.is_whitespace())),
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        self.advance(quote.len_utf8());
        let mut bytes = Vec::new();
        loop {
            let letter = match self.peek() {
                None | Some('\n') => return Err(self.problem("the quoted text does not end")),
                Some(letter) => letter,
            };
            self.advance(letter.len_utf8());
            match letter {
                '\\' => self.escape(quote, &mut bytes)?,
                letter if letter == quote => break,
                letter => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.problem("the quoted text is not UTF-8"))
    }

    /// Reads what follows a backslash.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<()> {
        let letter = self.peek().ok_or_else(|| self.problem("the quoted text does not end"))?;
        self.advance(letter.len_utf8());
        let byte = match letter {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            'x' => self.number(16, 2)?.try_into().unwrap_or_default(),
            '0'..='7' => {
                self.position -= 1;
                let number = self.number(8, 3)?;
                number.try_into().map_err(|_| self.problem("an octal escape is more than 255"))?
            }
            'u' | 'U' => {
                let number = self.number(16, if letter == 'u' { 4 } else { 8 })?;
                let letter = char::from_u32(number).ok_or_else(|| self.problem("no such character"))?;
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            letter if letter == quote => {
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.problem("no such escape")),
        };
        bytes.push(byte);
        Ok(())
    }

    fn number(&mut self, base: u32, digits: usize) -> Result<u32> {
        let text = self.text.get(self.position..self.position + digits);
        let number = text
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|text| u32::from_str_radix(text, base).ok());
        let number = number.ok_or_else(|| self.problem("a numeric escape is not finished"))?;
        self.advance(digits);
        Ok(number)
    }

    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn advance(&mut self, bytes: usize) {
        self.position += bytes;
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let rest = &self.text[self.position..];
        let taken = &rest[..rest.find(|letter| !wanted(letter)).unwrap_or(rest.len())];
        self.position += taken.len();
        taken.to_owned()
    }

    fn problem(&self, problem: &str) -> Error {
        Error::InvalidFilter {
            filter: self.text.to_owned(),
            position: self.position,
            problem: problem.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::now;
    use restow_oci::Digest;

    fn info() -> Info {
        let labels = [("foo", "bar"), ("very complex.label", "some thing"), ("a.b", "ü"), ("empty", "")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Info { digest: Digest::sha256(b""), size: 7, labels: labels.into(), created: now(), updated: now() }
    }

    #[test]
    fn a_filter_matches_what_containerd_says() {
        let digest = format!("digest=={}", Digest::sha256(b""));
        for (filter, expected) in [
            ("", true),
            (&*digest, true),
            ("digest==sha256:00", false),
            ("digest~=^sha256:e3b0", true),
            ("size==7", true),
            ("labels.foo", true),
            ("labels.nothing", false),
            ("labels", false),
            ("labels.foo==bar", true),
            ("labels.foo == bar", true),
            (" labels.foo==\"b\\x61r\"", true),
            ("labels.foo==ba", false),
            ("labels.foo!=bar", false),
            ("labels.foo!=other", true),
            ("labels.nothing!=other", true),
            ("labels.nothing==", false),
            ("labels.nothing!=\"\"", false),
            ("labels.foo~=^b.r$", true),
            ("labels.foo~=/^b[a-z]r$/", true),
            ("labels.foo~=|a|", true),
            ("labels.nothing~=/./", false),
            ("labels.nothing~=^$", true),
            ("labels.empty", true),
            ("labels.\"very complex.label\"==\"some thing\"", true),
            ("labels.\"very complex\".label", true),
            ("labels.a.b==ü", true),
            ("labels.a.b==\"\\u00fc\"", true),
            ("labels.a.b==\"\\xc3\\274\"", true),
            ("labels.foo==bar,size==7", true),
            ("labels.foo==bar , size==8", false),
            ("size==8,labels.foo==bar", false),
            ("unknown", false),
            ("unknown.field!=x", true),
        ] {
            let result = Filter::parse([filter]).map(|filter| filter.matches(&info()));
            if filter == "labels.nothing==" {
                assert!(result.is_err());
                continue;
            }
            assert_eq!(result.unwrap(), expected, "{filter}");
        }
    }

    #[test]
    fn any_of_several_filters_is_enough_and_none_is_all() {
        assert!(Filter::parse(["size==8", "labels.foo"]).unwrap().matches(&info()));
        assert!(!Filter::parse(["size==8", "size==9"]).unwrap().matches(&info()));
        assert!(Filter::parse([]).unwrap().matches(&info()));
    }

    #[test]
    fn a_malformed_filter_is_refused_with_the_place() {
        for (filter, position) in [
            (",", 0),
            ("a,", 2),
            ("a..b", 2),
            ("a.", 2),
            ("=b", 0),
            ("a=b", 2),
            ("a===b", 4),
            ("a==", 3),
            ("a==,b", 3),
            ("a==b c", 5),
            ("a==\"b", 5),
            ("a==\"\\q\"", 6),
            ("a==\"\\xz\"", 6),
            ("a==\"\\ud800\"", 10),
            ("a==\"\\777\"", 8),
            ("a==\"\\xff\"", 9),
            ("a==/b/", 3),
            ("a~=(", 3),
            ("a~=.", 3),
            ("a b", 2),
            ("ä", 0),
            ("a==\"b\nc\"", 5),
        ] {
            let error = Filter::parse([filter]).unwrap_err();
            let Error::InvalidFilter { position: found, .. } = &error else { panic!("{error}") };
            assert_eq!(*found, position, "{filter:?}: {error}");
        }
    }
}
