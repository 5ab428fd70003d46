//! Paths inside a layer.

use std::borrow::Cow;

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

/// Tells whether the cleaned path is one of AUFS's own files, which old layers have and no container sees: it, or a
/// directory above it, has the prefix of whiteouts twice, and is not the whiteout of a whole directory.
pub fn is_of_aufs(cleaned: &str) -> bool {
    let own = |name: &str| name.starts_with(".wh..wh.") && name != OPAQUE_WHITEOUT;
    cleaned.contains(".wh..wh.") && cleaned.split('/').any(own)
}

/// Returns a name as text, another text for every other name.
///
/// Bytes that are not UTF-8 become `\\xNN`. So does a backslash that would be taken for the start of one, or of its own
/// spelling: `\\x5c`.
pub fn text(name: &[u8]) -> Cow<'_, str> {
    let is_spelling = |text: &str| {
        let mut bytes = text.bytes();
        let head = [bytes.next(), bytes.next(), bytes.next(), bytes.next()];
        matches!(
            head,
            [Some(b'\\'), Some(b'x'), Some(b'5'), Some(b'c')]
                | [Some(b'\\'), Some(b'x'), Some(b'8' | b'9' | b'a'..=b'f'), Some(b'0'..=b'9' | b'a'..=b'f')]
        )
    };
    if let Ok(text) = std::str::from_utf8(name)
        && !text.match_indices('\\').any(|(at, _)| is_spelling(&text[at..]))
    {
        return text.into();
    }
    let mut spelled = String::with_capacity(name.len() * 2);
    for part in name.utf8_chunks() {
        for (at, character) in part.valid().char_indices() {
            match character {
                '\\' if is_spelling(&part.valid()[at..]) => spelled.push_str("\\x5c"),
                character => spelled.push(character),
            }
        }
        spelled.extend(part.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    spelled.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_text_of_its_own() {
        for (name, expected) in [
            (&b"plain"[..], "plain"),
            (b"system\\x2dslice", "system\\x2dslice"),
            ("gr\u{fc}\u{df}e".as_bytes(), "gr\u{fc}\u{df}e"),
            (b"a\xff", "a\\xff"),
            (b"a\\xff", "a\\x5cxff"),
            (b"a\\x5cxff", "a\\x5cx5cxff"),
            (b"\\\x80", "\\\\x80"),
            (b"\\x8\xff", "\\x8\\xff"),
            (b"d\xc3/\xa9", "d\\xc3/\\xa9"),
            (b"a\\xFF", "a\\xFF"),
        ] {
            assert_eq!(text(name), expected, "{name:?}");
        }
    }

    #[test]
    fn what_aufs_left_is_known_at_any_depth() {
        for (path, expected) in [
            (".wh..wh.aufs", true),
            (".wh..wh.plnk/77.1234", true),
            ("d/.wh..wh.plnk", true),
            ("d/.wh..wh.plnk/f", true),
            (".wh..wh..opq", false),
            ("d/.wh..wh..opq", false),
            (".wh.a", false),
            ("d/.wh.a", false),
            ("a.wh..wh.b", false),
            ("", false),
        ] {
            assert_eq!(is_of_aufs(path), expected, "{path}");
        }
    }

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
