//! Where unpacked images lie between runs, and sandboxes mount: `roots` in the directory of the store, or in one of its own.
//! The store's collection of garbage leaves it alone; it has a limit of its own.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use restow_analyze::sandbox;
use restow_content::publish;
use restow_oci::Digest;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::Result;
use crate::error::Context as _;

/// As many bytes of unpacked images are kept; those used longest ago go.
const KEPT: u64 = 8 << 30;
/// What directories are called in which nothing is kept. They are locked as long as someone is in them.
const PREFIX: &str = "restow-record-";
/// As many letters and digits follow.
const RANDOM: usize = 12;
/// What is in the directory that is opened, and in that.
const ROOTS: &str = "roots";
const NETWORKS: &str = "networks";
/// What a file is called, after its image, that is locked while the image is in use, and written when it is used.
const USED: &str = "used";
/// What a directory is called, after its image, that may go at any time unless the image is locked.
const BEGUN: &str = "begun";

/// The directories of a recording.
pub struct Home {
    /// Unpacked images, each under its name.
    roots: PathBuf,
    /// Where the sandbox mounts.
    pub scratch: PathBuf,
    /// What networks leave behind is written down here.
    pub networks: PathBuf,
    kept: u64,
    /// Goes with this value, if nothing is to be kept.
    own: Option<(tempfile::TempDir, File)>,
}

/// An unpacked image. It is not taken away as long as this value lives.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    _used: File,
}

impl Root {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Home {
    /// Opens the directory in which unpacked images are kept, below that of the store or another; without any, one that goes
    /// with the result. What runs that were killed have left is taken away.
    pub fn open(keep: Option<&Path>) -> Result<Self> {
        clean_temporary();
        let (place, own) = match keep {
            // The sandbox changes its directory.
            Some(place) => (std::path::absolute(place)?, None),
            None => {
                let (own, lock) = temporary()?;
                (own.path().to_owned(), Some((own, lock)))
            }
        };
        let roots = place.join(ROOTS);
        publish::create_directory(&roots)?;
        // Images hold programs that run as their owner, whoever starts them.
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o700))
            .with_context(|| roots.display().to_string())?;
        let [scratch, networks] = ["sandbox", NETWORKS].map(|name| roots.join(name));
        for directory in [&scratch, &networks] {
            publish::create_directory(directory)?;
        }
        Ok(Self { roots, scratch, networks, kept: KEPT, own })
    }

    /// Returns the unpacked image of this name and size, unpacking it if it is not there.
    pub fn root(&self, chain: &Digest, size: u64, unpack: impl Fn(&Path) -> Result<()>) -> Result<Root> {
        // Who is not root unpacks without owners.
        let owners = if sandbox::is_root() { "" } else { "-own" };
        let path = self.roots.join(format!("{}{owners}", chain.encoded()));
        let mut used = open_lock(&path)?;
        loop {
            used.lock_shared()?;
            if path.is_dir() {
                break;
            }
            used.unlock()?;
            used.lock()?;
            if !path.is_dir() {
                let begun = begin(&path)?;
                fs::create_dir(&begun)?;
                unpack(&begun)?;
                rename(&begun, &path)?;
            }
            // Others may use it now; and if someone takes it away first, it is made again.
            used.unlock()?;
        }
        // The file's time is that of the last use.
        used.set_len(0)?;
        used.write_all(size.to_string().as_bytes())?;
        self.evict()?;
        Ok(Root { path, _used: used })
    }

    /// Takes away what was not used for the longest time, until what is kept is not too large, and what was begun by runs
    /// that were killed. What is in use stays.
    fn evict(&self) -> io::Result<()> {
        let mut roots = Vec::new();
        for entry in fs::read_dir(&self.roots)? {
            let used = entry?.path();
            let path = used.with_extension("");
            if used.extension().is_none_or(|end| end != USED) {
                continue;
            }
            if path.with_extension(BEGUN).exists() {
                let lock = open_lock(&path)?;
                if lock.try_lock().is_ok() {
                    begin(&path)?;
                }
            }
            if path.is_dir() {
                let size =
                    fs::read_to_string(&used).ok().and_then(|size| size.parse().ok()).unwrap_or(u64::MAX);
                let time =
                    fs::metadata(&used).and_then(|used| used.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                roots.push((time, size, path));
            }
        }
        roots.sort();
        let mut kept = roots.iter().fold(0, |kept: u64, (_, size, _)| kept.saturating_add(*size));
        for (_, size, path) in roots {
            if kept <= self.kept {
                break;
            }
            let used = open_lock(&path)?;
            if used.try_lock().is_ok() {
                let begun = begin(&path)?;
                rename(&path, &begun)?;
                remove(&begun)?;
                kept = kept.saturating_sub(size);
            }
        }
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some((own, _)) = &self.own {
            let _ = remove(own.path());
        }
    }
}

/// Opens the file by which an image is locked. It stays when the image goes, so that all lock the same one.
fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path.with_extension(USED))
}

/// Returns where an image that is locked may be unpacked, or removed; what was there is gone.
fn begin(path: &Path) -> io::Result<PathBuf> {
    let begun = path.with_extension(BEGUN);
    if begun.exists() {
        remove(&begun)?;
    }
    Ok(begun)
}

/// Takes away the temporary directories of runs that were killed, as far as it can.
fn clean_temporary() {
    for entry in fs::read_dir(tempfile::env::temp_dir()).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(is_ours) {
            continue;
        }
        let Ok(directory) = open_directory(&entry.path()) else { continue };
        // What others have put there is not believed.
        let user = rustix::process::geteuid().as_raw();
        let own = directory.metadata().is_ok_and(|directory| directory.uid() == user);
        if own && directory.try_lock().is_ok() {
            let _ = sandbox::clean_networks(&entry.path().join(ROOTS).join(NETWORKS));
            let _ = remove(&entry.path());
        }
    }
}

/// Says whether a name is one that [`temporary`] gives.
fn is_ours(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    rest.len() == RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Makes a directory of which nothing is kept.
fn temporary() -> Result<(tempfile::TempDir, File)> {
    loop {
        let own = tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM).tempdir()?;
        // Before it is locked, someone may take it for one that was left.
        let lock = match open_directory(own.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        lock.lock()?;
        if own.path().is_dir() {
            return Ok((own, lock));
        }
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a cache need not be durable; half of it is never under its name"
)]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Removes a directory and all in it, also what its owner may not change.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(directory)?;
            fs::remove_dir_all(directory)
        }
        removed => removed,
    }
}

fn make_writable(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_long_goes_unless_it_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let mut home = Home::open(Some(directory.path())).unwrap();
        home.kept = 10;
        let names = [b"a", b"b", b"c"].map(|name| Digest::sha256(name));
        let root = |home: &Home, name: &Digest| {
            home.root(name, 4, |path| Ok(fs::write(path.join("file"), "")?)).unwrap()
        };
        let times = [1, 2].map(|second| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second));
        let first = root(&home, &names[0]);
        first._used.set_modified(times[0]).unwrap();
        let second = root(&home, &names[1]);
        second._used.set_modified(times[1]).unwrap();
        let (first_path, second_path) = (first.path().to_owned(), second.path().to_owned());
        drop(second);
        // The first is older, and in use.
        let third = root(&home, &names[2]);
        assert!(first_path.is_dir() && !second_path.exists() && third.path().join("file").is_file());
        // A root that is used again is not unpacked again.
        assert_eq!(home.root(&names[2], 4, |_| panic!("unpacked")).unwrap().path(), third.path());
        drop(first);
        root(&home, &names[1]);
        assert!(!first_path.exists() && second_path.is_dir() && third.path().is_dir());
        let mode = fs::metadata(&home.roots).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_was_begun_and_not_finished_goes() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(Some(directory.path())).unwrap();
        let [killed, busy, next] = [b"a", b"b", b"c"].map(|name| Digest::sha256(name));
        let path = |name: &Digest| home.roots.join(name.encoded());
        let begun = [&killed, &busy].map(|name| {
            fs::create_dir(path(name).with_extension(BEGUN)).unwrap();
            path(name).with_extension(BEGUN)
        });
        drop(open_lock(&path(&killed)).unwrap());
        let lock = open_lock(&path(&busy)).unwrap();
        lock.lock().unwrap();
        // Another image does not wait for the one that is unpacked.
        let found = home.root(&next, 1, |path| Ok(fs::write(path.join("file"), "")?)).unwrap();
        assert!(found.path().join("file").is_file());
        assert_eq!(begun.map(|path| path.exists()), [false, true]);
    }

    #[test]
    fn a_temporary_directory_that_nobody_is_in_goes() {
        let left = tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM).tempdir().unwrap();
        let foreign = tempfile::Builder::new().prefix(&format!("{PREFIX}test-")).tempdir().unwrap();
        let (own, _lock) = temporary().unwrap();
        clean_temporary();
        assert!(!left.path().exists() && own.path().is_dir() && foreign.path().is_dir());
    }

    #[test]
    fn what_its_owner_may_not_change_is_removed_too() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        for path in [&inner, &directory.path().join("outer")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
        }
        remove(&directory.path().join("outer")).unwrap();
        assert!(!directory.path().join("outer").exists());
    }
}
