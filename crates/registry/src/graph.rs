//! The blobs that make up an image.

use std::collections::BTreeSet;

use restow_content::Provider;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::annotations::DOCKER_REFERENCE_DIGEST;
use restow_oci::annotations::DOCKER_REFERENCE_TYPE;
use restow_oci::foreign_parts;
use serde_json::Value;

use crate::Error;
use crate::Result;
use crate::error::unusable;
use crate::publish::may_be_absent;

/// What BuildKit calls the entry that holds what is attested of another one.
const ATTESTATION: &str = "attestation-manifest";

/// Everything reachable from a root, each blob once.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Indexes and manifests; one comes after all that it refers to.
    pub(crate) documents: Vec<Descriptor>,
    /// All other blobs.
    pub(crate) leaves: Vec<Descriptor>,
    /// Indexes and manifests that `provider` did not have.
    pub(crate) missing: Vec<Digest>,
}

impl Graph {
    /// Returns what `provider` does not have and has to.
    pub(crate) fn missing_from(&self, provider: &dyn Provider) -> Result<Vec<Digest>> {
        let mut missing = self.missing.clone();
        for leaf in self.leaves.iter().filter(|leaf| leaf.data.is_none() && !may_be_absent(leaf)) {
            match provider.open(leaf) {
                Ok(_) => {}
                Err(error) if error.is_not_found() => missing.push(leaf.digest.clone()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(missing)
    }

    /// Adds what another walk has met, each blob once.
    pub(crate) fn extend(&mut self, other: Graph) {
        let new = |known: &[Descriptor], found: Vec<Descriptor>| -> Vec<Descriptor> {
            let is_new = |one: &Descriptor| known.iter().all(|known| known.digest != one.digest);
            found.into_iter().filter(is_new).collect()
        };
        let documents = new(&self.documents, other.documents);
        let leaves = new(&self.leaves, other.leaves);
        self.documents.extend(documents);
        self.leaves.extend(leaves);
        self.missing.extend(other.missing);
    }
}

/// Returns the digests of what a manifest or an index names, its subject excepted.
pub(crate) fn named(document: &Value) -> impl Iterator<Item = Digest> {
    let list = |key: &str| document[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let parts = ["manifests", "layers", "blobs"].into_iter().flat_map(list).chain([&document["config"]]);
    parts.filter_map(|part| Digest::parse(part["digest"].as_str()?).ok())
}

/// Returns what an attestation manifest is about: `None` for another entry of an index, `Some("")` where it does not say.
pub(crate) fn attested(entry: &Descriptor) -> Option<&str> {
    let about = || entry.annotations.get(DOCKER_REFERENCE_DIGEST).map_or("", String::as_str);
    (entry.annotations.get(DOCKER_REFERENCE_TYPE)? == ATTESTATION).then(about)
}

/// Returns what a document names that lies where manifests lie and is of another kind. Its media type alone does not say
/// whether it is one.
pub(crate) fn foreign(bytes: &[u8], digest: &Digest, limits: &Limits) -> Result<Vec<Descriptor>> {
    foreign_parts(bytes, limits).map_err(unusable(format!("manifest {digest}")))
}

/// Refuses to send a manifest of an unknown kind, or an index that names one, to a registry: what such a manifest names
/// would stay behind. `bytes` are those of `root`.
pub(crate) fn refuse_foreign(
    provider: &dyn Provider,
    root: &Descriptor,
    bytes: &[u8],
    limits: &Limits,
) -> Result<()> {
    match root.media_type.kind() {
        Kind::Manifest => Ok(()),
        Kind::Index => {
            let index = Index::parse_as(bytes.to_vec(), &root.media_type, limits);
            let index = index.map_err(unusable(format!("index {}", root.digest)))?;
            let is_foreign = |entry: &&Descriptor| {
                entry.media_type.kind() == Kind::Other && entry.size <= limits.manifest_size
            };
            for entry in index.manifests().iter().filter(is_foreign) {
                match read(provider, entry, limits.manifest_size) {
                    Err(error) if error.is_not_found() => {}
                    bytes => refuse_foreign(provider, entry, &bytes?, limits)?,
                }
            }
            Ok(())
        }
        _ if foreign(bytes, &root.digest, limits)?.is_empty() => Ok(()),
        _ => {
            let reference = format!("{} ({})", root.digest, root.media_type);
            Err(Error::Unusable { reference, problem: "such a manifest is not sent to a registry" })
        }
    }
}

/// Walks from `root` down. A subject is a link to an image of its own and is not followed.
pub(crate) fn walk(provider: &dyn Provider, root: &Descriptor, limits: &Limits) -> Result<Graph> {
    let graph = Graph { documents: Vec::new(), leaves: Vec::new(), missing: Vec::new() };
    let mut walk = Walk { provider, root, limits, met: 0, seen: BTreeSet::new(), graph };
    walk.visit(root, Position::Manifest, 0)?;
    Ok(walk.graph)
}

struct Walk<'a> {
    provider: &'a dyn Provider,
    root: &'a Descriptor,
    limits: &'a Limits,
    met: usize,
    seen: BTreeSet<(Digest, bool)>,
    graph: Graph,
}

impl Walk<'_> {
    /// Visits a descriptor below `depth` indexes, which bounds the recursion.
    fn visit(&mut self, descriptor: &Descriptor, position: Position, depth: usize) -> Result<()> {
        self.met += 1;
        if self.met > self.limits.nodes {
            let what = format!("image {}", self.root.digest);
            return Err(Error::TooMany { what, limit: self.limits.nodes });
        }
        let kind = descriptor.media_type.kind();
        let document = matches!(kind, Kind::Index | Kind::Manifest);
        // One blob may be referred to as a document here and as mere bytes there.
        if !self.seen.insert((descriptor.digest.clone(), document)) {
            return Ok(());
        }
        let may_be_foreign = kind == Kind::Other && position == Position::Manifest;
        if !document && !may_be_foreign {
            self.graph.leaves.push(descriptor.clone());
            return Ok(());
        }
        if depth > self.limits.index_depth {
            let limit = self.limits.index_depth;
            return Err(Error::TooDeep { root: self.root.digest.clone(), limit });
        }
        match kind {
            Kind::Index | Kind::Manifest => self.visit_document(descriptor, kind, depth),
            _ => self.visit_foreign(descriptor, depth),
        }
    }

    fn visit_document(&mut self, descriptor: &Descriptor, kind: Kind, depth: usize) -> Result<()> {
        let bytes = match read(self.provider, descriptor, self.limits.manifest_size) {
            Err(error) if error.is_not_found() => {
                self.graph.missing.push(descriptor.digest.clone());
                return Ok(());
            }
            bytes => bytes?,
        };
        let Descriptor { media_type, digest, .. } = descriptor;
        if kind == Kind::Index {
            let index = Index::parse_as(bytes, media_type, self.limits)
                .map_err(unusable(format!("index {digest}")))?;
            for child in index.manifests() {
                self.visit(child, Position::Manifest, depth + 1)?;
            }
        } else {
            let manifest = Manifest::parse_as(bytes, media_type, self.limits)
                .map_err(unusable(format!("manifest {digest}")))?;
            for child in [manifest.config()].into_iter().chain(manifest.layers()) {
                self.visit(child, Position::Part, depth)?;
            }
        }
        self.graph.documents.push(descriptor.clone());
        Ok(())
    }

    /// Visits what may be a manifest of an unknown kind: then what it names goes where it goes.
    fn visit_foreign(&mut self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        let is_small = descriptor.size <= self.limits.manifest_size;
        let bytes = is_small.then(|| read(self.provider, descriptor, self.limits.manifest_size));
        let parts = match bytes {
            // Bytes of some kind.
            None => Vec::new(),
            Some(Err(error)) if error.is_not_found() => Vec::new(),
            Some(bytes) => foreign(&bytes?, &descriptor.digest, self.limits)?,
        };
        for part in &parts {
            self.visit(part, Position::Part, depth + 1)?;
        }
        let list = if parts.is_empty() { &mut self.graph.leaves } else { &mut self.graph.documents };
        list.push(descriptor.clone());
        Ok(())
    }
}

/// Where a descriptor stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Where manifests stand, though mere bytes may stand there, too.
    Manifest,
    /// Among the parts of one.
    Part,
}

#[cfg(test)]
mod tests {
    use super::*;
    use restow_content::MemoryStore;
    use restow_content::write;
    use restow_oci::MediaType;

    fn leaf(name: &str) -> Descriptor {
        Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(name.as_bytes()), name.len() as u64)
    }

    fn manifest(store: &MemoryStore, layers: &[&str]) -> Descriptor {
        let layers = layers.iter().map(|name| leaf(name)).collect();
        write(store, MediaType::OCI_MANIFEST, &Manifest::new(leaf("config"), layers).into_bytes()).unwrap()
    }

    fn index(store: &MemoryStore, manifests: Vec<Descriptor>) -> Descriptor {
        write(store, MediaType::OCI_INDEX, &Index::new(manifests).into_bytes()).unwrap()
    }

    #[test]
    fn each_blob_is_met_once_and_documents_after_their_parts() {
        let store = MemoryStore::new();
        let (one, two) = (manifest(&store, &["a", "b", "a"]), manifest(&store, &["b", "c"]));
        let inner = index(&store, vec![two.clone(), leaf("other")]);
        let absent = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"absent"), 6);
        let root = index(&store, vec![one.clone(), inner.clone(), one.clone(), absent.clone()]);

        let graph = walk(&store, &root, &Limits::default()).unwrap();
        assert_eq!(graph.documents, [one, two, inner, root]);
        assert_eq!(graph.leaves, ["config", "a", "b", "c", "other"].map(leaf));
        assert_eq!(graph.missing, [absent.digest]);
    }

    #[test]
    fn manifests_of_other_kinds_go_with_what_they_name_or_not_at_all() {
        let store = MemoryStore::new();
        let put = |media_type: &str, bytes: &[u8]| {
            write(&store, MediaType::parse(media_type).unwrap(), bytes).unwrap()
        };
        let sbom = put("application/spdx+json", br#"{"sbom":1}"#);
        let part = String::from_utf8(sbom.to_bytes()).unwrap();
        let artifact = put(
            "application/vnd.oci.artifact.manifest.v1+json",
            format!(r#"{{"blobs":[{part}]}}"#).as_bytes(),
        );
        let bytes = put("text/plain", b"of some kind");
        let graph =
            walk(&store, &index(&store, vec![artifact.clone(), bytes.clone()]), &Limits::default()).unwrap();
        assert_eq!(graph.documents[0], artifact);
        assert_eq!(graph.leaves, [sbom, bytes]);

        let schema1 = put(
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            br#"{"schemaVersion":1,"fsLayers":[]}"#,
        );
        for root in [&schema1, &index(&store, vec![schema1.clone()])] {
            let error = walk(&store, root, &Limits::default()).unwrap_err();
            let message = crate::client::chain(&error);
            assert!(message.contains("schema 1") && message.contains(schema1.digest.as_str()), "{message}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let store = MemoryStore::new();
        // Two references at each level: 2^40 paths to the bottom.
        let mut root = manifest(&store, &["a"]);
        for _ in 0..40 {
            root = index(&store, vec![root.clone(), root]);
        }
        let error = walk(&store, &root, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::TooDeep { limit: 16, .. }), "{error}");

        let deep = Limits { index_depth: 40, ..Limits::default() };
        assert_eq!(walk(&store, &root, &deep).unwrap().documents.len(), 41);
        let few = Limits { nodes: 82, ..deep };
        let error = walk(&store, &root, &few).unwrap_err();
        assert!(matches!(error, Error::TooMany { limit: 82, .. }), "{error}");
    }

    #[test]
    fn a_document_that_is_not_what_its_descriptor_says_is_refused() {
        let store = MemoryStore::new();
        let mut root = manifest(&store, &["a"]);
        root.media_type = MediaType::OCI_INDEX;
        let error = walk(&store, &root, &Limits::default()).unwrap_err();
        assert!(error.to_string().contains(root.digest.as_str()), "{error}");
        let small = Limits { manifest_size: 10, ..Limits::default() };
        assert!(matches!(walk(&store, &root, &small), Err(Error::Content(_))));
    }
}
