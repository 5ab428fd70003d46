#!/usr/bin/env python3
"""Measures restow beside the programs that do the same, and writes the tables of bench/README.md.

usage: bench/run.py RESTOW

Reads target/image, target/synthetic and target/peers. RUNS in the environment says how often each is run (5). Programs
take turns, so that what slows the machine down slows all of them down; every figure is the median. What lies on disk
while a program runs is measured in a run of its own, since looking takes time too.
"""

import json
import os
import re
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from command import Failure, run  # noqa: E402
from daemon import containerd  # noqa: E402
from peers import Peers  # noqa: E402

TARGET = ROOT / "target"
README = ROOT / "bench" / "README.md"
RUNS = int(os.environ.get("RUNS", "5"))
CORES = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
PIPE = f"`gzip -dc \\| zstd -3 -T{CORES}`"
PIGZ = f"`gzip -dc \\| pigz -9 -p {CORES}`"


@dataclass
class Measure:
    wall: float
    cpu: float
    memory: int = 0
    temporary: int = 0
    output: int = 0


def bytes_below(directory):
    """What the files below a directory take on disk."""
    total = 0
    for parent, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def unlinked_bytes(pid):
    """What a process holds open of files that have no name any more."""
    total = 0
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            found = os.stat(f"/proc/{pid}/fd/{descriptor}")
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                total += found.st_blocks * 512
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def execute(command, temporary, watched=()):
    """Runs a command to its end; with directories to watch, `temporary` is the most they held at any moment."""
    os.sync()
    environment = os.environ | {"TMPDIR": str(temporary)}
    with tempfile.TemporaryFile() as words:
        began = time.monotonic()
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=words, stderr=words,
                                   env=environment)
        most = 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG if watched else 0)
            if pid:
                break
            most = max(most, unlinked_bytes(process.pid) + sum(map(bytes_below, watched)))
            time.sleep(0.02)
        wall = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            words.seek(0)
            raise Failure(f"{command} ended with {process.returncode}\n{words.read()[-2000:].decode(errors='replace')}")
    return Measure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, most)


def layers(layout):
    """The descriptors of the layers of a layout's only image."""
    document = json.loads((layout / "index.json").read_text())
    while "manifests" in document:
        algorithm, digest = document["manifests"][0]["digest"].split(":")
        document = json.loads((layout / "blobs" / algorithm / digest).read_text())
    return document["layers"]


class Contender:
    """A program and a place for what it writes; `measure` runs it once on an image."""

    def __init__(self, name, work):
        self.name, self.work = name, work

    def measure(self, image, watch=False):
        shutil.rmtree(self.work, ignore_errors=True)
        out, temporary = self.work / "out", self.work / "tmp"
        temporary.mkdir(parents=True)
        self.prepare(image, out)
        found = execute(self.command(image, out), temporary, (self.work,) if watch else ())
        found.output = self.output(out)
        found.temporary = max(0, found.temporary - bytes_below(out))
        shutil.rmtree(self.work)
        return found

    def prepare(self, image, out):
        pass

    def output(self, out):
        return sum(layer["size"] for layer in layers(out))


class Pipe(Contender):
    def __init__(self, name, work, compressor):
        super().__init__(name, work)
        self._compressor = compressor

    def prepare(self, image, out):
        out.mkdir()

    def command(self, image, out):
        blobs = [image / "blobs" / Path(*layer["digest"].split(":")) for layer in layers(image)]
        return ["bash", "-ec", "set -o pipefail; " + "; ".join(
            f"gzip -dc <{blob} | {self._compressor} >{out}/{number}" for number, blob in enumerate(blobs))]

    def output(self, out):
        return sum(path.stat().st_size for path in out.iterdir())


class Restow(Contender):
    def __init__(self, name, work, program, *options, layers="--zstdchunked", order=("--no-optimize",), again=False):
        super().__init__(name, work)
        self._program, self._options, self._again = program, (layers, *order, *options), again

    def command(self, image, out):
        return [self._program, "optimize", f"{image}:bench", f"{out}:bench", "--progress", "none", *self._options]

    def prepare(self, image, out):
        if self._again:
            run(*self.command(image, out))


class Skopeo(Contender):
    def __init__(self, name, work, program):
        super().__init__(name, work)
        self._program = program

    def command(self, image, out):
        return [*self._program("skopeo"), "--insecure-policy", "--tmpdir", self.work / "tmp", "copy", "--quiet",
                "--dest-compress-format=zstd:chunked", f"oci:{image}:bench", f"oci:{out}:bench"]


class CtrRemote(Contender):
    """Client and daemon are measured together; the image is in the daemon's store before the clock starts."""

    def __init__(self, name, work, daemon, *options):
        super().__init__(name, work)
        self._daemon, self._options = daemon, options
        self._imported = None

    def measure(self, image, watch=False):
        if self._imported != image:
            archive = self.work.with_suffix(".tar")
            run("tar", "--create", "--file", archive, "--directory", image, "oci-layout", "index.json", "blobs")
            self._daemon.ctr("image", "import", "--no-unpack", "--base-name", "source", archive)
            archive.unlink()
            self._imported = image
        self.work.mkdir(exist_ok=True)
        root = self._daemon.directory / "root"
        before, cpu = bytes_below(root), self._cpu()
        found = execute(self._daemon.command("image", "optimize", *self._options, "--oci", "--no-optimize",
                                             "source:bench", "result:bench"), self.work, (self.work, root) if watch else ())
        found.cpu += self._cpu() - cpu
        found.memory += self._peak_memory()
        target = re.search(r"sha256:\w+", self._daemon.ctr("image", "list", "name==result:bench").stdout)[0]
        manifest = json.loads(self._daemon.ctr("content", "get", target).stdout)
        found.output = sum(layer["size"] for layer in manifest["layers"])
        found.temporary = max(0, found.temporary - before - found.output)
        self._daemon.ctr("image", "remove", "--sync", "result:bench")
        return found

    def _cpu(self):
        fields = Path(f"/proc/{self._daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _peak_memory(self):
        status = Path(f"/proc/{self._daemon.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def race(contenders, image, runs):
    """Lets the contenders take turns; returns the median of each, and None for one that fails."""
    # Into the page cache, but not into this process: a child's peak memory counts from its parent's.
    run("bash", "-c", f"cat {image}/blobs/*/* >/dev/null")
    found, result = {contender.name: [] for contender in contenders}, {}
    for number in range(runs):
        for contender in contenders:
            if contender.name in result:
                continue
            try:
                found[contender.name].append(contender.measure(image))
                words = f"{found[contender.name][-1].wall:.2f} s"
            except Failure as failure:
                result[contender.name], words = None, str(failure)
            print(f"{image.name}: {contender.name}, {number + 1} of {runs}: {words}", file=sys.stderr, flush=True)
    for contender in contenders:
        if contender.name in result:
            continue
        once = found[contender.name]
        result[contender.name] = Measure(
            statistics.median(one.wall for one in once), statistics.median(one.cpu for one in once),
            max(one.memory for one in once), contender.measure(image, watch=True).temporary, once[0].output)
    return {contender.name: result[contender.name] for contender in contenders}


def table(head, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)) + "\n"


COLUMNS = ["wall, s", "× pipe", "CPU, s", "peak memory, MB", "temporary files, MB", "output, MiB"]


def columns(measure, pipe):
    if measure is None:
        return ["fails"] + [""] * (len(COLUMNS) - 1)
    return [f"{measure.wall:.2f}", f"{measure.wall / pipe.wall:.2f}", f"{measure.cpu:.2f}",
            f"{measure.memory / 1e6:.0f}", f"{measure.temporary / 1e6:.0f}", f"{measure.output / 2**20:.1f}"]


def others(work, stack):
    """The other programs, as the newest Debian has them, and what versions they are."""
    peers = Peers(TARGET / "peers", TARGET)
    daemon = stack.enter_context(containerd(work / "containerd", peers.command))
    versions = ", ".join(f"{package} {peers.version(package)}" for package in ("containerd", "skopeo", "stargz-snapshotter"))
    return [Skopeo("skopeo, zstd:chunked", work / "skopeo", peers.command),
            CtrRemote("ctr-remote, `--zstdchunked`", work / "ctr-remote", daemon, "--zstdchunked"),
            CtrRemote("ctr-remote, eStargz", work / "ctr-remote", daemon)], versions


def for_both(image):
    """What it costs that podman can read the layers, too, by the example that writes them for containerd alone as well."""
    blobs = [image / "blobs" / Path(*layer["digest"].split(":")) for layer in layers(image)]
    words = run("cargo", "run", "--quiet", "--release", "--package", "restow-layer", "--example", "containerd_only", "--", *blobs,
                cwd=ROOT).stdout.splitlines()[-1]
    time, size = re.search(r"([0-9.]+) of the time, ([0-9.]+) of the size", words).groups()
    splits = int(re.search(r"streams have (\d+) bytes", words)[1]) / 2**20
    return (f"\nWhat it costs that podman can read the layers, too, by `crates/layer/examples/containerd_only.rs`, which encodes each layer of\n"
            f"the image in turn for both readers and for containerd's alone (medians of 7, summed): {time} of the time, {size} of the size.\n"
            f"The tar-split streams are {splits:.1f} MiB of it.\n")


def main(restow):
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET) as work, ExitStack() as stack:
        work = Path(work)
        peers, versions = others(work, stack)
        pipe = Pipe(PIPE, work / "pipe", f"zstd -q -3 -T{CORES}")
        pigz = Pipe(PIGZ, work / "pigz", f"pigz -9 -p {CORES}")
        ours = Restow("restow", work / "restow", restow)
        jobs = [Restow(f"restow `--jobs {count}`", work / "jobs", restow, "--jobs", str(count)) for count in (1, 2)]
        estargz = Restow("restow, `--estargz`", work / "restow", restow, layers="--estargz")
        # An order that is remembered would not have to be found.
        predicted = Restow("restow, in the predicted order", work / "predicted", restow, "--no-cache", order=())
        again = Restow("restow, onto its own result", work / "again", restow, again=True)

        image = TARGET / "image"
        found = race([pipe, ours, *jobs, predicted, again, pigz, estargz, *peers], image, RUNS)
        source = sum(layer["size"] for layer in layers(image)) / 2**20
        report = (f"The image of `make image`: {len(layers(image))} layers, {source:.1f} MiB of gzip.\n\n"
                  + table(["program", *COLUMNS], [[name, *columns(one, found[PIPE])] for name, one in found.items()]))
        rows = []
        for layer in ("files-10000", "files-100000", "files-1000000", "file-4g"):
            found = race([pipe, ours], TARGET / "synthetic" / layer, RUNS)
            rows.append([layer, f"{found[PIPE].wall:.2f}", *columns(found[ours.name], found[PIPE])])
        report += "\nOne layer of many small files, or of one large one; all but the first column is restow's.\n\n"
        report += table(["layer", "pipe, s", *COLUMNS], rows)
    report += for_both(image)
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    report += (f"\nMedians of {RUNS} runs on {CORES} cores ({processor[1] if processor else os.uname().machine}); "
               f"{run(restow, '--version').stdout.strip()}, {versions}.\n")
    text = README.read_text()
    README.write_text(re.sub(r"(<!-- results -->\n).*(<!-- end -->)", lambda found: found[1] + report + found[2], text,
                             flags=re.DOTALL))
    print(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
