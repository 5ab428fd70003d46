#!/usr/bin/env python3
"""Measures transfers to and from a registry on the loopback interface beside skopeo's and crane's, and conversions there,
and writes the table of transfers in bench/README.md.

usage: bench/transfer.py RESTOW

Reads target/image and target/peers, of which the registry is, too. RUNS in the environment says how often each is run (5);
the programs take turns, each with a registry that holds nothing, and every figure is the median. The conversion from
registry to registry is held against the one on disk and the slower of the two transfers.
"""

import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
from command import run  # noqa: E402
from daemon import registry  # noqa: E402
from peers import Peers  # noqa: E402
from run import CORES, README, RUNS, TARGET, execute, table  # noqa: E402

IMAGE = f"oci:{TARGET / 'image'}:bench"
QUIET = ("--progress", "none")
BOUND = 1.3


def clients(restow, peers, layout):
    """How each program puts the image of a layout to a place in a registry, and fetches it into a directory."""
    source = f"oci:{layout}:bench"
    skopeo = ("skopeo", "--insecure-policy", "copy", "--quiet")
    return {
        "restow": (lambda there: [restow, "copy", *QUIET, source, f"docker://{there}"],
                   lambda there, here: [restow, "copy", *QUIET, f"docker://{there}", f"oci:{here}:v1"]),
        "skopeo": (lambda there: peers.command(*skopeo, "--dest-tls-verify=false", source, f"docker://{there}"),
                   lambda there, here: peers.command(*skopeo, "--src-tls-verify=false", f"docker://{there}", f"oci:{here}:v1")),
        "crane": (lambda there: peers.command("crane", "push", layout, there),
                  lambda there, here: peers.command("crane", "pull", "--format", "oci", there, here)),
    }


class Track:
    """A registry, a directory for what is fetched, and what was measured so far."""

    def __init__(self, server, work):
        self.server, self.work, self.found = server, work, {}

    def time(self, name, command):
        temporary = self.work / "tmp"
        temporary.mkdir()
        self.found.setdefault(name, []).append(execute(command, temporary))
        shutil.rmtree(temporary)
        print(f"{name}: {self.found[name][-1].wall:.2f} s", file=sys.stderr, flush=True)

    def clear(self):
        """Empties the registry, in which nobody is to find what others have put there."""
        shutil.rmtree(self.work / "registry" / "blobs", ignore_errors=True)
        shutil.rmtree(self.work / "out", ignore_errors=True)


def lap(track, restow, programs, layout):
    source, result = f"{track.server.address}/source:v1", f"{track.server.address}/result:v1"
    here = track.work / "out"
    for name, (push, pull) in programs.items():
        track.time(f"{name}, push", push(source))
        track.time(f"{name}, pull", pull(source, here))
        track.clear()
    convert = [restow, "optimize", *QUIET, "--no-cache", "--no-optimize", "--zstdchunked"]
    track.time("restow, convert on disk", [*convert, f"oci:{layout}:bench", f"oci:{here}:v1"])
    track.time("restow, push the result", [restow, "copy", *QUIET, f"oci:{here}:v1", f"docker://{result}"])
    track.clear()
    run(*programs["restow"][0](source))
    track.time("restow, convert from registry to registry", [*convert, f"docker://{source}", f"docker://{result}"])
    track.clear()


def main(restow):
    peers = Peers(TARGET / "peers", TARGET)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET) as work:
        work = Path(work)
        # crane pushes a layout as a whole, so the image gets one of its own.
        layout = work / "layout"
        run(restow, "copy", *QUIET, IMAGE, f"oci:{layout}:bench")
        # Into the page cache, but not into this process: a child's peak memory counts from its parent's.
        run("bash", "-c", f"cat {layout}/blobs/*/* >/dev/null")
        with registry(work / "registry", peers) as server:
            track = Track(server, work)
            for _ in range(RUNS):
                lap(track, restow, clients(restow, peers, layout), layout)
    wall = {name: statistics.median(one.wall for one in once) for name, once in track.found.items()}
    rows = [[name, f"{wall[name]:.2f}", f"{statistics.median(one.cpu for one in once):.2f}",
             f"{max(one.memory for one in once) / 1e6:.0f}"] for name, once in track.found.items()]
    parts = wall["restow, convert on disk"] + max(wall["restow, pull"], wall["restow, push the result"])
    ratio = wall["restow, convert from registry to registry"] / parts
    versions = ", ".join(f"{package} {peers.version(package)}" for package in ("skopeo", "crane", "docker-registry"))
    report = (table(["transfer", "wall, s", "CPU, s", "peak memory, MB"], rows)
              + f"\nThe conversion from registry to registry takes {ratio:.2f} × the one on disk and the slower of the transfers "
              + f"around it; {BOUND} × is the most that was allowed.\n\nMedians of {RUNS} runs on {CORES} cores; "
              + f"{run(restow, '--version').stdout.strip()}, {versions}.\n")
    text = README.read_text()
    README.write_text(re.sub(r"(<!-- transfers -->\n).*(<!-- end of transfers -->)", lambda found: found[1] + report + found[2],
                             text, flags=re.DOTALL))
    print(report)


if __name__ == "__main__":
    main(*sys.argv[1:])
