"""Compares two unpacked images in everything a container could see."""

import hashlib
import os
import stat
import time

from command import Failure

# What seekable layers carry at the root beside the image: a converter may add and remove these.
MARKS = {b".prefetch.landmark", b".no.prefetch.landmark", b"stargz.index.json"}
SHOWN = 8


def _describe(path, began):
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    # An unpacker makes the directories that no layer mentions, and stamps them with its own time.
    modified = "while unpacking" if began <= found.st_mtime <= time.time() else found.st_mtime_ns
    seen = {
        "type and mode": oct(found.st_mode),
        "owner": (found.st_uid, found.st_gid),
        "time": modified,
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False)
                   for name in sorted(os.listxattr(path, follow_symlinks=False))},
    }
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            seen["content"] = (found.st_size, hashlib.file_digest(file, "sha256").hexdigest())
    elif kind == stat.S_IFLNK:
        seen["target"] = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        seen["device"] = (os.major(found.st_rdev), os.minor(found.st_rdev))
    return seen, (found.st_ino if kind != stat.S_IFDIR else None)


def read(root, began):
    """Returns path -> what is seen there; `began` is when the unpacking began."""
    tree, names_of = {}, {}
    root = os.fsencode(root)
    for directory, directories, files in os.walk(root):
        for path in [directory] + [os.path.join(directory, name) for name in files] + [
                os.path.join(directory, name) for name in directories
                if os.path.islink(os.path.join(directory, name))]:
            name = os.path.relpath(path, root)
            tree[name], inode = _describe(path, began)
            if inode is not None:
                names_of.setdefault(inode, []).append(name)
    for names in names_of.values():
        for name in names:
            tree[name]["links"] = sorted(names)
    return tree


def _as_podman(tree):
    """Takes out what podman's pull in part does in its own way: it makes no devices and pipes, sets no times of directories
    and links, takes owner, mode and time of a file from its last hard link, and keeps attributes without a value."""
    left = {}
    for name, seen in tree.items():
        kind = stat.S_IFMT(int(seen["type and mode"], 8))
        if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):
            continue
        seen["xattrs"] = {key: value for key, value in seen["xattrs"].items() if value}
        if len(seen.get("links", ())) > 1:
            seen |= {"type and mode": oct(kind), "owner": None, "time": None}
        elif kind != stat.S_IFREG:
            seen["time"] = None
        left[name] = seen
    return left


def require_equal(source, result, began, *, by_podman=False):
    """Raises Failure unless both roots hold the same; only MARKS may come or go."""
    expected, actual = read(source, began), read(result, began)
    if by_podman:
        expected, actual = _as_podman(expected), _as_podman(actual)
    for mark in MARKS:
        expected.pop(mark, None)
        actual.pop(mark, None)
    differences = [f"{name!r} is missing" for name in sorted(set(expected) - set(actual))]
    differences += [f"{name!r} is new" for name in sorted(set(actual) - set(expected))]
    for name in sorted(set(expected) & set(actual)):
        for key in sorted(set(expected[name]) | set(actual[name])):
            before, after = expected[name].get(key), actual[name].get(key)
            if before != after:
                differences.append(f"{name!r}: {key} was {before}, is {after}")
    if differences:
        more = f"\n... and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise Failure("the unpacked trees differ\n" + "\n".join(differences[:SHOWN]) + more)


def prove(directory):
    """Raises Failure unless `require_equal` accepts a copy of a small tree and notices each single change to it."""
    def build(name):
        root = directory / name
        (root / "directory").mkdir(parents=True)
        for file in ("file", "linked", "single"):
            (root / file).write_text("content")
        os.link(root / "linked", root / "link")
        (root / "symlink").symlink_to("file")
        os.setxattr(root / "file", "user.name", b"value")
        return stamp(root)

    def stamp(root, nanoseconds=10**18 + 1):
        for path in (root, *root.iterdir()):
            os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)
        return root

    def relink(root):
        (root / "link").unlink()
        (root / "link").write_text("content")

    changes = {
        "content": lambda root: (root / "file").write_text("Content"),
        "mode": lambda root: (root / "directory").chmod(0o700),
        "owner": lambda root: os.chown(root / "symlink", 1, 1, follow_symlinks=False),
        "attribute": lambda root: os.setxattr(root / "file", "user.name", b"another"),
        "missing": lambda root: (root / "single").unlink(),
        "new": lambda root: (root / "another").mkdir(),
        "link": relink,
    }
    began = time.time()
    original = build("original")
    require_equal(original, build("copy"), began)
    changed = {"time": stamp(build("time"), 10**18)}
    for name, change in changes.items():
        changed[name] = build(name)
        change(changed[name])
        stamp(changed[name])
    for name, root in changed.items():
        try:
            require_equal(original, root, began)
        except Failure:
            continue
        raise Failure(f"a change went unnoticed: {name}")
