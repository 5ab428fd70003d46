//! Putting an image into a registry, with no more requests than it takes.
//!
//! A manifest is put first: if the registry takes it, it has all parts, and nothing else need be asked. Only when
//! it does not, the parts are looked at, each by the same rule.

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
use crate::error::unusable;
use crate::parallel;

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

/// A push of one image.
pub(crate) struct Push<'a> {
    pub(crate) client: &'a Client,
    pub(crate) parts: &'a dyn Parts,
    notices: Mutex<Vec<Notice>>,
}

impl<'a> Push<'a> {
    pub(crate) fn new(client: &'a Client, parts: &'a dyn Parts) -> Push<'a> {
        Push { client, parts, notices: Mutex::default() }
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
        let digest = name.digest.clone().unwrap_or_else(|| Digest::sha256(bytes));
        // A tag has to be looked at as one; what it means decides.
        let looked_at = Name { digest: name.digest.clone().filter(|_| name.tag.is_none()), ..name.clone() };
        if self.client.digest_to_write(&looked_at)?.is_some_and(|found| found == digest) {
            return Ok(());
        }
        self.document(name, media_type, bytes, 0)
    }

    fn document(&self, name: &Name, media_type: &MediaType, bytes: &Bytes, depth: usize) -> Result<()> {
        let limits = &self.client.settings().limits;
        let repository = &name.repository;
        let shown = || name.to_string();
        let refusal = match self.client.put_manifest(name, media_type, bytes) {
            Ok(_) => None,
            Err(error) if lacks_parts(&error) => Some(error),
            Err(error) => return Err(error),
        };
        // A registry need not look for the parts, and some take whatever they are sent.
        let core = self.client.core();
        if refusal.is_none() && core.is_careful(repository) {
            return Ok(());
        }
        let missing = match media_type.kind() {
            Kind::Index if depth < limits.index_depth => {
                let index = Index::parse_as(bytes.to_vec(), media_type, limits).map_err(unusable(shown()))?;
                if refusal.is_none() && self.has_last_child(repository, &index)? {
                    return Ok(());
                }
                let children = distinct(index.manifests());
                parallel::each(&children, PARTS, |child| self.child(repository, child, depth + 1))?
            }
            Kind::Manifest => {
                let manifest =
                    Manifest::parse_as(bytes.to_vec(), media_type, limits).map_err(unusable(shown()))?;
                if refusal.is_some() {
                    core.looks_for_parts(repository);
                } else if self.is_whole(repository, &manifest)? {
                    return Ok(());
                }
                let layers = distinct(manifest.layers());
                let mut missing = parallel::each(&layers, PARTS, |blob| self.blob(repository, blob))?;
                // Last, so that where it is, the others are.
                missing.push(self.blob(repository, manifest.config())?);
                missing
            }
            _ => return refusal.map_or(Ok(()), Err),
        };
        let missing: Vec<_> = missing.into_iter().flatten().collect();
        let lacking = || Error::MissingBlobs { root: Digest::sha256(bytes), missing: missing.clone() };
        match self.client.put_manifest(name, media_type, bytes) {
            Ok(_) if missing.is_empty() || core.is_careful(repository) => Ok(()),
            Ok(_) => Err(lacking()),
            Err(error) if lacks_parts(&error) && !missing.is_empty() => Err(lacking()),
            Err(error) => Err(error),
        }
    }

    /// Tells whether a repository has the config of an image, which is put last, and the least of its new layers: a
    /// conversion may leave the config as it was. Large ones are sent before the others.
    fn is_whole(&self, repository: &Repository, manifest: &Manifest) -> Result<bool> {
        let new = manifest.layers().iter().filter(|layer| self.parts.is_new(layer));
        for blob in new.min_by_key(|layer| layer.size).into_iter().chain([manifest.config()]) {
            if !self.client.holds(repository, &blob.digest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells whether a repository has the manifest that an index names last.
    fn has_last_child(&self, repository: &Repository, index: &Index) -> Result<bool> {
        let is_manifest =
            |child: &&Descriptor| matches!(child.media_type.kind(), Kind::Index | Kind::Manifest);
        let Some(child) = index.manifests().iter().rfind(is_manifest) else { return Ok(true) };
        self.client.holds_manifest(repository, &child.digest)
    }

    /// Pushes an entry of an index. One that is nowhere is returned: the registry may have it, or need not.
    fn child(&self, repository: &Repository, child: &Descriptor, depth: usize) -> Result<Option<Digest>> {
        if !matches!(child.media_type.kind(), Kind::Index | Kind::Manifest) {
            return self.blob(repository, child);
        }
        let limit = self.client.settings().limits.manifest_size;
        match self.parts.document(child, limit) {
            Ok(bytes) => {
                let name = repository.at(&child.digest);
                self.document(&name, &child.media_type, &bytes, depth).map(|()| None)
            }
            Err(error) if error.is_not_found() => Ok(Some(child.digest.clone())),
            Err(error) => Err(error),
        }
    }

    /// Pushes a blob, or returns it if it is nowhere.
    fn blob(&self, repository: &Repository, blob: &Descriptor) -> Result<Option<Digest>> {
        // Its owner has not allowed it to be uploaded, whoever has it.
        if matches!(blob.media_type.kind(), Kind::Layer { distributable: false, .. }) {
            let notice = Notice::NotCopied { descriptor: blob.clone() };
            self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
            return Ok(None);
        }
        let others = self.parts.repositories(blob);
        let open = || self.parts.open(blob);
        match self.client.push_opened(repository, blob, &open, &others) {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(Some(blob.digest.clone())),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether a registry's refusal of a manifest may be for want of its parts. Codes differ; those that
/// certainly mean something else do not count.
fn lacks_parts(error: &Error) -> bool {
    let other = [401, 403, 405, 408, 413, 415, 429];
    matches!(error, Error::Status { status: status @ 400..=499, .. } if !other.contains(status))
}

fn distinct(descriptors: &[Descriptor]) -> Vec<Descriptor> {
    let mut seen = std::collections::BTreeSet::new();
    descriptors.iter().filter(|descriptor| seen.insert(&descriptor.digest)).cloned().collect()
}

#[cfg(test)]
mod tests;
