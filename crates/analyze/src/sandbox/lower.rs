//! The image's files as the container's overlay finds them: a file system of our own that knows which bytes are read.
//!
//! It is read-only and passes on what a directory holds. The kernel asks for each page once, so what it asks for is what
//! was read, but for a little that it reads ahead.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use fuser::Config;
use fuser::Errno;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::KernelConfig;
use fuser::LockOwner;
use fuser::MountOption;
use fuser::OpenFlags;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::ReplyXattr;
use fuser::Request;
use fuser::Session;
use fuser::SessionACL;
use restow_layer::DEFAULT_CHUNK_SIZE;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use super::Report;
use super::inner::MAX_DESCRIPTION;
use super::inner::tell;

/// Nothing changes below, so the kernel need not ask again.
const FOREVER: Duration = Duration::from_secs(1 << 20);
/// What the kernel may read ahead. More would count as read.
const READAHEAD: u32 = 16 << 10;
/// The most bytes that are read at once.
const MAX_READ: usize = 1 << 20;

/// Bytes of files that were read, by path.
type Reads = Arc<Mutex<BTreeMap<String, Ranges>>>;

/// Ranges that neither overlap nor touch: starts and ends.
#[derive(Debug, Clone, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..=end).next_back()
            && to >= start
        {
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Returns how many bytes the chunks have that hold any of it, each as large as a chunk can be.
    fn touched(&self) -> u64 {
        let mut chunks = 0;
        let mut next = 0;
        for (start, end) in &self.0 {
            let (first, last) = ((start / DEFAULT_CHUNK_SIZE).max(next), (end - 1) / DEFAULT_CHUNK_SIZE);
            chunks += (last + 1).saturating_sub(first);
            next = next.max(last + 1);
        }
        chunks * DEFAULT_CHUNK_SIZE
    }
}

/// The file system.
struct Lower {
    root: OwnedFd,
    nodes: Mutex<Nodes>,
    open: Mutex<Open>,
    reads: Reads,
    opened: Sender<News>,
}

/// Names the kernel knows: the number of one is its place in the list, from 1.
struct Nodes {
    paths: Vec<PathBuf>,
    numbers: HashMap<PathBuf, u64>,
}

#[derive(Default)]
struct Open {
    next: u64,
    files: HashMap<u64, (Arc<File>, String)>,
    directories: HashMap<u64, Arc<Vec<Entry>>>,
}

/// What a directory holds: number, kind and name.
type Entry = (u64, FileType, Vec<u8>);

/// What a process of its own tells of the file system that it serves.
pub(super) struct Served {
    /// What is opened, in its order.
    pub(super) opened: Receiver<String>,
    process: UnixStream,
    listening: JoinHandle<Option<Vec<Report>>>,
}

/// Mounts a directory's content at `place`, served by a process that `helper` starts and that ends in [`serve`].
///
/// Whoever looks into the file system must not serve it: killed while it waits for an answer, it would wait for good.
/// The process stays until its namespace ends.
pub(super) fn mount(mut helper: Command, root: &Path, place: &Path) -> io::Result<Served> {
    let (mut process, theirs) = UnixStream::pair()?;
    helper.stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).spawn()?;
    // Its copy of their end would keep the socket open.
    drop(helper);
    let mut line = serde_json::to_vec(&(root, place))?;
    line.push(b'\n');
    process.write_all(&line)?;
    let mut reports = BufReader::new(process.try_clone()?).lines().map_while(io::Result::ok);
    let mut report = move || reports.next().and_then(|line| serde_json::from_str(&line).ok());
    match report() {
        Some(Report::Counts) => {}
        Some(Report::Failed(problem)) => return Err(io::Error::other(problem)),
        _ => return Err(io::Error::other("the process that serves it has ended")),
    }
    let (told, opened) = mpsc::channel();
    let listening = thread::spawn(move || {
        let mut reads = Vec::new();
        loop {
            match report()? {
                // Nobody may want to know.
                Report::Opened(path) => drop(told.send(path)),
                Report::Counts => return Some(reads),
                read => reads.push(read),
            }
        }
    });
    Ok(Served { opened, process, listening })
}

impl Served {
    /// Returns of each file how many bytes were read, and how many are in chunks of which something was.
    pub(super) fn reads(self) -> io::Result<Vec<Report>> {
        let Self { opened, process, listening } = self;
        drop(opened);
        process.shutdown(Shutdown::Write)?;
        let reads = listening.join().ok().flatten();
        reads.ok_or_else(|| io::Error::other("what told how much is read has ended"))
    }
}

/// What there is to tell.
enum News {
    Opened(String),
    /// Nobody wants to know of more.
    Over,
}

/// Serves the file system that `caller`, a socket, describes in a line, and tells what is opened, and in the end what was
/// read. Never returns once it is mounted: its end would be seen in the container.
pub fn serve(caller: OwnedFd) -> io::Result<()> {
    let mut caller = UnixStream::from(caller);
    let mut input = BufReader::new(caller.try_clone()?.take(MAX_DESCRIPTION));
    let mut line = String::new();
    input.read_line(&mut line)?;
    let (root, place): (PathBuf, PathBuf) = serde_json::from_str(&line)?;
    let (news, heard) = mpsc::channel();
    let reads = match offer(&root, &place, news.clone()) {
        Ok(reads) => reads,
        Err(error) => return tell(&mut caller, &Report::Failed(error.to_string())),
    };
    tell(&mut caller, &Report::Counts)?;
    thread::spawn(move || {
        let _ = io::copy(&mut input.into_inner().into_inner(), &mut io::sink());
        let _ = news.send(News::Over);
    });
    for news in heard {
        match news {
            News::Opened(path) => tell(&mut caller, &Report::Opened(path))?,
            News::Over => break,
        }
    }
    let sizes: Vec<_> = hold(&reads)
        .iter()
        .map(|(path, ranges)| Report::Read(path.clone(), ranges.len(), ranges.touched()))
        .collect();
    sizes.iter().try_for_each(|size| tell(&mut caller, size))?;
    tell(&mut caller, &Report::Counts)?;
    loop {
        thread::park();
    }
}

/// Mounts the file system; what is read of it is in the result. It is served until the process ends.
fn offer(root: &Path, place: &Path, opened: Sender<News>) -> io::Result<Reads> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let reads = Reads::default();
    let nodes = Nodes { paths: vec![PathBuf::new()], numbers: HashMap::from([(PathBuf::new(), 1)]) };
    let lower =
        Lower { root, nodes: Mutex::new(nodes), open: Mutex::default(), reads: reads.clone(), opened };
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::RO, MountOption::FSName("restow".into()), MountOption::DefaultPermissions];
    // The container's user is seldom the one who mounts.
    config.acl = SessionACL::All;
    let session = Session::new(lower, place, &config)?.spawn()?;
    // Unmounting waits for whoever still reads; the end of the process does not.
    std::mem::forget(session);
    Ok(reads)
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lower {
    fn path(&self, node: INodeNo) -> Result<PathBuf, Errno> {
        let place = usize::try_from(node.0).ok().and_then(|number| number.checked_sub(1));
        place.and_then(|place| hold(&self.nodes).paths.get(place).cloned()).ok_or(Errno::ENOENT)
    }

    fn number(&self, path: &Path) -> u64 {
        let mut nodes = hold(&self.nodes);
        if let Some(number) = nodes.numbers.get(path) {
            return *number;
        }
        nodes.paths.push(path.to_owned());
        let number = nodes.paths.len() as u64;
        nodes.numbers.insert(path.to_owned(), number);
        number
    }

    /// Opens what is at a path; no link is followed, whatever it is.
    fn open_at(&self, path: &Path, flags: OFlags) -> Result<File, Errno> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A link can be opened as itself, if it is the last part of the path only.
        let within = if flags.contains(OFlags::PATH) { ResolveFlags::BENEATH } else { within };
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), within)
            .map(File::from)
            .map_err(|error| io::Error::from(error).into())
    }

    fn attributes(&self, path: &Path) -> Result<FileAttr, Errno> {
        let metadata = self.open_at(path, OFlags::PATH)?.metadata()?;
        Ok(attributes(&metadata, self.number(path)))
    }

    fn list(&self, path: &Path) -> Result<Vec<Entry>, Errno> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&directory).map_err(io::Error::from)? {
            let entry = entry.map_err(io::Error::from)?;
            let kind = match entry.file_type() {
                rustix::fs::FileType::Directory => FileType::Directory,
                rustix::fs::FileType::Symlink => FileType::Symlink,
                _ => FileType::RegularFile,
            };
            entries.push((entry.ino(), kind, entry.file_name().to_bytes().to_vec()));
        }
        Ok(entries)
    }
}

/// Spells what is known of a file as the kernel is told it.
fn attributes(metadata: &Metadata, number: u64) -> FileAttr {
    let kind = metadata.file_type();
    let time = |seconds: i64, nanoseconds: i64| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let part = Duration::from_nanos(nanoseconds.unsigned_abs());
        let whole = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        whole.and_then(|whole| whole.checked_add(part)).unwrap_or(UNIX_EPOCH)
    };
    let changed = time(metadata.ctime(), metadata.ctime_nsec());
    FileAttr {
        ino: INodeNo(number),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: changed,
        crtime: changed,
        kind: if kind.is_dir() {
            FileType::Directory
        } else if kind.is_symlink() {
            FileType::Symlink
        } else {
            FileType::RegularFile
        },
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Lower {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What it refuses, it offers less of.
        let _ = config.set_max_readahead(READAHEAD);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.path(parent).and_then(|parent| self.attributes(&parent.join(name))) {
            Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(node).and_then(|path| self.attributes(&path)) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let read = || {
            let link = self.open_at(&self.path(node)?, OFlags::PATH)?;
            rustix::fs::readlinkat(&link, "", Vec::new()).map_err(|error| Errno::from(io::Error::from(error)))
        };
        match read() {
            Ok(target) => reply.data(target.to_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = || {
            let path = self.path(node)?;
            Ok((self.open_at(&path, OFlags::RDONLY | OFlags::NONBLOCK)?, path))
        };
        match opened() {
            Ok((file, path)) => {
                // What is not text is in no record.
                let name = path.to_str().unwrap_or_default().to_owned();
                if !name.is_empty() {
                    let _ = self.opened.send(News::Opened(name.clone()));
                }
                let mut open = hold(&self.open);
                open.next += 1;
                let handle = open.next;
                open.files.insert(handle, (Arc::new(file), name));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((file, name)) = hold(&self.open).files.get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let mut bytes = vec![0; MAX_READ.min(size as usize)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return reply.error(error.into()),
            }
        }
        hold(&self.reads).entry(name).or_default().add(offset, offset + filled as u64);
        reply.data(&bytes[..filled]);
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        hold(&self.open).files.remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.path(node).and_then(|path| self.list(&path)) {
            Ok(entries) => {
                let mut open = hold(&self.open);
                open.next += 1;
                let handle = open.next;
                open.directories.insert(handle, Arc::new(entries));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = hold(&self.open).directories.get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (number, kind, name)) in entries.iter().enumerate().skip(from) {
            if reply.add(INodeNo(*number), place as u64 + 1, *kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        hold(&self.open).directories.remove(&handle.0);
        reply.ok();
    }

    fn getxattr(&self, _request: &Request, _node: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        // A container gains nothing by them: it has no new privileges.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _node: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_touched_by_a_byte_of_it() {
        const CHUNK: u64 = DEFAULT_CHUNK_SIZE;
        for (ranges, expected) in [
            (&[][..], 0),
            (&[(5, 6), (100, 200)], 1),
            (&[(CHUNK - 1, CHUNK + 1)], 2),
            (&[(0, CHUNK), (CHUNK + 5, CHUNK + 6)], 2),
            (&[(0, 1), (9 * CHUNK, 9 * CHUNK + 1), (9 * CHUNK + 7, 11 * CHUNK)], 3),
        ] {
            let mut found = Ranges::default();
            ranges.iter().for_each(|(start, end)| found.add(*start, *end));
            assert_eq!(found.touched(), expected * CHUNK, "{ranges:?}");
        }
    }

    #[test]
    fn what_is_read_twice_counts_once() {
        for (ranges, expected) in [
            (&[][..], 0),
            (&[(0, 4), (0, 4)], 4),
            (&[(0, 4), (4, 8)], 8),
            (&[(4, 8), (0, 4), (2, 6)], 8),
            (&[(0, 2), (4, 6), (8, 10), (1, 9)], 10),
            (&[(0, 2), (4, 6)], 4),
            (&[(0, 10), (4, 6)], 10),
            (&[(3, 3)], 0),
        ] {
            let mut found = Ranges::default();
            ranges.iter().for_each(|(start, end)| found.add(*start, *end));
            assert_eq!(found.len(), expected, "{ranges:?}");
        }
    }
}
