//! What is remembered between runs, in the user's cache directory: converted layers, and orders of files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use restow_content::publish;
use restow_convert::Memo;
use restow_convert::Memory;
use restow_convert::Turn;
use restow_convert::TurnLost;
use restow_oci::Digest;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file for each thing remembered.
///
/// The name is the start of the key's digest, so there are never more files than such names, each of a limited size: a
/// thing whose name is taken replaces the one before, which costs some work at worst. The whole key is inside.
/// What cannot be read or parsed is not there; what cannot be written is not kept.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    directory: PathBuf,
    /// Hexadecimal digits of a name.
    digits: usize,
    /// What is larger is not worth keeping, and was not written here.
    limit: u64,
}

/// Converted layers, up to 65,536 files of 64 KiB.
#[derive(Debug)]
pub(crate) struct FileMemo(Slots);

#[derive(Serialize, Deserialize)]
struct Slot<K, T> {
    key: K,
    value: T,
}

impl Slots {
    /// Returns the memory of plans, up to 256 files of 1 MiB.
    pub(crate) fn of_plans(cache: &Path) -> Self {
        Self { directory: cache.join("plans"), digits: 2, limit: 1 << 20 }
    }

    fn path(&self, key: &str) -> PathBuf {
        let digest = Digest::sha256(key.as_bytes());
        self.directory.join(&digest.encoded()[..self.digits]).with_extension("json")
    }

    pub(crate) fn recall<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let mut bytes = Vec::new();
        File::open(self.path(key)).ok()?.take(self.limit + 1).read_to_end(&mut bytes).ok()?;
        let slot: Slot<String, T> = serde_json::from_slice(&bytes).ok()?;
        (slot.key == key).then_some(slot.value)
    }

    pub(crate) fn remember<T: Serialize>(&self, key: &str, value: &T) {
        let Ok(bytes) = serde_json::to_vec(&Slot { key, value }) else { return };
        if bytes.len() as u64 <= self.limit && publish::create_directory(&self.directory).is_ok() {
            let _ = publish::write(&self.path(key), &bytes);
        }
    }
}

impl FileMemo {
    pub(crate) fn new(cache: &Path) -> Self {
        Self(Slots { directory: cache.join("layers"), digits: 4, limit: 64 << 10 })
    }
}

impl Memo for FileMemo {
    fn recall(&self, key: &str) -> Option<Memory> {
        self.0.recall(key)
    }

    fn begin(&self, key: &str) -> Box<dyn Turn> {
        Box::new(FileTurn { slots: self.0.clone(), key: key.to_owned() })
    }
}

/// A turn that nobody waits for: what two processes do at once, each of them remembers.
#[derive(Debug)]
struct FileTurn {
    slots: Slots,
    key: String,
}

impl Turn for FileTurn {
    fn renew(&self) -> Result<(), TurnLost> {
        Ok(())
    }

    fn finish(self: Box<Self>, memory: &Memory) -> Result<(), TurnLost> {
        self.slots.remember(&self.key, memory);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(digest: &Digest) -> Memory {
        serde_json::from_value(serde_json::json!({
            "media_type": "application/vnd.oci.image.layer.v1.tar+zstd",
            "digest": digest.as_str(),
            "size": 1,
            "annotations": {},
            "diff_id": digest.as_str(),
            "statistics": restow_convert::Statistics::default(),
        }))
        .unwrap()
    }

    #[test]
    fn what_is_remembered_is_recalled_and_damage_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let memo = FileMemo::new(&directory.path().join("not/there/yet"));
        assert_eq!(memo.recall("key"), None);
        let (first, second) = (memory(&Digest::sha256(b"1")), memory(&Digest::sha256(b"2")));
        memo.begin("key").finish(&first).unwrap();
        assert_eq!(memo.recall("key"), Some(first));
        memo.begin("key").finish(&second).unwrap();
        assert_eq!(memo.recall("key"), Some(second.clone()));

        let path = memo.0.path("key");
        let bytes = std::fs::read(&path).unwrap();
        // Another key of the same name.
        std::fs::write(
            &path,
            String::from_utf8(bytes.clone()).unwrap().replace("\"key\":\"key\"", "\"key\":\"kex\""),
        )
        .unwrap();
        assert_eq!(memo.recall("key"), None);
        for damaged in [&bytes[..bytes.len() - 1], b"", b"\0", b"{}"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(memo.recall("key"), None);
        }
        memo.begin("key").finish(&second).unwrap();
        assert_eq!(memo.recall("key"), Some(second));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let memo = FileMemo::new(file.path());
        memo.begin("key").finish(&memory(&Digest::sha256(b"1"))).unwrap();
        assert_eq!(memo.recall("key"), None);
    }
}
