//! The registries that look for the parts of a manifest before they take it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use restow_content::file;
use restow_content::publish;

use super::hosts::is_loopback;

/// The most that is read of what was noted.
const NOTES_SIZE: u64 = 1 << 20;

/// The hosts that have refused a manifest for want of its parts, in this run or, by a file with a line for each, in an
/// earlier one. What cannot be read is not known; what cannot be written is not kept.
#[derive(Debug)]
pub(crate) struct Careful {
    file: Option<PathBuf>,
    hosts: Mutex<Option<BTreeSet<String>>>,
}

impl Careful {
    pub(crate) fn new(file: Option<PathBuf>) -> Careful {
        Careful { file, hosts: Mutex::default() }
    }

    pub(crate) fn contains(&self, host: &str) -> bool {
        self.with(|hosts| hosts.contains(host))
    }

    pub(crate) fn insert(&self, host: &str) {
        let kept = self.with(|hosts| {
            let new = hosts.insert(host.to_owned());
            // Another registry may run on this machine tomorrow.
            let lasting = hosts.iter().filter(|host| !is_loopback(host)).cloned();
            (new && !is_loopback(host)).then(|| lasting.collect::<Vec<_>>().join("\n"))
        });
        if let (Some(text), Some(file)) = (kept, &self.file) {
            let _ = file.parent().map_or(Ok(()), publish::create_directory);
            let _ = publish::write(file, text.as_bytes());
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        let mut hosts: MutexGuard<'_, _> = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        work(hosts.get_or_insert_with(|| {
            let bytes = self.file.as_ref().and_then(|path| file::read(path, NOTES_SIZE).ok());
            let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_host_lasts_unless_it_is_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cache/careful");
        let careful = Careful::new(Some(file.clone()));
        for host in ["a.org", "localhost:5000", "b.org:5000", "127.0.0.1:1"] {
            assert!(!careful.contains(host));
            careful.insert(host);
            assert!(careful.contains(host));
        }
        let later = Careful::new(Some(file));
        let known = ["a.org", "localhost:5000", "b.org:5000", "127.0.0.1:1"].map(|host| later.contains(host));
        assert_eq!(known, [true, false, true, false]);
        // Without a file, or one that can be neither read nor written, it lasts for the run.
        for file in [None, Some(directory.path().to_owned())] {
            let careful = Careful::new(file);
            careful.insert("a.org");
            assert!(careful.contains("a.org"));
        }
    }
}
