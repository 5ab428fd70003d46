//! The manifests that earlier runs have fetched from registries that count fetches.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Once;

use bytes::Bytes;
use restow_content::file;
use restow_content::publish;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;

use super::Content;
use super::manifests::check;
use crate::Repository;

/// How many are kept; of more, those that were written first go.
const MANIFESTS: usize = 4096;
/// The most that stands before a document.
const HEAD_SIZE: u64 = 1 << 10;

/// A directory with a file for each tag or digest of a repository that was fetched: digest and media type in a line, and
/// the document. What cannot be read is not known; what cannot be written is not kept.
#[derive(Debug)]
pub(crate) struct Seen {
    directory: Option<PathBuf>,
    limit: u64,
    pruned: Once,
}

impl Seen {
    pub(crate) fn new(directory: Option<PathBuf>, limit: u64) -> Seen {
        Seen { directory, limit, pruned: Once::new() }
    }

    /// Returns what a tag or digest meant when it was fetched.
    pub(crate) fn get(&self, repository: &Repository, reference: &str) -> Option<Content> {
        let path = self.path(repository, reference)?;
        let bytes = file::read(&path, self.limit.saturating_add(HEAD_SIZE)).ok()?;
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let (digest, media_type) = str::from_utf8(&bytes[..end]).ok()?.split_once(' ')?;
        let (digest, media_type) = (Digest::parse(digest).ok()?, MediaType::parse(media_type).ok()?);
        let bytes = Bytes::from(bytes).slice(end + 1..);
        let digest = check(&digest, &bytes).ok()?;
        Some(Content { descriptor: Descriptor::new(media_type, digest, bytes.len() as u64), bytes })
    }

    /// Keeps what a tag or digest means.
    pub(crate) fn keep(&self, repository: &Repository, reference: &str, content: &Content) {
        let (Some(directory), Some(path)) = (&self.directory, self.path(repository, reference)) else {
            return;
        };
        let Descriptor { digest, media_type, .. } = &content.descriptor;
        let head = format!("{digest} {media_type}\n");
        if publish::create_directory(directory).is_ok() {
            self.pruned.call_once(|| prune(directory));
            let _ = publish::write(&path, &[head.as_bytes(), &content.bytes].concat());
        }
    }

    fn path(&self, repository: &Repository, reference: &str) -> Option<PathBuf> {
        let name = Digest::sha256(format!("{repository} {reference}").as_bytes());
        Some(self.directory.as_ref()?.join(name.encoded()))
    }
}

/// Removes what was written first, where there is too much.
fn prune(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let written = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut files: Vec<_> = entries.filter_map(|entry| written(entry.ok()?)).collect();
    files.sort();
    let excess = files.len().saturating_sub(MANIFESTS);
    for (_, path) in files.into_iter().take(excess) {
        // Another program may have been quicker.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    #[test]
    fn a_manifest_is_known_later_by_where_it_was_found_and_damage_is_no_manifest() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("cache/manifests");
        let repository = Name::parse("docker.io/library/debian").unwrap().repository;
        let other = Name::parse("docker.io/library/alpine").unwrap().repository;
        let bytes = Bytes::from_static(b"{}\n{}");
        let descriptor = Descriptor::new(MediaType::OCI_INDEX, Digest::sha256(&bytes), 5);
        let content = Content { descriptor, bytes };
        Seen::new(Some(place.clone()), 100).keep(&repository, "12", &content);
        let later = Seen::new(Some(place.clone()), 100);
        let found = later.get(&repository, "12").unwrap();
        assert_eq!((&found.descriptor, &found.bytes), (&content.descriptor, &content.bytes));
        assert!(later.get(&repository, "13").is_none() && later.get(&other, "12").is_none());
        let path = fs::read_dir(&place).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], b"", b"x", b"sha256:00 x\ny", &[0xff; 9]] {
            fs::write(&path, damaged).unwrap();
            assert!(later.get(&repository, "12").is_none());
        }
        // Without a directory, or with one that cannot be, nothing is kept.
        for nowhere in [None, Some(path.join("below"))] {
            let seen = Seen::new(nowhere, 100);
            seen.keep(&repository, "12", &content);
            assert!(seen.get(&repository, "12").is_none());
        }
    }

    #[test]
    fn what_was_kept_first_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..MANIFESTS + 3 {
            fs::write(directory.path().join(format!("{number:05}")), "").unwrap();
        }
        prune(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), MANIFESTS);
    }
}
