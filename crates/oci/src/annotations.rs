//! The annotation keys that layers, manifests and index entries carry, by who reads them.

use std::collections::BTreeMap;

/// The name of an image in a layout's `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// eStargz and stargz's zstd:chunked: the digest of the uncompressed TOC.
pub const STARGZ_TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// eStargz, on a TOC in an image of its own: the digest of the layer that it is the TOC of.
pub const STARGZ_LAYER_DIGEST: &str = "containerd.io/snapshot/stargz/layer.digest";
/// eStargz and stargz's zstd:chunked: the size of the layer's tar.
pub const STARGZ_UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// stargz-snapshotter: how many bytes to prefetch from the start of a layer without a landmark.
pub const STARGZ_PREFETCH: &str = "containerd.io/snapshot/remote/stargz.prefetch";
/// stargz's zstd:chunked: the digest of the compressed TOC.
pub const STARGZ_ZSTD_MANIFEST_CHECKSUM: &str = "io.containers.zstd-chunked.manifest-checksum";
/// stargz's zstd:chunked: where the TOC lies, as `offset:compressed:uncompressed:type`.
pub const STARGZ_ZSTD_MANIFEST_POSITION: &str = "io.containers.zstd-chunked.manifest-position";

/// podman's zstd:chunked: the digest of the compressed TOC.
pub const PODMAN_MANIFEST_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// podman's zstd:chunked: where the TOC lies, as `offset:compressed:uncompressed:type`.
pub const PODMAN_MANIFEST_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// podman's zstd:chunked: where the tar-split lies, as `offset:compressed:uncompressed`.
pub const PODMAN_TARSPLIT_POSITION: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// podman's zstd:chunked: the digest of the tar-split; no longer written by anyone.
pub const PODMAN_TARSPLIT_CHECKSUM: &str = "io.github.containers.zstd-chunked.tarsplit-checksum";
/// An index entry whose layers are zstd, so that podman prefers it.
pub const PODMAN_COMPRESSION_ZSTD: &str = "io.github.containers.compression.zstd";

/// BuildKit: what an index entry is to another, for instance `attestation-manifest`.
pub const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// BuildKit: the digest of the manifest that an index entry is about.
pub const DOCKER_REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// containerd and BuildKit: the DiffID of the layer that a descriptor names.
pub const CONTAINERD_UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// SOCI, on an image's manifest and its entry in an index: the digest of the SOCI index of the image's layers.
pub const SOCI_INDEX_DIGEST: &str = "com.amazon.soci.index-digest";
/// SOCI, on a SOCI index's entry in an index: the digest of the manifest whose layers it is about.
pub const SOCI_MANIFEST_DIGEST: &str = "com.amazon.soci.image-manifest-digest";

/// The labels and annotations that name layers of their own image by DiffIDs, as the whole text or inside JSON: those of
/// ostree and bootc, then those of Cloud Native Buildpacks for applications, buildpacks, extensions and base images.
pub const NAMING_DIFF_IDS: [&str; 5] = [
    "ostree.final-diffid",
    "io.buildpacks.lifecycle.metadata",
    "io.buildpacks.buildpack.layers",
    "io.buildpacks.extension.layers",
    "io.buildpacks.base.sbom",
];

/// The annotations that describe the bytes of one chunked layer, and so are false of any other.
pub const CHUNKED: [&str; 9] = [
    STARGZ_TOC_DIGEST,
    STARGZ_UNCOMPRESSED_SIZE,
    STARGZ_PREFETCH,
    STARGZ_ZSTD_MANIFEST_CHECKSUM,
    STARGZ_ZSTD_MANIFEST_POSITION,
    PODMAN_MANIFEST_CHECKSUM,
    PODMAN_MANIFEST_POSITION,
    PODMAN_TARSPLIT_POSITION,
    PODMAN_TARSPLIT_CHECKSUM,
];

/// Removes the annotations of [`CHUNKED`] from those of a layer about to get new ones.
///
/// A reader that finds a stale one rejects the layer, so all go, whichever tool put them there.
pub fn strip_chunked(annotations: &mut BTreeMap<String, String>) {
    annotations.retain(|key, _| !CHUNKED.contains(&key.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_annotation_of_a_chunked_layer_stays_and_all_others_do() {
        let stale = [
            "containerd.io/snapshot/stargz/toc.digest",
            "containerd.io/snapshot/remote/stargz.prefetch",
            "io.containers.estargz.uncompressed-size",
            "io.containers.zstd-chunked.manifest-checksum",
            "io.containers.zstd-chunked.manifest-position",
            "io.github.containers.zstd-chunked.manifest-checksum",
            "io.github.containers.zstd-chunked.manifest-position",
            "io.github.containers.zstd-chunked.tarsplit-position",
            "io.github.containers.zstd-chunked.tarsplit-checksum",
        ];
        let kept = [
            "org.opencontainers.image.ref.name",
            "io.github.containers.compression.zstd",
            "vnd.docker.reference.digest",
            "io.containers.estargz",
        ];
        let all = stale.into_iter().chain(kept);
        let mut annotations: BTreeMap<_, _> = all.map(|key| (key.to_owned(), "x".to_owned())).collect();
        strip_chunked(&mut annotations);
        assert_eq!(annotations.into_keys().collect::<Vec<_>>(), {
            let mut kept = kept;
            kept.sort_unstable();
            kept
        });
    }
}
