#!/usr/bin/env python3
"""Compares what restow records and predicts with what ctr-remote records, and kills recordings.

usage: interop/record.py RESTOW [IMAGE]

IMAGE is the layout of `make image`. Of each of its images (a python service, nginx, Node.js), ctr-remote's record must lie in
restow's, layer for layer; a prediction must hold most of what is recorded; and what comes first by our record must be no
larger than by theirs. What was found of all three goes into the table in bench/README.md. Then come a network of CNI's, a
terminal, a user without rights; and recordings are killed, of which nothing may be left. What cannot be checked is named,
and fails the run unless SKIP in the environment names it. Needs root, containerd, ctr-remote, runc and
containernetworking-plugins.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from command import Failure, require, run  # noqa: E402
from daemon import containerd  # noqa: E402

KILLS = int(os.environ.get("KILLS", "100"))
SKIP = set(os.environ.get("SKIP", "").split())
PERIOD = "8"
COVERED, EXCESS = 0.7, 2.0
# The parts of layers before a landmark are compressed by other libraries; what is moved is compared by its size, too.
SLACK = 1.005
TAG = "org.opencontainers.image.ref.name"
TAGS = {"bench": "`python3 /app/app.py` (flask, pandas)", "nginx": "nginx", "node": "Node.js"}
README = ROOT / "bench" / "README.md"
COLUMNS = ["image", "recorded", "predicted", "recorded bytes predicted", "ctr-remote's files missing in our record",
           "prefetch by our record, by theirs"]
DEMO = f"{ROOT}/testdata/layouts/busybox:demo"
BUSYBOX = ["--entrypoint", '["/bin/busybox"]']
# As many seconds nobody else sleeps.
SLEEP = f"9{os.getpid()}"


def accesses(path):
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {(line["path"], line["layerIndex"]) for line in lines}


def theirs(daemon, work, layout, tag):
    """Records with ctr-remote, through containerd's store."""
    archive, record = work / "image.tar", work / f"{tag}.theirs"
    one = work / "one"
    one.mkdir(exist_ok=True)
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    entry = next((entry for entry in entries if entry["annotations"][TAG] == tag), None)
    require(entry, f"{layout} has no image {tag}: `make image` builds it")
    (one / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    run("tar", "--create", "--file", archive, "--directory", layout, "oci-layout", "blobs",
        "--directory", one, "index.json")
    daemon.ctr("image", "import", "--no-unpack", "--base-name", "record", archive)
    archive.unlink()
    daemon.ctr("image", "optimize", "--oci", "--zstdchunked", "--period", PERIOD, "--record-out", record,
               f"record:{tag}", f"result:{tag}")
    daemon.ctr("image", "remove", "--sync", f"result:{tag}", f"record:{tag}")
    return accesses(record), record


def compare(restow, daemon, work, layout, tag, reference):
    """Compares records and predictions; returns a row of the table."""
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
    require(prefetch[0] <= prefetch[1] * SLACK, "what comes first is larger by our record")
    return [TAGS[tag], f"{len(sizes)} files, {recorded / 1e6:.1f} MB", f"{sum(predicted.values()) / 1e6:.1f} MB", f"{share * 100:.1f} %",
            f"{len(reference_record - ours)} of {len(reference_record)}", f"{prefetch[0] / 1e6:.2f} MB, {prefetch[1] / 1e6:.2f} MB"]


def write_table(rows):
    lines = [COLUMNS, ["---"] + ["---:"] * (len(COLUMNS) - 1), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    text = README.read_text()
    README.write_text(re.sub(r"(<!-- records -->\n).*(<!-- end of records -->)", lambda found: found[1] + table + found[2], text,
                             flags=re.DOTALL))
    print(table, end="", flush=True)


def record(restow, work, *words, image=DEMO, **options):
    """Records the small image; returns the paths and what was said."""
    out = work / "record"
    done = subprocess.run([restow, "record", image, "--out", out, *words], capture_output=True, text=True, **options)
    require(done.returncode == 0, f"restow record {words}: {done.stderr}")
    return [json.loads(line)["path"] for line in out.read_text().splitlines()], done.stderr


def network(restow, work):
    """A container on a bridge has an address, and the network knows nothing of it when it is gone, even if killed."""
    plugins = Path("/usr/lib/cni")
    require((plugins / "bridge").exists(), "containernetworking-plugins is not installed")
    configurations, addresses = work / "net.d", work / "addresses"
    configurations.mkdir()
    (configurations / "10-test.conflist").write_text(json.dumps({
        "cniVersion": "1.0.0", "name": "restow-test",
        "plugins": [
            {"type": "bridge", "bridge": "restow-test0", "isGateway": True,
             "ipam": {"type": "host-local", "subnet": "10.254.77.0/24", "dataDir": str(addresses)}},
        ],
    }))
    flags = ["--cni", "--cni-plugin-conf-dir", configurations, "--cni-plugin-dir", plugins, "--cache-dir", work / "net-cache"]

    def taken():
        return [path.name for path in (addresses / "restow-test").glob("10.*")]

    try:
        _, said = record(restow, work, *flags, *BUSYBOX, "--args", '["ip", "address"]')
        require("10.254.77." in said, f"the container has no address: {said}")
        require("LOOPBACK,UP" in said, f"the container cannot reach itself: {said}")
        require(not taken(), f"the network still knows {taken()}")
        process = subprocess.Popen([restow, "record", DEMO, "--out", work / "killed", *flags,
                                    *BUSYBOX, "--args", '["sleep", "60"]'],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            if taken() and any(running()):
                break
            time.sleep(0.05)
        require(taken(), "the network knows nothing of the container")
        process.kill()
        process.wait()
        # What is left of it ends with it, in a moment; until then the address is in use.
        for _ in range(200):
            if not any(running()):
                break
            time.sleep(0.05)
        record(restow, work, *flags, *BUSYBOX, "--args", '["true"]')
        require(not taken(), f"after a kill and another run the network still knows {taken()}")
        require(not list((work / "net-cache" / "roots" / "networks").iterdir()), "a note of a network is left")
        print("network: an address by CNI, given back, also after a kill", flush=True)
    finally:
        subprocess.run(["ip", "link", "delete", "restow-test0"], capture_output=True)


def terminal(restow, work):
    """A container with a terminal has one, reads what is typed, and leaves the outer terminal as it was."""
    import pty
    import termios
    import threading

    ours, their_end = pty.openpty()
    before = termios.tcgetattr(their_end)
    process = subprocess.Popen([restow, "record", DEMO, "--out", work / "terminal", "--cache-dir", work / "net-cache", "-t", "-i",
                                *BUSYBOX, "--args", '["sh", "-c", "tty; read word; echo got $word"]'],
                               stdin=their_end, stdout=subprocess.DEVNULL, stderr=their_end, start_new_session=True)
    said = bytearray()

    def read():
        while True:
            try:
                said.extend(os.read(ours, 4096))
            except OSError:
                return

    threading.Thread(target=read, daemon=True).start()
    for _ in range(400):
        if b"/dev/" in said:
            break
        time.sleep(0.05)
    os.write(ours, b"hello\r")
    require(process.wait(timeout=60) == 0, f"restow record -t -i: {said.decode()}")
    time.sleep(0.2)
    require(b"got hello" in said, f"the container did not read what was typed: {said.decode()}")
    require(termios.tcgetattr(their_end) == before, "the terminal is not as it was")
    _, words = record(restow, work, "-i", "--cache-dir", work / "net-cache", *BUSYBOX, "--args", '["cat"]', input="piped")
    require("piped" in words, f"the container did not read the standard input: {words}")
    print("terminal: typed and piped input arrives, the terminal is as before", flush=True)


def unprivileged(restow, work, image):
    """A user without rights records the same, by a file system of restow's own."""
    require(Path("/dev/fuse").exists(), "there is no /dev/fuse")
    before = groups()
    place = work / "unprivileged"
    place.mkdir()
    os.chown(place, 65534, 65534)
    shutil.copy(restow, place / "restow")
    # Where udev runs, everyone may open /dev/fuse; here only this mount namespace says so.
    script = 'mount -t tmpfs tmpfs "$1" && mknod -m 666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse && shift && exec "$@"'
    device = work / "device"
    device.mkdir()

    def as_nobody(*words):
        return ["unshare", "--mount", "sh", "-c", script, "sh", device,
                "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *map(str, words)]

    for name, reference, words in [("busybox", DEMO, [*BUSYBOX, "--args", '["cat", "/etc/passwd"]'])] + (
            [(tag, f"{image}:{tag}", ["--period", PERIOD]) for tag in TAGS] if image else []):
        out, own = place / f"{name}.record", work / f"{name}.root"
        common = [*words, "--format", "json"]
        ours = json.loads(run(restow, "record", reference, "--out", own, "--cache-dir", work / "cache", *common).stdout)
        done = subprocess.run(as_nobody(place / "restow", "record", reference, "--out", out, "--cache-dir", place / "cache", *common),
                              capture_output=True, text=True, cwd=place)
        require(done.returncode == 0, f"recording {name} without root: {done.stderr}")
        theirs = json.loads(done.stdout)
        sizes = [{file["path"] for file in document["files"]} for document in (ours, theirs)]
        missing = sizes[0] - sizes[1]
        print(f"unprivileged: {name}: {len(sizes[0])} files as root, {len(sizes[1])} without; missing: {sorted(missing)}", flush=True)
        require(not missing, "without root fewer files are seen")
    left_over = left(place / "cache", before)
    require(not any(left_over), f"left are {left_over}")


def left(scratch, groups_before):
    """What is left of sandboxes: mounts in whatever namespace, processes, control groups, files."""
    mounts, processes = [], []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            mounts += [line for line in (directory / "mountinfo").read_text().splitlines() if str(scratch) in line]
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(scratch).encode() in b" ".join(words) or b"sandbox" in words[1:2] or SLEEP.encode() in words:
            processes.append(words)
    sandbox = scratch / "roots" / "sandbox"
    return mounts, processes, sorted(groups() - groups_before), list(sandbox.iterdir()) if sandbox.exists() else []


def groups():
    """The control groups, at any depth, that are called as the container is."""
    return {path for path in map(Path, (name for name, *_ in os.walk("/sys/fs/cgroup"))) if "restow" in path.name}


def killed(restow, work):
    """Starts recordings and kills them at moments of all kinds; a few end by themselves, with the period."""
    scratch = work / "kill-cache"
    before = groups()
    command = [restow, "record", DEMO, "--out", work / "killed", "--cache-dir", scratch, *BUSYBOX, "--args", f'["sleep", "{SLEEP}"]']
    reached = 0
    for number in range(KILLS):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.random() * 0.8)
        reached += b"restow\0" in b"".join(running())
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Namespaces end in a moment, on a machine that does much else in many.
        for _ in range(1000):
            if not any(left(scratch, before)):
                break
            time.sleep(0.05)
        require(not any(left(scratch, before)), f"kill {number}: left are {left(scratch, before)}")
    begun = list((scratch / "roots").glob("*.begun"))
    run(*command, "--period", "1")
    require(not any(left(scratch, before)), f"after the period: left are {left(scratch, before)}")
    require(not list((scratch / "roots").glob("*.begun")), f"of the half unpacked images {begun}, some are left")
    print(f"killed {KILLS} recordings, {reached} of them while the container ran; nothing is left", flush=True)


def running():
    for directory in Path("/proc").iterdir():
        try:
            words = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if b"\0run\0--bundle\0" in words:
            yield words


def main(restow, image=None):
    restow = Path(restow).resolve()
    image = image and Path(image).resolve()
    failures, skipped, rows = 0, [], []
    with tempfile.TemporaryDirectory(prefix="restow-records-") as directory, containerd(Path(directory) / "containerd") as daemon:
        work = Path(directory)
        os.chmod(work, 0o755)

        def comparing(tag):
            def check():
                require(image, "`make image` was not run")
                rows.append(compare(restow, daemon, work, image, tag, f"{image}:{tag}"))
            return check

        checks = [(tag, comparing(tag)) for tag in TAGS] + [
            ("network", lambda: network(restow, work)),
            ("terminal", lambda: terminal(restow, work)),
            ("unprivileged", lambda: unprivileged(restow, work, image)),
            ("kills", lambda: killed(restow, work)),
        ]
        for name, check in checks:
            if name in SKIP:
                skipped.append(name)
                continue
            try:
                check()
            except Failure as error:
                failures += 1
                print(f"FAIL {name}: {error}", flush=True)
    if len(rows) == len(TAGS):
        write_table(rows)
    print(f"record: {len(checks) - failures - len(skipped)} passed, {failures} failed, skipped as asked: {' '.join(skipped) or 'none'}")
    return 1 if failures else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(*sys.argv[1:]))
