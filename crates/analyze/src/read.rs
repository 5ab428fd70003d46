//! Listing the names of an image's layers by reading them.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use restow_content::Provider;
use restow_content::VerifiedReader;
use restow_layer::Buffer;
use restow_layer::TarReader;
use restow_layer::decompress;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Digester;
use restow_oci::Limits;

use crate::Error;
use crate::Kind;
use crate::Layer;
use crate::Result;
use crate::Tree;
use crate::layer::entry;
use crate::predict::passing;

/// Bytes of notes that are kept of each layer at least, unless there are very many.
const NOTES_AT_LEAST: u64 = 64 << 10;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How layers are read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Where they are.
    pub provider: &'a dyn Provider,
    /// What is accepted.
    pub limits: &'a Limits,
    /// How many layers are read side by side.
    pub threads: usize,
    /// Asked often; reading stops once it says so.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Reading<'_> {
    /// Reads the names of all layers, each to its end, so that what is listed is what the digests name.
    ///
    /// Layers that are no tars, and those that only their publisher may hand out and that are not there,
    /// count as empty: they are not rewritten either.
    pub fn tree(&self, layers: &[Descriptor]) -> Result<Tree> {
        self.read(layers, false, None)
    }

    /// Reads the names of all layers, each of which must be there and be the one that the config names at its place.
    pub fn tree_of(&self, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<Tree> {
        if layers.len() != diff_ids.len() {
            return Err(Error::LayerCount { diff_ids: diff_ids.len(), layers: layers.len() });
        }
        self.read(layers, false, Some(diff_ids))
    }

    /// Reads the names of all layers and, of the files that predictions ask about, what [`predict`](crate::predict())
    /// needs to know.
    ///
    /// A note is made while the file passes by, so this too is one reading. How much is written down is limited; a layer's
    /// share of it depends on its size alone, so that the outcome is the same on any number of threads.
    pub fn tree_with_notes(&self, layers: &[Descriptor]) -> Result<Tree> {
        self.read(layers, true, None)
    }

    fn read(&self, layers: &[Descriptor], noting: bool, diff_ids: Option<&[Digest]>) -> Result<Tree> {
        let total = layers.iter().map(|layer| layer.size).fold(1, u64::saturating_add);
        let notes = self.limits.prediction.notes;
        let at_least = NOTES_AT_LEAST.min(notes / layers.len().max(1) as u64);
        let share = |size: u64| (u128::from(notes) * u128::from(size) / u128::from(total)) as u64;
        let room = |layer: &Descriptor| noting.then(|| at_least + share(layer.size));
        let next = AtomicUsize::new(0);
        let listed: Mutex<Vec<Option<Result<Layer>>>> = Mutex::new(layers.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..self.threads.clamp(1, layers.len().max(1)) {
                scope.spawn(|| {
                    while let Some((position, descriptor)) = {
                        let position = next.fetch_add(1, Ordering::Relaxed);
                        layers.get(position).map(|descriptor| (position, descriptor))
                    } {
                        let expected = diff_ids.and_then(|ids| ids.get(position));
                        let layer = self.layer(descriptor, room(descriptor), expected);
                        let layer = layer.map_err(|source| Error::Layer {
                            position,
                            digest: descriptor.digest.clone(),
                            source,
                        });
                        let layer = layer.and_then(|(layer, actual)| match (expected, actual) {
                            (Some(expected), Some(actual)) if *expected != actual => {
                                Err(Error::DiffId { position, expected: expected.clone(), actual })
                            }
                            _ => Ok(layer),
                        });
                        listed.lock().unwrap_or_else(PoisonError::into_inner)[position] = Some(layer);
                    }
                });
            }
        });
        let listed = listed.into_inner().unwrap_or_else(PoisonError::into_inner);
        listed.into_iter().flatten().collect::<Result<Vec<_>>>().map(Tree::from_layers)
    }

    /// Opens the tar of a layer, of which a digest is made if there is a digester; `None` if it is none, or may not be
    /// handed out and is not there.
    pub(crate) fn open(
        &self,
        descriptor: &Descriptor,
        digester: Option<Digester>,
    ) -> std::result::Result<Option<TarReader<Digested<impl io::Read>>>, BoxError> {
        let restow_oci::Kind::Layer { distributable, .. } = descriptor.media_type.kind() else {
            return Ok(None);
        };
        let blob = match self.provider.open(descriptor) {
            Err(error) if !distributable && error.is_not_found() => return Ok(None),
            blob => blob?,
        };
        let stoppable = Stoppable { bytes: VerifiedReader::new(blob, descriptor)?, stop: self.stop };
        let bytes = decompress(stoppable, self.limits)?;
        Ok(Some(TarReader::new(Digested { bytes, digester }, self.limits)))
    }

    /// Reads one layer; `room` is how many bytes of notes may be kept, if any are to be made. The digest of its tar comes
    /// along if one is expected.
    fn layer(
        &self,
        descriptor: &Descriptor,
        mut room: Option<u64>,
        expected: Option<&Digest>,
    ) -> std::result::Result<(Layer, Option<Digest>), BoxError> {
        let digester = expected.map(|expected| Digester::new(expected.algorithm())).transpose()?;
        let Some(mut tar) = self.open(descriptor, digester)? else {
            return match expected {
                Some(_) => Err("no container can be made of it".into()),
                None => Ok((Layer::default(), None)),
            };
        };
        let mut raw = Buffer::default();
        let mut layer = Layer::default();
        while let Some(header) = tar.next(&mut raw)? {
            raw.truncate(0);
            if let Some(entry) = entry(&header) {
                let note = match (&entry.kind, room) {
                    (Kind::File { size }, Some(_)) => {
                        passing::note(&entry.path, *size, &mut tar, &mut raw, &self.limits.prediction)?
                    }
                    _ => None,
                };
                let path = entry.path.len();
                layer.push(entry);
                if let (Some(note), Some(room)) = (note, &mut room) {
                    match room.checked_sub((note.len() + path) as u64) {
                        Some(left) => {
                            *room = left;
                            layer.push_note(note);
                        }
                        None => layer.lose_note(),
                    }
                }
            }
            tar.skip_payload(&mut raw)?;
        }
        tar.finish(&mut raw)?;
        layer.index();
        Ok((layer, tar.source().digester.as_ref().map(Digester::current)))
    }
}

/// A reader that fails once it is told to stop.
struct Stoppable<'a, R> {
    bytes: R,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<R: io::Read> io::Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            // Not `Interrupted`: callers retry that one.
            return Err(io::Error::other(Error::Interrupted));
        }
        self.bytes.read(buffer)
    }
}

/// A reader that makes a digest of what is read.
pub(crate) struct Digested<R> {
    bytes: R,
    digester: Option<Digester>,
}

impl<R: io::Read> io::Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        if let Some(digester) = &mut self.digester {
            digester.update(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::sync::atomic::AtomicBool;

    use restow_content::MemoryStore;
    use restow_content::write;
    use restow_oci::Digest;
    use restow_oci::MediaType;
    use restow_testkit::TarBuilder;
    use restow_testkit::compress;

    use super::*;

    fn read(store: &MemoryStore, layers: &[Descriptor], stop: &(dyn Fn() -> bool + Sync)) -> Result<Tree> {
        Reading { provider: store, limits: &Limits::default(), threads: 2, stop }.tree(layers)
    }

    #[test]
    fn layers_of_any_compression_are_listed_in_their_places() {
        let store = MemoryStore::new();
        let base = TarBuilder::new()
            .dir("./")
            .dir("./usr/bin/")
            .symlink("./bin", "usr/bin")
            .symlink("./usr/bin/sh", "dash")
            .file("./usr/bin/dash", vec![7; 3 << 20])
            .file(b"./\xff", "not text")
            .file("./old", "")
            .finish();
        let middle = TarBuilder::new().file(".wh.old", "").hardlink("usr/bin/ash", "usr/bin/dash").finish();
        let top = TarBuilder::new().file("usr/bin/dash", "new").finish();
        let layers = [
            write(&store, MediaType::OCI_LAYER_GZIP, &compress::gzip(base)).unwrap(),
            // A media type may lie; bytes cannot.
            write(&store, MediaType::OCI_LAYER_GZIP, &compress::zstd(middle)).unwrap(),
            write(&store, MediaType::DOCKER_LAYER, &top).unwrap(),
            write(&store, MediaType::IN_TOTO, b"{}").unwrap(),
            // Not there, and not to be handed out.
            Descriptor::new(MediaType::OCI_NONDISTRIBUTABLE_LAYER, Digest::sha256(b"windows"), 9),
        ];
        let tree = read(&store, &layers, &|| false).unwrap();
        let touched = tree.follow("bin/sh").unwrap();
        assert_eq!(touched, [(0, "bin".into()), (0, "usr/bin/sh".into()), (2, "usr/bin/dash".into())]);
        for (path, expected) in [("usr/bin/ash", Some(1)), ("old", None), ("", Some(0))] {
            assert_eq!(tree.resolve(path), expected, "{path}");
        }
    }

    #[test]
    fn a_layer_that_is_not_what_its_descriptor_says_is_refused_by_its_position() {
        let store = MemoryStore::new();
        let good = write(&store, MediaType::OCI_LAYER, &TarBuilder::new().file("a", "").finish()).unwrap();
        let garbage = write(&store, MediaType::OCI_LAYER, &[1; 1024]).unwrap();
        let absent = Descriptor::new(MediaType::OCI_LAYER, Digest::sha256(b"absent"), 9);
        for bad in [garbage, absent] {
            let error = read(&store, &[good.clone(), bad.clone()], &|| false).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot list the files of layer 1, {}", bad.digest));
            assert!(error.source().is_some());
        }
    }

    #[test]
    fn layers_are_those_that_the_config_names_or_nothing_is_run() {
        let store = MemoryStore::new();
        // Something behind the end of the archive is a part of the tar, too.
        let tars = ["a", "b"].map(|name| [TarBuilder::new().file(name, "").finish(), vec![0; 4096]].concat());
        let ids = [0, 1].map(|at: usize| Digest::sha256(&tars[at]));
        let layers = [
            write(&store, MediaType::OCI_LAYER_GZIP, &compress::gzip(&tars[0])).unwrap(),
            write(&store, MediaType::OCI_LAYER, &tars[1]).unwrap(),
        ];
        let absent = Descriptor::new(MediaType::OCI_NONDISTRIBUTABLE_LAYER, Digest::sha256(b"windows"), 9);
        let read = |layers: &[Descriptor], ids: &[Digest]| {
            let reading =
                Reading { provider: &store, limits: &Limits::default(), threads: 2, stop: &|| false };
            reading.tree_of(layers, ids).map(|tree| tree.resolve("b")).map_err(|error| error.to_string())
        };
        let swapped = [ids[0].clone(), ids[0].clone()];
        for (layers, ids, expected) in [
            (&layers[..], &ids[..], Ok(Some(1))),
            (&layers, &ids[..1], Err("the config names 1 layers, the manifest 2".to_owned())),
            (&layers, &[], Err("the config names 0 layers, the manifest 2".to_owned())),
            (
                &layers,
                &swapped,
                Err(format!("the tar of layer 1 is {}, the config names {}", ids[1], ids[0])),
            ),
            (
                std::slice::from_ref(&absent),
                &ids[..1],
                Err(format!("cannot list the files of layer 0, {}", absent.digest)),
            ),
        ] {
            assert_eq!(read(layers, ids), expected);
        }
    }

    #[test]
    fn reading_stops_when_told_to() {
        let store = MemoryStore::new();
        let tar = TarBuilder::new().file("a", vec![0; 8 << 20]).finish();
        let layer = write(&store, MediaType::OCI_LAYER, &tar).unwrap();
        let asked = AtomicBool::new(false);
        let stop = || asked.swap(true, Ordering::Relaxed);
        assert!(matches!(read(&store, &[layer], &stop), Err(Error::Layer { position: 0, .. })));
    }
}
