#!/usr/bin/env python3
"""Builds images of one layer each, in which only the layer's size differs, for measuring how cost grows with it.

usage: bench/synthetic.py DIRECTORY

Makes DIRECTORY/files-10000, files-100000 and files-1000000 (files of 0 to 1200 bytes) and file-4g (one file of 4 GiB, half
of which compresses), each a layout with the tag `bench`. What is there already stays. The bytes are the same everywhere.
"""

import os
import random
import shutil
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from layout import Layout  # noqa: E402

TIME = 1_600_000_000
POOL = 32 << 20


def text(random_, size):
    """Bytes that compress about as well as program text."""
    words = [bytes(random_.choices(b"etaoinsrhldcumfpgwybvkxjqz_", k=random_.randint(2, 9))) for _ in range(4000)]
    lines = bytearray()
    while len(lines) < size:
        lines += b" ".join(random_.choices(words, k=9)) + b"\n"
    return bytes(lines[:size])


def header(name, size, kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.mtime, entry.mode = kind, size, TIME, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return entry.tobuf(tarfile.USTAR_FORMAT)


def small_files(count, output):
    source = random.Random(count)
    pool = text(source, POOL)
    for number in range(count):
        if number % 1000 == 0:
            output.write(header(f"files/{number // 1000:04}", 0, tarfile.DIRTYPE))
        size, at = source.randrange(1200), source.randrange(POOL - 1200)
        output.write(header(f"files/{number // 1000:04}/{number}", size) + pool[at:at + size] + bytes(-size % 512))


def large_file(size, output):
    source = random.Random(size)
    halves = text(source, POOL), source.randbytes(POOL)
    output.write(header("data", size))
    step = 512 << 10
    for number in range(size // step):
        at = source.randrange(POOL - step)
        output.write(halves[number % 2][at:at + step])


def main(directory):
    layers = {f"files-{count}": (small_files, count) for count in (10_000, 100_000, 1_000_000)}
    layers["file-4g"] = (large_file, 4 << 30)
    for name, (write, size) in layers.items():
        final = Path(directory, name)
        if final.exists():
            continue
        partial = Path(directory, f"{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        layout = Layout(partial)
        with layout.layer(compressor=("gzip", "-n", "-1")) as output:
            write(size, output)
            output.write(bytes(1024))
            print(f"{name}: {output.size} bytes of tar", flush=True)
        layout.tag("bench", layout.manifest())
        os.rename(partial, final)


if __name__ == "__main__":
    main(*sys.argv[1:])
