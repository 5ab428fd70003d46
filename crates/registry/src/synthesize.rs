//! An index for whatever a reference means, from which all that is to be known of it can be read at once.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use restow_content::Provider;
use restow_content::read;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_oci::annotations::REF_NAME;
use serde_json::Map;
use serde_json::Value;

use crate::Error;
use crate::Result;
use crate::error::unusable;
use crate::graph::attested;

/// The annotation that says for which architecture an entry is, in the words of an image library.
#[derive(Clone, Debug)]
pub struct Architectures {
    /// The key.
    pub key: String,
    /// The words, and the platform each stands for, normalized.
    pub words: BTreeMap<String, Platform>,
}

impl Default for Architectures {
    /// Returns those of Docker's official images.
    fn default() -> Architectures {
        let words = [
            ("amd64", "linux/amd64"),
            ("arm32v5", "linux/arm/v5"),
            ("arm32v6", "linux/arm/v6"),
            ("arm32v7", "linux/arm/v7"),
            ("arm64v8", "linux/arm64/v8"),
            ("i386", "linux/386"),
            ("mips64le", "linux/mips64le"),
            ("ppc64le", "linux/ppc64le"),
            ("riscv64", "linux/riscv64"),
            ("s390x", "linux/s390x"),
            ("windows-amd64", "windows/amd64"),
        ];
        let words = words
            .iter()
            .filter_map(|(word, platform)| Some(((*word).to_owned(), Platform::parse(platform).ok()?)));
        Architectures { key: "com.docker.official-images.bashbrew.arch".to_owned(), words: words.collect() }
    }
}

impl Architectures {
    fn word(&self, platform: &Platform) -> Option<&str> {
        let platform = platform.normalized();
        let same = |known: &Platform| {
            let known = known.normalized();
            (known.os, known.architecture, known.variant)
                == (platform.os.clone(), platform.architecture.clone(), platform.variant.clone())
        };
        self.words.iter().find(|(_, known)| same(known)).map(|(word, _)| word.as_str())
    }
}

/// A reference that an index is made of.
pub struct Subject<'a> {
    /// What it means: a manifest or an index.
    pub root: &'a Descriptor,
    /// Where the documents below it are read.
    pub provider: &'a dyn Provider,
    /// What it is called, without a digest.
    pub name: &'a str,
}

impl std::fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("root", self.root).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Makes an index of what a reference means.
///
/// A manifest becomes the only entry of one. Each entry says its platform, read from its config where the index
/// does not, and where it is found (`NAME@DIGEST`), as the index itself does. Of equal entries the first stays;
/// attestations stay where what they attest is there. Nothing else of an index is lost.
pub fn synthesize(subject: &Subject<'_>, architectures: &Architectures, limits: &Limits) -> Result<Value> {
    let work = Work { subject, architectures, limits };
    work.index()
}

struct Work<'a> {
    subject: &'a Subject<'a>,
    architectures: &'a Architectures,
    limits: &'a Limits,
}

impl Work<'_> {
    fn index(&self) -> Result<Value> {
        let Subject { root, .. } = self.subject;
        let mut index = match root.media_type.kind() {
            Kind::Index => {
                let bytes = read(self.subject.provider, root, self.limits.manifest_size)?;
                Index::parse_as(bytes, &root.media_type, self.limits)
                    .map_err(unusable(format!("index {}", root.digest)))?
            }
            Kind::Manifest => {
                let plain = Descriptor::new(root.media_type.clone(), root.digest.clone(), root.size);
                let mut index = Index::new(vec![plain]);
                if root.media_type.is_docker() {
                    index.set_media_type(&MediaType::DOCKER_MANIFEST_LIST);
                }
                index
            }
            _ => {
                return Err(self.error(format!("it is {}, neither a manifest nor an index", root.media_type)));
            }
        };
        index.set_annotation(REF_NAME, &self.place(&root.digest));
        self.entries(&mut index)?;
        self.complete(index)
    }

    /// Brings the entries into order.
    fn entries(&self, index: &mut Index) -> Result<()> {
        let mut seen = BTreeSet::new();
        index.retain(|_, entry| seen.insert(entry.digest.clone()));
        let mut words = BTreeMap::new();
        let is_attestation = |entry: &Descriptor| attested(entry).is_some();
        for position in 0..index.manifests().len() {
            let mut entry = index.manifests()[position].clone();
            entry.platform = self.platform(&entry)?;
            entry.data = None;
            entry.annotations.insert(REF_NAME.to_owned(), self.place(&entry.digest));
            // What others say of the architecture is not worth more than the platform.
            entry.annotations.remove(&self.architectures.key);
            if !is_attestation(&entry) {
                let word = entry.platform.as_ref().and_then(|platform| self.architectures.word(platform));
                if let Some(word) = word {
                    entry.annotations.insert(self.architectures.key.clone(), word.to_owned());
                }
                words.insert(entry.digest.to_string(), word.map(str::to_owned));
            }
            self.set(index, position, &entry)?;
        }
        let about = |entry: &Descriptor| attested(entry).unwrap_or_default().to_owned();
        index.retain(|_, entry| !is_attestation(entry) || words.contains_key(&about(entry)));
        for position in 0..index.manifests().len() {
            let mut entry = index.manifests()[position].clone();
            if is_attestation(&entry)
                && let Some(Some(word)) = words.get(&about(&entry))
            {
                entry.annotations.insert(self.architectures.key.clone(), word.clone());
                self.set(index, position, &entry)?;
            }
        }
        Ok(())
    }

    fn set(&self, index: &mut Index, position: usize, entry: &Descriptor) -> Result<()> {
        index.set_manifest(position, entry).map_err(unusable(self.subject.name))
    }

    /// Returns what an entry runs on: what its index says, or else its config.
    fn platform(&self, entry: &Descriptor) -> Result<Option<Platform>> {
        let complete = |platform: &Platform| !platform.os.is_empty() && !platform.architecture.is_empty();
        let said = entry.platform.clone().filter(complete);
        let platform = match said {
            Some(platform) => Some(platform),
            None if entry.media_type.kind() == Kind::Manifest => self.configured(entry)?.filter(complete),
            None => None,
        };
        Ok(platform.map(|platform| {
            let mut platform = platform.normalized();
            // 64-bit ARM has a version like 32-bit ARM, which containerd writes and not always does.
            if platform.architecture == "arm64" && platform.variant.is_none() {
                platform.variant = Some("v8".to_owned());
            }
            platform
        }))
    }

    fn configured(&self, entry: &Descriptor) -> Result<Option<Platform>> {
        let provider = self.subject.provider;
        let bytes = read(provider, entry, self.limits.manifest_size)?;
        let manifest = Manifest::parse_as(bytes, &entry.media_type, self.limits)
            .map_err(unusable(format!("manifest {}", entry.digest)))?;
        let config = manifest.config();
        if config.media_type.kind() != Kind::Config {
            return Ok(None);
        }
        let bytes = read(provider, config, self.limits.config_size)?;
        let config =
            Config::parse(bytes, self.limits).map_err(unusable(format!("config {}", config.digest)))?;
        Ok(Some(config.platform().clone()))
    }

    /// Fills in what an index should say of itself, before all else.
    fn complete(&self, index: Index) -> Result<Value> {
        let docker =
            index.manifests().first().is_some_and(|first| first.media_type == MediaType::DOCKER_MANIFEST);
        let bytes = index.into_bytes();
        let document: Value = serde_json::from_slice(&bytes).map_err(unusable(self.subject.name))?;
        let Value::Object(map) = document else { return Ok(document) };
        let default = if docker { MediaType::DOCKER_MANIFEST_LIST } else { MediaType::OCI_INDEX };
        let mut complete = Map::new();
        for (key, default) in [("schemaVersion", Value::from(2)), ("mediaType", default.as_str().into())] {
            if !map.contains_key(key) {
                complete.insert(key.to_owned(), default);
            }
        }
        complete.extend(map);
        Ok(Value::Object(complete))
    }

    fn place(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.subject.name)
    }

    fn error(&self, problem: String) -> Error {
        Error::Synthesis { name: self.subject.name.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests;
