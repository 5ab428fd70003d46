//! Deployment as data: what is to lie where, and where it can be had.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use restow_content::Blob;
use restow_content::InMemory;
use restow_content::Provider as _;
use restow_content::read;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::MediaType;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use serde_json::value::RawValue;

use crate::Client;
use crate::Error;
use crate::Existing;
use crate::Name;
use crate::Remote;
use crate::Repository;
use crate::Result;
use crate::client::Content;
use crate::client::Look;
use crate::graph;
use crate::parallel;
use crate::push::Parts;
use crate::push::Push;

/// How many names of one thing are worked on side by side.
const NAMES: usize = 4;

/// One thing to deploy, with all that could be inferred of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    kind: ObjectKind,
    names: Vec<Name>,
    /// Where parts are found: each by its digest, all others under nothing.
    lookup: BTreeMap<Option<Digest>, Repository>,
    what: What,
}

/// What is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ObjectKind {
    Manifest,
    Blob,
}

/// Where its bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Bytes(Bytes, Option<MediaType>),
    Copy(Name),
}

/// A deployment as it is written.
#[derive(Debug, Deserialize)]
pub struct Input {
    r#type: Option<String>,
    refs: Option<Vec<String>>,
    lookup: Option<BTreeMap<String, String>>,
    data: Option<Box<RawValue>>,
}

impl Deployment {
    /// Infers from an input what it leaves out, and refuses what contradicts itself.
    pub fn parse(input: Input) -> Result<Deployment> {
        let what = input.refs.iter().flatten().next().cloned().unwrap_or_else(|| "an input".to_owned());
        let error = |problem: String| Error::Deployment { what: what.clone(), problem };
        let kind = match input.r#type.as_deref() {
            Some("manifest") => ObjectKind::Manifest,
            Some("blob") => ObjectKind::Blob,
            Some(other) => return Err(error(format!("type {other:?} is neither manifest nor blob"))),
            None => return Err(error("it has no type".to_owned())),
        };
        let texts = input.refs.unwrap_or_default();
        if texts.is_empty() {
            return Err(error("it has no refs".to_owned()));
        }
        let (mut names, mut digest) = parse_names(kind, &texts).map_err(&error)?;
        let mut lookup = parse_lookup(&input.lookup.unwrap_or_default()).map_err(&error)?;
        let data = input.data.as_ref().map(|data| data.get()).filter(|data| *data != "null");
        let what = match data {
            Some(data) => {
                let bytes = parse_data(data).map_err(&error)?;
                let found = Digest::sha256(&bytes);
                match &digest {
                    Some(digest) if *digest != found => {
                        return Err(error(format!("its refs want {digest}, its data is {found}")));
                    }
                    _ => digest = Some(found),
                }
                let media_type = match kind {
                    ObjectKind::Manifest => Some(media_type(&bytes).map_err(&error)?),
                    ObjectKind::Blob => None,
                };
                What::Bytes(bytes, media_type)
            }
            None => {
                let from = infer_copy(digest.as_ref(), &lookup).ok_or_else(|| {
                    error("it has no data, and lookup does not say what to copy".to_owned())
                })?;
                match (&digest, &from.digest) {
                    (Some(digest), Some(found)) if digest != found => {
                        return Err(error(format!("its refs want {digest}, its lookup has {found}")));
                    }
                    (None, found) => digest = found.clone(),
                    _ => {}
                }
                if kind == ObjectKind::Blob && digest.is_none() {
                    return Err(error("a blob is copied by its digest".to_owned()));
                }
                lookup.entry(None).or_insert_with(|| from.clone());
                // What a tag meant is of no interest once the digest is known.
                let tag = from.tag.filter(|_| digest.is_none());
                What::Copy(Name { tag, digest: digest.clone(), repository: from.repository })
            }
        };
        names.iter_mut().for_each(|name| name.digest = digest.clone());
        let lookup = lookup.into_iter().map(|(digest, name)| (digest, name.repository)).collect();
        Ok(Deployment { kind, names, lookup, what })
    }

    /// Returns the names that are to mean the thing.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// Returns the digest, unless it is what a tag means when it is copied.
    pub fn digest(&self) -> Option<&Digest> {
        self.names.first().and_then(|name| name.digest.as_ref())
    }

    /// Returns the deployment to some of its names as an input that says everything.
    pub fn to_json(&self, names: &[Name]) -> Value {
        let mut document = json!({
            "type": match self.kind {
                ObjectKind::Manifest => "manifest",
                ObjectKind::Blob => "blob",
            },
            "refs": names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let mut lookup: BTreeMap<String, String> = BTreeMap::new();
        for (digest, repository) in &self.lookup {
            let key = digest.as_ref().map(ToString::to_string).unwrap_or_default();
            lookup.insert(key, repository.to_string());
        }
        match &self.what {
            What::Bytes(bytes, media_type) => {
                document["data"] = STANDARD.encode(bytes).into();
                if let Some(media_type) = media_type {
                    document["mediaType"] = media_type.as_str().into();
                }
            }
            What::Copy(from) => {
                // A tag that is copied is known by nothing else.
                if from.digest.is_none() {
                    lookup.insert(String::new(), from.to_string());
                }
                document["copyFrom"] = from.to_string().into();
            }
        }
        if !lookup.is_empty() {
            document["lookup"] = json!(lookup);
        }
        document
    }

    /// Does what it says, and returns the digest of what its names mean then. `existing` says what becomes of tags that
    /// mean it already.
    pub fn run(&self, client: &Client, existing: Existing) -> Result<Digest> {
        let digest = match (&self.what, self.digest()) {
            (_, Some(digest)) => digest.clone(),
            (What::Bytes(bytes, _), None) => Digest::sha256(bytes),
            // It goes on to mean that as long as the client does.
            (What::Copy(from), None) => manifest(client, from)?.descriptor.digest,
        };
        // The first name of a repository brings the parts, so that the others find them.
        let mut repositories = BTreeSet::new();
        let (first, others): (Vec<&Name>, Vec<&Name>) =
            self.names.iter().partition(|name| repositories.insert(&name.repository));
        for names in [first, others] {
            parallel::each(&names, NAMES, |name| self.run_to(client, name, existing))?;
        }
        Ok(digest)
    }

    fn run_to(&self, client: &Client, name: &Name, existing: Existing) -> Result<()> {
        let push =
            |media_type: &MediaType, bytes: &Bytes| self.push(client, name, existing, media_type, bytes);
        match (self.kind, &self.what) {
            (ObjectKind::Manifest, What::Bytes(bytes, media_type)) => {
                let media_type = media_type.clone().unwrap_or(MediaType::OCI_MANIFEST);
                push(&media_type, bytes)
            }
            (ObjectKind::Manifest, What::Copy(from)) => {
                let content = manifest(client, from)?;
                push(&content.descriptor.media_type, &content.bytes)
            }
            (ObjectKind::Blob, What::Bytes(bytes, _)) => {
                let digest = Digest::sha256(bytes);
                let blob = Descriptor::new(MediaType::OCI_LAYER, digest, bytes.len() as u64);
                let open = || Ok(Arc::new(InMemory(bytes.clone())) as Arc<dyn Blob>);
                client.push_opened(&name.repository, &blob, &open, &[], Look::IfLarge).map(drop)
            }
            (ObjectKind::Blob, What::Copy(from)) => {
                let missing = || Error::NotInRegistry { name: from.to_string() };
                let digest = from.digest.as_ref().ok_or_else(missing)?;
                client.copy_blob(&from.repository, digest, &name.repository).map(drop)
            }
        }
    }

    fn push(
        &self,
        client: &Client,
        name: &Name,
        existing: Existing,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<()> {
        let parts =
            Looked { client, lookup: &self.lookup, target: &name.repository, found: Mutex::default() };
        Push::new(client, &parts, existing).image(std::slice::from_ref(name), media_type, bytes).map(drop)
    }

    /// Returns the names that do not mean the thing yet, without changing anything.
    pub fn pending(&self, client: &Client) -> Result<Vec<Name>> {
        let wanted = match (&self.what, self.digest()) {
            (_, Some(digest)) => digest.clone(),
            (What::Copy(from), None) => {
                let missing = || Error::NotInRegistry { name: from.to_string() };
                client.digest(from)?.ok_or_else(missing)?
            }
            (What::Bytes(bytes, _), None) => Digest::sha256(bytes),
        };
        let pending = parallel::each(&self.names, NAMES, |name| {
            let is_there = match self.kind {
                ObjectKind::Blob => client.blob_head(&name.repository, &wanted)?.is_some(),
                ObjectKind::Manifest => {
                    let digest = Some(wanted.clone()).filter(|_| name.tag.is_none());
                    let looked_at = Name { digest, ..name.clone() };
                    client.digest(&looked_at)?.is_some_and(|found| found == wanted)
                }
            };
            Ok((!is_there).then(|| name.clone()))
        })?;
        Ok(pending.into_iter().flatten().collect())
    }

    /// Returns the digests of what has to be in place before.
    fn needs(&self) -> BTreeSet<Digest> {
        let mut needs: BTreeSet<_> = self.lookup.keys().flatten().cloned().collect();
        match &self.what {
            What::Copy(from) => needs.extend(from.digest.clone()),
            What::Bytes(bytes, Some(_)) => {
                let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
                needs.extend(graph::named(&document));
            }
            What::Bytes(_, None) => {}
        }
        needs
    }
}

/// Arranges deployments in rounds: what others need, and what is named again later, comes in an earlier one.
/// Within a round the order is of no importance. The numbers are positions.
pub fn rounds(deployments: &[Deployment]) -> Vec<Vec<usize>> {
    let mut made: BTreeMap<&Digest, usize> = BTreeMap::new();
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for (position, deployment) in deployments.iter().enumerate() {
        let needed = deployment.needs();
        let after_parts = needed.iter().filter_map(|digest| made.get(digest)).copied();
        let tags = || {
            deployment
                .names
                .iter()
                .filter_map(|name| name.tag.as_ref().map(|tag| format!("{}:{tag}", name.repository)))
        };
        let after_names: Vec<_> = tags().filter_map(|tag| named.get(&tag).copied()).collect();
        // A copy of what was made before has the digest of that, and comes after it.
        let round = after_parts.chain(after_names).map(|before| before + 1).max().unwrap_or(0);
        if round == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[round].push(position);
        if let Some(digest) = deployment.digest() {
            let last = made.entry(digest).or_insert(round);
            *last = round.max(*last);
        }
        named.extend(tags().map(|tag| (tag, round)));
    }
    rounds
}

fn parse_names(kind: ObjectKind, texts: &[String]) -> Result<(Vec<Name>, Option<Digest>), String> {
    let mut common: Option<Digest> = None;
    let mut names = Vec::new();
    for text in texts {
        let name = Name::parse(text).map_err(|error| error.to_string())?;
        if kind == ObjectKind::Blob && name.tag.is_some() {
            return Err(format!("a blob has no tag: {name}"));
        }
        match (&common, &name.digest) {
            (Some(common), Some(digest)) if common != digest => {
                return Err(format!("its refs want both {common} and {digest}"));
            }
            (None, Some(digest)) => common = Some(digest.clone()),
            _ => {}
        }
        names.push(name);
    }
    Ok((names, common))
}

fn parse_lookup(texts: &BTreeMap<String, String>) -> Result<BTreeMap<Option<Digest>, Name>, String> {
    let mut lookup = BTreeMap::new();
    for (key, text) in texts {
        let key = match key.as_str() {
            "" => None,
            key => Some(Digest::parse(key).map_err(|error| format!("lookup: {error}"))?),
        };
        let mut name = Name::parse(text).map_err(|error| format!("lookup: {error}"))?;
        if let Some(key) = &key {
            match &name.digest {
                Some(digest) if digest != key => {
                    return Err(format!("lookup of {key} leads to {name}"));
                }
                _ => name.digest = Some(key.clone()),
            }
        }
        lookup.insert(key, name);
    }
    Ok(lookup)
}

/// Returns what to copy: what the refs want, or else the only thing that lookup names.
fn infer_copy(wanted: Option<&Digest>, lookup: &BTreeMap<Option<Digest>, Name>) -> Option<Name> {
    if let Some(name) = wanted.and_then(|wanted| lookup.get(&Some(wanted.clone()))) {
        return Some(name.clone());
    }
    if lookup.len() == 1
        && let Some(name) = lookup.values().next()
        && (name.tag.is_some() || name.digest.is_some())
    {
        return Some(name.clone());
    }
    let fallback = lookup.get(&None)?;
    let digest = wanted?;
    Some(Name { digest: Some(digest.clone()), tag: None, ..fallback.clone() })
}

/// Returns the bytes that are meant: those of a text in base64, or the JSON as it stands. JSON on several lines
/// ends with one, which does not belong to it where it stands in an input.
fn parse_data(data: &str) -> Result<Bytes, String> {
    if data.starts_with('"') {
        let text: String = serde_json::from_str(data).map_err(|error| format!("data: {error}"))?;
        return Ok(STANDARD.decode(text).map_err(|error| format!("data: {error}"))?.into());
    }
    let mut bytes = data.as_bytes().to_vec();
    if bytes.contains(&b'\n') && bytes.last() != Some(&b'\n') {
        bytes.push(b'\n');
    }
    Ok(bytes.into())
}

/// Returns the media type that a manifest gives itself. Without one, readers would have to guess.
fn media_type(bytes: &[u8]) -> Result<MediaType, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| format!("data: {error}"))?;
    let text = document["mediaType"].as_str().filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| "its manifest names no mediaType".to_owned())?;
    MediaType::parse(text).map_err(|error| error.to_string())
}

/// Parts that are found where a deployment says.
struct Looked<'a> {
    client: &'a Client,
    lookup: &'a BTreeMap<Option<Digest>, Repository>,
    target: &'a Repository,
    /// Where the parts of documents are that were found elsewhere than lookup says of them.
    found: Mutex<BTreeMap<Digest, Repository>>,
}

impl Looked<'_> {
    fn place(&self, digest: &Digest) -> Repository {
        if let Some(repository) = self.lookup.get(&Some(digest.clone())) {
            return repository.clone();
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let known = found.get(digest).or_else(|| self.lookup.get(&None));
        known.unwrap_or(self.target).clone()
    }
}

impl Parts for Looked<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>> {
        let place = self.place(&descriptor.digest);
        // It was looked for there.
        if place == *self.target {
            return Err(Error::NotInRegistry { name: place.at(&descriptor.digest).to_string() });
        }
        open_at(self.client, &place, descriptor)
    }

    fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        let place = self.place(&descriptor.digest);
        let bytes = read(&Remote::new(self.client, &place), descriptor, limit)?;
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.extend(graph::named(&document).map(|part| (part, place.clone())));
        Ok(bytes.into())
    }

    fn repositories(&self, descriptor: &Descriptor) -> Vec<Repository> {
        vec![self.place(&descriptor.digest)]
    }
}

fn manifest(client: &Client, name: &Name) -> Result<Content> {
    client.manifest(name)?.ok_or_else(|| Error::NotInRegistry { name: name.to_string() })
}

fn open_at(client: &Client, repository: &Repository, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
    Ok(Remote::new(client, repository).expecting(&blob.digest).open(blob)?.into())
}

#[cfg(test)]
mod tests;
