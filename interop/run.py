#!/usr/bin/env python3
"""Converts images of many shapes with restow and lets other programs judge the result.

usage: interop/run.py PART RESTOW LAZYREAD PEERS

The parts share nothing and may run side by side:

images      skopeo copies the result without touching a digest; umoci unpacks source and result to equal trees; containerd
            imports it and runs a container on it, and its converter finds nothing to convert; stargz-snapshotter's reader,
            built into lazyread, finds every file through the table of contents and holds every chunk to its digest
registries  what restow puts into a registry others fetch, and the other way round (registries.py)
podman      pulls layers in part, and whoever chooses from an index chooses what it can use (podman.py)
alone       what restow writes is the same everywhere, and survives a kill at any moment

Needs root. interop/README.md tells how each judge is asked, and why so.
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import podman  # noqa: E402
import registries  # noqa: E402
import shapes  # noqa: E402
import trees  # noqa: E402
from command import Failure, require, run  # noqa: E402
from daemon import containerd  # noqa: E402
from image import Image  # noqa: E402
from peers import Peers  # noqa: E402

TESTDATA = ROOT / "testdata"
KILLS = 20
TABLE = "stargz.index.json"
LANDMARKS = [".prefetch.landmark", ".no.prefetch.landmark"]


class Report:
    """Counts checks. One that breaks has failed, and the next one still runs."""

    def __init__(self):
        self.passed = self.failed = 0

    @contextmanager
    def check(self, name):
        try:
            yield
        except Exception as error:
            self.failed += 1
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            print(f"FAIL {name}: {kind}{error}".replace("\n", "\n     "), flush=True)
        else:
            self.passed += 1
            print(f"ok {name}", flush=True)


@dataclass
class Bench:
    """What every check needs: the program, a place to work, the judges, the report."""

    restow: Path
    lazyread: Path
    work: Path
    report: Report
    peers: Peers
    # A running containerd, where a part needs one, and a directory with the program `true` for its containers.
    daemon: object = None
    bystander: Path | None = None
    began: float = field(default_factory=time.time)

    def convert(self, source, destination, *options, command=("optimize", "--zstdchunked"), **how):
        done = run(self.restow, *command, source, destination, "--progress", "none", *options, **how)
        digest = done.stdout.strip()
        root = Image(destination).root()["digest"]
        require(digest == root, f"stdout says {digest}, but the tag of {destination} is {root}")
        return digest

    def unpacked(self, reference, platform):
        """The root file system of an image, unpacked once, by whatever name."""
        key = hashlib.sha256(f"{Image(reference).root()['digest']} {platform}".encode()).hexdigest()[:16]
        bundle = self.work / "unpacked" / key
        if not bundle.exists():
            flat = self.work / "flat" / key
            overrides = [f"--override-{word}={platform[key]}" for word, key in
                         (("os", "os"), ("arch", "architecture"), ("variant", "variant")) if key in platform]
            run("skopeo", "--insecure-policy", *overrides, "copy", "--format=oci", "--dest-compress-format=gzip",
                f"oci:{reference}", f"oci:{flat}:flat")
            run("umoci", "unpack", "--image", f"{flat}:flat", bundle)
        return bundle / "rootfs"

    def read_lazily(self, image, manifest):
        """Raises Failure unless stargz-snapshotter's reader finds the files of all layers that a manifest says are seekable."""
        for position, layer, toc in image.seekable(manifest):
            lines = run(self.lazyread, image.blob(layer), toc).stdout.splitlines()
            found = {bytes.fromhex(path).decode(): digest for digest, path in map(str.split, lines)}
            # The table lists all files but the one it is.
            expected = {name: digest for name, digest in image.contents(layer).items() if name != TABLE}
            differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            require(not differing, f"layer {position}: tar and table of contents differ in {differing[:8]}")


def judge(bench, shape, option, options, form="zstdchunked"):
    """Converts one image to one format in one way and asks every judge."""
    case = f"{shape.name} {form} {option}"
    check = bench.report.check
    directory = bench.work / "results" / (f"{shape.name}-{option}" if form == "zstdchunked" else f"{shape.name}-{form}-{option}")
    command = ("optimize", f"--{form}")
    result = Image(f"{directory}:result")
    options = (*shape.arguments, *options)

    converted = False
    with check(f"{case}: restow converts it and verifies the result"):
        digest = bench.convert(shape.reference, result.reference, *options, command=command)
        converted = True
        run(bench.restow, "verify", result.reference)
    if not converted:
        return
    with check(f"{case}: converted again it is the same"):
        again = bench.convert(result.reference, f"{directory}-again:result", *options, command=command)
        require(again == digest, f"was {digest}, is {again}")
    with check(f"{case}: skopeo copies it with digests kept"):
        skopeo(bench, result)
    for platform in shape.platforms:
        with check(f"{case}: umoci unpacks equal trees ({platform['architecture']})"):
            source = bench.unpacked(shape.original or shape.reference, platform)
            trees.require_equal(source, bench.unpacked(result.reference, platform), bench.began)
    with check(f"{case}: containerd runs it, ctr-remote finds nothing to convert"):
        container(bench, result, case.replace(" ", "-"), form)
    with check(f"{case}: the lazy reader finds every file and verifies every chunk"):
        for platform in shape.platforms:
            bench.read_lazily(result, result.manifest(platform))
    with check(f"{case}: order and landmarks"):
        order(shape, option, result, form)


def skopeo(bench, result):
    copy = Image(f"{result.directory}-copy:result")
    run("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", f"oci:{result.reference}",
        f"oci:{copy.reference}")
    require(copy.root()["digest"] == result.root()["digest"], "the copy has another digest")
    require(copy.blobs() <= result.blobs(), f"blobs not in the result: {copy.blobs() - result.blobs()}")
    inspected = json.loads(run("skopeo", "inspect", f"oci:{result.reference}").stdout)
    layers = [layer["digest"] for layer in result.manifest(shapes.HOST)["layers"]]
    require(inspected["Layers"] == layers, f"skopeo inspect sees {inspected['Layers']}, the manifest says {layers}")


def container(bench, result, name, form):
    archive = bench.work / f"{name}.tar"
    run("tar", "--create", "--file", archive, "--directory", result.directory,
        "oci-layout", "index.json", "blobs")
    bench.daemon.ctr("image", "import", "--base-name", f"interop/{name}", archive)
    archive.unlink()
    # What the container touches would be moved to the front, not reused; so its program lies outside of the image. It ends at once.
    words = bench.daemon.ctr(
        "image", "optimize", "--reuse", *(("--zstdchunked",) if form == "zstdchunked" else ()), "--oci", "--period", "60",
        "--entrypoint", '["/bystander/true"]', "--args", "[]",
        "--mount", f"type=bind,source={bench.bystander},destination=/bystander,options=rbind:ro",
        f"interop/{name}:result", f"interop/{name}:reused").stderr
    require("container exit with code 0" in words, f"the container did not run\n{words}")
    reused = set(re.findall(r'reusing \\"(sha256:[0-9a-f]+)\\" without conversion', words))
    layers = {layer["digest"] for _, layer, _ in result.seekable(result.manifest(shapes.HOST))}
    require(reused == layers, f"not taken as they are: {sorted(layers - reused)}\n{words}")


def order(shape, option, result, form):
    for platform in shape.platforms:
        if option == "plain" and shape.keeps_diff_ids and form == "zstdchunked":
            before = Image(shape.original or shape.reference).config(platform)["rootfs"]["diff_ids"]
            after = result.config(platform)["rootfs"]["diff_ids"]
            require(before == after, f"nothing moved, but the DiffIDs were {before}, are {after}")
        for position, layer in enumerate(result.manifest(platform)["layers"]):
            names = result.names(layer)
            landmarks = [name for name in names if name in LANDMARKS]
            first = shape.first.get(position) if option == "prioritized" else None
            if first:
                require(names[:len(first)] == first, f"layer {position} begins with {names[:len(first)]}, not {first}")
                require(landmarks == LANDMARKS[:1], f"layer {position} has the landmarks {landmarks}")
            if form == "estargz":
                require(len(landmarks) == 1, f"layer {position} has the landmarks {landmarks}")
            if option == "landmark" or (form, option) == ("estargz", "plain"):
                require(landmarks == LANDMARKS[1:], f"layer {position} has the landmarks {landmarks}")


def ordinary(bench, shape, both_ways):
    """Converts one image to layers that are not seekable, from the source and, to compare them, back from zstd:chunked."""
    seekable = f"{bench.work}/results/{shape.name}-plain:result"
    # skopeo does not find a Docker document at the top of a layout.
    for name, flags in (("gzip", ("--gzip", "--oci")), ("zstd", ("--zstd", "--oci")),
                        ("plain-tar", ("--uncompress", "--oci"))):
        case = f"{shape.name} {name}"
        result = Image(f"{bench.work}/results/{shape.name}-{name}:result")
        digest = None
        with bench.report.check(f"{case}: restow converts it and verifies the result"):
            digest = bench.convert(shape.reference, result.reference, *shape.arguments, command=("convert", *flags))
            run(bench.restow, "verify", result.reference)
        if not digest:
            continue
        if both_ways:
            with bench.report.check(f"{case}: the same with one worker, and by way of zstd:chunked"):
                options = (*shape.arguments, "--no-cache")
                for number, (source, more) in enumerate(((shape.reference, ("--jobs", "1")), (seekable, ()))):
                    other = Image(f"{bench.work}/results/{shape.name}-{name}-{number}:result")
                    bench.convert(source, other.reference, *options, *more, command=("convert", *flags))
                    for platform in shape.platforms:
                        before, after = result.manifest(platform)["layers"], other.manifest(platform)["layers"]
                        digests = [[layer["digest"] for layer in layers] for layers in (before, after)]
                        require(digests[0] == digests[1], f"layers were {digests[0]}, are {digests[1]}")
        with bench.report.check(f"{case}: skopeo copies it with digests kept"):
            skopeo(bench, result)
        for platform in shape.platforms:
            with bench.report.check(f"{case}: umoci unpacks equal trees, DiffIDs stay ({platform['architecture']})"):
                source = shape.original or shape.reference
                trees.require_equal(bench.unpacked(source, platform), bench.unpacked(result.reference, platform),
                                    bench.began)
                if shape.keeps_diff_ids:
                    diff_ids = [Image(image).config(platform)["rootfs"]["diff_ids"]
                                for image in (source, result.reference)]
                    require(diff_ids[0] == diff_ids[1], f"DiffIDs were {diff_ids[0]}, are {diff_ids[1]}")


def same_everywhere(bench, shape, prefetch):
    elsewhere = bench.work / "else where"
    elsewhere.mkdir(exist_ok=True)
    surroundings = {
        "one worker": (("--jobs", "1"), {}),
        "two workers": (("--jobs", "2"), {}),
        "eight workers": (("--jobs", "8"), {}),
        "another directory, umask and environment": ((), {
            "cwd": elsewhere, "umask": 0o077,
            "environment": {"TZ": "Asia/Tokyo", "LANG": "C", "TMPDIR": str(elsewhere), "HOME": str(elsewhere)}}),
    }
    for option, options in (("plain", ("--no-optimize",)), ("predicted", ()), ("prioritized", ("--prefetch-list", prefetch))):
        reference, expected = f"{bench.work}/results/{shape.name}-default-{option}:result", None
        with bench.report.check(f"{shape.name} {option}: converts for comparison"):
            expected = bench.convert(shape.reference, reference, *options)
        for number, (where, (jobs, how)) in enumerate(surroundings.items() if expected else ()):
            with bench.report.check(f"{shape.name} {option}: the same bytes with {where}"):
                other = f"{elsewhere}/{shape.name}-{option}-{number}:result"
                actual = bench.convert(shape.reference, other, *options, *jobs, **how)
                require(actual == expected, f"was {expected}, is {actual}")
                require(Image(other).blobs() == Image(reference).blobs(), "the layouts hold different blobs")


def killed(bench, old, kept, new):
    """Kills conversions onto a tag that exists; the moments are spread over the time that one takes."""
    prepared, place = bench.work / "prepared", bench.work / "killed"
    digests, interrupted = {}, 0
    with bench.report.check("kill: a layout with two tags, one of which is replaced"):
        digests["kept"] = bench.convert(kept.reference, f"{prepared}:kept")
        digests["old"] = bench.convert(old.reference, f"{prepared}:tag")
        shutil.copytree(prepared, place)
        began = time.monotonic()
        digests["new"] = bench.convert(new.reference, f"{place}:tag")
        whole = time.monotonic() - began
    for number in range(KILLS if "new" in digests else 0):
        moment = (number + random.random()) / KILLS * whole
        with bench.report.check(f"kill {number + 1} of {KILLS}: after {moment:.3f} of {whole:.3f} s"):
            shutil.rmtree(place)
            shutil.copytree(prepared, place)
            process = subprocess.Popen(
                [bench.restow, "optimize", new.reference, f"{place}:tag", "--zstdchunked", "--progress", "none"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            began = time.monotonic()
            try:
                process.wait(timeout=moment)
                # Others left the machine to it.
                whole = time.monotonic() - began
            except subprocess.TimeoutExpired:
                process.kill()
                interrupted += process.wait() != 0
            found = Image(f"{place}:tag").root()["digest"]
            require(found in (digests["old"], digests["new"]), f"the tag is {found}, one of {digests} was expected")
            require(Image(f"{place}:kept").root()["digest"] == digests["kept"], "the other tag changed")
            run(bench.restow, "verify", f"{place}:tag")
            run(bench.restow, "verify", f"{place}:kept")
    with bench.report.check("kill: most hit a running conversion, and after the last one it can be completed"):
        require(interrupted > KILLS // 2, f"only {interrupted} of {KILLS}")
        require(bench.convert(new.reference, f"{place}:tag") == digests["new"], "completed, it has another digest")
        run(bench.restow, "verify", f"{place}:tag")


def busybox():
    # The pipe in its /run is what podman would leave out.
    return shapes.Shape("busybox", f"{TESTDATA}/layouts/busybox:demo", refused=(0,),
                        prefetch=(TESTDATA / "busybox.prefetch").read_text(),
                        first={0: ["bin", "bin/busybox", "bin/sh"],
                               1: [".", "./app", "./app/main", "./app/lib", "./app/lib/greet.sh"]})


def golden(name, *, keeps_diff_ids=False):
    """The small image with every entry type, as it was and as other converters left it."""
    directory = TESTDATA / "golden" / name
    [entry] = json.loads((directory / "index.json").read_text())["manifests"]
    tag = entry["annotations"]["org.opencontainers.image.ref.name"]
    return shapes.Shape(f"golden-{name}", f"{directory}:{tag}", prefetch="bin/tool-hard\ndata/large\n", keeps_diff_ids=keeps_diff_ids)


def made(bench, *makers):
    return [make(bench.work / make.__name__) for make in makers]


def listed(bench, shape):
    prefetch = bench.work / f"{shape.name}.prefetch"
    prefetch.write_text(shape.prefetch)
    return prefetch


def images(bench):
    with bench.report.check("the comparison of trees notices every kind of change"):
        trees.prove(bench.work / "trees")
    bench.bystander = bench.work / "bystander"
    bench.bystander.mkdir()
    subprocess.run(["gcc", "-static", "-o", bench.bystander / "true", "-xc", "-"], input=b"int main(void){return 0;}", check=True)
    first, awkward, platforms, docker = busybox(), *made(bench, shapes.awkward, shapes.platforms, shapes.docker)
    source = golden("src", keeps_diff_ids=True)
    others = [golden(name) for name in ("zstdchunked-prioritized", "podman-zstdchunked", "estargz")]
    with containerd(bench.work / "containerd") as bench.daemon:
        for shape in (first, source, *others, awkward, platforms, docker):
            prefetch = listed(bench, shape)
            judge(bench, shape, "plain", ("--no-optimize",))
            judge(bench, shape, "prioritized", ("--prefetch-list", prefetch))
            judge(bench, shape, "landmark", ("--no-optimize", "--landmark", "always"))
            judge(bench, shape, "plain", ("--no-optimize",), "estargz")
            judge(bench, shape, "prioritized", ("--prefetch-list", prefetch), "estargz")
            ordinary(bench, shape, both_ways=shape in (source, awkward, docker))
        judge(bench, first, "predicted", ())


def meet(bench):
    shapes_there = (busybox(), *made(bench, shapes.awkward, shapes.platforms, shapes.docker))
    registries.judge(bench, bench.work / "registries", {shape.name: shape.reference for shape in shapes_there})


def partial(bench):
    podman.judge_all(bench, bench.peers, [busybox(), *made(
        bench, shapes.awkward, shapes.platforms, shapes.details, shapes.refused)])


def alone(bench):
    awkward, docker, bulk = made(bench, shapes.awkward, shapes.docker, shapes.bulk)
    same_everywhere(bench, awkward, listed(bench, awkward))
    killed(bench, old=busybox(), kept=docker, new=bulk)


PARTS = {"images": images, "registries": meet, "podman": partial, "alone": alone}


def main(part, restow, lazyread, peers):
    report = Report()
    with tempfile.TemporaryDirectory(prefix="restow-") as work:
        work = Path(work)
        # What restow remembers of other runs, and of other versions of itself, proves nothing.
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        for directory in ("results", "flat", "unpacked"):
            (work / directory).mkdir()
        PARTS[part](Bench(Path(restow).resolve(), Path(lazyread).resolve(), work, report, Peers(peers, work)))
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
