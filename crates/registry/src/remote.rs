//! A repository of a registry as a place to read from.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
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

/// How many bytes wait to be read from a download that nothing is kept of.
const AHEAD: usize = 4 << 20;
/// The pieces in which they wait.
const PIECE: usize = 128 << 10;
/// How far ahead of its download a blob is read without a request of its own.
const NEAR: u64 = 8 << 20;

/// The blobs and manifests of a repository.
///
/// Manifests and small blobs are fetched when they are opened, others when they are read: sequential reading is
/// one download, however often its connection breaks; a read elsewhere is a request for just that range. With a
/// spool, a download runs ahead of its reader into an unnamed file, from which the blob is read again.
#[derive(Clone, Debug)]
pub struct Remote {
    client: Client,
    repository: Repository,
    spool: Option<Arc<Spool>>,
    /// The blobs that manifests of the repository name, which are there as far as one can know without asking.
    named: Arc<Mutex<HashSet<Digest>>>,
}

#[derive(Debug)]
struct Spool {
    directory: PathBuf,
    blobs: Mutex<HashMap<Digest, Arc<Spooled>>>,
}

impl Remote {
    /// Reads from `repository`; nothing is kept on disk.
    pub fn new(client: &Client, repository: &Repository) -> Remote {
        Remote { client: client.clone(), repository: repository.clone(), spool: None, named: Arc::default() }
    }

    /// Keeps what is read in unnamed files below `directory` as long as this exists.
    pub fn spooling(self, directory: &Path) -> Remote {
        let spool = Spool { directory: directory.to_owned(), blobs: Mutex::default() };
        Remote { spool: Some(Arc::new(spool)), ..self }
    }

    /// Takes it from elsewhere that the repository holds a blob.
    pub(crate) fn expecting(self, digest: &Digest) -> Remote {
        lock(&self.named).insert(digest.clone());
        self
    }

    /// Returns where the blobs come from.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    fn small(&self, descriptor: &Descriptor) -> Result<Option<Bytes>> {
        match descriptor.media_type.kind() {
            Kind::Index | Kind::Manifest => {
                let content = self.client.manifest(&self.repository.at(&descriptor.digest))?;
                Ok(content.map(|content| {
                    self.note(&content.bytes);
                    content.bytes
                }))
            }
            _ => self.client.small_blob(&self.repository, descriptor),
        }
    }

    /// Takes note of the blobs that a manifest names.
    fn note(&self, manifest: &[u8]) {
        let document: Value = serde_json::from_slice(manifest).unwrap_or_default();
        let layers = document["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let digests = layers.iter().chain([&document["config"]]).filter_map(|blob| blob["digest"].as_str());
        lock(&self.named).extend(digests.filter_map(|digest| Digest::parse(digest).ok()));
    }

    fn stream(&self, descriptor: &Descriptor) -> Streamed {
        Streamed {
            core: self.client.core().clone(),
            handle: self.client.handle().clone(),
            repository: self.repository.clone(),
            descriptor: descriptor.clone(),
            stream: Mutex::default(),
        }
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
        let document = matches!(descriptor.media_type.kind(), Kind::Index | Kind::Manifest);
        if document || descriptor.size <= OBJECT_SIZE {
            let bytes =
                self.small(descriptor).map_err(failed)?.ok_or_else(|| NotFound { digest: digest() })?;
            let (expected, actual) = (descriptor.size, bytes.len() as u64);
            return match actual == expected {
                true => Ok(Box::new(InMemory(bytes))),
                false => Err(WrongSize { digest: digest(), expected, actual }),
            };
        }
        // What a registry need not have is looked for, so that it can be passed over.
        let elsewhere = matches!(descriptor.media_type.kind(), Kind::Layer { distributable: false, .. });
        let named = lock(&self.named).contains(&descriptor.digest);
        if elsewhere || !named || !descriptor.urls.is_empty() {
            let size = self.client.blob_size(&self.repository, &descriptor.digest).map_err(failed)?;
            let actual = size.ok_or_else(|| NotFound { digest: digest() })?;
            if actual != descriptor.size {
                return Err(WrongSize { digest: digest(), expected: descriptor.size, actual });
            }
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

/// A blob that is fetched as it is read.
struct Streamed {
    core: Arc<Core>,
    handle: Handle,
    repository: Repository,
    descriptor: Descriptor,
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
        let mut download = self.download(offset, self.descriptor.size)?;
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
