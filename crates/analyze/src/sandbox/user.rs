//! The user a container runs as, looked up in the image.

use std::io::Read as _;
use std::path::Path;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::Error;
use crate::Result;

/// The longest passwd or group file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Returns user, group and further groups of `USER[:GROUP]`, names or numbers, in the unpacked image at `root`.
///
/// Links in the image are followed as in a container: none leaves it.
pub fn user(root: &Path, user: &str) -> Result<(u32, u32, Vec<u32>)> {
    let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let name = if name.is_empty() { "0" } else { name };
    let (passwd, groups) = (read(root, "etc/passwd"), read(root, "etc/group"));
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let unknown =
        |what: &str, name: &str| Error::Sandbox { problem: format!("the image knows no {what} {name:?}") };
    let number: Option<u32> = name.parse().ok();
    let entry = passwd.lines().map(fields).find(|entry| match number {
        Some(number) => entry.get(2).and_then(|id| id.parse().ok()) == Some(number),
        None => entry[0] == name,
    });
    let of_entry = |at: usize| entry.as_ref().and_then(|entry| entry.get(at)?.parse().ok());
    let id = number.or_else(|| of_entry(2)).ok_or_else(|| unknown("user", name))?;
    let group_id = match group {
        None => of_entry(3).unwrap_or(0),
        Some(group) => group
            .parse()
            .ok()
            .or_else(|| groups.lines().map(fields).find(|entry| entry[0] == group)?.get(2)?.parse().ok())
            .ok_or_else(|| unknown("group", group))?,
    };
    let own_name = entry.as_ref().map(|entry| entry[0].clone());
    let member = |entry: &Vec<String>| {
        let members = entry.get(3).map(String::as_str).unwrap_or_default();
        own_name.as_ref().is_some_and(|own| members.split(',').any(|member| member == own))
    };
    let further = groups.lines().map(fields).filter(member).filter_map(|entry| entry.get(2)?.parse().ok());
    Ok((id, group_id, if group.is_some() { Vec::new() } else { further.collect() }))
}

fn read(root: &Path, path: &str) -> String {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat2(
            &root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    };
    let mut text = Vec::new();
    if let Ok(file) = open() {
        let _ = std::fs::File::from(file).take(MAX_FILE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_looked_up_in_the_image_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/real"), "root:x:0:0::/:\nweb:x:33:34::/:\n\n").unwrap();
        std::os::unix::fs::symlink("/etc/real", root.path().join("etc/passwd")).unwrap();
        std::fs::write(root.path().join("etc/group"), "web:x:34:\nlog:x:4:sys,web\n").unwrap();
        for (text, expected) in [
            ("", Some((0, 0, vec![]))),
            ("web", Some((33, 34, vec![4]))),
            ("33", Some((33, 34, vec![4]))),
            ("web:log", Some((33, 4, vec![]))),
            ("7:8", Some((7, 8, vec![]))),
            ("7", Some((7, 0, vec![]))),
            ("nobody", None),
            ("web:none", None),
        ] {
            assert_eq!(user(root.path(), text).ok(), expected, "{text:?}");
        }
    }
}
