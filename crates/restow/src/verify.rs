//! Reading an image back in full, and saying what of it holds.

use std::collections::BTreeSet;

use restow_content::VerifiedReader;
use restow_convert::Platforms;
use restow_layer as layer;
use restow_layer::Workers;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::MediaType;
use restow_oci::Platform;
use restow_oci::annotations::STARGZ_LAYER_DIGEST;
use restow_registry::Reference;
use restow_registry::Source;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Error;
use crate::Result;
use crate::Session;
use crate::blob::LayerBlob;
use crate::error::describe;
use crate::gaps::select_readable;
use crate::parallel;
use crate::readership::ImageReaders;
use crate::readership::Readership;
use crate::toc_image::Tables;

/// What of an image is verified, and what is told of it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// The platforms whose images are verified, in all their forms; all, where there is none.
    pub platforms: Vec<Platform>,
    /// Whether it is told which readers can fetch parts of the layers.
    pub readers: bool,
    /// Whether names in layers may go through a parent directory (`../x`).
    pub parent_references: bool,
    /// The image that holds the tables of contents of the eStargz layers without one; without it, the one that is named
    /// after the image, or what refers to it.
    pub toc_image: Option<Reference>,
}

/// What of an image holds.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VerifyReport {
    /// The reference of the image.
    pub reference: String,
    /// The digest of its manifest or index.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Whether all of it holds.
    pub ok: bool,
    /// Its blobs, each behind what names it.
    pub blobs: Vec<VerifiedBlob>,
    /// The readers that can fetch parts of the layers, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readers: Option<Vec<ImageReaders>>,
}

/// What of a blob holds.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct VerifiedBlob {
    /// What it is there for: `index`, `manifest`, `config`, `layer` or `blob`.
    pub blob: &'static str,
    /// Its digest.
    #[schemars(with = "String")]
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    #[schemars(with = "String")]
    pub media_type: MediaType,
    /// The manifest that a layer was found in.
    #[schemars(with = "Option<String>")]
    pub manifest: Option<Digest>,
    /// The position of a layer there.
    pub position: Option<usize>,
    /// What a manifest is for, where the index says.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
    /// The format of a layer.
    pub format: Option<String>,
    /// What was compared and holds.
    pub holds: Option<Vec<String>>,
    /// What does not hold.
    pub problem: Option<String>,
    /// Whether that is that the blob is not there.
    pub missing: bool,
}

impl Session {
    /// Reads an image back in full and says what of it holds: digests and sizes, DiffIDs, and of seekable layers each
    /// chunk and file. What does not hold is no error of this function.
    pub fn verify<S>(&self, source: S, options: &VerifyOptions) -> Result<VerifyReport>
    where
        S: TryInto<Reference, Error: Into<Error>>,
    {
        let limits = self.limits_with(options.parent_references);
        let (reference, source) = self.open(source)?;
        let tables = self.tables(&reference, &source, options.toc_image.as_ref())?;
        let chosen = chosen(&source, &options.platforms, &limits)?;
        let workers = self.workers()?;
        let verifier = Verifier { source: &source, tables: &tables, limits: &limits, workers };
        let mut walk = Walk { verifier, chosen, parts: Vec::new(), seen: BTreeSet::new() };
        walk.descend(&source.root, 0);
        let findings = parallel::map(&walk.parts, self.settings().threads, |part| verifier.verify(part));
        let readers = options.readers.then(|| readers(&walk.parts, &findings));
        let ok = findings.iter().all(Result::is_ok);
        let blobs = walk.parts.into_iter().zip(findings).map(|(part, finding)| part.report(finding));
        let (reference, digest) = (source.name, source.root.digest);
        Ok(VerifyReport { reference, digest, ok, blobs: blobs.collect(), readers })
    }
}

/// Returns the manifests of the images for these platforms; nothing where all are meant.
fn chosen(source: &Source, platforms: &[Platform], limits: &Limits) -> Result<Option<BTreeSet<Digest>>> {
    if platforms.is_empty() {
        return Ok(None);
    }
    let images = select_readable(source, &Platforms::Only(platforms.to_vec()), limits)?;
    let forms = images.into_iter().flat_map(|image| [image.descriptor].into_iter().chain(image.forms));
    Ok(Some(forms.map(|form| form.digest).collect()))
}

/// A blob of the image, and its place.
struct Part {
    descriptor: Descriptor,
    role: Role,
    platform: Option<Platform>,
}

/// What a blob is there for.
enum Role {
    /// A document that was read on the way, and what was wrong with it.
    Document(&'static str, Option<Problem>),
    /// Something whose bytes mean nothing here.
    Other(&'static str),
    Layer {
        manifest: Digest,
        position: usize,
        diff_id: Option<Digest>,
    },
}

/// What was found to hold, or why not.
type Finding = std::result::Result<Held, Problem>;

#[derive(Clone)]
struct Problem {
    text: String,
    is_missing: bool,
}

impl Problem {
    fn of(error: &Error) -> Self {
        Self { text: describe(error), is_missing: error.is_not_found() }
    }
}

struct Held {
    format: String,
    what: Vec<String>,
    /// Who can fetch parts of it, if it is a layer.
    readership: Option<Readership>,
}

/// Lists the blobs of an image from its root on.
struct Walk<'a> {
    verifier: Verifier<'a>,
    /// The manifests to descend into; all if there is no choice.
    chosen: Option<BTreeSet<Digest>>,
    parts: Vec<Part>,
    seen: BTreeSet<Digest>,
}

impl Walk<'_> {
    fn descend(&mut self, descriptor: &Descriptor, depth: usize) {
        if self.seen.contains(&descriptor.digest) {
            return;
        }
        self.seen.insert(descriptor.digest.clone());
        let limits = self.verifier.limits;
        match descriptor.media_type.kind() {
            Kind::Index => {
                let read = |bytes| Index::parse_as(bytes, &descriptor.media_type, limits);
                let index = self.verifier.document(descriptor, limits.manifest_size, read);
                let index = self.keep("index", descriptor, index);
                for entry in index.iter().flat_map(Index::manifests) {
                    if depth < limits.index_depth && self.seen.len() < limits.nodes {
                        self.descend(entry, depth + 1);
                    } else {
                        self.parts.push(Part::document(
                            "manifest",
                            entry,
                            Some(Problem {
                                text: "the index nests too deep or holds too much".into(),
                                is_missing: false,
                            }),
                        ));
                    }
                }
            }
            Kind::Manifest
                if self.chosen.as_ref().is_none_or(|chosen| chosen.contains(&descriptor.digest)) =>
            {
                let read = |bytes| Manifest::parse_as(bytes, &descriptor.media_type, limits);
                let manifest = self.verifier.document(descriptor, limits.manifest_size, read);
                if let Some(manifest) = self.keep("manifest", descriptor, manifest) {
                    self.image(descriptor, &manifest);
                }
            }
            Kind::Manifest => {}
            Kind::Other if descriptor.size <= limits.manifest_size => self.foreign(descriptor),
            _ => self.blob(descriptor),
        }
    }

    /// Lists what may be a manifest of an unknown kind, and what it names.
    fn foreign(&mut self, descriptor: &Descriptor) {
        let limits = self.verifier.limits;
        let parts = self
            .verifier
            .document(descriptor, limits.manifest_size, |bytes| restow_oci::foreign_parts(&bytes, limits));
        match parts {
            Ok(parts) if parts.is_empty() => self.blob(descriptor),
            parts => {
                let parts = self.keep("manifest", descriptor, parts);
                parts.iter().flatten().for_each(|part| self.blob(part));
            }
        }
    }

    fn blob(&mut self, descriptor: &Descriptor) {
        let role = Role::Other("blob");
        self.parts.push(Part { descriptor: descriptor.clone(), role, platform: None });
    }

    fn image(&mut self, descriptor: &Descriptor, manifest: &Manifest) {
        let limits = self.verifier.limits;
        let config = manifest.config();
        let mut diff_ids = Vec::new();
        // An image of tables of contents has a config that says nothing.
        let tables =
            manifest.layers().iter().all(|layer| layer.annotations.contains_key(STARGZ_LAYER_DIGEST));
        if config.media_type.kind() == Kind::Config {
            let parsed = self.verifier.document(config, limits.config_size, |bytes| {
                Config::parse(bytes, limits).map(|config| config.diff_ids().to_vec())
            });
            let parsed = parsed.and_then(|diff_ids| {
                let (named, there) = (diff_ids.len(), manifest.layers().len());
                match named == there || tables && named == 0 {
                    true => Ok(diff_ids),
                    false => Err(Error::DiffIdCount { named, there }),
                }
            });
            diff_ids = self.keep("config", config, parsed).unwrap_or_default();
        } else {
            self.parts.push(Part { descriptor: config.clone(), role: Role::Other("config"), platform: None });
        }
        for (position, layer) in manifest.layers().iter().enumerate() {
            let (manifest, diff_id) = (descriptor.digest.clone(), diff_ids.get(position).cloned());
            let role = Role::Layer { manifest, position, diff_id };
            self.parts.push(Part { descriptor: layer.clone(), role, platform: None });
        }
    }

    /// Lists a document, and returns it if it holds.
    fn keep<T>(&mut self, name: &'static str, descriptor: &Descriptor, read: Result<T>) -> Option<T> {
        let problem = read.as_ref().err().map(Problem::of);
        self.parts.push(Part::document(name, descriptor, problem));
        read.ok()
    }
}

impl Part {
    fn document(name: &'static str, descriptor: &Descriptor, problem: Option<Problem>) -> Self {
        let platform = descriptor.platform.clone();
        Self { descriptor: descriptor.clone(), role: Role::Document(name, problem), platform }
    }

    fn report(self, finding: Finding) -> VerifiedBlob {
        let (held, problem) = match finding {
            Ok(held) => (Some(held), None),
            Err(problem) => (None, Some(problem)),
        };
        let (blob, manifest, position) = match self.role {
            Role::Document(name, _) | Role::Other(name) => (name, None, None),
            Role::Layer { manifest, position, .. } => ("layer", Some(manifest), Some(position)),
        };
        let Descriptor { digest, size, media_type, .. } = self.descriptor;
        let platform = self.platform;
        let (format, holds) = held.map(|held| (held.format, held.what)).unzip();
        let format = format.filter(|format| !format.is_empty());
        let missing = problem.as_ref().is_some_and(|problem| problem.is_missing);
        let problem = problem.map(|problem| problem.text);
        VerifiedBlob {
            blob,
            digest,
            size,
            media_type,
            manifest,
            position,
            platform,
            format,
            holds,
            problem,
            missing,
        }
    }
}

/// Reads blobs and compares.
#[derive(Clone, Copy)]
struct Verifier<'a> {
    source: &'a Source,
    tables: &'a Tables<'a>,
    limits: &'a Limits,
    workers: &'a Workers,
}

impl Verifier<'_> {
    fn document<T>(
        &self,
        descriptor: &Descriptor,
        limit: u64,
        parse: impl FnOnce(Vec<u8>) -> restow_oci::Result<T>,
    ) -> Result<T> {
        Ok(parse(restow_content::read(&*self.source.provider, descriptor, limit)?)?)
    }

    fn verify(&self, part: &Part) -> Finding {
        let held = |what: &str| Held { format: String::new(), what: vec![what.to_owned()], readership: None };
        let result = match &part.role {
            Role::Document(_, None) => Ok(held("digest")),
            Role::Document(_, Some(problem)) => return Err(problem.clone()),
            Role::Other(_) => self.blob(&part.descriptor).map(|()| held("digest")),
            Role::Layer { manifest, diff_id, .. } => match part.descriptor.media_type.kind() {
                Kind::Layer { distributable, .. } => {
                    match self.layer(manifest, &part.descriptor, diff_id.as_ref()) {
                        Err(error) if !distributable && error.is_not_found() => {
                            Ok(held("not here, as it may not be distributed"))
                        }
                        result => result,
                    }
                }
                _ => self.blob(&part.descriptor).map(|()| held("digest")),
            },
        };
        result.map_err(|error| Problem::of(&error))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        Ok(VerifiedReader::new(self.source.provider.open(descriptor)?, descriptor)?.finish()?)
    }

    fn layer(&self, manifest: &Digest, descriptor: &Descriptor, diff_id: Option<&Digest>) -> Result<Held> {
        let blob = LayerBlob::open(&*self.source.provider, descriptor)?;
        let blob = blob.with_table(manifest, &descriptor.digest, self.tables)?;
        let (name, readers) = blob.format()?;
        let format = readers.map_or_else(|| name.to_owned(), |readers| format!("{name} ({readers})"));
        let mut what = vec!["digest".to_owned()];
        let readership = if blob.is_seekable() {
            self.blob(descriptor)?;
            let options = layer::VerifyOptions {
                hints: blob.hints().clone(),
                diff_id: diff_id.cloned(),
                limits: self.limits.clone(),
                ..layer::VerifyOptions::default()
            };
            let verified = layer::verify(&blob, &options, self.workers)?;
            what.extend(diff_id.map(|_| "DiffID".to_owned()));
            what.push("TOC".to_owned());
            what.push(format!("{} entries", verified.entries));
            what.push(format!("{} chunks", verified.chunks));
            if verified.content.as_ref().is_some_and(|content| content.tar_split) {
                what.push("tar-split".to_owned());
            }
            Readership::of(descriptor, &verified)
        } else {
            self.tar(descriptor, diff_id)?;
            what.extend(diff_id.map(|_| "DiffID".to_owned()));
            Readership::whole(&format)
        };
        Ok(Held { format, what, readership: Some(readership) })
    }

    /// Reads a layer that is nothing but a tar, both digests in one pass.
    fn tar(&self, descriptor: &Descriptor, diff_id: Option<&Digest>) -> Result<()> {
        let mut compressed = VerifiedReader::new(self.source.provider.open(descriptor)?, descriptor)?;
        let algorithm = diff_id.map(Digest::algorithm);
        let actual = layer::check_tar(&mut compressed, algorithm, self.limits)?;
        if let (Some(expected), Some(actual)) = (diff_id.cloned(), actual)
            && actual != expected
        {
            return Err(Error::DiffId { actual, expected });
        }
        Ok(compressed.finish()?)
    }
}

/// Gathers what was found of the layers of each image.
fn readers(parts: &[Part], findings: &[Finding]) -> Vec<ImageReaders> {
    let mut images: Vec<ImageReaders> = Vec::new();
    for (part, finding) in parts.iter().zip(findings) {
        match (&part.role, finding) {
            (Role::Document("manifest", None), _) => {
                images.push(ImageReaders::new(&part.descriptor.digest, part.platform.as_ref()));
            }
            // Layers are listed behind their manifest.
            (Role::Layer { position, .. }, Ok(Held { readership: Some(readership), .. })) => {
                images.last_mut().into_iter().for_each(|image| image.add(*position, readership));
            }
            _ => {}
        }
    }
    images
}
