//! Who is to read layers lazily, and so which manifests an image gets.
//!
//! A blob can serve containerd's and podman's readers at once, a descriptor cannot: podman refuses one that carries both
//! sets of annotations. For both of them an image therefore has two manifests with the same config and the same blobs,
//! side by side in an index; [`spell`] makes each client find its own.

use restow_oci::Descriptor;
use restow_oci::Platform;
use restow_oci::annotations::PODMAN_COMPRESSION_ZSTD;

/// Who reads layers lazily. The blobs are the same for all of them; what descriptors say of the blobs is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readers {
    /// stargz-snapshotter, by the annotations that containerd hands to it.
    #[default]
    Containerd,
    /// podman, buildah and CRI-O, by theirs.
    Podman,
    /// An index with a manifest for containerd and, after all of those, one for podman.
    Both,
}

/// One kind of reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Containerd,
    Podman,
}

impl Readers {
    /// Returns the kinds in the order in which their manifests stand in an index, `behind` their source or in its
    /// place. containerd takes the first of an index, podman the first that is marked as zstd: containerd's form leads,
    /// except where the source does.
    pub(crate) fn kinds(self, behind: bool) -> &'static [Reader] {
        match self {
            Self::Containerd => &[Reader::Containerd],
            Self::Podman => &[Reader::Podman],
            Self::Both if behind => &[Reader::Podman, Reader::Containerd],
            Self::Both => &[Reader::Containerd, Reader::Podman],
        }
    }
}

/// Spells the entry for a manifest whose layers are zstd, so that each client chooses the one it can use. `readers` are
/// all that have one.
///
/// containerd takes the first of those whose platforms are equal once they are normalized; podman wants the exact
/// words, and of equals one that is marked as zstd. So the entry for containerd is first and has a spelling that podman
/// never asks for. skopeo copies an index unchanged only if all its zstd images are marked. Where an entry names no
/// platform, the mark alone tells podman which to take.
pub(crate) fn spell(entry: &mut Descriptor, reader: Reader, readers: Readers) {
    let redundant = entry.platform.as_ref().and_then(redundant);
    let marked = readers != Readers::Both || reader == Reader::Podman || redundant.is_some();
    mark(entry, marked);
    if readers == Readers::Both && reader == Reader::Containerd {
        entry.platform = redundant.or_else(|| entry.platform.take());
    } else if entry.platform == redundant {
        entry.platform = entry.platform.as_ref().map(Platform::normalized);
    }
}

/// Says in an entry whether layers are zstd.
pub(crate) fn mark(entry: &mut Descriptor, zstd: bool) {
    entry.annotations.remove(PODMAN_COMPRESSION_ZSTD);
    if zstd {
        entry.annotations.insert(PODMAN_COMPRESSION_ZSTD.to_owned(), "true".to_owned());
    }
}

/// Tells whether an entry says that its layers are zstd.
pub(crate) fn is_marked(entry: &Descriptor) -> bool {
    entry.annotations.get(PODMAN_COMPRESSION_ZSTD).is_some_and(|value| value == "true")
}

/// Returns the spelling of a platform that only those who normalize take for it: a variant that says nothing more, an
/// old name of the architecture, or the system's name with a capital letter.
fn redundant(platform: &Platform) -> Option<Platform> {
    let normal = platform.normalized();
    let variant = match (normal.architecture.as_str(), normal.variant.as_deref()) {
        ("amd64", None) => "v1",
        ("arm64", None) => "8",
        ("arm64", Some("v9")) => "9",
        ("arm", Some("v5")) => "5",
        ("arm", Some("v6")) => "6",
        ("arm", Some("v7")) => "7",
        ("arm", Some("v8")) => "8",
        ("386", None) => return Some(Platform { architecture: "i386".to_owned(), ..platform.clone() }),
        _ => {
            let (first, rest) = normal.os.split_at_checked(1)?;
            return Some(Platform { os: first.to_ascii_uppercase() + rest, ..platform.clone() });
        }
    };
    Some(Platform { variant: Some(variant.to_owned()), ..platform.clone() })
}
