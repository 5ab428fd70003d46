//! Putting an image into a registry, whole, with no more requests than that takes.
//!
//! A name is put once each part is known to be in the repository, by an answer about that very part: the registry took it
//! or said that it has it, in this run. A manifest that it takes is such an answer about its blobs only if it has been seen
//! to refuse one for want of them: registries need not look. That an index was taken says nothing of what is below it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use restow_content::Blob;
use restow_content::Manager;
use restow_content::Provider;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Manifest;
use restow_oci::MediaType;

use crate::Client;
use crate::Error;
use crate::Name;
use crate::Notice;
use crate::Repository;
use crate::Result;
use crate::client::Look;
use crate::client::Looks;
use crate::client::Pushed;
use crate::client::lacks_parts;
use crate::error::unusable;
use crate::parallel;
use crate::publish::may_be_absent;

/// How many parts of one document are pushed side by side.
const PARTS: usize = 4;

/// Where the parts of an image are found that a registry lacks.
pub(crate) trait Parts: Sync {
    /// Opens a part, a manifest or a blob.
    fn open(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>>;

    /// Reads a document.
    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes>;

    /// Returns the repositories from which a registry may take a blob itself.
    fn repositories(&self, descriptor: &Descriptor) -> Vec<Repository>;

    /// Tells whether a blob was just made, and so hardly is where it goes.
    fn is_new(&self, _blob: &Descriptor) -> bool {
        false
    }
}

/// The parts of an image that lie in one provider, and repositories that may have them too.
pub(crate) struct Provided<'a> {
    pub(crate) provider: &'a dyn Provider,
    /// Those of them that were just made.
    pub(crate) new: &'a dyn Manager,
    pub(crate) repositories: &'a [Repository],
}

impl Parts for Provided<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(self.provider.open(descriptor)?.into())
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        Ok(read(self.provider, descriptor, limit)?.into())
    }

    fn repositories(&self, _: &Descriptor) -> Vec<Repository> {
        self.repositories.to_vec()
    }

    fn is_new(&self, blob: &Descriptor) -> bool {
        self.new.info(&blob.digest).is_ok()
    }
}

/// What becomes of a name in a registry that means the image already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is left: whoever put it had put the parts before.
    #[default]
    Trust,
    /// The registry is asked for each part, and sent those that it has lost.
    Repair,
}

/// A push of one image.
pub(crate) struct Push<'a> {
    pub(crate) client: &'a Client,
    pub(crate) parts: &'a dyn Parts,
    existing: Existing,
    notices: Mutex<Vec<Notice>>,
}

/// A manifest or an index on its way.
struct Document<'d> {
    name: &'d Name,
    digest: &'d Digest,
    media_type: &'d MediaType,
    bytes: &'d Bytes,
    put: Put,
    /// How many indexes lead to it.
    depth: usize,
}

/// When a document is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    /// Nobody knows of it yet, so it may come before its parts, for what the registry says to that.
    First,
    /// It is what people ask for, and comes after all its parts.
    Last,
    /// It is there.
    Never,
}

/// What a registry says to a manifest that comes before its blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// It was not asked, or speaks of something else.
    None,
    /// It has looked for the blobs and has them.
    Whole,
    /// It has taken the manifest, whether it looked for them or not.
    Taken,
    /// It lacks some of them.
    Lacking,
}

/// How a part of a document is in its repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    There,
    Sent,
    /// It need not be there, and is not.
    KeptBack,
    /// It is not, nor where it should come from.
    Missing,
}

impl<'a> Push<'a> {
    pub(crate) fn new(client: &'a Client, parts: &'a dyn Parts, existing: Existing) -> Push<'a> {
        Push { client, parts, existing, notices: Mutex::default() }
    }

    /// Sees to it that each of `names` means the document.
    pub(crate) fn image(self, names: &[Name], media_type: &MediaType, bytes: &Bytes) -> Result<Vec<Notice>> {
        for name in names {
            self.named(name, media_type, bytes)?;
        }
        Ok(self.notices.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sees to it that `name` means the document: one look, and a push if it does not.
    fn named(&self, name: &Name, media_type: &MediaType, bytes: &Bytes) -> Result<()> {
        let digest = &name.digest.clone().unwrap_or_else(|| Digest::sha256(bytes));
        // A tag has to be looked at as one; what it means decides.
        let looked_at = Name { digest: name.digest.clone().filter(|_| name.tag.is_none()), ..name.clone() };
        let there = self.client.digest_to_write(&looked_at)?.is_some_and(|found| found == *digest);
        // What no tag leads to may be what a killed push has left, before its parts.
        if there && looked_at.digest.is_none() && self.existing == Existing::Trust {
            return Ok(());
        }
        let by_digest = name.repository.at(digest);
        let (name, put) = if there { (&by_digest, Put::Never) } else { (name, Put::Last) };
        self.document(&Document { name, digest, media_type, bytes, put, depth: 0 })
    }

    fn document(&self, document: &Document<'_>) -> Result<()> {
        let Document { name, digest, put, .. } = *document;
        let cache = &self.client.core().cache;
        if cache.is_whole(&name.repository, digest) {
            return if put == Put::Last { self.put(document) } else { Ok(()) };
        }
        match document.media_type.kind() {
            Kind::Index => self.index(document)?,
            Kind::Manifest => self.manifest(document)?,
            // Nobody can tell what it names.
            _ if put == Put::Never => return Ok(()),
            _ => return self.put(document),
        }
        cache.keep_whole(&name.repository, digest);
        Ok(())
    }

    /// Puts an index after all that it names.
    fn index(&self, document: &Document<'_>) -> Result<()> {
        let limits = &self.client.settings().limits;
        let Document { name, digest, media_type, bytes, put, depth } = *document;
        if depth > limits.index_depth {
            return Err(Error::TooDeep { root: digest.clone(), limit: limits.index_depth });
        }
        let index =
            Index::parse_as(bytes.to_vec(), media_type, limits).map_err(unusable(name.to_string()))?;
        let children = distinct(index.manifests());
        let found = parallel::each(&children, PARTS, |child| self.child(&name.repository, child, depth + 1))?;
        all_there(digest, &children, &found)?;
        if put == Put::Never { Ok(()) } else { self.put(document) }
    }

    /// Pushes an entry of an index.
    fn child(&self, repository: &Repository, child: &Descriptor, depth: usize) -> Result<Part> {
        let Descriptor { digest, media_type, .. } = child;
        if !matches!(media_type.kind(), Kind::Index | Kind::Manifest) {
            return self.blob(repository, child, Look::Always);
        }
        let name = &repository.at(digest);
        let bytes = &match self.parts.document(child, self.client.settings().limits.manifest_size) {
            // The repository may have it from an earlier push, and perhaps all that it names.
            Err(error) if error.is_not_found() => match self.client.manifest(name)? {
                Some(content) => content.bytes,
                None => return Ok(Part::Missing),
            },
            bytes => bytes?,
        };
        self.document(&Document { name, digest, media_type, bytes, put: Put::First, depth })?;
        Ok(Part::There)
    }

    /// Sees to it that a manifest is there with its blobs.
    fn manifest(&self, document: &Document<'_>) -> Result<()> {
        let Document { name, digest, media_type, bytes, put, .. } = *document;
        let limits = &self.client.settings().limits;
        let manifest =
            Manifest::parse_as(bytes.to_vec(), media_type, limits).map_err(unusable(name.to_string()))?;
        let reply = self.ask(document)?;
        if reply == Reply::Whole {
            return Ok(());
        }
        let look = if reply == Reply::Lacking { Look::IfLarge } else { Look::Always };
        let blobs = distinct(manifest.layers().iter().chain([manifest.config()]));
        let found = parallel::each(&blobs, PARTS, |blob| self.blob(&name.repository, blob, look))?;
        all_there(digest, &blobs, &found)?;
        if reply == Reply::Taken {
            if found.contains(&Part::Sent) {
                self.client.core().evidence.accepted(&name.repository);
            }
            return Ok(());
        }
        match put {
            Put::Never => Ok(()),
            // It may be refused for want of what was kept back, and would be so however often it is put.
            _ if found.contains(&Part::KeptBack) => {
                self.client.put_manifest(name, media_type, bytes).map(drop)
            }
            _ => self.put(document),
        }
    }

    /// Puts a manifest before its blobs, where that does no harm and the answer is of use.
    fn ask(&self, document: &Document<'_>) -> Result<Reply> {
        let Document { name, media_type, bytes, put, .. } = *document;
        let evidence = &self.client.core().evidence;
        let looks = evidence.of(&name.repository);
        if !matches!((put, looks), (Put::First | Put::Last, Looks::Yes) | (Put::First, Looks::Unknown)) {
            return Ok(Reply::None);
        }
        match self.client.put_manifest(name, media_type, bytes) {
            Ok(_) if looks == Looks::Yes => Ok(Reply::Whole),
            Ok(_) => Ok(Reply::Taken),
            Err(error) if lacks_parts(&error, Kind::Manifest) => {
                evidence.refused(&name.repository);
                Ok(Reply::Lacking)
            }
            Err(error) if is_final(&error) => Err(error),
            Err(_) => Ok(Reply::None),
        }
    }

    /// Puts a document all of whose parts are there.
    fn put(&self, document: &Document<'_>) -> Result<()> {
        self.client.put_whole(document.name, document.media_type, document.bytes).map(drop)
    }

    /// Sees to it that a blob is there.
    fn blob(&self, repository: &Repository, blob: &Descriptor, look: Look) -> Result<Part> {
        // Its owner has not allowed it to be uploaded, whoever has it.
        if matches!(blob.media_type.kind(), Kind::Layer { distributable: false, .. }) {
            return Ok(self.keep_back(blob));
        }
        let look = if self.parts.is_new(blob) { Look::IfLarge } else { look };
        let others = self.parts.repositories(blob);
        let open = || self.parts.open(blob);
        match self.client.push_opened(repository, blob, &open, &others, look) {
            Ok(Pushed::Uploaded) => Ok(Part::Sent),
            Ok(_) => Ok(Part::There),
            Err(error) if !error.is_not_found() => Err(error),
            Err(_) if self.client.holds(repository, &blob.digest)? => Ok(Part::There),
            Err(_) if may_be_absent(blob) => Ok(self.keep_back(blob)),
            Err(_) => Ok(Part::Missing),
        }
    }

    fn keep_back(&self, blob: &Descriptor) -> Part {
        let notice = Notice::NotCopied { descriptor: blob.clone() };
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
        Part::KeptBack
    }
}

/// Fails if some of the parts of a document are nowhere.
fn all_there(root: &Digest, parts: &[Descriptor], found: &[Part]) -> Result<()> {
    let missing = parts.iter().zip(found).filter(|(_, found)| **found == Part::Missing);
    let missing: Vec<_> = missing.map(|(part, _)| part.digest.clone()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingBlobs { root: root.clone(), missing }) }
}

/// Returns whether a manifest would be refused with its blobs, too. Registries that lack some have many words for that;
/// these are not among them.
fn is_final(error: &Error) -> bool {
    let other = [401, 403, 405, 408, 409, 412, 413, 415, 429];
    !matches!(error, Error::Status { status: status @ 400..=499, .. } if !other.contains(status))
}

fn distinct<'d>(descriptors: impl IntoIterator<Item = &'d Descriptor>) -> Vec<Descriptor> {
    let mut seen = BTreeSet::new();
    descriptors.into_iter().filter(|descriptor| seen.insert(&descriptor.digest)).cloned().collect()
}

#[cfg(test)]
mod tests;
