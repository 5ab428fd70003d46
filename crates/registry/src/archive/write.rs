//! Archives as places to write to: a layout in a tar, for Docker with the list it looks for besides.

use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use restow_content::Overlay;
use restow_content::Provider;
use restow_content::Store;
use restow_content::VerifiedReader;
use restow_content::publish::Draft;
use restow_content::read;
use restow_oci::Config;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Index;
use restow_oci::Kind;
use restow_oci::Limits;
use restow_oci::Manifest;
use serde_json::Value;
use serde_json::json;

use crate::Destination;
use crate::DockerArchive;
use crate::Error;
use crate::Name;
use crate::Notice;
use crate::OciArchive;
use crate::Result;
use crate::Scratch;
use crate::Transfer;
use crate::access::STANDARD;
use crate::catalogue::Catalogue;
use crate::error::unusable;
use crate::graph;
use crate::graph::Graph;
use crate::publish::may_be_absent;
use crate::reference::is_tag;
use crate::scratch::ScratchStore;

/// What an archive is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveForm {
    /// `oci-layout`, `index.json` and blobs.
    Oci,
    /// The same and `manifest.json`, as `docker save` writes it since version 25. It holds images of one
    /// platform only.
    Docker,
}

/// An archive that an image is written to, or standard output. An archive that was there before is replaced.
#[derive(Debug)]
pub struct ArchiveDestination {
    path: PathBuf,
    /// The names in the archive that is replaced.
    replaced: Vec<String>,
    form: ArchiveForm,
    scratch: ScratchStore,
    limits: Limits,
}

impl ArchiveDestination {
    /// Writes to `path`, with files in a directory of `scratch` meanwhile. Fails if something else than an archive of
    /// images is there.
    pub fn new(
        path: &Path,
        form: ArchiveForm,
        scratch: &Scratch,
        limits: &Limits,
    ) -> Result<ArchiveDestination> {
        let replaced = if path == Path::new(STANDARD) { Vec::new() } else { names_at(path, limits)? };
        let scratch = scratch.store()?;
        Ok(ArchiveDestination { path: path.to_owned(), replaced, form, scratch, limits: limits.clone() })
    }

    /// Tells of the images that are in the archive that is replaced and will not be in the new one.
    fn lost(&self, images: &[(&Descriptor, &[String])]) -> Option<Notice> {
        let kept = |name: &String| images.iter().any(|(_, names)| names.contains(name));
        let names: Vec<_> = self.replaced.iter().filter(|name| !kept(name)).cloned().collect();
        (!names.is_empty()).then(|| Notice::Replaced { path: self.path.clone(), names })
    }

    /// Returns the image as Docker's list describes it: the path of its config and those of its layers.
    fn docker_entry(&self, source: &dyn Provider, root: &Descriptor, tags: &[String]) -> Result<Value> {
        let one = |problem| Error::Unusable { reference: self.path.display().to_string(), problem };
        let mut image = root.clone();
        if root.media_type.kind() == Kind::Index {
            let bytes = read(source, root, self.limits.manifest_size)?;
            let index = Index::parse_as(bytes, &root.media_type, &self.limits);
            let index = index.map_err(unusable(format!("index {}", root.digest)))?;
            let images: Vec<_> = index
                .manifests()
                .iter()
                .filter(|entry| entry.platform.as_ref().is_none_or(|platform| !platform.is_unknown()))
                .collect();
            let [only] = images.as_slice() else {
                return Err(one("a docker archive holds one image; choose one with --platform"));
            };
            image = (*only).clone();
        }
        let bytes = read(source, &image, self.limits.manifest_size)?;
        let manifest = Manifest::parse_as(bytes, &image.media_type, &self.limits);
        let manifest = manifest.map_err(unusable(format!("manifest {}", image.digest)))?;
        let is_tar = |layer: &Descriptor| matches!(layer.media_type.kind(), Kind::Layer { .. });
        let config = manifest.config();
        if config.media_type.kind() != Kind::Config || !manifest.layers().iter().all(is_tar) {
            return Err(one(
                "a docker archive holds images, and this is none; an oci-archive holds anything",
            ));
        }
        let config = Config::parse(read(source, config, self.limits.config_size)?, &self.limits);
        let config = config.map_err(unusable(format!("config {}", manifest.config().digest)))?;
        let has_root = config.get("rootfs").is_some_and(Value::is_object);
        if !has_root || config.diff_ids().len() != manifest.layers().len() {
            return Err(one("docker takes no image whose config has not a DiffID for each layer (rootfs)"));
        }
        let layers: Vec<_> = manifest.layers().iter().map(|layer| blob_path(&layer.digest)).collect();
        Ok(json!({
            "Config": blob_path(&manifest.config().digest),
            "RepoTags": tags,
            "Layers": layers,
        }))
    }
}

impl Destination for ArchiveDestination {
    fn store(&self) -> &dyn Store {
        &self.scratch.store
    }

    fn held(&self) -> Option<&dyn Provider> {
        None
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn publish_each(
        &self,
        _: Transfer,
        source: &dyn Provider,
        images: &[(&Descriptor, &[String])],
    ) -> Result<Vec<Notice>> {
        let mut tags = images.iter().flat_map(|(_, tags)| tags.iter());
        if let Some(tag) = tags.find(|tag| !is_tag(tag)) {
            let reference = self.path.display().to_string();
            return Err(Error::InvalidTag { reference, tag: tag.clone() });
        }
        let source = Overlay::new(&self.scratch.store, [source]);
        let mut graph = Graph { documents: Vec::new(), leaves: Vec::new(), missing: Vec::new() };
        let mut catalogue = Catalogue::empty(&self.path);
        let mut list = Vec::new();
        for (root, tags) in images {
            graph.extend(graph::walk(&source, root, &self.limits)?);
            match tags {
                [] => catalogue.set(root, None)?,
                tags => tags.iter().try_for_each(|tag| catalogue.set(root, Some(tag)))?,
            }
            if self.form == ArchiveForm::Docker {
                for tag in *tags {
                    // As Docker means it. containerd, which goes by this index, adds nothing to a name, and Kubernetes
                    // looks for a whole one.
                    if let Some(name) = Name::parse(tag).ok().and_then(|name| name.whole()) {
                        catalogue.set_containerd_name(tag, &name)?;
                    }
                }
                list.push(self.docker_entry(&source, root, tags)?);
            }
        }
        let mut documents = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), catalogue.into_bytes()),
        ];
        if self.form == ArchiveForm::Docker {
            documents.push(("manifest.json".to_owned(), json!(list).to_string().into_bytes()));
        }
        let root = images.first().map_or_else(|| Digest::sha256(b""), |(root, _)| root.digest.clone());
        if !graph.missing.is_empty() {
            // Nothing is copied in vain.
            return Err(Error::MissingBlobs { root, missing: graph.missing_from(&source)? });
        }
        let mut missing = Vec::new();
        let mut notices = Vec::new();
        let write = |output: &mut dyn Write| -> Result<()> {
            let mut tar = Tar(tar::Builder::new(output));
            for (path, bytes) in &documents {
                tar.file(path, bytes.len() as u64, &mut bytes.as_slice())?;
            }
            for blob in graph.documents.iter().chain(&graph.leaves) {
                // A descriptor may carry its blob, and a reader of archives may not look there.
                if blob.data.is_some() {
                    let bytes = read(&source, blob, blob.size)?;
                    tar.file(&blob_path(&blob.digest), blob.size, &mut bytes.as_slice())?;
                    continue;
                }
                match source.open(blob) {
                    Ok(opened) => {
                        let mut reader = VerifiedReader::new(opened, blob)?;
                        tar.file(&blob_path(&blob.digest), blob.size, &mut reader)?;
                    }
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    Err(_) if may_be_absent(blob) => {
                        notices.push(Notice::NotCopied { descriptor: blob.clone() });
                    }
                    Err(_) => missing.push(blob.digest.clone()),
                }
            }
            if !missing.is_empty() {
                return Err(Error::MissingBlobs { root: root.clone(), missing });
            }
            tar.finish()
        };
        if self.path == Path::new(STANDARD) {
            let mut output = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            write(&mut output)?;
            output.flush().map_err(failed(&self.path))?;
        } else {
            let draft = Draft::lock(&self.path)?;
            draft.publish_with(|file| {
                let mut output = io::BufWriter::with_capacity(1 << 20, file);
                write(&mut output)?;
                output.flush().map_err(failed(&self.path))
            })?;
        }
        notices.extend(self.lost(images));
        Ok(notices)
    }

    fn discard(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Returns the names of the images at a path where a new archive is to be, and fails if nobody should lose what is there.
fn names_at(path: &Path, limits: &Limits) -> Result<Vec<String>> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        // As mktemp makes it.
        Ok(found) if found.is_file() && found.len() == 0 => return Ok(Vec::new()),
        _ => {}
    }
    let names = match OciArchive::open(path, limits) {
        Ok(archive) => Ok(archive.tags()),
        Err(Error::DockerArchive { .. }) => DockerArchive::names(path, limits),
        Err(error) => Err(error),
    };
    names.map_err(|source| Error::Occupied { path: path.to_owned(), source: Box::new(source) })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm_name(), digest.encoded())
}

/// A tar of plain files, the same on every machine.
struct Tar<'a>(tar::Builder<&'a mut dyn Write>);

impl Tar<'_> {
    fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        // Not through the reader's own errors only: a short one would leave a tar that cannot be read on.
        let mut counted = Counted { content, count: 0 };
        let result = self.0.append_data(&mut header, path, &mut counted);
        let count = counted.count;
        result.map_err(failed(Path::new(path)))?;
        if count != size {
            return Err(
                restow_content::Error::TooLarge { what: path.to_owned(), size: count, limit: size }.into()
            );
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.0.finish().map_err(failed(Path::new("the archive")))
    }
}

struct Counted<'a> {
    content: &'a mut dyn Read,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| restow_content::Error::Io { action: "write", path, source }.into()
}

#[cfg(test)]
mod tests;
