"""Images that containerd and podman are both to read in part, judged by podman and by all who choose from an index.

podman pulls with partial images turned on from a registry on the loopback, and its debug log tells what it did with
each layer. It refuses a layer outright where table of contents and tar disagree, and it checks DiffIDs, so whatever is
pulled was read rightly; the trees are compared nevertheless.
"""

import json
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import shapes
import trees
from command import Failure, require, run
from daemon import Containerd, Registry, containerd, registry
from image import Image
from layout import INDEX, Layout
from peers import Peers

ALL = ("--all", "--preserve-digests")
PARTIAL = "io.github.containers.zstd-chunked.manifest-checksum"
LAZY = "containerd.io/snapshot/stargz/toc.digest"
STORAGE = """
[storage]
driver = "overlay"
runroot = "{0}/run"
graphroot = "{0}/graph"
[storage.options]
pull_options = {{enable_partial_images = "true", use_hard_links = "false", ostree_repos = ""}}
"""
# What podman says of every machine, and of layers that are not said to be seekable.
USUAL = ("cgroups-v1", "no TOC found and convert_images is not configured")
# Other words for the platforms of an index that people ask for.
OTHER_NAMES = {"amd64/v1": "amd64", "x86_64": "amd64", "arm": "arm/v7", "arm64/v8": "arm64", "aarch64": "arm64"}
NEXT = "== next"
# Pulls onto a file system that can share parts of files; it is gone with the shell's mounts.
ON_XFS = """
    truncate --size 1G disk
    mkfs.xfs -q disk
    mkdir graph
    mount -o loop disk graph
    for name in "$@"; do pull; done
"""
COMPLAINT = re.compile(r"level=(warning|error|fatal)|partial blob:|[Ff]alling back|fallback")


@dataclass
class Yard:
    """A bench with the newest programs, a registry, and two containerds that hold nothing between checks."""

    bench: object
    peers: Peers
    registry: Registry
    old: Containerd
    new: Containerd
    work: Path

    def push(self, image, name):
        """Copies an image with all its digests; returns how clients name it."""
        self.peers.run("skopeo", "--insecure-policy", "copy", *ALL, "--dest-tls-verify=false",
                       f"oci:{image.reference}", f"docker://{self.registry.address}/{name}:tag")
        return f"{self.registry.address}/{name}"

    @contextmanager
    def copied(self, source, *options):
        """Copies from the registry with the newest skopeo, and from there with Debian 12's, to a layout that goes again."""
        with tempfile.TemporaryDirectory(dir=self.work) as directory:
            first, second = (Image(f"{directory}/{number}:copy") for number in range(2))
            self.peers.run("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", *options, f"docker://{source}",
                           f"oci:{first.reference}")
            run("skopeo", "--insecure-policy", "copy", *options, f"oci:{first.reference}", f"oci:{second.reference}")
            require(first.root()["digest"] == second.root()["digest"], f"1.9 makes {second.root()} of {first.root()}")
            require(first.blobs() == second.blobs(), "the copies hold different blobs")
            yield second

    def require_source(self, shape, platform, tree, **how):
        """Raises Failure unless a tree is that of the image before conversion."""
        trees.require_equal(self.bench.unpacked(shape.original or shape.reference, platform), tree, self.bench.began, **how)

    @contextmanager
    def store(self):
        """An empty podman store."""
        with tempfile.TemporaryDirectory(dir=self.work) as directory:
            yield Store(self.peers, Path(directory))


class Store:
    """podman with a store of its own."""

    def __init__(self, peers, directory):
        self._peers, self._directory = peers, directory
        (directory / "storage.conf").write_text(STORAGE.format(directory))
        self._environment = {"CONTAINERS_STORAGE_CONF": str(directory / "storage.conf")}

    def podman(self, *arguments):
        return self._peers.run("podman", *arguments, environment=self._environment)

    def pull(self, name, *options):
        done = self.podman("--log-level", "debug", "pull", "--tls-verify=false", *options, f"docker://{name}")
        return Pull(done.stdout, done.stderr)

    def pull_all(self, program, names):
        """Pulls images within one shell, whose `program` may call `pull` for each `$name` in turn."""
        shell = f"""
            set -e
            cd "$1"
            shift
            pull() {{ podman --log-level debug pull --tls-verify=false "docker://$name"; echo "{NEXT}" >&2; }}
            {program}
        """
        done = self._peers.run("sh", "-c", shell, "sh", self._directory, *names, environment=self._environment)
        return [Pull(*words) for words in zip(done.stdout.splitlines(), done.stderr.split(NEXT)[:-1], strict=True)]

    @contextmanager
    def mounted(self, image):
        """The tree that podman made of an image."""
        data = json.loads(self.podman("image", "inspect", "--format", "{{json .GraphDriver.Data}}", image).stdout)
        lower = [path for key in ("UpperDir", "LowerDir") if key in data for path in data[key].split(":")]
        empty, place = self._directory / "empty", self._directory / "tree"
        empty.mkdir()
        place.mkdir()
        # By links with short names, since all of them must fit into a page.
        links = [self._directory / str(number) for number in range(len(lower))]
        for link, path in zip(links, lower):
            link.symlink_to(path)
        run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={':'.join(map(str, (empty, *links)))}", place)
        try:
            yield place
        finally:
            run("umount", place)
            empty.rmdir()
            place.rmdir()
            for link in links:
                link.unlink()


class Pull:
    """What podman said while it pulled an image: the image's identifier, and a log."""

    def __init__(self, image, log):
        self.image = image.strip()
        self.instances = re.findall(r"copying \(only\) instance (sha256:[0-9a-f]+)", log)
        self.partial = set(re.findall(r"Retrieved partial blob (sha256:[0-9a-f]+)", log))
        counts = re.findall(r"Missing (\d+) bytes out of (\d+)", log)
        self.missing, self.wanted = (sum(map(int, column)) for column in zip(*counts)) if counts else (0, 0)
        self.complaints = [line for line in log.splitlines()
                           if COMPLAINT.search(line) and not any(words in line for words in USUAL)]


def normal(platform):
    """What containerd takes a platform for."""
    architecture, variant = platform["architecture"].replace("i386", "386"), platform.get("variant", "")
    variant = {"amd64": {"v1": ""}, "arm64": {"8": "", "v8": ""}, "arm": {"": "v7"}}.get(architecture, {}).get(variant, variant)
    return platform["os"].lower(), architecture, f"v{variant}" if variant.isdigit() else variant


def named(platform):
    """How people name a platform."""
    return "/".join(platform[key] for key in ("architecture", "variant") if key in platform)


def forms(image, platform):
    """The descriptors of the manifests for one platform: A for containerd, B for podman."""
    found = {}
    for descriptor in image.json(image.root())["manifests"]:
        if normal(descriptor["platform"]) == normal(platform):
            for layer in image.json(descriptor)["layers"]:
                annotations = layer.get("annotations", {})
                require(not (LAZY in annotations and PARTIAL in annotations), f"{layer} is annotated for both")
                for key, form in ((LAZY, "A"), (PARTIAL, "B")):
                    if key in annotations:
                        require(found.setdefault(form, descriptor) == descriptor, f"two manifests are {form}")
    require(set(found) == {"A", "B"}, f"there are only {found} for {platform}")
    return found["A"], found["B"]


def require_partial(pull, image, descriptor):
    """Raises Failure unless podman took this manifest and fetched in part each layer of which it says that one can."""
    manifest = image.json(descriptor)
    require(pull.instances == [descriptor["digest"]], f"podman took {pull.instances}, not {descriptor}")
    require(not pull.complaints, "\n".join(pull.complaints))
    expected = {layer["digest"] for layer in manifest["layers"] if PARTIAL in layer.get("annotations", {})}
    require(pull.partial == expected, f"in part: {pull.partial}, expected: {expected}")
    require(f"sha256:{pull.image}" == manifest["config"]["digest"], f"the image is {pull.image}")


def judge(yard, shape, option, options):
    """Converts one image for both in one way and asks whoever may read the result."""
    bench, case, check = yard.bench, f"both: {shape.name} {option}", yard.bench.report.check
    image = Image(f"{yard.work}/{shape.name}-{option}:result")
    options = (*shape.arguments, "--zstdchunked-readers", "both", *options)
    name = None
    with check(f"{case}: restow converts it and verifies the result; converted again it is the same"):
        digest = bench.convert(shape.reference, image.reference, *options)
        run(bench.restow, "verify", image.reference)
        require(bench.convert(image.reference, f"{image.directory}-again:result", *options) == digest, "again it is another")
        name = yard.push(image, f"{shape.name}-{option}")
    for platform in shape.platforms if name else ():
        where = f"({named(platform)})"
        with check(f"{case}: A and B share all, and B has the layers that podman would not refuse {where}"):
            same_blobs(image, platform, shape.refused)
        with check(f"{case}: the lazy reader finds every file of A and verifies every chunk {where}"):
            bench.read_lazily(image, image.json(forms(image, platform)[0]))
        with check(f"{case}: podman pulls in part what it can, and makes the same tree of all {where}"), yard.store() as store:
            in_part(yard, store, name, image, shape, platform)
        for form, descriptor in zip("AB", forms(image, platform)):
            with check(f"{case}: both skopeos copy {form} alone, and umoci makes the same tree of it {where}"):
                alone(yard, f"{name}@{descriptor['digest']}", descriptor, shape, platform)
    if name:
        with check(f"{case}: both skopeos copy all of it with digests kept"), yard.copied(f"{name}:tag", *ALL) as copy:
            require(copy.root()["digest"] == image.root()["digest"], f"the copy is {copy.root()}")
            require(copy.blobs() <= image.blobs(), "the copy has other blobs")
    with check(f"{case}: --strict {'refuses' if shape.refused else 'accepts'} it"):
        strict(bench, shape, f"{image.directory}-strict:result", *options)


def same_blobs(image, platform, refused):
    documents = [image.json(form) for form in forms(image, platform)]
    require(documents[0]["config"] == documents[1]["config"], "the configs differ")
    for position, (a, b) in enumerate(zip(*(document["layers"] for document in documents), strict=True)):
        require((a["digest"], a["size"]) == (b["digest"], b["size"]), f"layer {position} is {a} and {b}")
        # A layer without entries is nothing to read lazily.
        partial = (LAZY in a.get("annotations", {}) or not image.names(b)) and position not in refused
        require((PARTIAL in b.get("annotations", {})) == partial, f"layer {position} of B is {b}")


def in_part(yard, store, name, image, shape, platform):
    if shape.impossible:
        source = yard.push(Image(shape.original or shape.reference), f"{shape.name}-source")
        for one in (source, name):
            try:
                store.pull(f"{one}:tag", *arch("--", named(platform)))
            except Failure as failure:
                require(shape.impossible in str(failure), str(failure))
            else:
                raise Failure(f"it does pull {one}")
        return
    pull = store.pull(f"{name}:tag", *arch("--", named(platform)))
    require_partial(pull, image, forms(image, platform)[1])
    with store.mounted(pull.image) as tree:
        yard.require_source(shape, platform, tree, by_podman=True)


def alone(yard, name, descriptor, shape, platform):
    with yard.copied(name) as copy:
        require(copy.root()["digest"] == descriptor["digest"], f"the copy is {copy.root()}")
        bundle = Path(copy.directory, "bundle")
        yard.peers.run("umoci", "unpack", "--image", copy.reference, bundle)
        yard.require_source(shape, platform, bundle / "rootfs")


def strict(bench, shape, destination, *options):
    try:
        bench.convert(shape.reference, destination, *options, "--strict")
    except Failure as failure:
        require(shape.refused and "podman" in str(failure), str(failure))
    else:
        require(not shape.refused, "it does not fail")


def signposts(yard):
    """An index with the entries that restow makes for many platforms, each of which leads to an image of its own, so that
    one can see who came by; and what is which, by DiffID and by digest."""
    shape = shapes.everywhere(yard.work / "everywhere")
    made, layout, known, entries = Image(f"{shape.reference}-both"), Layout(yard.work / "signposts"), {}, []
    yard.bench.convert(shape.reference, made.reference, *shape.arguments, "--zstdchunked-readers", "both")
    for platform in shape.platforms:
        known |= {one["digest"]: (form, named(platform)) for form, one in zip("AB", forms(made, platform))}
    for entry in made.json(made.root())["manifests"]:
        mark = known[entry["digest"]]
        with layout.layer() as output:
            tar = shapes.Tar(output)
            tar.add(" ".join(mark).replace("/", "-"))
            tar.end()
        known[output.digest()] = mark
        target = layout.manifest(platform=next(one for one in shape.platforms if normal(one) == normal(entry["platform"])))
        known[target["digest"]] = mark
        entries.append(entry | {key: target[key] for key in ("mediaType", "digest", "size")})
    layout.tag("signposts", layout.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, INDEX))
    return Image(f"{layout.directory}:signposts"), known


def choices(yard):
    """Asks every client for every platform of one index; containerd has to find A and those of podman's family B."""
    check = yard.bench.report.check
    name, known = None, {}
    with check("choice: an index for many platforms, copied by skopeo with all digests"):
        image, known = signposts(yard)
        name = yard.push(image, "signposts")
    platforms = sorted({words for _, words in known.values()}) if name else []
    spellings = [*platforms, *OTHER_NAMES] if name else []
    with yard.store() as store:
        # Those in one line take turns, since they share a daemon or a store.
        lines = (
            (("containerd 1.6", "A", spellings, lambda words: by_containerd(yard.old, name, words)),),
            (("containerd 2.1's transfer service", "AB", spellings, lambda words: by_containerd(yard.new, name, words)),
             ("containerd 2.1", "A", spellings, lambda words: by_containerd(yard.new, name, words, "--local"))),
            (("podman --platform", "B", spellings,
              lambda words: store.pull(f"{name}:tag", "--platform", f"linux/{words}").instances),
             ("podman --arch --variant", "B", platforms,
              lambda words: store.pull(f"{name}:tag", *arch("--", words)).instances),
             ("skopeo 1.22", "B", platforms, lambda words: by_skopeo(yard, yard.peers.run, name, words)),
             ("skopeo 1.9", "B", platforms, lambda words: by_skopeo(yard, run, name, words))),
        )

        def ask_all(line):
            for client, expected, questions, ask in line:
                with check(f"choice: {client} takes {expected} for each of {', '.join(questions)}"):
                    found = {words: sorted(known[digest] for digest in ask(words)) for words in questions}
                    wrong = {words: took for words, took in found.items()
                             if took != [(form, OTHER_NAMES.get(words, words)) for form in expected]}
                    require(not wrong, f"it takes {wrong}")

        with ThreadPoolExecutor() as pool:
            list(pool.map(ask_all, lines))


def arch(prefix, words):
    """The options by which a client is asked for a platform word by word."""
    architecture, _, variant = words.partition("/")
    return [f"{prefix}arch", architecture, *([f"{prefix}variant", variant] if variant else [])]


def pulled(daemon, name):
    """The blobs that containerd's own way to pull brings, as Kubernetes and nerdctl go it, for this machine's platform."""
    daemon.ctr("images", "rpull", "--plain-http", "--snapshotter", "overlayfs", f"{name}:tag")
    content = set(daemon.ctr("content", "ls", "--quiet").stdout.split())
    daemon.ctr("images", "rm", "--sync", f"{name}:tag")
    return content


def by_containerd(daemon, name, words, *options):
    """The chains of layers that containerd unpacked, which for one layer are its DiffID."""
    daemon.ctr("images", "pull", "--plain-http", "--platform", f"linux/{words}", *options, f"{name}:tag", client="ctr")
    snapshots = daemon.ctr("snapshots", "ls", client="ctr").stdout
    daemon.ctr("images", "rm", "--sync", f"{name}:tag", client="ctr")
    return [line.split()[0] for line in snapshots.splitlines()[1:]]


def by_skopeo(yard, runner, name, words):
    with tempfile.TemporaryDirectory(dir=yard.work) as directory:
        runner("skopeo", "--insecure-policy", *arch("--override-", words), "copy", "--src-tls-verify=false",
               f"docker://{name}:tag", f"oci:{directory}:copy")
        return [Image(f"{directory}:copy").root()["digest"]]


def variants(yard, shape):
    """Adds what podman prefers to an index of gzip manifests, where all who do not know of it go on with those."""
    bench, check = yard.bench, yard.bench.report.check
    image, source = Image(f"{yard.work}/variants:result"), Image(shape.reference)
    name = None
    with check("variant: restow adds them behind sources that stay as they are"):
        bench.convert(shape.reference, image.reference, *shape.arguments, "--zstdchunked-readers", "podman", "--add-variant")
        run(bench.restow, "verify", image.reference)
        before, after = (one.json(one.root())["manifests"] for one in (source, image))
        require(after[:len(before)] == before, f"the index began with {before}, and begins with {after}")
        require(source.blobs() - {source.root()["digest"].partition(":")[2]} <= image.blobs(), "the sources are not all there")
        name = yard.push(image, "variants")
    for platform in shape.platforms if name else ():
        with check(f"variant: podman pulls the added one in part ({named(platform)})"), yard.store() as store:
            added = [one for one in after[len(before):] if normal(one["platform"]) == normal(platform)]
            require_partial(store.pull(f"{name}:tag", *arch("--", named(platform))), image, *added)
    with check("variant: containerd takes the source"):
        require_blobs(yard, name, source, source.manifest(shapes.HOST), image)


def require_blobs(yard, name, source, manifest, image):
    """Raises Failure unless containerd fetches the config and layers of one manifest, and of the index no other layers."""
    wanted = {one["digest"] for one in (manifest["config"], *manifest["layers"])}
    others = {layer["digest"] for one in image.json(image.root())["manifests"]
              for layer in image.json(one).get("layers", ())} - wanted
    for client, daemon in (("1.6", yard.old), ("2.1", yard.new)):
        found = pulled(daemon, name)
        require(wanted <= found and not others & found, f"containerd {client} fetched {found}")


def reuse(yard):
    """Pulls an image and then the next version of it, of which podman fetches what it has nowhere yet: whole files, and
    single chunks where the file system can share them between files."""
    first, second = shapes.successive(yard.work / "successive")
    fetched = {}
    for chunking in ("fixed", "content"):
        images = [Image(f"{shape.reference}-{chunking}") for shape in (first, second)]
        names = []
        with yard.bench.report.check(f"reuse, chunks {chunking}: restow converts two versions of an image"):
            for number, (shape, image) in enumerate(zip((first, second), images)):
                yard.bench.convert(shape.reference, image.reference, "--zstdchunked-readers", "both",
                                   "--zstdchunked-chunking", chunking)
                names.append(yard.push(image, f"successive-{number}-{chunking}") + ":tag")
        for system, program in (("without reflinks", "for name in \"$@\"; do pull; done"), ("with reflinks", ON_XFS)):
            with yard.bench.report.check(f"reuse, chunks {chunking}: podman fetches less of the second ({system})"):
                _, name = names[1].removesuffix(":tag").split("/", 1)
                earlier = yard.registry.sent(name)
                with tempfile.TemporaryDirectory(dir=yard.work) as directory:
                    pulls = Store(yard.peers, Path(directory)).pull_all(program, names)
                fetched[chunking, system] = yard.registry.sent(name) - earlier
                for pull, image in zip(pulls, images, strict=True):
                    require_partial(pull, image, forms(image, shapes.HOST)[1])
                before, after = pulls
                require(before.missing == before.wanted, f"of the first, {before.missing} of {before.wanted} bytes were missing")
                require(after.missing < after.wanted, f"of the second, {after.missing} of {after.wanted} bytes were missing")
                print(f"   it misses {after.missing} of {after.wanted} bytes, for which it is sent {fetched[chunking, system]}",
                      flush=True)
    with yard.bench.report.check("reuse: smaller chunks that follow the content leave less to fetch, where chunks are shared"):
        require(fetched["content", "with reflinks"] < fetched["fixed", "with reflinks"] < fetched["fixed", "without reflinks"],
                f"it fetched {fetched}")


def judge_all(bench, peers, sources):
    """Judges these shapes in all the ways they are converted for both, and what concerns an index as a whole."""
    work = bench.work / "podman"
    work.mkdir()
    with (registry(work / "registry", peers) as server, containerd(work / "old") as old,
          containerd(work / "new", peers.command) as new):
        yard = Yard(bench, peers, server, old, new, work)
        for shape in sources:
            prefetch = bench.work / f"{shape.name}.prefetch"
            prefetch.write_text(shape.prefetch)
            ways = {"plain": ("--no-optimize",), "prioritized": ("--prefetch-list", prefetch),
                    "unmarked": ("--prefetch-list", prefetch, "--landmark", "never")}
            if shape.name == "details":
                ways["content"] = ("--no-optimize", "--zstdchunked-chunking", "content")
            for option, options in ways.items():
                judge(yard, shape, option, options)
        choices(yard)
        variants(yard, next(shape for shape in sources if shape.name == "platforms"))
        reuse(yard)
