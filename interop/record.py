#!/usr/bin/env python3
"""Compares what restow records and predicts with what ctr-remote records, and kills recordings.

usage: interop/record.py RESTOW IMAGE

IMAGE is a layout with the image of `make image` under the tag `bench`. From it come an nginx and a node image: the same
layers, another command, one more layer. Of each, ctr-remote's record must lie in restow's, layer for layer, and a
prediction must hold most of what is recorded. Then recordings are killed, and nothing may be left of them. Needs root,
containerd, ctr-remote and runc.
"""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from command import Failure, require, run  # noqa: E402
from daemon import containerd  # noqa: E402

KILLS = int(os.environ.get("KILLS", "100"))
PERIOD = "8"
COVERED, EXCESS = 0.7, 2.0

SERVER = """
const http = require("http");
const { helper } = require("./lib/helper");
http.createServer((request, response) => response.end(helper())).listen(0, () => console.log("ready"));
"""
HELPER = 'const path = require("path");\nconst zlib = require("zlib");\nexports.helper = () => path.join("a", "b");\n'

# Name, command, further files.
IMAGES = [
    ("bench", None, {}),
    ("nginx", ["nginx", "-g", "daemon off;"], {"run/nginx/.keep": "", "var/log/nginx/.keep": ""}),
    ("node", ["node", "/srv/server.js"], {"srv/server.js": SERVER, "srv/lib/helper.js": HELPER}),
]


class Derived:
    """A layout that holds an image and its variations."""

    def __init__(self, source, directory):
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        for blob in (source / "blobs" / "sha256").iterdir():
            shutil.copyfile(blob, self.blobs / blob.name)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        index = json.loads((source / "index.json").read_text())
        descriptors = index["manifests"]
        self.base = next(one for one in descriptors if one["annotations"]["org.opencontainers.image.ref.name"] == "bench")
        self.entries = []

    def read(self, descriptor):
        return json.loads((self.blobs / descriptor["digest"].removeprefix("sha256:")).read_text())

    def write(self, data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def add(self, tag, command, files):
        manifest = self.read(self.base)
        config = self.read(manifest["config"])
        if command:
            config["config"]["Cmd"] = command
        if files:
            tar = io.BytesIO()
            with tarfile.open(fileobj=tar, mode="w") as archive:
                # ctr-remote moves nothing whose directories are not in the layer.
                for name in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
                    entry = tarfile.TarInfo(name)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
                for name, content in files.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content.encode()))
            layer = self.write(tar.getvalue(), "application/vnd.oci.image.layer.v1.tar")
            manifest["layers"].append(layer)
            config["rootfs"]["diff_ids"].append(layer["digest"])
        manifest["config"] = self.write(json.dumps(config).encode(), manifest["config"]["mediaType"])
        descriptor = self.write(json.dumps(manifest).encode(), manifest["mediaType"])
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.entries.append(descriptor)
        index = {"schemaVersion": 2, "manifests": self.entries}
        (self.directory / "index.json").write_text(json.dumps(index))
        return f"{self.directory}:{tag}"


def accesses(path):
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {(line["path"], line["layerIndex"]) for line in lines}


def theirs(daemon, work, layout, tag):
    """Records with ctr-remote, through containerd's store."""
    archive, record = work / "image.tar", work / f"{tag}.theirs"
    one = work / "one"
    one.mkdir(exist_ok=True)
    entry = next(entry for entry in layout.entries if entry["annotations"]["org.opencontainers.image.ref.name"] == tag)
    (one / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    run("tar", "--create", "--file", archive, "--directory", layout.directory, "oci-layout", "blobs",
        "--directory", one, "index.json")
    daemon.ctr("image", "import", "--no-unpack", "--base-name", "record", archive)
    archive.unlink()
    daemon.ctr("image", "optimize", "--oci", "--zstdchunked", "--period", PERIOD, "--record-out", record,
               f"record:{tag}", f"result:{tag}")
    daemon.ctr("image", "remove", "--sync", f"result:{tag}", f"record:{tag}")
    return accesses(record), record


def compare(restow, daemon, work, layout, tag, reference):
    cache = work / "cache"
    record = work / f"{tag}.ours"
    # ctr-remote's client goes when the container does; ours is given the same time.
    seen = json.loads(run(restow, "record", reference, "--out", record, "--period", PERIOD, "--format", "json",
                          "--cache-dir", cache).stdout)
    sizes = {file["path"]: file["size"] or 0 for file in seen["files"]}
    predicted = json.loads(run(restow, "predict", reference, "--format", "json").stdout)["images"][0]["files"]
    predicted = {file["path"]: file["size"] for file in predicted}
    recorded, covered = sum(sizes.values()), sum(size for path, size in sizes.items() if path in predicted)
    share, excess = covered / recorded, sum(predicted.values()) / recorded
    print(f"{tag}: recorded {len(sizes)} files, {recorded / 1e6:.1f} MB; predicted {len(predicted)} paths, "
          f"{sum(predicted.values()) / 1e6:.1f} MB, {share:.1%} of the recorded bytes in {excess:.2f} times their size", flush=True)
    require(share >= COVERED and excess <= EXCESS, f"the prediction covers {share:.1%} in {excess:.2f} times the bytes")
    reference_record, their_file = theirs(daemon, work, layout, tag)
    ours = accesses(record)
    print(f"{tag}: ctr-remote recorded {len(reference_record)} files, {len(ours - reference_record)} more are restow's; "
          f"missing: {sorted(reference_record - ours)}", flush=True)
    require(reference_record <= ours, "ctr-remote saw files that restow did not")
    prefetch = []
    for name, file in (("ours", record), ("theirs", their_file)):
        document = json.loads(run(restow, "optimize", reference, f"{work}/out-{tag}:{name}", "--zstdchunked", "--record-in", file,
                                  "--format", "json", "--progress", "none", "--no-cache").stdout)
        prefetch.append(sum(layer["prefetchSize"] for layer in document["layers"]))
    print(f"{tag}: prefetch {prefetch[0] / 1e6:.2f} MB by restow's record, {prefetch[1] / 1e6:.2f} MB by ctr-remote's", flush=True)


def left(scratch):
    """What is left of sandboxes: mounts, processes, files."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(scratch) in line]
    processes = []
    for directory in Path("/proc").iterdir():
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if directory.name.isdigit() and (str(scratch).encode() in b" ".join(words) or b"sandbox" in words[1:2]):
            processes.append(words)
    files = [path for path in (scratch / "sandbox").iterdir()] if (scratch / "sandbox").exists() else []
    return mounts, processes, files


def killed(restow, work):
    """Starts recordings and kills them at moments of all kinds."""
    scratch = work / "kill-cache"
    command = [restow, "record", f"{ROOT}/testdata/layouts/busybox:demo", "--out", work / "killed", "--cache-dir", scratch,
               "--args", '["/bin/busybox", "sleep", "60"]']
    reached = 0
    for number in range(KILLS):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.random() * 0.8)
        reached += b"restow\0" in b"".join(running())
        process.send_signal(signal.SIGKILL)
        process.wait()
        for _ in range(100):
            if not any(left(scratch)):
                break
            time.sleep(0.05)
        require(not any(left(scratch)), f"kill {number}: left are {left(scratch)}")
    begun = scratch / "roots" / "begun"
    run(restow, "record", f"{ROOT}/testdata/layouts/busybox:demo", "--out", work / "after", "--cache-dir", scratch,
        "--args", '["/bin/busybox", "true"]')
    require(not begun.exists(), "a half unpacked image is left")
    groups = [path for path in Path("/sys/fs/cgroup").glob("*/restow*")]
    require(not groups, f"control groups are left: {groups}")
    print(f"killed {KILLS} recordings, {reached} of them while the container ran; nothing is left", flush=True)


def running():
    for directory in Path("/proc").iterdir():
        try:
            words = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if b"\0run\0--bundle\0" in words:
            yield words


def main(restow, image):
    restow = Path(restow).resolve()
    with tempfile.TemporaryDirectory(prefix="restow-record-") as directory:
        work = Path(directory)
        failures = 0
        layout = Derived(Path(image).resolve(), work / "layout")
        references = [(tag, layout.add(tag, command, files)) for tag, command, files in IMAGES]
        checks = [("kills", lambda: killed(restow, work))]
        with containerd(work / "containerd") as daemon:
            checks[:0] = [(tag, lambda tag=tag, reference=reference: compare(restow, daemon, work, layout, tag, reference))
                          for tag, reference in references]
            for name, check in checks:
                try:
                    check()
                except Failure as error:
                    failures += 1
                    print(f"FAIL {name}: {error}", flush=True)
        print(f"record: {len(checks) - failures} passed, {failures} failed")
        return 1 if failures else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(*sys.argv[1:]))
