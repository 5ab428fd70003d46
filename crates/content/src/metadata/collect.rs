//! Removing what nothing refers to.
//!
//! Kept are: what images, unexpired leases and blobs with the label `containerd.io/gc.root` name, and what these
//! refer to, by their content (configuration, layers, manifests) or by labels (`containerd.io/gc.ref.content`,
//! with anything behind a dot or a slash); blobs whose label `containerd.io/gc.bref.content` or
//! `containerd.io/gc.bref.image` names something kept; ingests that are held or were written to of late. A
//! manifest or index that cannot be read stops the collection: what it refers to is not known.
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/docs/garbage-collection.md>

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;
use std::time::SystemTime;

use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::MediaType;
use rusqlite::Connection;
use rusqlite::params;
use serde_json::Value;

use super::MetadataStore;
use super::database;
use super::database::BlobRow;
use super::database::Failure;
use super::holder;
use super::images;
use super::leases;
use super::leases::Lease;
use super::lock;
use super::lock::Writer;
use crate::Blob as _;
use crate::Error;
use crate::Info;
use crate::Labels;
use crate::LocalStore;
use crate::Manager;
use crate::Result;
use crate::now;
use crate::read::read;
use crate::read::read_some;

pub(super) const ROOT: &str = "containerd.io/gc.root";
const FLAT: &str = "containerd.io/gc.flat";
const REFERENCE: &str = "containerd.io/gc.ref.content";
const BACK_REFERENCE: &str = "containerd.io/gc.bref.content";
const IMAGE_REFERENCE: &str = "containerd.io/gc.bref.image";

/// How to collect.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Only tell what would be removed.
    pub dry_run: bool,
    /// How long an ingest that nobody holds is kept after it was last written to.
    pub ingest_age: Duration,
}

impl Default for Collection {
    fn default() -> Collection {
        // As in containerd.
        Collection { dry_run: false, ingest_age: Duration::from_secs(24 * 60 * 60) }
    }
}

/// What was collected.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Collected {
    /// The blobs whose files went, with their sizes, in their order.
    pub blobs: Vec<(Digest, u64)>,
    /// How many blobs stayed.
    pub kept: usize,
    /// The images that had expired, as `namespace/name`.
    pub images: Vec<String>,
    /// The leases that had expired, as `namespace/id`.
    pub leases: Vec<String>,
    /// The keys of ingests, as `namespace/key`.
    pub ingests: Vec<String>,
    /// What went wrong with other ingests, which stay.
    pub problems: Vec<String>,
}

impl MetadataStore {
    /// Removes what nothing refers to, in all namespaces, or tells what that is. Commits wait meanwhile, in all
    /// processes; what they have recorded by then counts.
    ///
    /// An expired lease that a program still [holds](MetadataStore::hold) is renewed.
    pub fn collect(&self, collection: &Collection) -> Result<Collected> {
        self.collect_telling(collection, &mut |_| {})
    }

    /// Collects as [`collect`](MetadataStore::collect) does. If it has to wait for others, `tell` hears first for whom.
    pub fn collect_telling(
        &self,
        collection: &Collection,
        tell: &mut dyn FnMut(&[Writer]),
    ) -> Result<Collected> {
        let _lock = lock::alone_telling(self.root(), tell)?;
        let held = holder::held(self.root(), !collection.dry_run)?;
        let now = now();
        let namespaces = self.database.read("list namespaces", namespaces)?;
        let mut collected = Collected::default();
        let mut live = HashSet::new();
        let mut dead = Vec::new();
        let mut expired = Expired::default();
        let mut renewed = Vec::new();
        for namespace in namespaces {
            let state = self.database.read("read a namespace", |connection| {
                State::read(connection, &namespace, now, &held, &self.limits)
            })?;
            let marked = state.mark(&self.blobs, &self.limits)?;
            for digest in state.blobs.into_keys() {
                match marked.contains(&digest) {
                    true => drop(live.insert(digest)),
                    false => dead.push((namespace.clone(), digest)),
                }
            }
            let of_it = |name| (namespace.clone(), name);
            expired.images.extend(state.expired.images.into_iter().map(of_it));
            expired.leases.extend(state.expired.leases.into_iter().map(of_it));
            renewed.extend(state.renewed.into_iter().map(|lease| (namespace.clone(), lease)));
        }
        for digest in self.blobs.digests()? {
            match self.blobs.open_blob(&digest) {
                Ok(_) if live.contains(&digest) => collected.kept += 1,
                Ok((_, size)) => collected.blobs.push((digest, size)),
                Err(Error::NotFound { .. } | Error::NotRegular { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let full = |(namespace, name): &(String, String)| format!("{namespace}/{name}");
        collected.images = expired.images.iter().map(full).collect();
        collected.leases = expired.leases.iter().map(full).collect();
        if !collection.dry_run {
            // The database first: a file that stays is collected the next time, a row would be a blob.
            self.forget(&dead, &expired)?;
            self.renew(&renewed)?;
            for (digest, _) in &collected.blobs {
                self.blobs.remove(digest)?;
            }
        }
        self.collect_ingests(collection, now, &mut collected)?;
        Ok(collected)
    }

    /// Returns the blobs that are kept because `digest` is: by their labels `containerd.io/gc.bref.content`.
    pub fn dependents(&self, digest: &Digest) -> Result<Vec<Info>> {
        let rows: Vec<BlobRow> = self.database.read("look up labels", |connection| {
            let mut statement = connection.prepare(
                "SELECT digest, labels, created, updated FROM blob
                 WHERE namespace = ?1 AND instr(labels, ?2) > 0 ORDER BY digest",
            )?;
            let rows = statement.query_map(params![&*self.namespace, digest.as_str()], database::blob_row)?;
            rows.collect()
        })?;
        let names_it =
            |row: &BlobRow| labelled(&row.labels, BACK_REFERENCE).any(|named| named == digest.as_str());
        rows.into_iter().filter(names_it).map(|row| self.inform(row)).collect()
    }

    fn forget(&self, dead: &[(String, Digest)], expired: &Expired<(String, String)>) -> Result<()> {
        let action = "forget blobs";
        if dead.is_empty() && expired.images.is_empty() && expired.leases.is_empty() {
            return Ok(());
        }
        self.database.change(action, |transaction| {
            let forget = || -> Result<(), Failure> {
                let mut statement =
                    transaction.prepare("DELETE FROM blob WHERE namespace = ?1 AND digest = ?2")?;
                for (namespace, digest) in dead {
                    statement.execute(params![namespace, digest.as_str()])?;
                }
                for (statement, expired) in [
                    ("DELETE FROM image WHERE namespace = ?1 AND name = ?2", &expired.images),
                    ("DELETE FROM lease WHERE namespace = ?1 AND id = ?2", &expired.leases),
                ] {
                    let mut statement = transaction.prepare(statement)?;
                    for (namespace, name) in expired {
                        statement.execute(params![namespace, name])?;
                    }
                }
                Ok(())
            };
            forget().map_err(self.database.failed(action))
        })
    }

    fn renew(&self, leases: &[(String, Lease)]) -> Result<()> {
        let action = "renew leases";
        if leases.is_empty() {
            return Ok(());
        }
        self.database.change(action, |transaction| {
            for (namespace, lease) in leases {
                let statement = "UPDATE lease SET labels = ?3 WHERE namespace = ?1 AND id = ?2";
                let values = params![namespace, lease.id, database::to_json(&lease.labels)];
                transaction.execute(statement, values).map_err(self.database.failed(action))?;
            }
            Ok(())
        })
    }

    fn collect_ingests(
        &self,
        collection: &Collection,
        now: SystemTime,
        collected: &mut Collected,
    ) -> Result<()> {
        for status in self.blobs.ingests()? {
            // One that was written to in the future is as new as can be.
            let age = now.duration_since(status.updated).unwrap_or_default();
            if age < collection.ingest_age {
                continue;
            }
            let result = match collection.dry_run {
                true if self.blobs.is_held(&status.key) => Err(Error::Busy { key: status.key.clone() }),
                true => Ok(()),
                false => self.blobs.abort(&status.key),
            };
            match result {
                Ok(()) => collected.ingests.push(status.key),
                Err(Error::Busy { .. } | Error::NoIngest { .. }) => {}
                // The blobs are gone, and shall be told of.
                Err(error) => collected.problems.push(describe(&error)),
            }
        }
        if !collection.dry_run {
            let problems = self.blobs.sweep_ingests(now, collection.ingest_age)?;
            for problem in problems.iter().map(describe) {
                // What could not be aborted above is met again.
                if !collected.problems.contains(&problem) {
                    collected.problems.push(problem);
                }
            }
        }
        Ok(())
    }
}

/// Returns the error and what caused it.
fn describe(error: &Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// What has expired.
#[derive(Debug)]
struct Expired<T> {
    images: Vec<T>,
    leases: Vec<T>,
}

impl<T> Default for Expired<T> {
    fn default() -> Expired<T> {
        Expired { images: Vec::new(), leases: Vec::new() }
    }
}

fn namespaces(connection: &Connection) -> Result<Vec<String>, Failure> {
    let mut statement = connection.prepare(
        "SELECT namespace FROM blob UNION SELECT namespace FROM image UNION SELECT namespace FROM lease",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// What a namespace says of what is to be kept.
struct State {
    /// Its blobs, and the labels that matter here.
    blobs: BTreeMap<Digest, Labels>,
    /// Where to start, and whether what the blob refers to is kept too.
    roots: Vec<(Digest, Descent)>,
    /// Its images.
    images: HashSet<String>,
    /// The images and leases that end.
    expired: Expired<String>,
    /// The leases that would, were they not held, with labels that say when they end now.
    renewed: Vec<Lease>,
}

/// How to find what a blob refers to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Descent {
    /// It is a manifest or an index, and has to be readable.
    Document,
    /// It may be one.
    Unknown,
    /// It is none: labels alone.
    Labels,
    /// It is kept alone.
    Flat,
}

impl Descent {
    fn of(media_type: &MediaType) -> Descent {
        match media_type.kind() {
            Kind::Manifest | Kind::Index => Descent::Document,
            Kind::Config | Kind::Layer { .. } => Descent::Labels,
            _ => Descent::Unknown,
        }
    }
}

impl State {
    fn read(
        connection: &Connection,
        namespace: &str,
        now: SystemTime,
        held: &HashSet<String>,
        limits: &Limits,
    ) -> Result<State, Failure> {
        let mut state = State {
            blobs: BTreeMap::new(),
            roots: Vec::new(),
            images: HashSet::new(),
            expired: Expired::default(),
            renewed: Vec::new(),
        };
        let expired = |labels: &Labels| leases::expires(labels).is_some_and(|time| time < now);
        let mut statement = connection
            .prepare("SELECT name, target, labels, created, updated FROM image WHERE namespace = ?1")?;
        for image in statement.query_map([namespace], |row| images::image(row, limits))? {
            let image = image?;
            if expired(&image.labels) {
                state.expired.images.push(image.name);
            } else {
                state.roots.push((image.target.digest.clone(), Descent::of(&image.target.media_type)));
                state.roots.extend(references(&image.labels));
                state.images.insert(image.name);
            }
        }
        let mut statement =
            connection.prepare("SELECT id, labels, created FROM lease WHERE namespace = ?1")?;
        let mut kept = HashMap::new();
        for lease in statement.query_map([namespace], leases::lease)? {
            let mut lease = lease?;
            let ends = expired(&lease.labels);
            if ends && !held.contains(&lease.id) {
                state.expired.leases.push(lease.id);
                continue;
            }
            let flat = lease.labels.get(FLAT).is_some_and(|value| !value.is_empty());
            kept.insert(lease.id.clone(), if flat { Descent::Flat } else { Descent::Unknown });
            if ends {
                leases::renew(&mut lease, now);
                state.renewed.push(lease);
            }
        }
        let mut statement =
            connection.prepare("SELECT lease, digest FROM lease_blob WHERE namespace = ?1")?;
        let mut rows = statement.query([namespace])?;
        while let Some(row) = rows.next()? {
            let (lease, digest): (String, String) = (row.get(0)?, row.get(1)?);
            if let (Some(descent), Ok(digest)) = (kept.get(&lease), Digest::parse(&digest)) {
                state.roots.push((digest, *descent));
            }
        }
        let mut statement =
            connection.prepare("SELECT digest, labels, created, updated FROM blob WHERE namespace = ?1")?;
        for row in statement.query_map([namespace], database::blob_row)? {
            let row = row?;
            let Ok(digest) = Digest::parse(&row.digest) else { continue };
            if row.labels.get(ROOT).is_some_and(|value| !value.is_empty()) {
                state.roots.push((digest.clone(), Descent::Unknown));
            }
            let labels =
                row.labels.into_iter().filter(|(key, _)| key.starts_with("containerd.io/gc.")).collect();
            state.blobs.insert(digest, labels);
        }
        Ok(state)
    }

    /// Returns what is kept.
    fn mark(&self, blobs: &LocalStore, limits: &Limits) -> Result<BTreeSet<Digest>> {
        // Who is kept because of whom.
        let mut dependents: HashMap<String, Vec<&Digest>> = HashMap::new();
        let mut open = self.roots.clone();
        for (digest, labels) in &self.blobs {
            for target in labelled(labels, BACK_REFERENCE) {
                dependents.entry(target.to_owned()).or_default().push(digest);
            }
            if labelled(labels, IMAGE_REFERENCE).any(|image| self.images.contains(image)) {
                open.push((digest.clone(), Descent::Unknown));
            }
        }
        let mut marked = BTreeSet::new();
        let mut descended = HashSet::new();
        while let Some((digest, descent)) = open.pop() {
            let new = marked.insert(digest.clone());
            if new {
                let dependents = dependents.get(digest.as_str()).into_iter().flatten();
                open.extend(dependents.map(|dependent| ((*dependent).clone(), Descent::Unknown)));
            }
            if descent == Descent::Flat || !descended.insert((digest.clone(), descent)) {
                continue;
            }
            let Some(labels) = self.blobs.get(&digest) else { continue };
            open.extend(references(labels));
            if descent == Descent::Labels {
                continue;
            }
            match References::read(blobs, &digest, limits) {
                Ok(Some(found)) => open.extend(found.targets),
                Ok(None) if descent == Descent::Document => {
                    let problem = "it is no manifest or index that can be read".to_owned();
                    return Err(Error::Unreadable { digest, problem });
                }
                Ok(None) => {}
                Err(Error::NotFound { .. } | Error::NotRegular { .. }) => {}
                Err(error) => return Err(Error::Unreadable { digest, problem: error.to_string() }),
            }
        }
        Ok(marked)
    }
}

/// Returns the values of the labels `key` and those with something behind a dot or a slash.
fn labelled<'a>(labels: &'a Labels, key: &'static str) -> impl Iterator<Item = &'a str> {
    labels.iter().filter_map(move |(name, value)| {
        let rest = name.strip_prefix(key)?;
        (rest.is_empty() || rest.starts_with(['.', '/'])).then_some(value.as_str())
    })
}

fn references(labels: &Labels) -> impl Iterator<Item = (Digest, Descent)> {
    labelled(labels, REFERENCE).filter_map(|text| Some((Digest::parse(text).ok()?, Descent::Unknown)))
}

/// What a manifest or an index refers to.
pub(super) struct References {
    pub(super) media_type: Option<MediaType>,
    pub(super) is_index: bool,
    pub(super) targets: Vec<(Digest, Descent)>,
}

impl References {
    /// Reads a blob; `None` if it is neither manifest nor index. It is read generously: what another program can
    /// make sense of must not lose its parts here.
    pub(super) fn read(blobs: &LocalStore, digest: &Digest, limits: &Limits) -> Result<Option<References>> {
        let blob = blobs.section(digest)?;
        let mut first = [0];
        let mut looks_like_json = || match read_some(&blob, &mut first, 0) {
            Ok(count) => count > 0 && b"{ \t\r\n".contains(&first[0]),
            // The error is met again below.
            Err(_) => true,
        };
        // Whatever is larger is no document to anybody.
        if blob.size() > limits.manifest_size || !looks_like_json() {
            return Ok(None);
        }
        let descriptor = Descriptor::new(MediaType::OCI_MANIFEST, digest.clone(), blob.size());
        let bytes = read(blobs, &descriptor, limits.manifest_size)?;
        let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
        let of = |value: &Value, descent: Option<Descent>| {
            let digest = Digest::parse(value.get("digest")?.as_str()?).ok()?;
            let media_type = value.get("mediaType").and_then(Value::as_str);
            let media_type = media_type.and_then(|text| MediaType::parse(text).ok());
            let descent =
                descent.or_else(|| media_type.as_ref().map(Descent::of)).unwrap_or(Descent::Unknown);
            Some((digest, descent))
        };
        let list = |key: &str| document.get(key).and_then(Value::as_array);
        let is_index = list("manifests").is_some();
        if !is_index
            && list("layers").is_none()
            && list("blobs").is_none()
            && document.get("config").is_none()
        {
            return Ok(None);
        }
        let mut targets: Vec<_> =
            list("manifests").into_iter().flatten().filter_map(|entry| of(entry, None)).collect();
        for key in ["layers", "blobs"] {
            targets
                .extend(list(key).into_iter().flatten().filter_map(|entry| of(entry, Some(Descent::Labels))));
        }
        targets.extend(document.get("config").and_then(|entry| of(entry, Some(Descent::Labels))));
        let media_type = document.get("mediaType").and_then(Value::as_str);
        let media_type = media_type.and_then(|text| MediaType::parse(text).ok());
        Ok(Some(References { media_type, is_index, targets }))
    }
}
