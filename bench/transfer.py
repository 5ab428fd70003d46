#!/usr/bin/env python3
"""Measures transfers to and from a registry on the loopback interface, beside skopeo's.

usage: bench/transfer.py RESTOW

Reads target/image and starts Debian's docker-registry. RUNS in the environment says how often each is run (5); the
programs take turns, and every figure is the median. The conversion from registry to registry is held against the one on
disk and the slower of the two transfers.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "interop"), str(ROOT / "bench")]
from registries import registry  # noqa: E402
from run import RUNS, TARGET, execute, table  # noqa: E402


def main(restow):
    image = f"oci:{TARGET}/image:bench"
    quiet = ["--progress", "none"]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET) as work:
        work = Path(work)
        with registry(work / "registry") as host:
            place = f"docker://{host}"
            jobs = {
                "restow, push": lambda n: [restow, "copy", *quiet, image, f"{place}/restow-{n}:v1"],
                "skopeo, push": lambda n: ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", image,
                                           f"{place}/skopeo-{n}:v1"],
                "restow, pull": lambda n: [restow, "copy", *quiet, f"{place}/restow-{n}:v1", f"oci:{work}/restow-{n}:v1"],
                "skopeo, pull": lambda n: ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"{place}/restow-{n}:v1",
                                           f"oci:{work}/skopeo-{n}:v1"],
                "restow, convert on disk": lambda n: [restow, "optimize", *quiet, "--no-cache", "--zstdchunked", image,
                                                      f"oci:{work}/here-{n}:v1"],
                "restow, push the result": lambda n: [restow, "copy", *quiet, f"oci:{work}/here-{n}:v1",
                                                      f"{place}/here-{n}:v1"],
                "restow, convert there": lambda n: [restow, "optimize", *quiet, "--no-cache", "--zstdchunked",
                                                    f"{place}/restow-{n}:v1", f"{place}/there-{n}:v1"],
            }
            found = {name: [] for name in jobs}
            for number in range(RUNS):
                temporary = work / "tmp"
                temporary.mkdir()
                for name, command in jobs.items():
                    found[name].append(execute(command(number), temporary))
                shutil.rmtree(temporary)
                for directory in work.glob(f"*-{number}"):
                    shutil.rmtree(directory)
                # Other repositories share blobs with those of this run, and would be mounted or found there.
                shutil.rmtree(work / "registry" / "data", ignore_errors=True)
    middle = {name: (statistics.median(one.wall for one in runs), max(one.memory for one in runs) / 1e6)
              for name, runs in found.items()}
    print(table(["program", "wall, s", "memory, MB"],
                [[name, f"{wall:.2f}", f"{memory:.0f}"] for name, (wall, memory) in middle.items()]))
    slower = max(middle["restow, pull"][0], middle["restow, push the result"][0])
    bound = middle["restow, convert on disk"][0] + slower
    print(f"convert there / (convert on disk + the slower transfer): {middle['restow, convert there'][0] / bound:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
