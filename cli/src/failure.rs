//! Errors turned into words, a remedy where there is one, and an exit code.

use std::error::Error as StdError;

use restow::Cause;
use restow::causes;
use restow_analyze as analyze;
use restow_content as content;
use restow_convert as convert;
use restow_layer as layer;
use restow_registry as registry;

/// What a run ends with when some of it failed.
pub(crate) const SOME_FAILED: u8 = 3;

/// Something is wrong with the command line that the parser could not see.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Usage {}

/// Returns the error and what caused it in one line.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    restow::describe(error.as_ref())
}

/// Returns what the user can do about it.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&'static str> {
    causes(error.as_ref()).find_map(remedy)
}

/// Says whether the command line was at fault.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    let reference = |cause: &(dyn StdError + 'static)| {
        use registry::Error::{InvalidName, InvalidTag, NoPath, UnsupportedTransport};
        matches!(
            cause.downcast_ref(),
            Some(InvalidName { .. } | InvalidTag { .. } | NoPath { .. } | UnsupportedTransport { .. })
        )
    };
    let options =
        |cause: &(dyn StdError + 'static)| matches!(cause.downcast_ref(), Some(restow::Error::Options(_)));
    causes(error.as_ref()).any(|cause| cause.is::<Usage>() || options(cause) || reference(cause))
}

/// Returns what kind of thing went wrong.
pub(crate) fn cause(error: &anyhow::Error) -> Cause {
    if is_usage(error) { Cause::Config } else { Cause::of(error.as_ref()) }
}

/// Says what one error alone tells about a way out.
fn remedy(cause: &(dyn StdError + 'static)) -> Option<&'static str> {
    None.or_else(|| match cause.downcast_ref()? {
        convert::Error::NoMatch { .. } => Some("name one of these with --platform, or take --all-platforms"),
        convert::Error::Refused { .. } => Some("without --strict it becomes an ordinary layer to podman"),
        convert::Error::Missing { .. } => Some("choose with --platform what the source holds in full"),
        convert::Error::NotDocker { .. } => {
            Some("with --gzip or --uncompress, layers get a form that Docker's images have")
        }
        _ => None,
    })
    .or_else(|| match cause.downcast_ref()? {
        layer::Error::Unlistable { .. }
        | layer::Error::TocSize { .. }
        | layer::Error::UnsupportedCompression { .. } => {
            Some("--unsupported keep leaves such layers as they are")
        }
        layer::Error::Window { window, .. } if window.is_none_or(|window| window <= 2 << 30) => {
            Some("--max-zstd-window SIZE gives it the memory")
        }
        layer::Error::Spool(_) => Some("--tmp-dir names another directory for temporary files"),
        _ => None,
    })
    .or_else(|| match cause.downcast_ref()? {
        registry::Error::DockerArchive { .. } => Some("name it as docker-archive:FILE"),
        registry::Error::Unauthorized { .. } => {
            Some("log in with docker login or podman login, or name a file of logins with --authfile")
        }
        registry::Error::UnknownAuthority { .. } => {
            Some("--ca-file names a file with the certificate of its authority")
        }
        registry::Error::NoTls { .. } => Some("--plain-http reaches registries without TLS"),
        // The words of Go's servers, which most registries are.
        registry::Error::Status { status: 400, message, .. } if message.contains("to an HTTPS server") => {
            Some("it wants TLS; without --plain-http, and on this machine with --ca-file, it is reached so")
        }
        registry::Error::Status { status: 413, .. } => Some(
            "the registry, or a proxy before it, takes no more at once: raise its limit, or send less by --upload-chunk-size",
        ),
        registry::Error::UnsupportedTransport { .. } => {
            Some("copy the image into a layout first: skopeo copy SOURCE oci:DIRECTORY:TAG")
        }
        registry::Error::Occupied { .. } => Some("name another file, or remove this one"),
        registry::Error::NameTaken { .. } => {
            Some("--force gives it to this image; NAME gives this image another one")
        }
        registry::Error::MissingBlobs { .. } => {
            Some("restow copy --platform OS/ARCH takes what the source holds in full, into a store as well")
        }
        registry::Error::NoStore => Some("--root names a directory"),
        registry::Error::NotALayout { .. } => {
            Some("a layout is a directory with oci-layout, index.json and blobs")
        }
        _ => None,
    })
    .or_else(|| match cause.downcast_ref()? {
        content::Error::Busy { .. } => Some("another restow writes to this place; wait until it is done"),
        damage if content::Error::is_damage(damage) => {
            Some("run it again: the database is then made again from the blobs, names and labels are lost")
        }
        content::Error::Foreign { .. } => Some("--plain looks at its blobs without a database"),
        content::Error::Unreadable { .. } => {
            Some("restow store scrub puts away what has rotted; nothing was collected")
        }
        _ => None,
    })
    .or_else(|| match cause.downcast_ref()? {
        analyze::Error::Namespaces { .. } => Some(
            "root may; users may if sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and \
            kernel.apparmor_restrict_unprivileged_userns allow it, and the container that this runs in",
        ),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_is_one_line_with_all_its_causes() {
        let inner = layer::Error::Unlistable { offset: 512, entry: None, problem: "of\nno use".into() };
        let error = anyhow::Error::from(io::Error::other(inner)).context("layer 1").context("oci:a");
        let expected =
            "oci:a: layer 1: tar entry at byte 512 cannot be listed in a table of contents: of no use";
        assert_eq!(describe(&error), expected);
        // The remedy is found behind the `io::Error`.
        assert_eq!(hint(&error), Some("--unsupported keep leaves such layers as they are"));
        assert!(!is_usage(&error));
    }

    #[test]
    fn what_the_command_line_is_to_blame_for_is_told_apart() {
        for (error, expected) in [
            (Usage("no".into()).into(), true),
            (anyhow::Error::from(registry::Error::NoPath { reference: "oci:".into() }).context("x"), true),
            (registry::Error::NoSuchPath { path: "x".into() }.into(), false),
            (anyhow::anyhow!("x"), false),
        ] {
            assert_eq!(is_usage(&error), expected, "{error}");
        }
        assert_eq!(hint(&anyhow::anyhow!("x")), None);
        let denied = analyze::Error::Namespaces { problem: "no".into() };
        assert!(hint(&denied.into()).unwrap().contains("kernel.unprivileged_userns_clone"));
    }
}
