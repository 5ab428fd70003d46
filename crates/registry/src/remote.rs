//! A repository of a registry as a place to read from.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

use bytes::Bytes;
use restow_content::Blob;
use restow_content::InMemory;
use restow_content::Provider;
use restow_oci::Algorithm;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Kind;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::Client;
use crate::Error;
use crate::Repository;
use crate::Result;
use crate::client::Core;
use crate::client::Download;
use crate::client::OBJECT_SIZE;
use crate::graph;

/// How many bytes wait to be read from a download that nothing is kept of.
const AHEAD: usize = 4 << 20;
/// The pieces in which they wait.
const PIECE: usize = 128 << 10;
/// How far ahead of its download a blob is read without a request of its own.
const NEAR: u64 = 8 << 20;

/// The blobs and manifests of a repository.
///
/// Documents are fetched when they are opened, other blobs when they are read: small ones whole, and kept in memory
/// for the run; sequential reading of a large one is one download, however often its connection breaks; a read elsewhere
/// in it is a request for just that range. With a spool, a download runs ahead of its reader into an unnamed file, from
/// which the blob is read again.
///
/// A blob that a manifest of the repository names is taken to be there, and found missing when it is read. Others
/// are looked for when they are opened.
#[derive(Clone, Debug)]
pub struct Remote {
    client: Client,
    repository: Repository,
    spool: Option<Arc<Spool>>,
    named_only: bool,
}

#[derive(Debug)]
struct Spool {
    directory: PathBuf,
    blobs: Mutex<HashMap<Digest, Arc<Spooled>>>,
}

impl Remote {
    /// Reads from `repository`; nothing is kept on disk.
    pub fn new(client: &Client, repository: &Repository) -> Remote {
        Remote { client: client.clone(), repository: repository.clone(), spool: None, named_only: false }
    }

    /// Keeps what is read in unnamed files below `directory` as long as this exists.
    pub fn spooling(self, directory: &Path) -> Remote {
        let spool = Spool { directory: directory.to_owned(), blobs: Mutex::default() };
        Remote { spool: Some(Arc::new(spool)), ..self }
    }

    /// Takes blobs for missing that no manifest names which was read in this run, without a look for them.
    pub(crate) fn named_only(self) -> Remote {
        Remote { named_only: true, ..self }
    }

    /// Takes it from elsewhere that the repository holds a blob.
    pub(crate) fn expecting(self, digest: &Digest) -> Remote {
        self.client.core().cache.keep_names(&self.repository, [digest.clone()]);
        self
    }

    /// Returns where the blobs come from.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        let content = match descriptor.media_type.kind() {
            Kind::Index | Kind::Manifest => self.client.manifest(&self.repository.at(&descriptor.digest))?,
            _ => return self.client.small_blob(&self.repository, descriptor),
        };
        let Some(content) = content else { return Ok(None) };
        let document: Value = serde_json::from_slice(&content.bytes).unwrap_or_default();
        self.client.core().cache.keep_names(&self.repository, graph::named(&document));
        Ok(Some(content.bytes))
    }

    /// Returns whether the blob is there, without a request where that can be told.
    fn holds(&self, descriptor: &Descriptor) -> Result<bool> {
        let Descriptor { digest, media_type, .. } = descriptor;
        // What a registry need not have is looked for, so that it can be passed over.
        let elsewhere = matches!(media_type.kind(), Kind::Layer { distributable: false, .. })
            || !descriptor.urls.is_empty();
        let named = self.client.core().cache.names(&self.repository, digest);
        if (named && !elsewhere) || (!named && self.named_only) {
            return Ok(named);
        }
        let Some(head) = self.client.blob_head(&self.repository, digest)? else { return Ok(false) };
        match head.size.filter(|&size| size != descriptor.size) {
            Some(actual) => {
                let (digest, expected) = (digest.clone(), descriptor.size);
                Err(restow_content::Error::WrongSize { digest, expected, actual }.into())
            }
            None => Ok(true),
        }
    }

    fn stream(&self, descriptor: &Descriptor) -> Streamed {
        Streamed {
            core: self.client.core().clone(),
            handle: self.client.handle().clone(),
            repository: self.repository.clone(),
            descriptor: descriptor.clone(),
            begun: Mutex::default(),
            stream: Mutex::default(),
        }
    }

    /// Begins to fetch a blob of which only the digest is known. The answer tells its size.
    pub(crate) fn begin(&self, digest: &Digest) -> Result<(Descriptor, Arc<dyn Blob>)> {
        let download = Download::begin(self.client.core(), &self.repository, digest);
        let download = self.client.handle().block_on(download)?;
        let descriptor = download.descriptor().clone();
        let streamed = Streamed { begun: Mutex::new(Some(download)), ..self.stream(&descriptor) };
        Ok((descriptor, Arc::new(streamed)))
    }
}

impl Provider for Remote {
    fn open(&self, descriptor: &Descriptor) -> restow_content::Result<Box<dyn Blob>> {
        use restow_content::Error::{NotFound, UnsupportedAlgorithm, WrongSize};
        let digest = || descriptor.digest.clone();
        if descriptor.digest.algorithm() == Algorithm::Other {
            return Err(UnsupportedAlgorithm { digest: digest() });
        }
        let failed = |error: Error| match error {
            Error::Content(error) => error,
            Error::NotInRegistry { .. } => NotFound { digest: digest() },
            error => {
                restow_content::Error::Read { digest: digest(), offset: 0, source: io::Error::other(error) }
            }
        };
        let document = match descriptor.media_type.kind() {
            Kind::Index | Kind::Manifest => true,
            Kind::Config => descriptor.size <= OBJECT_SIZE,
            _ => false,
        };
        if document {
            let bytes = self.document(descriptor).map_err(failed)?;
            let bytes = bytes.ok_or_else(|| NotFound { digest: digest() })?;
            let (expected, actual) = (descriptor.size, bytes.len() as u64);
            return match actual == expected {
                true => Ok(Box::new(InMemory(bytes))),
                false => Err(WrongSize { digest: digest(), expected, actual }),
            };
        }
        if !self.holds(descriptor).map_err(failed)? {
            return Err(NotFound { digest: digest() });
        }
        if descriptor.size <= OBJECT_SIZE {
            let (client, repository) = (self.client.clone(), self.repository.clone());
            let descriptor = descriptor.clone();
            return Ok(Box::new(Small { client, repository, descriptor, bytes: OnceLock::new() }));
        }
        let Some(spool) = &self.spool else { return Ok(Box::new(self.stream(descriptor))) };
        let mut blobs = lock(&spool.blobs);
        if let Some(blob) = blobs.get(&descriptor.digest).filter(|blob| blob.stream.size() == descriptor.size)
        {
            return Ok(Box::new(Reader(blob.clone())));
        }
        let blob = Spooled::new(self.stream(descriptor), &spool.directory)?;
        let blob = Arc::new(blob);
        blobs.insert(digest(), blob.clone());
        Ok(Box::new(Reader(blob)))
    }
}

/// A blob that is fetched whole when it is first read, and found in memory afterwards.
struct Small {
    client: Client,
    repository: Repository,
    descriptor: Descriptor,
    bytes: OnceLock<Bytes>,
}

impl Small {
    fn bytes(&self) -> Result<&Bytes> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes);
        }
        let Small { repository, descriptor, .. } = self;
        let missing = || Error::NotInRegistry { name: repository.at(&descriptor.digest).to_string() };
        let bytes = self.client.small_blob(repository, descriptor)?.ok_or_else(missing)?;
        Ok(self.bytes.get_or_init(|| bytes))
    }
}

impl Blob for Small {
    fn size(&self) -> u64 {
        self.descriptor.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        InMemory(self.bytes().map_err(io::Error::other)?).read_at(buffer, offset)
    }
}

/// A blob that is fetched as it is read.
struct Streamed {
    core: Arc<Core>,
    handle: Handle,
    repository: Repository,
    descriptor: Descriptor,
    /// A download of all of it whose answer is there already.
    begun: Mutex<Option<Download>>,
    stream: Mutex<Option<Stream>>,
}

/// A download, and where its next byte belongs.
struct Stream {
    offset: u64,
    piece: Bytes,
    receiver: mpsc::Receiver<Result<Bytes>>,
}

impl Streamed {
    fn download(&self, start: u64, end: u64) -> Result<Download> {
        Download::new(&self.core, &self.repository, &self.descriptor, start, end)
    }

    fn start(&self, offset: u64) -> Result<Stream> {
        let begun = if offset == 0 { lock(&self.begun).take() } else { None };
        let mut download = match begun {
            Some(download) => download,
            None => self.download(offset, self.descriptor.size)?,
        };
        let (sender, receiver) = mpsc::channel(AHEAD / PIECE);
        self.handle.spawn(async move {
            let mut gathered = Vec::with_capacity(PIECE);
            loop {
                // Small pieces wake the reader too often.
                let message = match download.next().await {
                    Ok(Some(piece)) if gathered.len() + piece.len() < PIECE => {
                        gathered.extend_from_slice(&piece);
                        continue;
                    }
                    Ok(Some(piece)) => {
                        gathered.extend_from_slice(&piece);
                        Ok(Bytes::from(std::mem::replace(&mut gathered, Vec::with_capacity(PIECE))))
                    }
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let failed = message.is_err();
                if sender.send(message).await.is_err() || failed {
                    return;
                }
            }
            if !gathered.is_empty() {
                let _ = sender.send(Ok(gathered.into())).await;
            }
        });
        Ok(Stream { offset, piece: Bytes::new(), receiver })
    }

    /// Fetches just the bytes asked for.
    fn range(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64).min(self.size());
        let mut download = self.download(offset, end)?;
        self.handle.block_on(async {
            let mut filled = 0;
            while let Some(piece) = download.next().await? {
                buffer[filled..filled + piece.len()].copy_from_slice(&piece);
                filled += piece.len();
            }
            Ok(filled)
        })
    }
}

impl Blob for Streamed {
    fn size(&self) -> u64 {
        self.descriptor.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if buffer.is_empty() || offset >= self.size() {
            return Ok(0);
        }
        let taken = lock(&self.stream).take();
        let mut stream = match taken {
            Some(stream) if stream.offset == offset => stream,
            other => {
                // One reader goes on from where he was; others, and looks ahead, get what they ask for.
                if offset > 0 {
                    *lock(&self.stream) = other;
                    return self.range(buffer, offset).map_err(io::Error::other);
                }
                self.start(offset).map_err(io::Error::other)?
            }
        };
        while stream.piece.is_empty() {
            stream.piece = match stream.receiver.blocking_recv() {
                Some(piece) => piece.map_err(io::Error::other)?,
                None => return Ok(0),
            };
        }
        let count = buffer.len().min(stream.piece.len());
        buffer[..count].copy_from_slice(&stream.piece.split_to(count));
        stream.offset += count as u64;
        *lock(&self.stream) = Some(stream);
        Ok(count)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob that is fetched into a file, ahead of who reads it.
struct Spooled {
    stream: Streamed,
    file: Arc<File>,
    progress: Arc<(Mutex<Progress>, Condvar)>,
}

impl std::fmt::Debug for Spooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spooled").field(&self.stream.descriptor.digest).finish()
    }
}

#[derive(Default)]
struct Progress {
    started: bool,
    written: u64,
    /// Why nothing more comes, for the first who asks; a later one starts again.
    failure: Option<Error>,
}

impl Spooled {
    fn new(stream: Streamed, directory: &Path) -> restow_content::Result<Spooled> {
        let file = tempfile::tempfile_in(directory).map_err(|source| restow_content::Error::Io {
            action: "create a temporary file in",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Spooled { stream, file: Arc::new(file), progress: Arc::default() })
    }

    fn start(&self, progress: &mut Progress) -> io::Result<()> {
        let start = progress.written;
        let mut download = self.stream.download(start, self.stream.size()).map_err(io::Error::other)?;
        progress.started = true;
        let (file, shared) = (self.file.clone(), self.progress.clone());
        self.stream.handle.spawn(async move {
            let mut offset = start;
            loop {
                let result = match download.next().await {
                    Ok(None) => return,
                    // The page cache takes it; a disk that is slow slows the download as it should.
                    Ok(Some(piece)) => {
                        file.write_all_at(&piece, offset).map(|()| piece.len()).map_err(|source| {
                            let (action, path) = ("write", "a temporary file".into());
                            restow_content::Error::Io { action, path, source }.into()
                        })
                    }
                    Err(error) => Err(error),
                };
                let mut progress = lock(&shared.0);
                match result {
                    Ok(count) => offset += count as u64,
                    Err(error) => progress.failure = Some(error),
                }
                progress.written = offset;
                shared.1.notify_all();
                if progress.failure.is_some() {
                    return;
                }
            }
        });
        Ok(())
    }
}

/// One of several readers of a spooled blob.
struct Reader(Arc<Spooled>);

impl Blob for Reader {
    fn size(&self) -> u64 {
        self.0.stream.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if buffer.is_empty() || offset >= self.size() {
            return Ok(0);
        }
        let mut progress = lock(&self.0.progress.0);
        while progress.written <= offset {
            if offset > progress.written.saturating_add(NEAR) {
                drop(progress);
                return self.0.stream.range(buffer, offset).map_err(io::Error::other);
            }
            if let Some(failure) = progress.failure.take() {
                progress.started = false;
                return Err(io::Error::other(failure));
            }
            if !progress.started {
                self.0.start(&mut progress)?;
            }
            progress = self.0.progress.1.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        let there = usize::try_from(progress.written - offset).unwrap_or(usize::MAX);
        drop(progress);
        let wanted = buffer.len().min(there);
        self.0.file.read_at(&mut buffer[..wanted], offset)
    }
}
