//! Paths inside a layer.

use crate::landmark;
use crate::toc::TAR_NAME;

/// Names at the root that belong to a seekable layer itself rather than to the files it carries.
pub const RESERVED: [&str; 3] = [landmark::PREFETCH, landmark::NO_PREFETCH, TAR_NAME];

/// Returns the key under which readers look an entry up: no leading `/` or `./`, no trailing `/`, dots resolved.
///
/// `./a`, `/a`, `a/`, `../a` and `a/../a` all give `a`; the root gives the empty string. This is the rule of
/// the eStargz specification's readers, which clean the name as an absolute path.
pub fn clean(name: &str) -> String {
    let mut cleaned = String::with_capacity(name.len());
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => cleaned.truncate(cleaned.rfind('/').unwrap_or(0)),
            name => {
                if !cleaned.is_empty() {
                    cleaned.push('/');
                }
                cleaned.push_str(name);
            }
        }
    }
    cleaned
}

/// Returns the cleaned parent of a cleaned path; the root has none.
pub fn parent(cleaned: &str) -> Option<&str> {
    match cleaned.rfind('/') {
        Some(slash) => Some(&cleaned[..slash]),
        None if cleaned.is_empty() => None,
        None => Some(""),
    }
}

/// Returns the last component of a cleaned path.
pub fn base(cleaned: &str) -> &str {
    cleaned.rsplit('/').next().unwrap_or(cleaned)
}

/// The prefix of a file that hides what lower layers hold under the rest of its name (OCI layer.md, "Whiteouts").
pub const WHITEOUT_PREFIX: &str = ".wh.";

/// The file that hides everything lower layers hold in its directory.
pub const OPAQUE_WHITEOUT: &str = ".wh..wh..opq";

/// Returns the cleaned path that a whiteout at a cleaned path hides; nothing if it is none, or the one of a whole directory.
pub fn removed(cleaned: &str) -> Option<String> {
    let name = base(cleaned).strip_prefix(WHITEOUT_PREFIX)?;
    // What else starts with the prefix twice is bookkeeping of aufs and hides nothing.
    let hides = !name.is_empty() && !name.starts_with(WHITEOUT_PREFIX);
    let directory = &cleaned[..cleaned.len() - base(cleaned).len()];
    hides.then(|| format!("{directory}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_as_absolute_paths() {
        for (name, cleaned) in [
            ("a", "a"),
            ("./a", "a"),
            ("/a", "a"),
            ("a/", "a"),
            ("../a", "a"),
            ("a/../a", "a"),
            ("a//b/./c", "a/b/c"),
            ("a/b/../../c", "c"),
            ("./", ""),
            ("/", ""),
            ("", ""),
            ("..", ""),
            ("a/..", ""),
        ] {
            assert_eq!(clean(name), cleaned, "{name:?}");
        }
    }

    #[test]
    fn the_root_has_no_parent_and_is_the_parent_of_top_level_names() {
        assert_eq!(parent("a/b/c"), Some("a/b"));
        assert_eq!(parent("a"), Some(""));
        assert_eq!(parent(""), None);
        assert_eq!(base("a/b"), "b");
        assert_eq!(base("b"), "b");
    }

    #[test]
    fn whiteouts_hide_the_rest_of_their_name() {
        for (path, hidden) in [
            (".wh.a", Some("a")),
            ("d/.wh.a.b", Some("d/a.b")),
            ("d/.wh..wh..opq", None),
            (".wh..wh.plnk", None),
            ("a.wh.b", None),
            ("d/.wh.", None),
        ] {
            assert_eq!(removed(path).as_deref(), hidden, "{path}");
        }
    }
}
