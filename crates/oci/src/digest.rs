//! Digests, their grammar and their computation.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use sha2::Digest as _;
use sha2::Sha256;
use sha2::Sha512;

use crate::Error;
use crate::Result;
use crate::error::excerpt;

/// A digest of the OCI grammar, such as `sha256:` and 64 hexadecimal digits.
///
/// A value of this type has been validated: it holds no path separator and neither of its two parts is `.` or
/// `..`, so `blobs/<algorithm_name>/<encoded>` stays where it belongs. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: Arc<str>,
    algorithm: Algorithm,
}

/// How a digest is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// Well-formed but unknown here: such a digest can be carried, never verified.
    Other,
}

impl Digest {
    /// Parses a digest.
    pub fn parse(text: &str) -> Result<Digest> {
        Digest::checked(text).map_err(|expected| Error::Digest { digest: excerpt(text), expected })
    }

    /// Parses a digest, or returns the rule that `text` breaks.
    pub(crate) fn checked(text: &str) -> std::result::Result<Digest, &'static str> {
        Ok(Digest { algorithm: check(text)?, text: text.into() })
    }

    /// Returns where in `text` SHA-256 and SHA-512 digests stand, whatever is around them, in order.
    pub fn mentions(text: &str) -> impl Iterator<Item = Range<usize>> {
        let hexadecimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        text.match_indices(':').filter_map(move |(colon, _)| {
            let name = ["sha256", "sha512"].into_iter().find(|name| text[..colon].ends_with(name))?;
            let length =
                text.as_bytes()[colon + 1..].iter().take(129).take_while(|byte| hexadecimal(byte)).count();
            let range = colon - name.len()..colon + 1 + length;
            Digest::checked(&text[range.clone()]).is_ok().then_some(range)
        })
    }

    /// Returns the SHA-256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Digest {
        let mut digester = Digester::sha256();
        digester.update(bytes);
        digester.finish()
    }

    /// Returns how the digest is computed.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the part before the colon, which names the algorithm.
    pub fn algorithm_name(&self) -> &str {
        self.parts().0
    }

    /// Returns the part after the colon.
    pub fn encoded(&self) -> &str {
        self.parts().1
    }

    /// Returns the whole digest.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn parts(&self) -> (&str, &str) {
        self.text.split_once(':').expect("a digest was checked for its colon when it was made")
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Digest> {
        Digest::parse(text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Returns the algorithm of a well-formed digest, or the rule that `text` breaks.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests>
fn check(text: &str) -> std::result::Result<Algorithm, &'static str> {
    // The grammar has no bound; a file name has.
    const LENGTH: usize = 255;
    if text.len() > LENGTH {
        return Err("a digest of at most 255 bytes");
    }
    let (name, encoded) = text.split_once(':').ok_or("an algorithm, a colon and an encoded hash")?;
    let component = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !name.split(['+', '.', '_', '-']).all(component) {
        return Err("an algorithm of lower-case letters and digits, joined by one of + . _ -");
    }
    let hexadecimal = |length: usize| {
        encoded.len() == length && encoded.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match name {
        "sha256" if hexadecimal(64) => Ok(Algorithm::Sha256),
        "sha256" => Err("64 lower-case hexadecimal digits after sha256:"),
        "sha512" if hexadecimal(128) => Ok(Algorithm::Sha512),
        "sha512" => Err("128 lower-case hexadecimal digits after sha512:"),
        _ if encoded.is_empty() => Err("an encoded hash after the colon"),
        _ if encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte)) => {
            Ok(Algorithm::Other)
        }
        _ => Err("an encoded hash of letters, digits, =, _ and -"),
    }
}

/// Computes a digest from bytes as they come.
#[derive(Clone)]
pub struct Digester(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Digester {
    /// Returns a digester of no bytes yet, or [`Error::Unverifiable`] for [`Algorithm::Other`].
    pub fn new(algorithm: Algorithm) -> Result<Digester> {
        match algorithm {
            Algorithm::Sha256 => Ok(Digester::sha256()),
            Algorithm::Sha512 => Ok(Digester(State::Sha512(Sha512::new()))),
            Algorithm::Other => Err(Error::Unverifiable),
        }
    }

    /// Returns a SHA-256 digester of no bytes yet.
    pub fn sha256() -> Digester {
        Digester(State::Sha256(Sha256::new()))
    }

    /// Adds `bytes` to what is digested.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// Forgets the bytes so far; the algorithm stays.
    pub fn reset(&mut self) {
        match &mut self.0 {
            State::Sha256(state) => *state = Sha256::new(),
            State::Sha512(state) => *state = Sha512::new(),
        }
    }

    /// Returns the digest of the bytes so far, which may still grow.
    pub fn current(&self) -> Digest {
        self.clone().finish()
    }

    /// Returns the digest of all the bytes.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => digest(Algorithm::Sha256, "sha256:", &state.finalize()),
            State::Sha512(state) => digest(Algorithm::Sha512, "sha512:", &state.finalize()),
        }
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Digester").field(&self.current()).finish()
    }
}

fn digest(algorithm: Algorithm, prefix: &str, hash: &[u8]) -> Digest {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(prefix.len() + 2 * hash.len());
    text.push_str(prefix);
    for byte in hash {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    Digest { text: text.into(), algorithm }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn digests_of_the_grammar_are_taken_apart_and_put_together_again() {
        let table = [
            (EMPTY_256, Algorithm::Sha256, "sha256"),
            (EMPTY_512, Algorithm::Sha512, "sha512"),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", Algorithm::Other, "md5"),
            ("blake3:af1349b9f5f9a1a6", Algorithm::Other, "blake3"),
            ("sha256+b64u.v2_x-y:LCa0a2j_xo=-5m0U8HTBBNBNCLXBkg7-g", Algorithm::Other, "sha256+b64u.v2_x-y"),
        ];
        for (text, algorithm, name) in table {
            let digest: Digest = text.parse().unwrap();
            assert_eq!((digest.algorithm(), digest.algorithm_name()), (algorithm, name), "{text}");
            assert_eq!(format!("{}:{}", digest.algorithm_name(), digest.encoded()), text);
            assert_eq!(
                (digest.as_str(), digest.to_string(), format!("{digest:?}").as_str()),
                (text, text.to_owned(), text)
            );
        }
    }

    #[test]
    fn digests_are_found_in_any_text() {
        let other = EMPTY_256.replace('e', "1");
        let text = format!("{{\"a\":\"{EMPTY_256}\",\"b\":[\"x@{EMPTY_512}\"],sha256:é:{other}");
        let found =
            |text: &str| Digest::mentions(text).map(|place| text[place].to_owned()).collect::<Vec<_>>();
        assert_eq!(found(&text), [EMPTY_256, EMPTY_512, &other]);
        for none in
            ["", ":", "sha256:", &EMPTY_256[..70], &format!("{EMPTY_256}0"), &EMPTY_256.to_uppercase()]
        {
            assert_eq!(found(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn what_is_not_a_digest_never_becomes_one() {
        let upper = EMPTY_256.to_uppercase();
        let long = format!("foo:{}", "a".repeat(252));
        let table = [
            "",
            ":",
            "sha256",
            "sha256:",
            "md5:",
            ":e3b0",
            "foo:a:b",
            "foo:a b",
            "foo:a\n",
            "foo:ä",
            " foo:a",
            // One digit too few, one too many, upper case in either part.
            &EMPTY_256[..70],
            &format!("{EMPTY_256}0"),
            &upper,
            &upper.replace("SHA", "sha"),
            &EMPTY_512[..71],
            &EMPTY_512.replace("cf", "CF"),
            // Paths.
            "sha256:../../../../etc/passwd",
            "foo:../bar",
            "foo:..",
            "foo:.",
            "..:foo",
            ".:foo",
            "../x:foo",
            "a/b:foo",
            "foo:a/b",
            "foo:a\\b",
            "foo:a\0",
            // Empty components.
            "foo+:a",
            "+foo:a",
            "foo..bar:a",
            "foo+-bar:a",
            "Foo:a",
            "foo~bar:a",
            &long,
        ];
        for text in table {
            let error = Digest::parse(text).unwrap_err();
            assert!(matches!(error, Error::Digest { .. }), "{text:?}: {error}");
        }
        assert!(Digest::parse(&long[..255]).is_ok());
    }

    #[test]
    fn a_message_does_not_repeat_a_megabyte() {
        let error = Digest::parse(&"ä".repeat(1 << 20)).unwrap_err();
        assert!(error.to_string().len() < 500, "{error}");
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::sha256(b"").as_str(), EMPTY_256);
        assert_eq!(Digest::sha256(b"abc").as_str(), abc);
        let mut digester = Digester::new(Algorithm::Sha512).unwrap();
        assert_eq!(digester.current().as_str(), EMPTY_512);
        digester.update(b"abc");
        let digest = digester.finish();
        assert!(digest.encoded().starts_with("ddaf35a193617abacc417349ae204131"), "{digest}");
        assert_eq!(digest, Digest::parse(digest.as_str()).unwrap());
    }

    #[test]
    fn a_digester_goes_on_after_a_look_at_its_digest() {
        let mut digester = Digester::sha256();
        digester.update(b"a");
        assert_eq!(digester.current(), Digest::sha256(b"a"));
        digester.update(b"b");
        assert_eq!(digester.current(), Digest::sha256(b"ab"));
        digester.reset();
        digester.update(b"b");
        assert_eq!(digester.finish(), Digest::sha256(b"b"));
    }

    #[test]
    fn nothing_computes_digests_of_an_unknown_algorithm() {
        assert!(matches!(Digester::new(Algorithm::Other), Err(Error::Unverifiable)));
    }
}
