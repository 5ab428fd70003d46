#!/usr/bin/env python3
"""Holds `restow store` and containerd to each other's blobs.

usage: interop/store.py RESTOW PEERS

containerd imports an image and is left with an ingest that nobody finished. Stopped, its content directory is read by
restow: the same blobs, the same ingest. restow finishes the ingest and brings in a blob of its own; containerd, started
again, registers both by their digests and hands them out. Then a large layer moves between places on one file system
(links.py). Needs root.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import links  # noqa: E402
from command import require, run  # noqa: E402
from daemon import containerd  # noqa: E402
from peers import Peers  # noqa: E402

LAYOUT = ROOT / "testdata/layouts/busybox"
BIG = bytes(range(256)) * 8192
PART = 1 << 20
# ctr cannot ingest under a lease, so that a collection of containerd's would take what it has just registered.
NO_COLLECTION = """
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "1h"
schedule_delay = "1h"
"""
OWN = b"a blob that restow brought in\n"


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def interrupt_ingest(daemon):
    """Leaves containerd with an ingest of the first PART bytes of BIG."""
    command = daemon.command("content", "ingest", "--expected-size", len(BIG), "--expected-digest", digest(BIG), "big")
    client = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    client.stdin.write(BIG[:PART])
    client.stdin.flush()
    for _ in range(100):
        if "big" in daemon.ctr("content", "active").stdout:
            break
        time.sleep(0.1)
    # The last bytes are on their way to the daemon.
    time.sleep(1)
    client.kill()
    client.wait()


def register(daemon, path, content):
    """Lets containerd take note of a blob that lies in its directory already: ctr seeks to the end and sends nothing."""
    name = path.name
    command = daemon.command("content", "ingest", "--expected-size", len(content), "--expected-digest", digest(content), name)
    with open(path, "rb") as file:
        subprocess.run([str(part) for part in command], stdin=file, check=True, stdout=subprocess.DEVNULL)
    found = subprocess.run(
        [str(part) for part in daemon.command("content", "get", digest(content))], capture_output=True)
    require(found.returncode == 0, f"containerd does not hand out {name}: {found.stderr.decode()}")
    require(found.stdout == content, f"containerd reads other bytes of {name}")


def main(restow, peers):
    restow = Path(restow).resolve()
    with tempfile.TemporaryDirectory(prefix="restow-store.") as work:
        work = Path(work)
        archive = work / "image.tar"
        run("tar", "--create", "--file", archive, "--directory", LAYOUT, ".")
        with containerd(work / "containerd") as daemon:
            daemon.ctr("images", "import", "--no-unpack", archive)
            blobs = set(daemon.ctr("content", "ls", "--quiet").stdout.split())
            interrupt_ingest(daemon)
        content = work / "containerd/root/io.containerd.content.v1.content"

        def store(command, *arguments):
            return run(restow, "store", command, "--plain", "--root", content, *arguments).stdout

        found = {blob["digest"]: blob["size"] for blob in json.loads(store("ls", "--format", "json"))}
        # containerd collects the index of the archive, which no image needs, some time after the import.
        files = {f"sha256:{path.name}" for path in (content / "blobs/sha256").iterdir()}
        require(set(found) == files and len(files) >= 4, f"containerd has {files}, restow sees {set(found)}")
        require(set(found) <= blobs, f"containerd listed {blobs}, restow sees {set(found)}")
        blobs = set(found)
        for name, size in found.items():
            require(size == (content / "blobs" / name.replace(":", "/")).stat().st_size, f"{name} has another size")
        print(f"ok restow sees the {len(found)} blobs of containerd")
        store("scrub")
        with links.bound(content, work / "read-only", "bind,ro") as place:
            again = run(restow, "store", "ls", "--plain", "--root", place, "--format", "json").stdout
            require({blob["digest"] for blob in json.loads(again)} == set(found), "read-only it has other blobs")
            run(restow, "store", "scrub", "--plain", "--root", place)
        print("ok restow reads them all, on a read-only file system, too")

        [ingest] = json.loads(store("status", "--format", "json"))
        held = (content / "ingest").glob("*/data")
        require(ingest["offset"] == sum(path.stat().st_size for path in held), f"{ingest} has another offset")
        require(0 < ingest["offset"] <= PART and ingest["total"] == len(BIG), f"{ingest} is not what was begun")
        print(f"ok restow sees the ingest of containerd: {ingest['ref']}, {ingest['offset']} of {ingest['total']} bytes")
        (work / "big").write_bytes(BIG)
        finished = store("ingest", work / "big", "--ref", ingest["ref"], "--expected-digest", digest(BIG), "--collectable")
        require(finished.strip() == digest(BIG), "the finished ingest is another blob")
        require(store("status", "--format", "json").strip() == "[]", "something is still being ingested")
        print("ok restow finishes it")

        (work / "own").write_bytes(OWN)
        store("ingest", work / "own", "--collectable")
        refused = subprocess.run([restow, "store", "gc", "--root", content], capture_output=True, text=True)
        require(refused.returncode == 1 and "containerd's content directory" in refused.stderr, "restow collects what is containerd's")
        with containerd(work / "containerd", settings=NO_COLLECTION) as daemon:
            register(daemon, work / "big", BIG)
            register(daemon, work / "own", OWN)
            print("ok containerd registers and reads both blobs")
            listed = set(daemon.ctr("content", "ls", "--quiet").stdout.split())
            require(listed >= blobs | {digest(BIG), digest(OWN)}, "containerd lost blobs")
            require("big" not in daemon.ctr("content", "active").stdout, "containerd still has the ingest")
        links.judge(restow, Peers(peers, work), work)
    print("store: passed")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
