//! References as the command line has them: it alone knows where the user's store is.

use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use restow_content::metadata::Rebuilt;
use restow_registry::Reference;

use crate::directories;
use crate::output;

/// What `--root` says. It is one for all references of a run, so that it need not go through every command.
static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Remembers what `--root` says, or else the default, `restow/store` below `$XDG_DATA_HOME` or `~/.local/share`.
pub(crate) fn set_root(root: Option<PathBuf>) {
    let default = || Some(directories::user("XDG_DATA_HOME", ".local/share")?.join("restow/store"));
    ROOT.get_or_init(|| root.or_else(default));
}

/// Returns where the store is.
pub(crate) fn root() -> Option<&'static Path> {
    ROOT.get()?.as_deref()
}

/// Returns below which directory unpacked images are kept: one that was named for such things, or that of the store.
pub(crate) fn roots(cache_dir: Option<&Path>) -> Option<PathBuf> {
    cache_dir.or(root()).map(Path::to_owned)
}

/// Parses a reference.
pub(crate) fn parse(text: &str) -> restow_registry::Result<Reference> {
    Ok(Reference::parse(text)?.in_store(root()))
}

/// Tells that the names, labels and leases of the store at `root` are lost.
pub(crate) fn warn_of_loss(root: &Path, rebuilt: &Rebuilt) {
    output::tell(&format!(
        "warning: the database of {} was lost and made again from {}; names are lost, {} found",
        root.display(),
        output::count(rebuilt.blobs, "blob"),
        output::count(rebuilt.images.len(), "image"),
    ));
    if rebuilt.roots > 0 {
        output::tell(&format!(
            "warning: {} that nothing refers to will stay until the label containerd.io/gc.root is taken off",
            output::count(rebuilt.roots, "blob"),
        ));
    }
}
