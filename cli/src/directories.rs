//! Where the user's directories are.

use std::path::PathBuf;

/// Returns where the user's caches are: `$XDG_CACHE_HOME/restow` or `~/.cache/restow`, if there is a home.
pub(crate) fn cache() -> Option<PathBuf> {
    user("XDG_CACHE_HOME", ".cache").map(|caches| caches.join("restow"))
}

/// Returns the user's directory that the variable `name` says, or else the one below home.
#[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
pub(crate) fn user(name: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(name).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}
