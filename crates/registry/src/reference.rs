//! How a user says where an image lies.
//!
//! | form | place |
//! |---|---|
//! | `oci:PATH[:TAG]` | a layout directory |
//! | `oci-archive:FILE[:TAG]` | a layout in a tar |
//! | `docker-archive:FILE[:NAME]` | what `docker save` writes |
//! | `docker://HOST/NAME[:TAG]` | a repository of a registry; without a host, of Docker Hub |
//! | `store:NAME` | a store with a database; which one, the program says |
//! | `PATH[:TAG]` | a layout directory; an archive where the path ends in `.tar` or is a file |
//!
//! `-` in the place of a FILE is standard input or output. A digest, `@sha256:…`, may stand behind or in place of the tag, and decides. The path ends at the first
//! colon, as in skopeo, unless a longer part of the text is the path of something that exists.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use restow_oci::Algorithm;
use restow_oci::Digest;

use crate::Error;
use crate::Name;
use crate::Repository;
use crate::Result;

/// Where an image lies, and which of the images there it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    /// The directory or file.
    pub place: Place,
    /// Which of its images.
    pub selector: Selector,
}

/// A place that holds images.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// An OCI layout in a directory.
    Layout(PathBuf),
    /// An OCI layout in an uncompressed tar.
    Archive(PathBuf),
    /// An archive of `docker save`.
    DockerArchive(PathBuf),
    /// A repository of a registry.
    Registry(Repository),
    /// A store with a database, in this directory once that is known.
    Store(Option<PathBuf>),
}

/// Which of the images of a place is meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// The only one there is.
    Only,
    /// The one with this name.
    Tag(String),
    /// The one with this digest: an entry of the place's index, or of an index below it.
    Digest(Digest),
}

const LAYOUT: &str = "oci:";
const ARCHIVE: &str = "oci-archive:";
const DOCKER_ARCHIVE: &str = "docker-archive:";
const REGISTRY: &str = "docker://";
const STORE: &str = "store:";

/// Prefixes that have a meaning for users of related tools, and so are no paths.
const UNSUPPORTED: [&str; 3] = ["docker-daemon:", "containerd://", "containers-storage:"];

impl Reference {
    /// Parses a reference. The file system is asked which paths exist, and nothing else.
    pub fn parse(text: &str) -> Result<Reference> {
        parse(text, &|path| {
            path.metadata().ok().map(|found| if found.is_dir() { Found::Directory } else { Found::File })
        })
    }

    /// Returns whether `text` says by a prefix which kind of place it means.
    pub fn has_prefix(text: &str) -> bool {
        let prefixes = [LAYOUT, ARCHIVE, DOCKER_ARCHIVE, REGISTRY, STORE];
        prefixes.iter().chain(&UNSUPPORTED).any(|prefix| text.starts_with(prefix))
    }

    /// Returns the tag, if it names one.
    pub fn tag(&self) -> Option<&str> {
        match &self.selector {
            Selector::Tag(tag) => Some(tag),
            Selector::Only | Selector::Digest(_) => None,
        }
    }

    /// Returns the reference with the directory of the store, if it names one in a store.
    pub fn in_store(mut self, root: Option<&Path>) -> Reference {
        if let Place::Store(place) = &mut self.place {
            *place = root.map(Path::to_owned);
        }
        self
    }
}

impl TryFrom<&str> for Reference {
    type Error = Error;

    fn try_from(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Layout(path) => write!(f, "{LAYOUT}{}", path.display()),
            Place::Archive(path) => write!(f, "{ARCHIVE}{}", path.display()),
            Place::DockerArchive(path) => write!(f, "{DOCKER_ARCHIVE}{}", path.display()),
            Place::Registry(repository) => write!(f, "{REGISTRY}{repository}"),
            Place::Store(_) => f.write_str(STORE),
        }?;
        match &self.selector {
            Selector::Tag(tag) if matches!(self.place, Place::Store(_)) => f.write_str(tag),
            Selector::Only => Ok(()),
            Selector::Tag(tag) => write!(f, ":{tag}"),
            Selector::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

/// What lies at a path.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Found {
    Directory,
    File,
    /// Nothing that a look could tell; the reference says so.
    Saved,
}

fn parse(text: &str, look: &dyn Fn(&Path) -> Option<Found>) -> Result<Reference> {
    let reference = || text.to_owned();
    if let Some(transport) = UNSUPPORTED.into_iter().find(|prefix| text.starts_with(prefix)) {
        return Err(Error::UnsupportedTransport { reference: reference(), transport });
    }
    if let Some(name) = text.strip_prefix(STORE) {
        return in_store(name).map_err(|tag| Error::InvalidTag { reference: reference(), tag });
    }
    if let Some(name) = text.strip_prefix(REGISTRY) {
        let Name { repository, tag, digest } = Name::parse(name)?;
        let selector = match (digest, tag) {
            (Some(digest), _) => Selector::Digest(digest),
            (None, Some(tag)) => Selector::Tag(tag),
            (None, None) => Selector::Only,
        };
        return Ok(Reference { place: Place::Registry(repository), selector });
    }
    let prefixes = [
        (LAYOUT, Some(Found::Directory)),
        (ARCHIVE, Some(Found::File)),
        (DOCKER_ARCHIVE, Some(Found::Saved)),
    ];
    let (said, rest) = prefixes
        .into_iter()
        .find_map(|(prefix, said)| Some((said, text.strip_prefix(prefix)?)))
        .unwrap_or((None, text));
    let (path, name) = split(rest, look);
    if path.is_empty() {
        return Err(Error::NoPath { reference: reference() });
    }
    let selector = select(name).map_err(|tag| Error::InvalidTag { reference: reference(), tag })?;
    let place = match said.or_else(|| look(Path::new(path))) {
        Some(Found::Directory) => Place::Layout(path.into()),
        Some(Found::File) => Place::Archive(path.into()),
        Some(Found::Saved) => Place::DockerArchive(path.into()),
        None if path.ends_with(".tar") => Place::Archive(path.into()),
        None => Place::Layout(path.into()),
    };
    Ok(Reference { place, selector })
}

/// Parses what follows the prefix of a store: a name, in which nothing separates anything, or a digest.
fn in_store(name: &str) -> Result<Reference, String> {
    let rest = match name.starts_with('@') || name.is_empty() {
        true => name.to_owned(),
        false => format!(":{name}"),
    };
    Ok(Reference { place: Place::Store(None), selector: select(&rest)? })
}

/// Splits what follows the prefix into the path and the rest, which starts with its colon or `@` where it is
/// not empty.
fn split<'a>(text: &'a str, look: &dyn Fn(&Path) -> Option<Found>) -> (&'a str, &'a str) {
    let digest = text.rfind('@').filter(|&at| digest(&text[at + 1..]).is_some());
    // The colon inside a digest separates nothing.
    let named = &text[..digest.unwrap_or(text.len())];
    let ends = || named.match_indices(':').map(|(position, _)| position).chain([named.len()]);
    // The whole text last, since the longest path wins.
    let candidates = ends().chain([text.len()]);
    let existing = candidates.filter(|&end| look(Path::new(&text[..end])).is_some()).last();
    text.split_at(existing.or_else(|| ends().next()).unwrap_or(text.len()))
}

/// Parses what follows the path; the error is what should have been a tag.
fn select(name: &str) -> Result<Selector, String> {
    if name.is_empty() {
        return Ok(Selector::Only);
    }
    let (tag, digest) = match name.rfind('@') {
        Some(at) => (&name[..at], digest(&name[at + 1..])),
        None => (name, None),
    };
    let tag = if digest.is_some() { tag } else { name };
    let checked = match tag.strip_prefix(':') {
        Some(tag) if is_tag(tag) => Some(tag),
        Some(tag) => return Err(tag.to_owned()),
        None => None,
    };
    match (checked, digest) {
        // The digest is what the user can be sure of.
        (_, Some(digest)) => Ok(Selector::Digest(digest)),
        (Some(tag), None) => Ok(Selector::Tag(tag.to_owned())),
        (None, None) => Err(name.to_owned()),
    }
}

/// Parses a digest by which an image may be chosen. Other algorithms are of no use, and `name:tag` would be
/// one of them.
fn digest(text: &str) -> Option<Digest> {
    Digest::parse(text).ok().filter(|digest| digest.algorithm() != Algorithm::Other)
}

/// Returns whether `tag` may name an image in an index: the characters that the specification allows, in any
/// order, since tags of Docker are a little freer than its grammar.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys>
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 255
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || b"-.:@+/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn existing(path: &Path) -> Option<Found> {
        match path.to_str()? {
            "dir" | "dir:with:colons" | "img.tar.d" | "odd@name" => Some(Found::Directory),
            "file" | "img.tar" | "a:b.tar" => Some(Found::File),
            _ => None,
        }
    }

    #[test]
    fn a_reference_is_a_place_and_a_selector() {
        let layout = |path: &str| Place::Layout(path.into());
        let archive = |path: &str| Place::Archive(path.into());
        let saved = |path: &str| Place::DockerArchive(path.into());
        let registry = |name: &str| Place::Registry(Name::parse(name).unwrap().repository);
        let tag = |tag: &str| Selector::Tag(tag.into());
        let digest = || Selector::Digest(Digest::parse(DIGEST).unwrap());
        let cases = [
            ("oci:new", layout("new"), Selector::Only),
            ("oci:new:v1", layout("new"), tag("v1")),
            ("oci:/a/b:v1", layout("/a/b"), tag("v1")),
            // As skopeo has it: the first colon.
            ("oci:new:docker.io/library/x:v1", layout("new"), tag("docker.io/library/x:v1")),
            ("oci:dir:docker.io/library/x:v1", layout("dir"), tag("docker.io/library/x:v1")),
            ("oci-archive:new.tar:v1", archive("new.tar"), tag("v1")),
            ("oci-archive:dir", archive("dir"), Selector::Only),
            ("new", layout("new"), Selector::Only),
            ("new:v1", layout("new"), tag("v1")),
            ("./store:v1", layout("./store"), tag("v1")),
            ("new.tar", archive("new.tar"), Selector::Only),
            ("new.tar:v1", archive("new.tar"), tag("v1")),
            // What exists decides.
            ("file", archive("file"), Selector::Only),
            ("file:v1", archive("file"), tag("v1")),
            ("img.tar.d:v1", layout("img.tar.d"), tag("v1")),
            ("dir:with:colons", layout("dir:with:colons"), Selector::Only),
            ("oci:dir:with:colons:v1", layout("dir:with:colons"), tag("v1")),
            ("dir:without", layout("dir"), tag("without")),
            ("a:b.tar:v1", archive("a:b.tar"), tag("v1")),
            ("odd@name:v1", layout("odd@name"), tag("v1")),
            // Registries and Docker's archives.
            ("docker://debian", registry("debian"), Selector::Only),
            ("docker://localhost:5000/a/b:v1", registry("localhost:5000/a/b"), tag("v1")),
            (&format!("docker://debian:12@{DIGEST}"), registry("debian"), digest()),
            ("docker-archive:file:debian:12", saved("file"), tag("debian:12")),
            ("docker-archive:-", saved("-"), Selector::Only),
            ("oci-archive:-:v1", archive("-"), tag("v1")),
            // Names in a store.
            ("store:", Place::Store(None), Selector::Only),
            ("store:dir:v1", Place::Store(None), tag("dir:v1")),
            ("store:docker.io/library/x:v1", Place::Store(None), tag("docker.io/library/x:v1")),
            (&format!("store:@{DIGEST}"), Place::Store(None), digest()),
            (&format!("store:x:v1@{DIGEST}"), Place::Store(None), digest()),
            // Digests.
            (&format!("oci:new@{DIGEST}"), layout("new"), digest()),
            (&format!("new:v1@{DIGEST}"), layout("new"), digest()),
            (&format!("odd@name@{DIGEST}"), layout("odd@name"), digest()),
            (&format!("img.tar@{DIGEST}"), archive("img.tar"), digest()),
        ];
        for (text, place, selector) in cases {
            let reference = parse(text, &existing).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference, Reference { place, selector }, "{text}");
            assert_eq!(parse(&reference.to_string(), &existing).unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        for text in ["docker-daemon:x", "containerd://k8s.io/x"] {
            let error = parse(text, &existing).unwrap_err();
            assert!(matches!(error, Error::UnsupportedTransport { .. }), "{text}: {error}");
        }
        for text in ["", "oci:", "oci-archive:", "oci::v1", ":v1", &format!("oci:@{DIGEST}")] {
            let error = parse(text, &existing).unwrap_err();
            assert!(matches!(error, Error::NoPath { .. }), "{text}: {error}");
        }
        for text in ["store::v1", "store:a b", "store:/x", &format!("store:{}", "x".repeat(256))] {
            let error = parse(text, &existing).unwrap_err();
            assert!(matches!(error, Error::InvalidTag { .. }), "{text}: {error}");
        }
        let too_long = format!("dir:{}", "x".repeat(256));
        for text in
            ["dir:", "dir:-v1", "dir:/v1", "dir:v 1", "dir:@0", "dir:v1\n", "dir:é", too_long.as_str()]
        {
            let error = parse(text, &existing).unwrap_err();
            assert!(matches!(error, Error::InvalidTag { .. }), "{text}: {error}");
        }
    }
}
