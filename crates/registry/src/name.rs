//! What a registry's image is called: `HOST/NAME[:TAG][@DIGEST]`, with the short forms of Docker Hub.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests>

use std::fmt;
use std::str::FromStr;

use restow_oci::Digest;

use crate::Error;
use crate::Result;

/// Docker Hub, as names spell it.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Other spellings of it that are in use.
const DOCKER_HUB_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// A repository: the part of a registry in which blobs are shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    host: String,
    path: String,
}

/// An image or a blob of a registry: a repository, and which of its contents.
///
/// Where both are named, the digest decides what is read, and the tag what a write names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Where it lies.
    pub repository: Repository,
    /// Its tag.
    pub tag: Option<String>,
    /// Its digest.
    pub digest: Option<Digest>,
}

impl Repository {
    /// Returns the registry: a host name or an address, with a port where it is not the usual one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the name within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Names the content of that digest.
    pub fn at(&self, digest: &Digest) -> Name {
        Name { repository: self.clone(), tag: None, digest: Some(digest.clone()) }
    }

    /// Names the image of that tag, which must be one.
    pub fn tagged(&self, tag: &str) -> Result<Name> {
        if !is_tag(tag) {
            let reference = self.to_string();
            return Err(Error::InvalidTag { reference, tag: tag.to_owned() });
        }
        Ok(Name { repository: self.clone(), tag: Some(tag.to_owned()), digest: None })
    }
}

impl Name {
    /// Parses a name. Without a host it is Docker Hub's.
    pub fn parse(text: &str) -> Result<Name> {
        parse(text).ok_or_else(|| Error::InvalidName { name: text.to_owned() })
    }

    /// Returns the tag that is meant where neither tag nor digest is named, too.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// Returns the name with its host and its tag, where it is one of a tag.
    pub(crate) fn whole(&self) -> Option<String> {
        self.digest.is_none().then(|| format!("{}:{}", self.repository, self.tag_or_latest()))
    }

    fn written(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.extend([":", tag]);
        }
        if let Some(digest) = &self.digest {
            name.extend(["@", digest.as_str()]);
        }
        name
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(self.repository.to_string()))
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Name> {
        Name::parse(text)
    }
}

fn parse(text: &str) -> Option<Name> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).ok()?)),
        None => (text, None),
    };
    let (host, rest) = match rest.split_once('/') {
        // Only what cannot be a part of a path is a host, so `library/debian` is none.
        Some((first, rest)) if is_host_like(first) => (first, rest),
        _ => (DOCKER_HUB, rest),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let host = if DOCKER_HUB_ALIASES.contains(&host) { DOCKER_HUB } else { host };
    let path = match host == DOCKER_HUB && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    let valid = is_host(host) && is_path(&path) && tag.is_none_or(is_tag);
    let repository = Repository { host: host.to_owned(), path };
    valid.then(|| Name { repository, tag: tag.map(str::to_owned), digest })
}

fn is_host_like(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (None, port.strip_prefix(':').or((!port.is_empty()).then_some("none")))
        }
        None => match text.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 255
        && name.is_none_or(|name| name.split('.').all(label))
        && port.is_none_or(|port| !port.starts_with('+') && port.parse::<u16>().is_ok())
}

/// Lower-case words, joined by single dots, one or two underscores or any number of dashes.
fn is_path(text: &str) -> bool {
    let component = |component: &str| {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = component.as_bytes();
        let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        bytes.first().is_some_and(|&byte| word(byte))
            && bytes.last().is_some_and(|&byte| word(byte))
            && separators.into_iter().all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
            })
    };
    text.len() <= 255 && text.split('/').all(component)
}

/// Returns whether a registry takes `tag` for one.
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_of_every_form_are_made_whole() {
        for (text, whole) in [
            ("debian", "docker.io/library/debian"),
            ("debian:12", "docker.io/library/debian:12"),
            ("library/debian", "docker.io/library/debian"),
            ("tianon/true:oci", "docker.io/tianon/true:oci"),
            ("docker.io/debian", "docker.io/library/debian"),
            ("index.docker.io/library/debian", "docker.io/library/debian"),
            ("registry-1.docker.io/debian", "docker.io/library/debian"),
            ("registry.hub.docker.com/library/debian", "docker.io/library/debian"),
            ("localhost/a", "localhost/a"),
            ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c:v1"),
            ("127.0.0.1:80/a", "127.0.0.1:80/a"),
            ("[::1]:5000/a:b", "[::1]:5000/a:b"),
            ("example.org/a__b/c---d.e_f:V_1.x-y", "example.org/a__b/c---d.e_f:V_1.x-y"),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!(name.to_string(), whole);
            let with_digest = Name::parse(&format!("{text}@{DIGEST}")).unwrap();
            assert_eq!(with_digest.to_string(), format!("{whole}@{DIGEST}"));
            assert_eq!(Name::parse(&with_digest.to_string()).unwrap(), with_digest);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ":v1",
            "a:",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "A",
            "a b",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a/../b",
            "..",
            "...",
            "-a",
            "a_",
            "localhost:5000/a:#",
            "localhost:5000/a?test",
            "localhost:99999/a",
            "localhost:/a",
            "[::1/a",
            "[x]:1/a",
            "[::1]x/a",
            "http://example.org/a",
            "://#",
            "user@example.org/a",
            &"a".repeat(300),
        ] {
            assert!(matches!(Name::parse(text), Err(Error::InvalidName { .. })), "{text}");
        }
    }
}
