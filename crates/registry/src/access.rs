//! Images to read and places to write to, whatever kind they are of.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use restow_content::Blob;
use restow_content::Provider;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use restow_oci::Limits;

use crate::ArchiveDestination;
use crate::ArchiveForm;
use crate::Client;
use crate::Destination;
use crate::DockerArchive;
use crate::Error;
use crate::Existing;
use crate::Layout;
use crate::Name;
use crate::Observer;
use crate::OciArchive;
use crate::Place;
use crate::Reference;
use crate::Remote;
use crate::RemoteDestination;
use crate::Repository;
use crate::Result;
use crate::Scratch;
use crate::Selector;
use crate::Settings;
use crate::StoreImages;
use crate::graph;

/// The path that stands for standard input or output.
pub(crate) const STANDARD: &str = "-";

/// An image to read.
#[expect(missing_debug_implementations, reason = "a provider has none")]
pub struct Source {
    /// The blobs of the image, and perhaps others.
    pub provider: Box<dyn Provider>,
    /// The manifest or index to start from.
    pub root: Descriptor,
    /// What to call the image in messages.
    pub name: String,
    /// Where its blobs lie, if that is in a registry.
    pub repository: Option<Repository>,
}

/// How often the blobs of a source are going to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Once, from start to end: what comes from a registry is passed on as it comes.
    Once,
    /// Perhaps more than once: what comes from a registry is kept in a file meanwhile.
    Again,
}

/// How a place is written to.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "a source has none")]
pub struct Writing<'a> {
    /// Where most blobs come from.
    pub source: Option<&'a Source>,
    /// Who hears of what is sent to a registry.
    pub observer: Option<Arc<dyn Observer>>,
    /// What becomes of tags in a registry that mean the image already. Elsewhere each blob is looked for in any case.
    pub existing: Existing,
}

/// What it takes to reach images, whatever kind of place they lie in.
pub struct Access {
    limits: Limits,
    scratch: Scratch,
    settings: Box<dyn Fn() -> Result<Settings> + Send + Sync>,
    client: OnceLock<Client>,
    /// What came through standard input, which can be read once.
    input: OnceLock<OciArchive>,
    /// Those that are written to.
    layouts: Mutex<Vec<Layout>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

impl Access {
    /// Reaches registries as `settings` say, which are asked for when the first one is. Temporary files that
    /// lie beside no destination go to `scratch`.
    pub fn new(
        limits: Limits,
        scratch: &Path,
        settings: impl Fn() -> Result<Settings> + Send + Sync + 'static,
    ) -> Access {
        let settings = Box::new(settings);
        Access {
            limits,
            scratch: Scratch::new(scratch),
            settings,
            client: OnceLock::new(),
            input: OnceLock::new(),
            layouts: Mutex::default(),
        }
    }

    /// Removes what is unfinished, though it is in use: temporary directories, blobs that are being written to layouts, and
    /// layouts that were made and hold no image yet. For the moment before the program ends without waiting for anybody.
    pub fn abandon(&self) {
        self.scratch.remove_all();
        let layouts = std::mem::take(&mut *self.layouts.lock().unwrap_or_else(PoisonError::into_inner));
        for layout in layouts {
            layout.store().remove_open_ingests();
            // What cannot be removed is in nobody's way.
            let _ = layout.discard();
        }
    }

    /// Returns how much is accepted.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the client, which is made when it is first needed.
    pub fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(Settings { limits: self.limits.clone(), ..(self.settings)()? })?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Returns the client, if anything needed it.
    pub fn used_client(&self) -> Option<&Client> {
        self.client.get()
    }

    /// Finds the image that `reference` means.
    pub fn open_source(&self, reference: &Reference, reading: Reading) -> Result<Source> {
        let name = reference.to_string();
        let limits = self.limits();
        let selector = &reference.selector;
        let local = |provider: Box<dyn Provider>, root| Source {
            provider,
            root,
            name: name.clone(),
            repository: None,
        };
        match &reference.place {
            Place::Layout(path) => {
                let layout = Layout::open(path, limits)?;
                let root = layout.resolve(selector)?;
                Ok(local(Box::new(layout.store().clone()), root))
            }
            Place::Store(root) => {
                let root = root.as_deref().ok_or(Error::NoStore)?;
                let images = StoreImages::open(root, limits)?;
                let root = images.resolve(selector)?;
                Ok(local(Box::new(images), root))
            }
            Place::Archive(path) => self.open_archive(path, ArchiveForm::Oci)?.resolve(reference),
            Place::DockerArchive(path) => self.open_archive(path, ArchiveForm::Docker)?.resolve(reference),
            Place::Registry(repository) => {
                let client = self.client()?;
                let content = client.manifest(&named(repository, selector)?)?;
                let content = content.ok_or_else(|| Error::NotInRegistry { name: name.clone() })?;
                let mut remote = Remote::new(client, repository).named_only();
                if reading == Reading::Again {
                    remote = remote.spooling(self.scratch.path());
                }
                let mut root = content.descriptor;
                if !matches!(root.media_type.kind(), Kind::Index | Kind::Manifest) {
                    // It lies where manifests lie, not among the blobs, and so do not the blobs that it names.
                    for part in graph::foreign(&content.bytes, &root.digest, limits)? {
                        remote = remote.expecting(&part.digest);
                    }
                    root.data = Some(content.bytes.to_vec());
                }
                let repository = Some(repository.clone());
                Ok(Source { provider: Box::new(remote), root, name, repository })
            }
        }
    }

    /// Returns the manifests where `reference` lies whose subject is `digest`.
    pub fn referrers(&self, reference: &Reference, digest: &Digest) -> Result<Vec<Descriptor>> {
        let limits = self.limits();
        match &reference.place {
            Place::Registry(repository) => self.client()?.referrers(repository, digest, None),
            Place::Layout(path) => {
                let layout = Layout::open(path, limits)?;
                layout.catalogue()?.referrers(digest, layout.store(), limits)
            }
            Place::Archive(path) => match self.open_layout_archive(path) {
                Err(Error::DockerArchive { .. }) => Ok(Vec::new()),
                archive => {
                    let archive = archive?;
                    archive.catalogue().referrers(digest, &archive, limits)
                }
            },
            Place::Store(root) => {
                StoreImages::open(root.as_deref().ok_or(Error::NoStore)?, limits)?.referrers(digest)
            }
            // Docker's list has no place for them.
            Place::DockerArchive(_) => Ok(Vec::new()),
        }
    }

    /// Opens an archive. Where nobody says that it is Docker's, what lies there does.
    pub(crate) fn open_archive(&self, path: &Path, form: ArchiveForm) -> Result<Archive> {
        let (limits, is_input) = (self.limits(), path == Path::new(STANDARD));
        let docker = match form {
            ArchiveForm::Oci => match self.open_layout_archive(path) {
                Err(Error::DockerArchive { .. }) if !is_input => DockerArchive::open(path, limits),
                archive => return Ok(Archive::Oci(Box::new(archive?))),
            },
            ArchiveForm::Docker if is_input => {
                DockerArchive::from_input(&mut std::io::stdin().lock(), self.scratch.path(), limits)
            }
            ArchiveForm::Docker => DockerArchive::open(path, limits),
        };
        Ok(Archive::Docker(Arc::new(docker?)))
    }

    fn open_layout_archive(&self, path: &Path) -> Result<OciArchive> {
        match path == Path::new(STANDARD) {
            true => Ok(self.input()?.clone()),
            false => OciArchive::open(path, self.limits()),
        }
    }

    fn input(&self) -> Result<&OciArchive> {
        if let Some(archive) = self.input.get() {
            return Ok(archive);
        }
        let input = &mut std::io::stdin().lock();
        let archive = OciArchive::from_input(input, self.scratch.path(), self.limits())?;
        Ok(self.input.get_or_init(|| archive))
    }

    /// Opens a place to write to, and makes it where it does not exist.
    pub fn open_destination(&self, place: &Place, writing: Writing<'_>) -> Result<Box<dyn Destination>> {
        let limits = self.limits();
        let archive = |path: &Path, form| ArchiveDestination::new(path, form, &self.scratch, limits);
        Ok(match place {
            Place::Layout(path) => {
                let layout = Layout::create(path, limits)?;
                self.layouts.lock().unwrap_or_else(PoisonError::into_inner).push(layout.clone());
                Box::new(layout)
            }
            Place::Store(root) => {
                let root = root.as_deref().ok_or(Error::NoStore)?;
                Box::new(StoreImages::create(root, limits)?)
            }
            Place::Archive(path) => Box::new(archive(path, ArchiveForm::Oci)?),
            Place::DockerArchive(path) => Box::new(archive(path, ArchiveForm::Docker)?),
            Place::Registry(repository) => {
                let others = writing.source.and_then(|source| source.repository.as_ref());
                let others = others.map(std::slice::from_ref).unwrap_or_default();
                let there = RemoteDestination::new(self.client()?, repository, others, &self.scratch)?
                    .existing(writing.existing);
                match writing.observer {
                    Some(observer) => Box::new(there.watched(observer)),
                    None => Box::new(there),
                }
            }
        })
    }
}

/// An archive of one kind or the other.
pub(crate) enum Archive {
    Oci(Box<OciArchive>),
    Docker(Arc<DockerArchive>),
}

impl Archive {
    /// Finds the image that `reference` means.
    fn resolve(self, reference: &Reference) -> Result<Source> {
        let root = match &self {
            Archive::Oci(archive) => archive.resolve(&reference.selector),
            Archive::Docker(archive) => archive.resolve(&reference.selector),
        }?;
        Ok(self.source(root, reference))
    }

    /// Returns an image of it, which `reference` means.
    pub(crate) fn source(self, root: Descriptor, reference: &Reference) -> Source {
        let mut reference = reference.clone();
        let provider: Box<dyn Provider> = match self {
            Archive::Oci(archive) => archive,
            Archive::Docker(archive) => {
                if let Place::Archive(path) = reference.place {
                    reference.place = Place::DockerArchive(path);
                }
                Box::new(Shared(archive))
            }
        };
        Source { provider, root, name: reference.to_string(), repository: None }
    }
}

/// An archive of which several images are read.
struct Shared(Arc<DockerArchive>);

impl Provider for Shared {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        self.0.open(descriptor)
    }
}

/// Names what `selector` means in a repository.
pub(crate) fn named(repository: &Repository, selector: &Selector) -> Result<Name> {
    match selector {
        Selector::Only => repository.tagged("latest"),
        Selector::Tag(tag) => repository.tagged(tag),
        Selector::Digest(digest) => Ok(repository.at(digest)),
    }
}
