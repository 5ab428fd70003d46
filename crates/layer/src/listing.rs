//! From a tar header to an entry of the table of contents, or the reason why there is none.

use std::collections::BTreeMap;

use restow_oci::Limits;
use restow_oci::Timestamp;

use crate::error::{Error, Result};
use crate::landmark::{self, Landmark};
use crate::path::{self, WHITEOUT_PREFIX};
use crate::tar::{Header, Kind, Time};
use crate::toc::{Entry, EntryKind, TAR_NAME};

/// A tar header as a table of contents lists it.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The entry, without what depends on its content and place.
    pub(crate) entry: Entry,
    /// The name that readers look up.
    pub(crate) path: String,
    /// What this entry means to the format itself.
    pub(crate) role: Role,
    /// Why podman's reader, which compares each entry with the tar-split stream, would refuse the layer.
    pub(crate) refusal: Option<&'static str>,
}

/// What an entry means to seekable layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A file of the image.
    Content,
    /// `.prefetch.landmark`, after the files to be fetched first.
    Landmark,
    /// `.no.prefetch.landmark`, which says that there are none.
    NoPrefetchLandmark,
    /// The table of contents of an eStargz layer.
    Toc,
}

impl Role {
    /// Returns whether an entry of this role is left out of a layer in which nothing is moved.
    pub(crate) fn leaves(self, landmark: Landmark) -> bool {
        match self {
            Role::Content => false,
            Role::Toc | Role::NoPrefetchLandmark => true,
            Role::Landmark => landmark != Landmark::Auto,
        }
    }
}

/// Lists a header, or fails with [`Error::Unlistable`].
pub(crate) fn list(header: &Header, limits: &Limits) -> Result<Listing> {
    let unlistable = |problem: String| Error::Unlistable {
        offset: header.offset,
        entry: Some(header.display_name()),
        problem,
    };
    let kind = kind(header).map_err(unlistable)?;
    let name = text(&header.name, "name").map_err(unlistable)?;
    let link_name = text(&header.link_name, "link target").map_err(unlistable)?;
    let path = path::clean(&name);
    check_name(&name, &path, kind, limits).map_err(unlistable)?;
    if link_name.len() > limits.path_length {
        return Err(unlistable(format!(
            "its link target has {} bytes, more than the limit of {}",
            link_name.len(),
            limits.path_length
        )));
    }
    let role = role(&path, kind).map_err(unlistable)?;
    if kind == EntryKind::Hardlink && path::RESERVED.contains(&&*path::clean(&link_name)) {
        return Err(unlistable(format!(
            "it is a hard link to {link_name:?}, a name that seekable layers reserve"
        )));
    }
    if role != Role::Content && header.opens_scope {
        // It may have to go, and would take the header with it.
        return Err(unlistable(
            "it has a reserved name and comes with a header that is for others too".into(),
        ));
    }
    let time = |time: Time, what: &str| {
        Timestamp::new(time.seconds, time.nanoseconds)
            .ok_or_else(|| unlistable(format!("its {what} time lies outside the years 0 to 9999")))
    };
    let mut xattrs = BTreeMap::new();
    for (key, value) in &header.xattrs {
        xattrs.insert(text(key, "extended attribute's name").map_err(unlistable)?, value.clone());
    }
    let entry = Entry {
        kind,
        size: header.recorded_size,
        modified: Some(time(header.modified, "modification")?),
        accessed: header.accessed.map(|accessed| time(accessed, "access")).transpose()?,
        changed: header.changed.map(|changed| time(changed, "change")).transpose()?,
        link_name,
        mode: header.mode,
        uid: header.uid,
        gid: header.gid,
        user_name: text(&header.user_name, "owner's name").map_err(unlistable)?,
        group_name: text(&header.group_name, "group's name").map_err(unlistable)?,
        device_major: header.device_major,
        device_minor: header.device_minor,
        xattrs,
        name,
        ..Entry::default()
    };
    Ok(Listing { refusal: refusal(header, &entry, &path), entry, path, role })
}

fn kind(header: &Header) -> Result<EntryKind, String> {
    match header.kind {
        Kind::Regular if header.name.ends_with(b"/") => {
            Err("it is a regular file whose name ends with a slash".into())
        }
        Kind::Regular => Ok(EntryKind::Regular),
        Kind::Hardlink => Ok(EntryKind::Hardlink),
        Kind::Symlink => Ok(EntryKind::Symlink),
        Kind::Character => Ok(EntryKind::Char),
        Kind::Block => Ok(EntryKind::Block),
        Kind::Directory => Ok(EntryKind::Dir),
        Kind::Fifo => Ok(EntryKind::Fifo),
        Kind::Sparse => Err("it is a sparse file".into()),
        Kind::Other(typeflag) => {
            Err(format!("its typeflag {:?} is not one that images use", char::from(typeflag)))
        }
    }
}

fn text(bytes: &[u8], what: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("its {what} is not UTF-8, as JSON must be"))
}

fn check_name(name: &str, path: &str, kind: EntryKind, limits: &Limits) -> Result<(), String> {
    if name.is_empty() {
        return Err("its name is empty".into());
    }
    if path.is_empty() && kind != EntryKind::Dir {
        return Err("it is the root and not a directory".into());
    }
    if name.len() > limits.path_length {
        return Err(format!(
            "its name has {} bytes, more than the limit of {}",
            name.len(),
            limits.path_length
        ));
    }
    let components = path.split('/').count();
    if components > limits.path_components {
        return Err(format!(
            "its name has {components} components, more than the limit of {}",
            limits.path_components
        ));
    }
    if !limits.parent_references && goes_up(name) {
        return Err("its name goes through a parent directory".into());
    }
    if let Some("" | "." | "..") = path::base(path).strip_prefix(WHITEOUT_PREFIX) {
        return Err("it is a whiteout of no name".into());
    }
    Ok(())
}

fn goes_up(name: &str) -> bool {
    name.split('/').any(|component| component == "..")
}

fn role(path: &str, kind: EntryKind) -> Result<Role, String> {
    let role = match path {
        landmark::PREFETCH => Role::Landmark,
        landmark::NO_PREFETCH => Role::NoPrefetchLandmark,
        TAR_NAME => Role::Toc,
        _ => return Ok(Role::Content),
    };
    if kind != EntryKind::Regular {
        return Err("it has a name that seekable layers reserve for a regular file".into());
    }
    Ok(role)
}

/// Why podman reads no eStargz in part.
pub(crate) const WHOLE_FORMAT: &str = "it is in a format that podman fetches as a whole";

/// Returns why podman refuses a layer whose table of contents is larger than it reads: `size` bytes for as many `entries`,
/// and for chunks that are not the first of their file.
pub(crate) fn too_large_a_table(
    size: u64,
    entries: u64,
    further_chunks: u64,
    limits: &Limits,
) -> Option<String> {
    let limit = limits.podman_toc_size;
    if size <= limit {
        return None;
    }
    // What it takes to list a chunk and an entry is much the same.
    let rows = u128::from(entries) + u128::from(further_chunks);
    let of_entries = u128::from(size) * u128::from(entries) / rows.max(1);
    let remedy = if of_entries <= limit.into() {
        "larger chunks make it smaller"
    } else {
        "it becomes smaller only if the files are spread over several layers"
    };
    Some(format!("its table of contents has {size} bytes, more than the {limit} that podman reads; {remedy}"))
}

fn refusal(header: &Header, entry: &Entry, path: &str) -> Option<&'static str> {
    if header.follows_global {
        Some("it has a global extended header")
    } else if header.typeflag == b'7' {
        Some("it has an entry of typeflag 7")
    } else if path::is_of_aufs(path) {
        // It leaves no whiteout as podman reads them: `.wh..wh.plnk` would become one of `.wh.plnk`.
        Some("it has an entry that AUFS left behind")
    } else if header.recorded_size != header.size {
        Some("it has a link, directory or device with a size")
    } else if goes_up(&entry.name) {
        Some("it has a name that goes through a parent directory")
    } else if entry.xattrs.contains_key("") {
        Some("it has an extended attribute without a name")
    } else if entry.kind.is_special() && !path.starts_with("dev/") {
        // What is in /dev no container sees: runtimes mount another one over it.
        Some("it has a device or pipe outside of /dev, which podman would leave out")
    } else {
        None
    }
}
