//! `restow verify`: read everything back and say what holds.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use restow::blob::LayerBlob;
use restow::parallel;
use restow::toc_image::Tables;
use restow_content::Overlay;
use restow_content::VerifiedReader;
use restow_convert as convert;
use restow_convert::Platforms;
use restow_convert::Selected;
use restow_layer::VerifyOptions;
use restow_layer::Workers;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use restow_oci::Platform;
use restow_oci::annotations::STARGZ_LAYER_DIGEST;
use restow_registry::Needs;
use restow_registry::Source;
use restow_registry::Whole;
use serde_json::Value;
use serde_json::json;

use crate::access::access;
use crate::access::open_source;
use crate::args::Format;
use crate::args::JobsArguments;
use crate::args::TocArguments;
use crate::failure;
use crate::output;
use crate::output::Table;
use crate::readership;
use crate::readership::ImageReadership;
use crate::readership::Readership;
use crate::reference;

/// Read an image back in full and say what of it holds
///
/// Checked are the digest and size of every blob, the DiffID of every layer and, of seekable layers, the table of
/// contents, every chunk and every file. Exits with 1 if something does not hold or is missing.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: oci:PATH[:TAG], docker://HOST/NAME[:TAG], store:NAME, an archive, or a path
    #[arg(value_name = "REF")]
    reference: String,
    /// Verify only the image for this platform, in all its forms; may be given several times
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Also tell which readers can fetch parts of the layers, and what keeps the others from it
    #[arg(long)]
    readers: bool,
    /// Accept names in layers that go through a parent directory (../x), which some readers refuse
    #[arg(long)]
    allow_parent_refs: bool,
    /// List what is missing, and let it be no failure: docker save leaves out attestations and other platforms
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    toc: TocArguments,
    #[command(flatten)]
    jobs: JobsArguments,
    /// What stdout holds: a table or a document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let limits = Limits { parent_references: arguments.allow_parent_refs, ..access().limits().clone() };
    let reference = reference::parse(&arguments.reference)?;
    let source = open_source(&reference)?;
    let tables = arguments.toc.open(&reference, &source, &limits)?;
    let chosen = match arguments.platform.as_slice() {
        [] => None,
        platforms => {
            let images = select(&source, &Platforms::Only(platforms.to_vec()), &limits)?;
            let forms =
                images.into_iter().flat_map(|image| [image.descriptor].into_iter().chain(image.forms));
            Some(forms.map(|form| form.digest).collect())
        }
    };
    let workers = Workers::new(arguments.jobs.count().get())?;
    let verifier = Verifier { source: &source, tables: &tables, limits: &limits, workers: &workers };
    let mut walk = Walk { verifier, chosen, parts: Vec::new(), seen: BTreeSet::new() };
    walk.descend(&source.root, 0);
    let findings = parallel::map(&walk.parts, arguments.jobs.count(), |part| verifier.verify(part));
    let parts: Vec<_> = walk.parts.iter().zip(findings).collect();

    let readers = arguments.readers.then(|| readership(&parts));
    match arguments.format {
        Format::Text => {
            output::print(&table(&parts).to_string())?;
            if let Some(images) = &readers {
                output::print(&format!("\n{}", readership::table(images)))?;
            }
        }
        Format::Json => {
            let mut document = document(&source, &parts);
            if let Some(images) = &readers {
                document["readers"] = readership::document(images);
            }
            output::print_json(&document)?;
        }
    }
    Ok(judge(&source, &parts, arguments.allow_missing))
}

/// Says how many blobs are missing and how many do not hold, and whether that is a failure.
fn judge(source: &Source, parts: &[(&Part, Finding)], allow_missing: bool) -> ExitCode {
    let problems = parts.iter().filter_map(|(_, finding)| finding.as_ref().err());
    let (missing, wrong): (Vec<_>, Vec<_>) = problems.partition(|problem| problem.is_missing);
    let all = output::count(parts.len(), "blob");
    let tell = |level: &str, count: usize, [one, many]: [&str; 2]| {
        if count > 0 {
            let verb = if count == 1 { one } else { many };
            output::tell(&format!("{level}: {}: {count} of {all} {verb}", source.name));
        }
    };
    let level = if allow_missing { "warning" } else { "error" };
    tell(level, missing.len(), ["is missing", "are missing"]);
    tell("error", wrong.len(), ["does not hold", "do not hold"]);
    match wrong.is_empty() && (missing.is_empty() || allow_missing) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Chooses images, if need be without the entries of the index that cannot be read.
fn select(source: &Source, platforms: &Platforms, limits: &Limits) -> anyhow::Result<Vec<Selected>> {
    let Source { provider, root, name, .. } = source;
    let error = match convert::select(&**provider, root, platforms, limits) {
        Ok(selection) => return Ok(selection.images),
        Err(error) => error,
    };
    let whole = Whole::of(&**provider, root, Needs::Documents, limits);
    let selection = match whole.with_context(|| name.clone())? {
        Whole { gaps, .. } if gaps.is_empty() => Err(error),
        Whole { root, documents, .. } => {
            let provider = Overlay::new(&documents, [&**provider]);
            convert::select(&provider, &root, platforms, limits)
        }
    };
    Ok(selection.with_context(|| name.clone())?.images)
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
type Finding = Result<Held, Problem>;

#[derive(Clone)]
struct Problem {
    text: String,
    is_missing: bool,
}

impl Problem {
    fn of(error: &anyhow::Error) -> Self {
        Self { text: failure::describe(error), is_missing: is_absent(error) }
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
                anyhow::ensure!(
                    named == there || tables && named == 0,
                    "it names {named} DiffIDs, the manifest {there} layers"
                );
                Ok(diff_ids)
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
    fn keep<T>(&mut self, name: &'static str, descriptor: &Descriptor, read: anyhow::Result<T>) -> Option<T> {
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

    fn name(&self) -> String {
        match &self.role {
            Role::Document(name, _) | Role::Other(name) => (*name).to_owned(),
            Role::Layer { position, .. } => format!("layer {position}"),
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
    ) -> anyhow::Result<T> {
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
                        Err(error) if !distributable && is_absent(&error) => {
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

    fn blob(&self, descriptor: &Descriptor) -> anyhow::Result<()> {
        Ok(VerifiedReader::new(self.source.provider.open(descriptor)?, descriptor)?.finish()?)
    }

    fn layer(
        &self,
        manifest: &Digest,
        descriptor: &Descriptor,
        diff_id: Option<&Digest>,
    ) -> anyhow::Result<Held> {
        let blob = LayerBlob::open(&*self.source.provider, descriptor)?;
        let blob = blob.with_table(manifest, &descriptor.digest, self.tables)?;
        let (name, readers) = blob.format()?;
        let format = readers.map_or_else(|| name.to_owned(), |readers| format!("{name} ({readers})"));
        let mut what = vec!["digest".to_owned()];
        let readership = if blob.is_seekable() {
            self.blob(descriptor)?;
            let options = VerifyOptions {
                hints: blob.hints().clone(),
                diff_id: diff_id.cloned(),
                limits: self.limits.clone(),
                ..VerifyOptions::default()
            };
            let verified = restow_layer::verify(&blob, &options, self.workers)?;
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
    fn tar(&self, descriptor: &Descriptor, diff_id: Option<&Digest>) -> anyhow::Result<()> {
        let mut compressed = VerifiedReader::new(self.source.provider.open(descriptor)?, descriptor)?;
        let algorithm = diff_id.map(Digest::algorithm);
        let actual = restow_layer::check_tar(&mut compressed, algorithm, self.limits)?;
        if let (Some(expected), Some(actual)) = (diff_id, actual) {
            anyhow::ensure!(actual == *expected, "its DiffID is {actual}, the config says {expected}");
        }
        Ok(compressed.finish()?)
    }
}

/// Tells whether the error is that a blob is not there.
fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(restow::Error::is_not_found)
        || error.downcast_ref().is_some_and(restow_content::Error::is_not_found)
}

/// Gathers what was found of the layers of each image.
fn readership<'a>(parts: &'a [(&Part, Finding)]) -> Vec<ImageReadership<'a>> {
    let mut images: Vec<ImageReadership<'a>> = Vec::new();
    for (part, finding) in parts {
        match (&part.role, finding) {
            (Role::Document("manifest", None), _) => images.push(ImageReadership {
                manifest: &part.descriptor.digest,
                platform: part.platform.as_ref(),
                layers: Vec::new(),
            }),
            (Role::Layer { position, .. }, Ok(Held { readership: Some(readership), .. })) => {
                // Layers are listed behind their manifest.
                images
                    .iter_mut()
                    .next_back()
                    .into_iter()
                    .for_each(|image| image.layers.push((*position, readership)));
            }
            _ => {}
        }
    }
    images
}

fn table(parts: &[(&Part, Finding)]) -> Table {
    let mut table = Table::new(&["blob", "digest", ">size", "format", "holds"]);
    for (part, finding) in parts {
        let indent = if matches!(part.role, Role::Document("index" | "manifest", _)) { "" } else { "  " };
        let platform = part.platform.as_ref().map(|platform| format!(" {platform}")).unwrap_or_default();
        let (format, holds) = match finding {
            Ok(held) => (held.format.clone(), held.what.join(", ")),
            Err(Problem { is_missing: true, .. }) => (String::new(), "missing".to_owned()),
            Err(Problem { text, .. }) => (String::new(), format!("FAILED: {text}")),
        };
        table.row([
            format!("{indent}{}{platform}", part.name()),
            output::short(&part.descriptor.digest),
            output::size(part.descriptor.size),
            format,
            holds,
        ]);
    }
    table
}

fn document(source: &Source, parts: &[(&Part, Finding)]) -> Value {
    let part = |(part, finding): &(&Part, Finding)| {
        let (manifest, position) = match &part.role {
            Role::Layer { manifest, position, .. } => (Some(manifest.as_str()), Some(position)),
            _ => (None, None),
        };
        json!({
            "blob": match part.role {
                Role::Document(name, _) | Role::Other(name) => name,
                Role::Layer { .. } => "layer",
            },
            "digest": part.descriptor.digest.as_str(),
            "size": part.descriptor.size,
            "mediaType": part.descriptor.media_type.as_str(),
            "manifest": manifest,
            "position": position,
            "platform": part.platform.as_ref().map(ToString::to_string),
            "format": finding.as_ref().ok().map(|held| &held.format).filter(|format| !format.is_empty()),
            "holds": finding.as_ref().ok().map(|held| &held.what),
            "problem": finding.as_ref().err().map(|problem| &problem.text),
            "missing": finding.as_ref().is_err_and(|problem| problem.is_missing),
        })
    };
    json!({
        "reference": source.name,
        "digest": source.root.digest.as_str(),
        "ok": parts.iter().all(|(_, finding)| finding.is_ok()),
        "blobs": parts.iter().map(part).collect::<Vec<_>>(),
    })
}
