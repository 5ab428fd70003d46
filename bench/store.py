#!/usr/bin/env python3
"""Measures `restow store` beside `sha256sum`, `cp` and `ctr content ingest`, and prints a table in Markdown.

usage: bench/store.py RESTOW [RUNS]

Everything is read from the page cache and written to one disk, synced; programs take turns, and each figure is the
median of all turns. CPU is user and system time of the program, for ctr of client and daemon together. Needs root for
containerd; without one its row is left out. Takes 4 GB of disk.
"""

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from daemon import containerd  # noqa: E402

GIB = 1 << 30
MANY = 100_000
PARALLEL = 64


def cpu_of(process):
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(act, daemon=None):
    """Wall time and CPU time of what `act` waits for."""
    def spent():
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + (cpu_of(daemon.process.pid) if daemon else 0)

    before, start = spent(), time.monotonic()
    act()
    return time.monotonic() - start, spent() - before


def quiet(*command, **options):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def main(restow, runs=3):
    restow, runs = Path(restow).resolve(), int(runs)
    rows = {}

    def measure(name, act, daemon=None):
        rows.setdefault(name, []).append(timed(act, daemon))

    with tempfile.TemporaryDirectory(prefix="restow-bench-store.", dir=ROOT / "target") as work:
        work = Path(work)
        big = work / "big"
        with open(big, "wb") as file:
            for _ in range(16):
                file.write(os.urandom(GIB // 16))
        digest = "sha256:" + hashlib.file_digest(open(big, "rb"), "sha256").hexdigest()
        with containerd(work / "c") if shutil.which("containerd") else nullcontext() as daemon:
            for _ in range(runs):
                fresh = [work / "store", work / "copy", work / "other", work / "layout"]
                for path in fresh:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                os.sync()
                measure("`sha256sum`, 1 GiB", lambda: quiet("sha256sum", big))
                measure("`cp` and `sync`, 1 GiB", lambda: (quiet("cp", big, work / "copy"), quiet("sync", work / "copy")))
                (work / "copy").unlink()
                measure("restow store ingest, 1 GiB", lambda: quiet(restow, "--root", work / "store", "store", "ingest", big))
                if daemon:
                    ingest = daemon.command("content", "ingest", "--expected-size", GIB, "--expected-digest", digest, "big")
                    measure("`ctr content ingest`, 1 GiB", lambda: quiet(*ingest, stdin=open(big, "rb")), daemon)
                    quiet(*daemon.command("content", "rm", digest))
                measure("restow store scrub, 1 GiB", lambda: quiet(restow, "--root", work / "store", "store", "scrub"))
                images(restow, work, digest, measure)
            shutil.rmtree(work / "store")
        big.unlink()
        for _ in range(runs):
            parallel(restow, work, measure)
            many(restow, work, measure)
    print("| what | wall, s | CPU, s |\n| --- | ---: | ---: |")
    for name, turns in rows.items():
        wall, cpu = (statistics.median(turn[part] for turn in turns) for part in (0, 1))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")


def images(restow, work, digest, measure):
    """Brings an image with the blob as its only layer from the store to a layout, verified and linked."""
    def put(content):
        path = work / "document"
        path.write_bytes(content)
        quiet(restow, "--root", work / "store", "store", "ingest", path)
        return f'"digest":"sha256:{hashlib.sha256(content).hexdigest()}","size":{len(content)}'

    config = put(b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}' % digest.encode())
    manifest = ('{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":'
                '[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}' % (config, digest, GIB))
    entry = put(manifest.encode())
    layout = work / "layout"
    shutil.copytree(ROOT / "testdata/layouts/busybox", layout)
    shutil.rmtree(layout / "blobs/sha256")
    (layout / "index.json").write_text(
        '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,'
        '"annotations":{"org.opencontainers.image.ref.name":"big"}}]}' % entry)
    shutil.copytree(work / "store/blobs/sha256", layout / "blobs/sha256", copy_function=os.link)
    for how in ([], ["--link"]):
        name = "linked" if how else "verified"
        shutil.rmtree(work / "other", ignore_errors=True)
        measure(f"restow store import of a 1 GiB layer, {name}",
                lambda: quiet(restow, "--root", work / "other", "store", "import", layout, *how))


def parallel(restow, work, measure):
    root = work / "parallel"
    shutil.rmtree(root, ignore_errors=True)
    inputs = []
    for number in range(PARALLEL):
        inputs.append(work / f"input-{number}")
        inputs[-1].write_bytes(os.urandom(1 << 20))

    def act():
        started = [subprocess.Popen([restow, "--root", root, "store", "ingest", path], stdout=subprocess.DEVNULL) for path in inputs]
        assert all(process.wait() == 0 for process in started)

    measure(f"{PARALLEL} programs ingest 1 MiB each at once", act)
    shutil.rmtree(root)


def many(restow, work, measure):
    root = work / "many"
    shutil.rmtree(root, ignore_errors=True)
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)
    for number in range(MANY):
        content = b"%d" % number
        (blobs / hashlib.sha256(content).hexdigest()).write_bytes(content)
    store = [restow, "--root", root, "store"]
    measure(f"the database of {MANY:,} blobs made again", lambda: quiet(*store, "images"))
    measure(f"walk of {MANY:,} blobs", lambda: quiet(*store, "ls", "--format", "json"))
    measure(f"gc of {MANY:,} blobs, dry run", lambda: quiet(*store, "gc", "--dry-run"))
    measure(f"gc of {MANY:,} blobs, all removed", lambda: quiet(*store, "gc"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
