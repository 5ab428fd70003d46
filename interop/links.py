"""Blobs that move between places on one file system: on an XFS, whose files can share bytes, and on the one that is there.

A layer of 512 MiB is moved. What it takes is judged by the room on the disk and by CPU time, in which it can be neither read
nor hashed: a small part of what a copy takes here that does both.
"""

import hashlib
import os
import random
import resource
import time
from contextlib import contextmanager

from command import Failure, require, run
from layout import PLAIN_LAYER, Layout

LAYER = 512 << 20
# What documents and directories take, in bytes, and as a part of what it takes to hash the layer.
ROOM = 16 << 20
PART = 1 / 4


def judge(restow, peers, work):
    with mounted(peers, work / "disk") as place:
        on_xfs(Moves(restow, place))
    on_any(Moves(restow, work))


class Moves:
    """A directory with the layout `source`, whose only image `big` has one large layer."""

    def __init__(self, restow, place):
        self._restow, self.place = restow, place
        layout = Layout(place / "source")
        with layout.layer(("cat",), PLAIN_LAYER) as tar:
            # It need not be a tar, but must not be of holes.
            generator = random.Random(5)
            for _ in range(64):
                tar.write(generator.randbytes(LAYER // 64))
        layout.tag("big", layout.manifest())
        [self.name] = [path.name for path in (place / "source/blobs/sha256").iterdir() if path.stat().st_size == LAYER]
        run("sync", "--file-system", place)

    def layer(self, directory):
        return self.place / directory / "blobs/sha256" / self.name

    def restow(self, *arguments):
        return run(self._restow, *arguments, cwd=self.place)

    def require_whole(self, *directories):
        for directory in directories:
            with open(self.layer(directory), "rb") as file:
                require(hashlib.file_digest(file, "sha256").hexdigest() == self.name, f"the layer in {directory} has changed")

    def move(self, name, *arguments):
        """Runs restow and tells what it took: room on the disk, CPU time, and how much of that was not the kernel's."""
        before, (user, system), start = used(self.place), children(), time.monotonic()
        self.restow(*arguments)
        took, (user, system) = time.monotonic() - start, (now - then for now, then in zip(children(), (user, system)))
        cpu = user + system
        run("sync", "--file-system", self.place)
        room = used(self.place) - before
        print(f"ok {name}: {took * 1000:.0f} ms, {cpu * 1000:.0f} ms of CPU, {room / 2**20:.1f} MiB of disk", flush=True)
        return room, cpu, user


def on_xfs(moves):
    room, _, hashing = moves.move("XFS, layout to layout, verified", "copy", "oci:source:big", "oci:copied:big")
    require(room < ROOM, f"a verified copy takes {room} bytes")
    for name, *command in (
            ("layout to layout, linked", "copy", "--link", "oci:source:big", "oci:linked:big"),
            ("layout to store, linked", "--root", "store", "store", "import", "--link", "oci:source:big"),
            ("store to layout, linked", "--root", "store", "store", "export", "--link", "big", "oci:exported:big")):
        room, cpu, _ = moves.move(f"XFS, {name}", *command)
        require(room < ROOM and cpu < hashing * PART, f"{name} takes {room} bytes and {cpu} s of CPU, and hashing {hashing} s")
    places = ("linked", "store", "exported", "copied")
    inodes = {moves.layer(place).stat().st_ino for place in ("source", *places)}
    require(len(inodes) == 5, "two places have one file, where they could have two that share their bytes")
    # What becomes of one is nothing to the others.
    with open(moves.layer("source"), "r+b") as file:
        file.seek(LAYER // 2)
        file.write(b"rotten")
    moves.require_whole(*places)
    try:
        moves.restow("copy", "oci:source:big", "oci:refused:big")
    except Failure as error:
        require(f"expected blob sha256:{moves.name}" in str(error), f"a rotten layer is refused for another reason: {error}")
    else:
        raise Failure("a rotten layer is copied")
    require(not (moves.place / "refused").exists(), "a refused copy leaves something")
    print("ok XFS: bytes are shared and nothing else, and a rotten layer is refused")


def on_any(moves):
    _, _, hashing = moves.move("this file system, layout to layout, verified", "copy", "oci:source:big", "oci:copied:big")
    _, cpu, _ = moves.move("this file system, layout to layout, linked", "copy", "--link", "oci:source:big", "oci:linked:big")
    source, linked = moves.layer("source").stat(), moves.layer("linked").stat()
    require(cpu < hashing * PART, f"a link takes {cpu} s of CPU, and hashing {hashing} s")
    # A file system that can share bytes would have made two files.
    print(f"ok one file with two names: {'yes' if source.st_ino == linked.st_ino else 'no'}")
    require(moves.layer("copied").stat().st_ino != source.st_ino, "a verified copy is the very file")
    # A file has no second name across mounts, though it be one file system: there the kernel copies.
    with bound(moves.place / "source", moves.place / "bound"):
        _, _, user = moves.move("this file system, across mounts, linked", "copy", "--link", "oci:bound:big", "oci:across:big")
    require(moves.layer("across").stat().st_ino != source.st_ino, "a file got a name across mounts")
    require(user < hashing * PART, f"what the kernel copies takes {user} s of the program's own time, and hashing {hashing} s")
    moves.require_whole("linked", "copied", "across")


@contextmanager
def mounted(peers, disk):
    """Gives the root of a new XFS in the file `disk`."""
    place = disk.with_name("xfs")
    place.mkdir()
    run("truncate", "--size", "4G", disk)
    peers.run("mkfs.xfs", "-q", "-m", "reflink=1", disk)
    run("mount", "-o", "loop", disk, place)
    try:
        yield place
    finally:
        run("umount", place)
        disk.unlink()


@contextmanager
def bound(directory, place, options="bind"):
    """Mounts a directory at a second place."""
    place.mkdir()
    run("mount", "-o", options, directory, place)
    try:
        yield place
    finally:
        run("umount", place)


def used(place):
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def children():
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime, found.ru_stime
