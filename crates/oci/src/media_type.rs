//! Media types, and what they say of a blob.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::Result;
use crate::error::excerpt;

/// The media type of a blob: printable, never empty, not necessarily known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaType(Cow<'static, str>);

/// What a media type says a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A list of manifests, OCI's or Docker's.
    Index,
    /// A config and layers, OCI's or Docker's schema 2.
    Manifest,
    /// An image configuration.
    Config,
    /// A tar.
    Layer {
        /// What the media type says of the compression; the bytes may say otherwise.
        compression: Compression,
        /// Whether the layer may be uploaded.
        distributable: bool,
    },
    /// A layer that cannot be read without its key.
    EncryptedLayer,
    /// Anything else: carried, never interpreted.
    Other,
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
    /// By what its first bytes say: Docker's plain layer type is in use for compressed ones too.
    Unknown,
}

/// A known OCI media type, its kind, and its Docker counterpart.
struct Known {
    oci: MediaType,
    docker: Option<MediaType>,
    kind: Kind,
}

const fn known(oci: MediaType, docker: Option<MediaType>, kind: Kind) -> Known {
    Known { oci, docker, kind }
}

const fn layer(compression: Compression, distributable: bool) -> Kind {
    Kind::Layer { compression, distributable }
}

static KNOWN: [Known; 9] = {
    use Compression::*;
    type M = MediaType;
    [
        known(M::OCI_INDEX, Some(M::DOCKER_MANIFEST_LIST), Kind::Index),
        known(M::OCI_MANIFEST, Some(M::DOCKER_MANIFEST), Kind::Manifest),
        known(M::OCI_CONFIG, Some(M::DOCKER_CONFIG), Kind::Config),
        known(M::OCI_LAYER, Some(M::DOCKER_LAYER), layer(None, true)),
        known(M::OCI_LAYER_GZIP, Some(M::DOCKER_LAYER_GZIP), layer(Gzip, true)),
        known(M::OCI_LAYER_ZSTD, Some(M::DOCKER_LAYER_ZSTD), layer(Zstd, true)),
        known(M::OCI_NONDISTRIBUTABLE_LAYER, Some(M::DOCKER_FOREIGN_LAYER), layer(None, false)),
        known(M::OCI_NONDISTRIBUTABLE_LAYER_GZIP, Some(M::DOCKER_FOREIGN_LAYER_GZIP), layer(Gzip, false)),
        known(M::OCI_NONDISTRIBUTABLE_LAYER_ZSTD, Option::None, layer(Zstd, false)),
    ]
};

impl MediaType {
    /// OCI's image index.
    pub const OCI_INDEX: MediaType = MediaType::from_static("application/vnd.oci.image.index.v1+json");
    /// OCI's image manifest.
    pub const OCI_MANIFEST: MediaType = MediaType::from_static("application/vnd.oci.image.manifest.v1+json");
    /// OCI's image configuration.
    pub const OCI_CONFIG: MediaType = MediaType::from_static("application/vnd.oci.image.config.v1+json");
    /// A plain layer.
    pub const OCI_LAYER: MediaType = MediaType::from_static("application/vnd.oci.image.layer.v1.tar");
    /// A gzip layer, an eStargz one too.
    pub const OCI_LAYER_GZIP: MediaType =
        MediaType::from_static("application/vnd.oci.image.layer.v1.tar+gzip");
    /// A zstd layer, a zstd:chunked one too.
    pub const OCI_LAYER_ZSTD: MediaType =
        MediaType::from_static("application/vnd.oci.image.layer.v1.tar+zstd");
    /// A plain layer that is not to be uploaded.
    pub const OCI_NONDISTRIBUTABLE_LAYER: MediaType =
        MediaType::from_static("application/vnd.oci.image.layer.nondistributable.v1.tar");
    /// A gzip layer that is not to be uploaded.
    pub const OCI_NONDISTRIBUTABLE_LAYER_GZIP: MediaType =
        MediaType::from_static("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    /// A zstd layer that is not to be uploaded.
    pub const OCI_NONDISTRIBUTABLE_LAYER_ZSTD: MediaType =
        MediaType::from_static("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd");
    /// The two bytes `{}`, where a descriptor must be but nothing is to be described.
    pub const EMPTY: MediaType = MediaType::from_static("application/vnd.oci.empty.v1+json");
    /// An attestation's statement, in the place of a layer.
    pub const IN_TOTO: MediaType = MediaType::from_static("application/vnd.in-toto+json");

    /// Docker's manifest list.
    pub const DOCKER_MANIFEST_LIST: MediaType =
        MediaType::from_static("application/vnd.docker.distribution.manifest.list.v2+json");
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: MediaType =
        MediaType::from_static("application/vnd.docker.distribution.manifest.v2+json");
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: MediaType =
        MediaType::from_static("application/vnd.docker.container.image.v1+json");
    /// Docker's layer of no stated compression.
    pub const DOCKER_LAYER: MediaType =
        MediaType::from_static("application/vnd.docker.image.rootfs.diff.tar");
    /// Docker's gzip layer.
    pub const DOCKER_LAYER_GZIP: MediaType =
        MediaType::from_static("application/vnd.docker.image.rootfs.diff.tar.gzip");
    /// Docker's zstd layer.
    pub const DOCKER_LAYER_ZSTD: MediaType =
        MediaType::from_static("application/vnd.docker.image.rootfs.diff.tar.zstd");
    /// Docker's layer of no stated compression that is not to be uploaded.
    pub const DOCKER_FOREIGN_LAYER: MediaType =
        MediaType::from_static("application/vnd.docker.image.rootfs.foreign.diff.tar");
    /// Docker's gzip layer that is not to be uploaded.
    pub const DOCKER_FOREIGN_LAYER_GZIP: MediaType =
        MediaType::from_static("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");

    const fn from_static(text: &'static str) -> MediaType {
        MediaType(Cow::Borrowed(text))
    }

    /// Parses a media type, known or not.
    pub fn parse(text: &str) -> Result<MediaType> {
        MediaType::checked(text).map_err(|expected| Error::MediaType { media_type: excerpt(text), expected })
    }

    /// Parses a media type, or returns the rule that `text` breaks.
    pub(crate) fn checked(text: &str) -> std::result::Result<MediaType, &'static str> {
        // It goes into HTTP headers and onto terminals; the grammar of RFC 6838 would refuse what is in use.
        if (1..=255).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            Ok(MediaType(Cow::Owned(text.to_owned())))
        } else {
            Err("a media type of 1 to 255 printable ASCII characters")
        }
    }

    /// Returns the media type of an OCI layer, a plain one for [`Compression::Unknown`].
    pub fn layer(compression: Compression, distributable: bool) -> MediaType {
        match (compression, distributable) {
            (Compression::None | Compression::Unknown, true) => MediaType::OCI_LAYER,
            (Compression::Gzip, true) => MediaType::OCI_LAYER_GZIP,
            (Compression::Zstd, true) => MediaType::OCI_LAYER_ZSTD,
            (Compression::None | Compression::Unknown, false) => MediaType::OCI_NONDISTRIBUTABLE_LAYER,
            (Compression::Gzip, false) => MediaType::OCI_NONDISTRIBUTABLE_LAYER_GZIP,
            (Compression::Zstd, false) => MediaType::OCI_NONDISTRIBUTABLE_LAYER_ZSTD,
        }
    }

    /// Returns the media type as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what the media type says a blob is.
    pub fn kind(&self) -> Kind {
        let layers = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
        let encrypted = ["+encrypted", "+enc"];
        if layers.iter().any(|prefix| self.0.starts_with(prefix))
            && encrypted.iter().any(|suffix| self.0.ends_with(suffix))
        {
            return Kind::EncryptedLayer;
        }
        let docker = |known: &Known| known.docker.as_ref() == Some(self);
        match KNOWN.iter().find(|known| known.oci == *self || docker(known)) {
            Some(Known { kind: Kind::Layer { compression: Compression::None, distributable }, .. })
                if self.is_docker() =>
            {
                layer(Compression::Unknown, *distributable)
            }
            Some(known) => known.kind,
            None => Kind::Other,
        }
    }

    /// Returns the OCI counterpart of a Docker media type, any other as it is.
    pub fn to_oci(&self) -> MediaType {
        let known = KNOWN.iter().find(|known| known.docker.as_ref() == Some(self));
        known.map_or(self, |known| &known.oci).clone()
    }

    /// Returns the Docker counterpart of an OCI media type, where there is one, and one of Docker's as it is.
    pub fn to_docker(&self) -> Option<MediaType> {
        if self.is_docker() {
            return Some(self.clone());
        }
        KNOWN.iter().find(|known| known.oci == *self).and_then(|known| known.docker.clone())
    }

    /// Returns whether the media type is one of Docker's.
    pub fn is_docker(&self) -> bool {
        self.0.starts_with("application/vnd.docker.")
    }
}

impl serde::Serialize for MediaType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for MediaType {
    type Err = Error;

    fn from_str(text: &str) -> Result<MediaType> {
        MediaType::parse(text)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_media_types_have_a_kind_and_an_oci_form() {
        const UNKNOWN: Kind = layer(Compression::Unknown, true);
        const GZIP: Kind = layer(Compression::Gzip, true);
        const ZSTD: Kind = layer(Compression::Zstd, true);
        type M = MediaType;
        let table = [
            (M::OCI_INDEX, Kind::Index, M::OCI_INDEX),
            (M::OCI_MANIFEST, Kind::Manifest, M::OCI_MANIFEST),
            (M::OCI_CONFIG, Kind::Config, M::OCI_CONFIG),
            (M::OCI_LAYER, layer(Compression::None, true), M::OCI_LAYER),
            (M::OCI_LAYER_GZIP, GZIP, M::OCI_LAYER_GZIP),
            (M::OCI_LAYER_ZSTD, ZSTD, M::OCI_LAYER_ZSTD),
            (M::OCI_NONDISTRIBUTABLE_LAYER, layer(Compression::None, false), M::OCI_NONDISTRIBUTABLE_LAYER),
            (
                M::OCI_NONDISTRIBUTABLE_LAYER_GZIP,
                layer(Compression::Gzip, false),
                M::OCI_NONDISTRIBUTABLE_LAYER_GZIP,
            ),
            (
                M::OCI_NONDISTRIBUTABLE_LAYER_ZSTD,
                layer(Compression::Zstd, false),
                M::OCI_NONDISTRIBUTABLE_LAYER_ZSTD,
            ),
            (M::EMPTY, Kind::Other, M::EMPTY),
            (M::IN_TOTO, Kind::Other, M::IN_TOTO),
            (M::DOCKER_MANIFEST_LIST, Kind::Index, M::OCI_INDEX),
            (M::DOCKER_MANIFEST, Kind::Manifest, M::OCI_MANIFEST),
            (M::DOCKER_CONFIG, Kind::Config, M::OCI_CONFIG),
            (M::DOCKER_LAYER, UNKNOWN, M::OCI_LAYER),
            (M::DOCKER_LAYER_GZIP, GZIP, M::OCI_LAYER_GZIP),
            (M::DOCKER_LAYER_ZSTD, ZSTD, M::OCI_LAYER_ZSTD),
            (M::DOCKER_FOREIGN_LAYER, layer(Compression::Unknown, false), M::OCI_NONDISTRIBUTABLE_LAYER),
            (
                M::DOCKER_FOREIGN_LAYER_GZIP,
                layer(Compression::Gzip, false),
                M::OCI_NONDISTRIBUTABLE_LAYER_GZIP,
            ),
        ];
        for (media_type, kind, oci) in table {
            // What comes from a document is the same as the constant.
            let parsed = MediaType::parse(media_type.as_str()).unwrap();
            assert_eq!((parsed.kind(), parsed.to_oci()), (kind, oci), "{media_type}");
            assert_eq!(parsed, media_type);
            assert_eq!(parsed.is_docker(), parsed.to_oci() != parsed, "{media_type}");
            if let Some(docker) = parsed.to_docker() {
                assert!(docker.is_docker() && docker.to_oci() == parsed.to_oci(), "{media_type}");
            }
        }
    }

    #[test]
    fn what_is_not_a_tar_that_can_be_read_is_no_layer() {
        let table = [
            ("application/vnd.oci.image.layer.v1.tar+encrypted", Kind::EncryptedLayer),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", Kind::EncryptedLayer),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd+encrypted", Kind::EncryptedLayer),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", Kind::EncryptedLayer),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip+enc", Kind::EncryptedLayer),
            ("application/vnd.oci.image.layer.v1.tar+xz", Kind::Other),
            ("application/vnd.oci.image.layer.v1.tar+gzip+zstd", Kind::Other),
            ("application/vnd.oci.image.layer.squashfs", Kind::Other),
            ("application/vnd.erofs.layer.v1", Kind::Other),
            ("application/vnd.erofs.layer.v1+encrypted", Kind::Other),
            ("application/vnd.wasm.content.layer.v1+wasm", Kind::Other),
            ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", Kind::Other),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", Kind::Other),
            ("application/vnd.oci.image.manifest.v2+json", Kind::Other),
        ];
        for (text, kind) in table {
            let media_type = MediaType::parse(text).unwrap();
            assert_eq!(media_type.kind(), kind, "{text}");
            assert_eq!(media_type.to_oci(), media_type);
            assert_eq!(media_type.to_docker(), media_type.is_docker().then_some(media_type), "{text}");
        }
    }

    #[test]
    fn the_media_type_of_a_layer_says_what_it_was_made_of() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for distributable in [true, false] {
                let kind = Kind::Layer { compression, distributable };
                assert_eq!(MediaType::layer(compression, distributable).kind(), kind);
            }
        }
        assert_eq!(MediaType::layer(Compression::Unknown, true), MediaType::OCI_LAYER);
    }

    #[test]
    fn a_media_type_fits_on_one_line_of_a_header() {
        for text in ["", "a\nb", "a\r\nX-Evil: b", "a\u{1b}[2J", "ä", &"a".repeat(256)] {
            assert!(matches!(MediaType::parse(text), Err(Error::MediaType { .. })), "{text:?}");
        }
        assert!(MediaType::parse("application/json; charset=utf-8").is_ok());
    }
}
