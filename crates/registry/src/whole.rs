//! What of an image is there: an archive that Docker saved names attestations and platforms that it does not hold.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use restow_content::Blob;
use restow_content::MemoryStore;
use restow_content::Provider;
use restow_content::read;
use restow_content::write;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;

use crate::Error;
use crate::Result;
use crate::Source;
use crate::client::chain;
use crate::error::unusable;
use crate::graph;
use crate::graph::attested;

/// An entry of an index that cannot be used.
#[derive(Clone, Debug)]
pub struct Gap {
    /// The entry.
    pub entry: Descriptor,
    /// Whether nothing of it is there, as in an archive that holds other platforms only.
    pub is_absent: bool,
    /// Why: what is missing, or wrong.
    pub problem: String,
}

impl Gap {
    /// Returns whether it is nothing but said of another entry.
    pub fn is_attestation(&self) -> bool {
        attested(&self.entry).is_some()
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.entry.media_type.kind() == Kind::Index { "index" } else { "manifest" };
        write!(f, "{kind} {}", self.entry.digest)?;
        match &self.entry.platform {
            _ if self.is_attestation() => f.write_str(" (an attestation)")?,
            Some(platform) => write!(f, " ({platform})")?,
            None => {}
        }
        write!(f, ": {}", self.problem)
    }
}

/// What an entry of an index needs to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// All of its blobs, but for those that may be absent.
    Everything,
    /// Its manifest and its config. Attestations are not looked at.
    Documents,
}

/// An image without the entries of its indexes that cannot be used.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The image: an index without those entries, or what was looked at if there are none.
    pub root: Descriptor,
    /// The indexes that were made.
    pub documents: MemoryStore,
    /// What was left out, in the order met.
    pub gaps: Vec<Gap>,
}

impl Whole {
    /// Looks which entries of the index `root`, and of those below it, can be used. Of a manifest nothing is left out.
    pub fn of(provider: &dyn Provider, root: &Descriptor, needs: Needs, limits: &Limits) -> Result<Whole> {
        let (documents, gaps) = (MemoryStore::new(), Vec::new());
        let mut look = Look { provider, limits, needs, documents, gaps, known: BTreeMap::new(), met: 0 };
        let root = match root.media_type.kind() {
            Kind::Index => look.index(root, 0)?.0,
            _ => root.clone(),
        };
        Ok(Whole { root, documents: look.documents, gaps: look.gaps })
    }

    /// Takes it that all of an image is there.
    pub fn all(root: &Descriptor) -> Whole {
        Whole { root: root.clone(), documents: MemoryStore::new(), gaps: Vec::new() }
    }

    /// Returns the source with the image that is left for its root.
    pub fn of_source(&self, source: Source) -> Source {
        let provider = Beside { documents: self.documents.clone(), others: source.provider };
        Source { root: self.root.clone(), provider: Box::new(provider), ..source }
    }
}

/// Documents, and a provider of all others.
struct Beside {
    documents: MemoryStore,
    others: Box<dyn Provider>,
}

impl Provider for Beside {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        match self.documents.open(descriptor) {
            Err(error) if error.is_not_found() => self.others.open(descriptor),
            result => result,
        }
    }
}

struct Look<'a> {
    provider: &'a dyn Provider,
    limits: &'a Limits,
    needs: Needs,
    documents: MemoryStore,
    gaps: Vec<Gap>,
    /// What became of the entries that were met: those without a successor cannot be used.
    known: BTreeMap<Digest, Option<Descriptor>>,
    met: usize,
}

impl Look<'_> {
    /// Returns an index without what cannot be used, and whether anything is left.
    fn index(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(Descriptor, bool)> {
        if depth > self.limits.index_depth {
            return Err(Error::TooDeep { root: descriptor.digest.clone(), limit: self.limits.index_depth });
        }
        let unusable = || unusable(format!("index {}", descriptor.digest));
        let bytes = read(self.provider, descriptor, self.limits.manifest_size)?;
        let mut index = Index::parse_as(bytes, &descriptor.media_type, self.limits).map_err(unusable())?;
        self.met += index.manifests().len();
        if self.met > self.limits.nodes {
            let what = format!("image {}", descriptor.digest);
            return Err(Error::TooMany { what, limit: self.limits.nodes });
        }
        let mut gone = BTreeSet::new();
        for position in 0..index.manifests().len() {
            let entry = index.manifests()[position].clone();
            match self.entry(&entry, depth) {
                Some(successor) => index.set_manifest(position, &successor).map_err(unusable())?,
                None => drop(gone.insert(entry.digest.to_string())),
            }
        }
        // What is said of an image goes with it.
        let is_gone = |entry: &Descriptor| gone.contains(entry.digest.as_str());
        let lost_subject =
            |entry: &Descriptor| attested(entry).filter(|about| gone.contains(*about)).map(str::to_owned);
        for entry in index.manifests().iter().filter(|entry| !is_gone(entry)) {
            if let Some(about) = lost_subject(entry) {
                let problem = format!("it is about {about}, which cannot be used");
                self.gaps.push(Gap { entry: entry.clone(), is_absent: false, problem });
            }
        }
        index.retain(|_, entry| !is_gone(entry) && lost_subject(entry).is_none());
        let is_left = !index.manifests().is_empty();
        if !index.is_changed() {
            return Ok((descriptor.clone(), is_left));
        }
        let new = write(&self.documents, descriptor.media_type.clone(), &index.into_bytes())?;
        let Descriptor { digest, size, .. } = new;
        Ok((Descriptor { digest, size, data: None, urls: Vec::new(), ..descriptor.clone() }, is_left))
    }

    /// Returns what an entry is from now on, or nothing if it cannot be used.
    fn entry(&mut self, entry: &Descriptor, depth: usize) -> Option<Descriptor> {
        if let Some(known) = self.known.get(&entry.digest) {
            let Descriptor { digest, size, .. } = known.as_ref()?;
            return Some(Descriptor { digest: digest.clone(), size: *size, ..entry.clone() });
        }
        let looked = match entry.media_type.kind() {
            Kind::Index => self.index(entry, depth + 1).map(|(index, is_left)| is_left.then_some(index)),
            _ => self.manifest(entry).map(|()| Some(entry.clone())),
        };
        let successor = looked.unwrap_or_else(|error| {
            let is_absent = match &error {
                Error::MissingBlobs { missing, .. } => missing.contains(&entry.digest),
                Error::Content(restow_content::Error::NotFound { digest }) => *digest == entry.digest,
                _ => false,
            };
            let problem = if is_absent { "it is not there".to_owned() } else { chain(&error) };
            self.gaps.push(Gap { entry: entry.clone(), is_absent, problem });
            None
        });
        self.known.insert(entry.digest.clone(), successor.clone());
        successor
    }

    fn manifest(&self, entry: &Descriptor) -> Result<()> {
        if self.needs == Needs::Documents {
            return if attested(entry).is_some() { Ok(()) } else { self.documents_of(entry) };
        }
        let graph = graph::walk(self.provider, entry, self.limits)?;
        let missing = graph.missing_from(self.provider)?;
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::MissingBlobs { root: entry.digest.clone(), missing }),
        }
    }

    /// Reads the manifest and the config.
    fn documents_of(&self, entry: &Descriptor) -> Result<()> {
        if entry.media_type.kind() != Kind::Manifest {
            return Ok(());
        }
        let bytes = read(self.provider, entry, self.limits.manifest_size)?;
        let unusable = |what: &str, digest: &Digest| unusable(format!("{what} {digest}"));
        let manifest = Manifest::parse_as(bytes, &entry.media_type, self.limits)
            .map_err(unusable("manifest", &entry.digest))?;
        let config = manifest.config();
        if config.media_type.kind() == Kind::Config {
            let bytes = read(self.provider, config, self.limits.config_size)?;
            restow_oci::Config::parse(bytes, self.limits).map_err(unusable("config", &config.digest))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use restow_oci::MediaType;
    use restow_testkit::Image;
    use restow_testkit::ImageBuilder;
    use restow_testkit::IndexBuilder;
    use restow_testkit::Layer;
    use restow_testkit::TarBuilder;
    use serde_json::json;

    use super::*;

    fn image(platform: &str) -> Image {
        let tar = TarBuilder::new().file(platform.replace('/', "-"), "content").finish();
        ImageBuilder::new().platform(platform).layer(Layer::gzip(tar)).build()
    }

    /// Returns a store with the blobs of an image but for some.
    fn store(image: &Image, without: &[&Digest]) -> MemoryStore {
        let store = MemoryStore::new();
        for (digest, bytes) in image.blobs.iter().filter(|(digest, _)| !without.contains(&digest)) {
            let written = write(&store, MediaType::OCI_LAYER, bytes).unwrap();
            assert_eq!(written.digest, *digest);
        }
        store
    }

    fn look(provider: &dyn Provider, root: &Descriptor, needs: Needs) -> Whole {
        Whole::of(provider, root, needs, &Limits::default()).unwrap()
    }

    /// Returns the entries of the index that is left.
    fn left(whole: &Whole, provider: &dyn Provider) -> Vec<Descriptor> {
        let bytes = read(&whole.documents, &whole.root, u64::MAX);
        let bytes = bytes.or_else(|_| read(provider, &whole.root, u64::MAX)).unwrap();
        Index::parse(bytes, &Limits::default()).unwrap().manifests().to_vec()
    }

    #[test]
    fn an_index_loses_what_is_not_there_and_what_is_said_of_it() {
        let (amd, arm) = (image("linux/amd64"), image("linux/arm64"));
        let builder = IndexBuilder::new().image(&amd).image(&arm).attestation(&amd).attestation(&arm);
        let index = builder.field("x-unknown", json!([1])).build();
        let all = store(&index, &[]);
        let whole = look(&all, &index.root, Needs::Everything);
        assert!(whole.gaps.is_empty() && whole.root == index.root);

        let entries = left(&whole, &all);
        let [_, _, of_amd, of_arm] = entries.as_slice() else { panic!("{entries:?}") };
        let without = store(&index, &[&arm.root.digest, &of_amd.digest]);
        let whole = look(&without, &index.root, Needs::Everything);
        assert_eq!(left(&whole, &without), std::slice::from_ref(&entries[0]));
        let told: Vec<_> = whole.gaps.iter().map(ToString::to_string).collect();
        let expected = [
            format!("manifest {} (linux/arm64): it is not there", arm.root.digest),
            format!("manifest {} (an attestation): it is not there", of_amd.digest),
            format!(
                "manifest {} (an attestation): it is about {}, which cannot be used",
                of_arm.digest, arm.root.digest
            ),
        ];
        assert_eq!(told, expected);
        let bytes = read(&whole.documents, &whole.root, u64::MAX).unwrap();
        assert!(String::from_utf8(bytes).unwrap().contains("x-unknown"));
    }

    #[test]
    fn indexes_within_others_are_made_anew_or_go() {
        let (amd, arm) = (image("linux/amd64"), image("linux/arm64"));
        let inner = IndexBuilder::new().image(&amd).image(&arm).build();
        let empty = IndexBuilder::new().image(&arm).build();
        let outer = IndexBuilder::new().image(&inner).image(&empty).image(&inner).build();
        let without = store(&outer, &[&arm.root.digest]);
        let whole = look(&without, &outer.root, Needs::Everything);
        let entries = left(&whole, &without);
        let [one, two] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(one.digest, two.digest);
        let inner = read(&whole.documents, one, u64::MAX).unwrap();
        let inner = Index::parse(inner, &Limits::default()).unwrap();
        assert_eq!(inner.manifests()[0].digest, amd.root.digest);
        assert_eq!((inner.manifests().len(), whole.gaps.len()), (1, 1));
    }

    #[test]
    fn a_layer_is_needed_to_convert_and_not_to_look_at_documents() {
        let amd = image("linux/amd64");
        let broken =
            ImageBuilder::new().platform("linux/arm64").layer(Layer::plain("gone").missing()).build();
        let malformed = image("linux/s390x").with_root_bytes(b"{}");
        let index = IndexBuilder::new().image(&malformed).image(&amd).image(&broken).build();
        let all = store(&index, &[]);
        let told = |needs| {
            let gaps = look(&all, &index.root, needs).gaps;
            gaps.iter().map(|gap| gap.entry.digest.clone()).collect::<Vec<_>>()
        };
        assert_eq!(told(Needs::Documents), std::slice::from_ref(&malformed.root.digest));
        assert_eq!(told(Needs::Everything), [malformed.root.digest.clone(), broken.root.digest.clone()]);
        let whole = look(&all, &index.root, Needs::Everything);
        assert!(whole.gaps[1].problem.contains("lacks 1 of its blobs"), "{}", whole.gaps[1].problem);
        assert!(!whole.gaps[1].is_absent);
        // Of one manifest nothing is left out.
        assert!(look(&all, &broken.root, Needs::Everything).gaps.is_empty());
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let index = IndexBuilder::new().image(&image("linux/amd64")).image(&image("linux/arm64")).build();
        let few = Limits { nodes: 1, ..Limits::default() };
        let error = Whole::of(&store(&index, &[]), &index.root, Needs::Everything, &few).unwrap_err();
        assert!(matches!(error, Error::TooMany { limit: 1, .. }), "{error}");
    }
}
