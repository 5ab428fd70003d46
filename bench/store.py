#!/usr/bin/env python3
"""Measures `restow store` beside `sha256sum`, `openssl`, `cp` and `ctr content ingest`, and writes its table in bench/README.md.

usage: bench/store.py RESTOW [RUNS]

Everything is read from the page cache and written to one disk, synced; programs take turns, and each figure is the
median of all turns. CPU is user and system time of the program, for ctr of client and daemon together. Needs root for
containerd; without one its row is left out. Takes 6 GB of disk.
"""

import hashlib
import os
import re
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
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
from daemon import containerd  # noqa: E402
from layout import PLAIN_LAYER, Layout  # noqa: E402
from run import README, table  # noqa: E402

GIB = 1 << 30
# sha256sum does without the instructions that processors have for it, openssl does not.
HASH, COPY, INGEST = "`openssl dgst -sha256`, 1 GiB", "`cp` and `sync`, 1 GiB", "restow store ingest, 1 GiB"
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
        big = write_layout(work / "layout")
        digest = f"sha256:{big.name}"
        with containerd(work / "c") if shutil.which("containerd") else nullcontext() as daemon:
            for _ in range(runs):
                for name in ("store", "other"):
                    shutil.rmtree(work / name, ignore_errors=True)
                os.sync()
                measure("`sha256sum`, 1 GiB", lambda: quiet("sha256sum", big))
                measure(HASH, lambda: quiet("openssl", "dgst", "-sha256", big))
                measure(COPY, lambda: (quiet("cp", big, work / "copy"), quiet("sync", work / "copy")))
                (work / "copy").unlink()
                store = [restow, "--root", work / "store", "store"]
                measure(INGEST, lambda: quiet(*store, "ingest", big))
                if daemon:
                    ingest = daemon.command("content", "ingest", "--expected-size", GIB, "--expected-digest", digest, "big")
                    measure("`ctr content ingest`, 1 GiB", lambda: quiet(*ingest, stdin=open(big, "rb")), daemon)
                    quiet(*daemon.command("content", "rm", digest))
                for jobs in (1, 2):
                    # Two blobs of half the size, so that there is something to share.
                    measure(f"restow store scrub, 2 × 512 MiB, `--jobs {jobs}`",
                            lambda: quiet(restow, "--root", work / "halves", "store", "--plain", "scrub", "--jobs", jobs))
                for how in ([], ["--link"]):
                    shutil.rmtree(work / "other", ignore_errors=True)
                    measure(f"restow store import of a 1 GiB layer, {'linked' if how else 'verified'}",
                            lambda: quiet(restow, "--root", work / "other", "store", "import", work / "layout", *how))
        for _ in range(runs):
            parallel(restow, work, measure)
            many(restow, work, measure)
    medians = {name: [statistics.median(turn[part] for turn in turns) for part in (0, 1)] for name, turns in rows.items()}
    report = table(["what", "wall, s", "CPU, s"], [[name, f"{wall:.2f}", f"{cpu:.2f}"] for name, (wall, cpu) in medians.items()])
    share = max(medians[HASH][0], medians[COPY][0]) / medians[INGEST][0]
    report += (f"\nrestow ingests at {100 * share:.0f} % of the rate of the slower of `openssl dgst -sha256` and `cp` with `sync`. "
               f"Medians of {runs} runs on {os.cpu_count()} cores; everything is read from the page cache.\n")
    text = README.read_text()
    README.write_text(re.sub(r"(<!-- store -->\n).*?(<!-- end of store -->)", lambda found: found[1] + report + found[2], text,
                             flags=re.DOTALL))
    print(report)


def write_layout(directory):
    """Writes an image with one layer of random bytes, and beside it a directory with the halves of that; returns the layer."""
    layout = Layout(directory)
    with layout.layer(("cat",), PLAIN_LAYER) as tar:
        for _ in range(64):
            tar.write(os.urandom(GIB // 64))
    layout.tag("big", layout.manifest())
    blobs = directory / "blobs/sha256"
    big = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    halves = directory.with_name("halves") / "blobs/sha256"
    halves.mkdir(parents=True)
    with open(big, "rb") as file:
        for _ in range(2):
            half = file.read(GIB // 2)
            (halves / hashlib.sha256(half).hexdigest()).write_bytes(half)
    return big


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
