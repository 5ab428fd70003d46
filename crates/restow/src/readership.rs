//! Which readers can fetch parts of a layer, and what keeps the others from it.

use restow_layer::Verified;
use restow_oci::Descriptor;
use restow_oci::Digest;
use restow_oci::Platform;
use restow_oci::annotations::STARGZ_TOC_DIGEST;
use schemars::JsonSchema;
use serde::Serialize;

/// What a reader can do with a layer: fetch parts of it, or why it fetches the whole.
type Use = std::result::Result<(), String>;

/// What the readers that know seekable layers can do with one.
#[derive(Clone, Debug)]
pub(crate) struct Readership {
    /// stargz-snapshotter, which mounts layers and fetches what is read.
    containerd: Use,
    /// podman and its kin, which fetch what they do not hold yet.
    podman: Use,
}

impl Readership {
    /// Judges a layer that has been read in full.
    pub(crate) fn of(layer: &Descriptor, verified: &Verified) -> Self {
        let containerd = match &verified.lazy_annotations {
            _ if verified.entries == 0 => Err("it has no entries".into()),
            Err(reason) => Err(reason.clone()),
            Ok(_) if !layer.annotations.contains_key(STARGZ_TOC_DIGEST) => {
                Err("its descriptor does not name the digest of its table of contents".into())
            }
            Ok(_) => Ok(()),
        };
        let partial = verified.content.as_ref().map(|content| &content.partial_annotations);
        let podman = match partial {
            None => Err("it was not read in full".into()),
            Some(Err(reason)) => Err(reason.clone()),
            Some(Ok(expected)) => {
                let annotated = expected.iter().all(|(key, value)| layer.annotations.get(key) == Some(value));
                annotated.then_some(()).ok_or_else(|| "its descriptor does not have the annotations".into())
            }
        };
        Self { containerd, podman }
    }

    /// Judges a layer that nobody can read but whole.
    pub(crate) fn whole(format: &str) -> Self {
        let whole = || Err(format!("it is ordinary {format}"));
        Self { containerd: whole(), podman: whole() }
    }
}

/// What readers can do with the layers of an image that were read.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ImageReaders {
    /// The digest of its manifest.
    #[schemars(with = "String")]
    pub manifest: Digest,
    /// What it is for, where that is known.
    #[schemars(with = "Option<String>")]
    pub platform: Option<Platform>,
    /// What stargz-snapshotter can mount lazily.
    pub containerd: Vec<LayerUse>,
    /// What podman and its kin can fetch in part.
    pub podman: Vec<LayerUse>,
}

/// What a reader can do with a layer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LayerUse {
    /// The layer's position.
    pub position: usize,
    /// Why the reader fetches the whole layer, if it does.
    pub problem: Option<String>,
}

impl ImageReaders {
    pub(crate) fn new(manifest: &Digest, platform: Option<&Platform>) -> Self {
        let platform = platform.cloned();
        Self { manifest: manifest.clone(), platform, containerd: Vec::new(), podman: Vec::new() }
    }

    pub(crate) fn add(&mut self, position: usize, layer: &Readership) {
        let of = |layer: &Use| LayerUse { position, problem: layer.as_ref().err().cloned() };
        self.containerd.push(of(&layer.containerd));
        self.podman.push(of(&layer.podman));
    }
}
