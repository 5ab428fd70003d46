//! Whether registries look for the blobs of a manifest before they take it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::Repository;

/// Whether a registry looks for the blobs of a manifest that it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Looks {
    /// Nothing is known.
    #[default]
    Unknown,
    /// It has refused one for want of them, and said so.
    Yes,
    /// It has taken one without them.
    No,
}

/// What the answers of this run tell of each repository.
///
/// Of one repository they tell nothing about another: behind a host may be several registries. Nor do they tell of
/// tomorrow, when the registry may be set otherwise; so nothing is kept. Manifests alone are spoken of: a registry that
/// looks for their blobs may take an index without its manifests, and one that looks for these says nothing of the blobs
/// below them.
#[derive(Debug, Default)]
pub(crate) struct Evidence(Mutex<HashMap<Repository, Looks>>);

impl Evidence {
    pub(crate) fn of(&self, repository: &Repository) -> Looks {
        self.known().get(repository).copied().unwrap_or_default()
    }

    /// Takes note that a manifest was refused for want of its blobs.
    pub(crate) fn refused(&self, repository: &Repository) {
        self.known().entry(repository.clone()).or_insert(Looks::Yes);
    }

    /// Takes note that a manifest was taken without its blobs, which no refusal outweighs.
    pub(crate) fn accepted(&self, repository: &Repository) {
        self.known().insert(repository.clone(), Looks::No);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Repository, Looks>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    #[test]
    fn a_refusal_tells_of_its_repository_until_a_manifest_is_taken_without_its_blobs() {
        let repository = |text: &str| Name::parse(text).unwrap().repository;
        let (one, two) = (repository("localhost/one"), repository("localhost/two"));
        let evidence = Evidence::default();
        evidence.refused(&one);
        assert_eq!([evidence.of(&one), evidence.of(&two)], [Looks::Yes, Looks::Unknown]);
        for _ in 0..2 {
            evidence.accepted(&one);
            assert_eq!(evidence.of(&one), Looks::No);
            evidence.refused(&one);
        }
        assert_eq!(evidence.of(&one), Looks::No);
    }
}
