//! Where unpacked images lie between runs, and sandboxes mount.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use restow_analyze::sandbox;
use restow_content::publish;
use restow_oci::Digest;

/// As many bytes of unpacked images are kept; those used longest ago go.
const KEPT: u64 = 8 << 30;
/// What directories are called in which nothing is kept.
const PREFIX: &str = "restow-record-";
/// Locked as long as someone is in such a directory.
const ALIVE: &str = "alive";

/// The directories of a recording.
pub(crate) struct Home {
    roots: PathBuf,
    /// Where the sandbox mounts.
    pub(crate) scratch: PathBuf,
    /// What networks leave behind is written down here.
    pub(crate) networks: PathBuf,
    kept: u64,
    /// Goes with this value, if nothing is to be kept.
    _own: Option<(tempfile::TempDir, File)>,
}

/// An unpacked image. It is not taken away as long as this value lives.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    _used: File,
}

impl Root {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Home {
    pub(crate) fn open(cache: Option<&Path>) -> anyhow::Result<Self> {
        let own = match cache {
            Some(_) => None,
            None => Some(temporary()?),
        };
        let place = cache.or_else(|| own.as_ref().map(|(own, _)| own.path())).unwrap_or(Path::new("."));
        // The sandbox changes its directory.
        let place = std::path::absolute(place)?;
        let [roots, scratch, networks] = ["roots", "sandbox", "networks"].map(|name| place.join(name));
        for directory in [&roots, &scratch, &networks] {
            publish::create_directory(directory)?;
        }
        Ok(Self { roots, scratch, networks, kept: KEPT, _own: own })
    }

    /// Returns the unpacked image of this name and size, unpacking it if it is not there.
    pub(crate) fn root(
        &self,
        chain: &Digest,
        size: u64,
        unpack: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Root> {
        // Who is not root unpacks without owners.
        let owners = if sandbox::is_root() { "" } else { "-own" };
        let path = self.roots.join(format!("{}{owners}", chain.encoded()));
        let lock = File::create(self.roots.join("lock"))?;
        lock.lock()?;
        // Its time is that of the last use.
        let mut used = File::create(path.with_extension("used"))?;
        used.lock_shared()?;
        write!(used, "{size}")?;
        let root = Root { path, _used: used };
        if !root.path.is_dir() {
            // Whoever holds the lock is alone: what was begun and not finished is left from a run that was killed.
            let begun = self.begun()?;
            fs::create_dir(&begun)?;
            unpack(&begun)?;
            rename(&begun, &root.path)?;
        }
        self.evict()?;
        Ok(root)
    }

    /// Returns where a directory is that may go at any time; what was there is gone.
    fn begun(&self) -> io::Result<PathBuf> {
        let begun = self.roots.join("begun");
        if begun.exists() {
            remove(&begun)?;
        }
        Ok(begun)
    }

    /// Takes away what was not used for the longest time, until what is kept is not too large. What is in use stays.
    fn evict(&self) -> io::Result<()> {
        let mut roots = Vec::new();
        for entry in fs::read_dir(&self.roots)? {
            let path = entry?.path();
            if path.is_dir() {
                let used = path.with_extension("used");
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
            let used = File::options().create(true).append(true).open(path.with_extension("used"))?;
            if used.try_lock().is_ok() {
                let begun = self.begun()?;
                rename(&path, &begun)?;
                remove(&begun)?;
                fs::remove_file(path.with_extension("used"))?;
                kept = kept.saturating_sub(size);
            }
        }
        Ok(())
    }
}

/// Makes a directory of which nothing is kept, and takes away those of runs that were killed.
fn temporary() -> anyhow::Result<(tempfile::TempDir, File)> {
    for entry in fs::read_dir(tempfile::env::temp_dir())?.flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // What is not a file of ours is not opened, and others' directories cannot be removed.
        if ours && File::open(path.join(ALIVE)).is_ok_and(|alive| alive.try_lock().is_ok()) {
            let _ = remove(&path);
        }
    }
    let own = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    let alive = File::create(own.path().join(ALIVE))?;
    alive.lock()?;
    Ok((own, alive))
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
    use std::os::unix::fs::PermissionsExt as _;
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
        assert_eq!(fs::read_dir(&home.roots).unwrap().count(), 5);
    }

    #[test]
    fn what_its_owner_may_not_change_is_removed_too() {
        use std::os::unix::fs::PermissionsExt as _;
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
