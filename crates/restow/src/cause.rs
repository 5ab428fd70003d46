//! What kind of thing went wrong, for programs that decide what to do about it.

use std::error::Error as StdError;
use std::io;

use restow_content as content;
use restow_convert as convert;
use restow_layer as layer;
use restow_oci as oci;
use restow_registry as registry;
use serde::Serialize;

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// An image, a blob or a place is not there.
    NotFound,
    /// A login is missing or not enough.
    Auth,
    /// A registry was asked too often.
    RateLimit,
    /// A registry was not reached, or failed.
    Network,
    /// Bytes are not what their digest, format or size says.
    Corrupt,
    /// The image has a form that cannot be converted.
    Unsupported,
    /// The destination cannot be written to.
    ReadOnly,
    /// What was asked for, or a file of settings, is at fault.
    Config,
    /// None of these.
    Other,
}

impl Cause {
    /// Returns the cause of an error: that of the innermost of its [`causes`] that has one.
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let causes = causes(error).filter_map(|cause| {
            None.or_else(|| cause.downcast_ref().map(of_engine))
                .or_else(|| cause.downcast_ref().map(of_registry))
                .or_else(|| cause.downcast_ref().map(of_content))
                .or_else(|| cause.downcast_ref().map(of_layer))
                .or_else(|| cause.downcast_ref().map(of_convert))
                .or_else(|| cause.downcast_ref().map(of_document))
                .or_else(|| cause.downcast_ref().map(of_system))
        });
        causes.filter(|cause| *cause != Cause::Other).last().unwrap_or(Cause::Other)
    }

    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Cause::NotFound => "not-found",
            Cause::Auth => "auth",
            Cause::RateLimit => "rate-limit",
            Cause::Network => "network",
            Cause::Corrupt => "corrupt",
            Cause::Unsupported => "unsupported",
            Cause::ReadOnly => "read-only",
            Cause::Config => "config",
            Cause::Other => "other",
        }
    }

    /// Returns whether it may pass by itself.
    pub fn may_pass(self) -> bool {
        matches!(self, Cause::RateLimit | Cause::Network)
    }
}

/// Yields the error and what caused it, looking into the errors that hide what they carry.
pub fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let engine = error.downcast_ref().and_then(crate::Error::cause);
        let carried = engine.or_else(|| Some(error.downcast_ref::<io::Error>()?.get_ref()? as _));
        carried.or_else(|| error.source())
    })
}

fn of_engine(error: &crate::Error) -> Cause {
    use crate::Error;
    match error {
        Error::Options(_) | Error::SeveralImages { .. } | Error::SeveralMatch { .. } => Cause::Config,
        Error::NoImage { .. } | Error::NothingToCopy { .. } | Error::NoSuchLayer { .. } => Cause::NotFound,
        Error::NoSuchFile { .. } | Error::NotWhole { .. } | Error::NoneWhole { .. } => Cause::NotFound,
        Error::NoToc { .. } | Error::TocElsewhere => Cause::NotFound,
        Error::Changed | Error::TocNotJson(_) | Error::DiffId { .. } | Error::DiffIdCount { .. } => {
            Cause::Corrupt
        }
        Error::NotAFile { .. } | Error::TooManyReferrers { .. } => Cause::Unsupported,
        _ => Cause::Other,
    }
}

fn of_registry(error: &registry::Error) -> Cause {
    use registry::Error;
    match error {
        Error::Status { status: 429, .. } => Cause::RateLimit,
        Error::Status { status: 401 | 403, .. } | Error::Unauthorized { .. } => Cause::Auth,
        Error::CredentialHelper { .. } => Cause::Auth,
        Error::Status { status: 405, .. } => Cause::ReadOnly,
        Error::Status { status: 500.., .. } | Error::Connection { .. } => Cause::Network,
        Error::UnknownAuthority { .. } | Error::InvalidCertificate { .. } | Error::NoTls { .. } => {
            Cause::Config
        }
        Error::NoSuchPath { .. } | Error::UnknownTag { .. } | Error::UnknownDigest { .. } => Cause::NotFound,
        Error::Empty { .. } | Error::NotInRegistry { .. } | Error::MissingBlobs { .. } => Cause::NotFound,
        Error::NotALayout { .. } | Error::Archive { .. } | Error::Document { .. } => Cause::Corrupt,
        Error::Protocol { .. } => Cause::Corrupt,
        Error::TooDeep { .. } | Error::TooMany { .. } | Error::UnsupportedTransport { .. } => {
            Cause::Unsupported
        }
        Error::Configuration { .. } | Error::Ambiguous { .. } | Error::DuplicateTag { .. } => Cause::Config,
        Error::NotEmpty { .. } | Error::Occupied { .. } | Error::Unusable { .. } => Cause::Config,
        _ => Cause::Other,
    }
}

fn of_content(error: &content::Error) -> Cause {
    use content::Error;
    match error {
        Error::Mismatch { .. } | Error::WrongSize { .. } | Error::Unreadable { .. } => Cause::Corrupt,
        Error::TooLarge { .. } => Cause::Unsupported,
        error if error.is_not_found() => Cause::NotFound,
        _ => Cause::Other,
    }
}

fn of_layer(error: &layer::Error) -> Cause {
    use layer::Error;
    match error {
        Error::Unlistable { .. } | Error::UnsupportedCompression { .. } | Error::TocSize { .. } => {
            Cause::Unsupported
        }
        Error::Limit { .. } | Error::TarLimit { .. } => Cause::Unsupported,
        Error::Compression { .. } | Error::Tar { .. } | Error::Mismatch { .. } => Cause::Corrupt,
        Error::Footer(_) | Error::Toc(_) | Error::TarSplit(_) | Error::Disagreement { .. } => Cause::Corrupt,
        _ => Cause::Other,
    }
}

fn of_convert(error: &convert::Error) -> Cause {
    use convert::Error;
    match error {
        Error::Malformed { .. } | Error::LayerCount { .. } | Error::DiffId { .. } => Cause::Corrupt,
        Error::NotAnImage { .. } | Error::Refused { .. } | Error::NotDocker { .. } => Cause::Unsupported,
        Error::NoMatch { .. } | Error::Missing { .. } => Cause::NotFound,
        _ => Cause::Other,
    }
}

fn of_document(error: &oci::Error) -> Cause {
    match error {
        oci::Error::TooLarge { .. } => Cause::Unsupported,
        _ => Cause::Corrupt,
    }
}

fn of_system(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::NotFound => Cause::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => {
            Cause::ReadOnly
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Cause::Corrupt,
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context as _;

    #[test]
    fn the_innermost_error_that_has_a_cause_decides() {
        let status = |status| registry::Error::Status {
            request: "GET x".into(),
            status,
            codes: Vec::new(),
            message: String::new(),
        };
        let read = |inner: registry::Error| content::Error::Read {
            digest: oci::Digest::sha256(b""),
            offset: 0,
            source: io::Error::other(inner),
        };
        for (error, cause) in [
            (crate::Error::from(status(429)), Cause::RateLimit),
            (status(503).into(), Cause::Network),
            (status(403).into(), Cause::Auth),
            (Err::<(), _>(read(status(502))).with_context(|| "oci:a".into()).unwrap_err(), Cause::Network),
            (registry::Error::NoSuchPath { path: "x".into() }.into(), Cause::NotFound),
            (layer::Error::Toc("x".into()).into(), Cause::Corrupt),
            (io::Error::from(io::ErrorKind::ReadOnlyFilesystem).into(), Cause::ReadOnly),
            (crate::Error::Options("x".into()), Cause::Config),
            (convert::Cancelled.into(), Cause::Other),
        ] {
            assert_eq!(Cause::of(&error), cause, "{error}");
        }
        assert!(Cause::Network.may_pass() && !Cause::Corrupt.may_pass());
    }
}
