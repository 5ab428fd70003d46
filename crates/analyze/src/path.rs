//! Paths as lists and records spell them, brought to the form a layer's entries have.

use restow_layer::path::clean;
use restow_layer::path::parent;

/// Longer paths are refused; no kernel opens them.
pub(crate) const MAX_LENGTH: usize = 4096;
/// Deeper paths are passed over: no layer with one is converted either.
pub(crate) const MAX_COMPONENTS: usize = 256;
/// As many links as Linux follows before it calls them a loop.
pub(crate) const MAX_LINKS: usize = 40;
/// As many components as are walked for one path, those of link targets included.
pub(crate) const MAX_STEPS: usize = 4096;

/// Returns the cleaned path, or why no layer can hold it.
pub(crate) fn parse(path: &str) -> Result<String, &'static str> {
    if path.len() > MAX_LENGTH {
        return Err("more than 4096 bytes");
    }
    if path.contains('\0') {
        return Err("a zero byte");
    }
    Ok(clean(path))
}

/// Returns `directory/name`.
pub(crate) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// Returns how many parts a clean path has.
pub(crate) fn depth(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count() + 1
}

/// Yields the directories above a clean path, nearest first, the root (`""`) last.
pub(crate) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(path), |directory| parent(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_run_from_the_parent_to_the_root() {
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a/b", "a", ""]);
        assert_eq!(ancestors("a").collect::<Vec<_>>(), [""]);
        assert_eq!(ancestors("").count(), 0);
    }
}
