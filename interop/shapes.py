"""Images that converters stumble over, written as OCI layouts."""

import random
import tarfile
from dataclasses import dataclass, field

from layout import CONFIG, HOST_ARCHITECTURE, INDEX, MANIFEST, PLAIN_LAYER, ZSTD_LAYER, Layout

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
HOST = {"architecture": HOST_ARCHITECTURE, "os": "linux"}
OTHER = {"architecture": "arm", "os": "linux", "variant": "v7"}
# Compressors that cut their output into many gzip members or zstd frames.
GZIP_MEMBERS = ("split", "--bytes=300K", "--filter=gzip -n -6")
ZSTD_FRAMES = ("split", "--bytes=300K", "--filter=zstd -q -3")
TIME = 1_600_000_000


@dataclass
class Shape:
    """An image to convert.

    `original` is the same image for readers that cannot open `reference`. `prefetch` is a list of paths as restow
    takes it, and `first` says with which names a layer, by position, then begins. A source that other converters
    have been at does not keep its DiffIDs: their landmarks go."""

    name: str
    reference: str
    original: str = ""
    prefetch: str = ""
    first: dict = field(default_factory=dict)
    platforms: tuple = (HOST,)
    arguments: tuple = ()
    keeps_diff_ids: bool = True


class Tar:
    """A tar being written entry by entry, in whatever dialect an entry asks for."""

    def __init__(self, output):
        self._output = output

    def add(self, name, kind=tarfile.REGTYPE, data=b"", *, format=tarfile.PAX_FORMAT, **attributes):
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.mtime = kind, len(data), TIME
        entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in attributes.items():
            setattr(entry, key, value)
        self._output.write(entry.tobuf(format, "utf-8", "surrogateescape"))
        self._output.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def directory(self, name, **attributes):
        self.add(name, tarfile.DIRTYPE, **attributes)

    def link(self, name, target, **attributes):
        self.add(name, tarfile.LNKTYPE, linkname=target, **attributes)

    def symlink(self, name, target, **attributes):
        self.add(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **attributes)

    def end(self, blocks=2):
        self._output.write(bytes(tarfile.BLOCKSIZE * blocks))


def _bytes(seed, size):
    """Bytes of which half compress."""
    return b"".join(random.Random(seed + at).randbytes(2048) + b"%2048d" % at for at in range(0, size, 4096))[:size]


def _xattrs(**values):
    return {f"SCHILY.xattr.{name.replace('__', '.')}": value for name, value in values.items()}


def _names(tar):
    """Names and types."""
    tar.directory("./")
    tar.directory("./bin/", mode=0o2775)
    tar.add("./bin/tool", data=_bytes(1, 70_000), mode=0o4755)
    tar.link("./bin/tool-hard", "./bin/tool", mode=0o4755)
    tar.link("./bin/tool-harder", "./bin/tool-hard", mode=0o4755)
    tar.symlink("./bin/tool-soft", "tool")
    tar.symlink("./bin/tool-absolute", "/bin/tool")
    tar.symlink("./bin/dangling", "../" * 30 + "nowhere/" + "x" * 150)
    tar.directory("./data", mode=0o1777)
    tar.add("./data/a<b>&c \"quoted\" 'and' \\back\\slash", data=b"1")
    tar.add("./data/new\nline\ttab", data=b"2")
    tar.add("./data/grüße-日本語-\u2028", data=b"3")
    tar.add("./data/ leading and trailing ", data=b"4")
    tar.add("./data/-rf", data=b"5")
    tar.add("./data/*?[a]", data=b"6")
    tar.directory("./data/" + "/".join(["deep"] * 50))
    tar.add("./data/" + "/".join(["deep"] * 50) + "/" + "n" * 200, data=b"7", format=tarfile.GNU_FORMAT)
    tar.add("./data/" + "p" * 250, data=b"8")
    tar.add("no/parents/given/file", data=b"implied")
    tar.add("./dev/pipe", tarfile.FIFOTYPE)
    tar.add("./dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    tar.add("./dev/disk", tarfile.BLKTYPE, devmajor=259, devminor=70_000, format=tarfile.GNU_FORMAT)
    tar.end(20)


def _attributes(tar):
    """Sizes around a chunk, times, owners, extended attributes."""
    tar.directory("data/")
    tar.add("data/empty")
    for name, size in (("chunk", 4 << 20), ("chunk-and-one", (4 << 20) + 1), ("large", 9_500_001), ("block", 512)):
        tar.add(f"data/{name}", data=_bytes(size, size))
    tar.add("data/zeros", data=bytes(6 << 20))
    tar.add("data/noise", data=random.Random(9).randbytes(5_000_000))
    tar.add("data/nanoseconds", pax_headers={"mtime": "1600000000.123456789"})
    tar.add("data/before-1970", pax_headers={"mtime": "-1000.5"})
    tar.add("data/before-1970-gnu", mtime=-1000, format=tarfile.GNU_FORMAT)
    tar.add("data/all-times", pax_headers={"mtime": "1600000000.5", "atime": "1600000001.25", "ctime": "1600000002.75"})
    tar.add("data/future", mtime=1 << 33)
    tar.add("data/owned", uid=1000, gid=50, uname="someone", gname="staff")
    tar.add("data/owned-far", uid=4_000_000_000, gid=3_000_000)
    tar.add("data/owned-far-gnu", uid=4_000_000_000, gid=3_000_000, format=tarfile.GNU_FORMAT)
    tar.add("data/mode-none", data=b"secret", mode=0)
    tar.add("data/capable", data=_bytes(3, 3000), mode=0o755,
            pax_headers=_xattrs(security__capability="\1\0\0\2\0\x20" + "\0" * 14))
    tar.add("data/attributed", data=b"x", pax_headers=_xattrs(
        user__plain="value", user__lines="one\ntwo=2\n", user__long="v" * 3000, user__empty="", user__grüße="日本語"))
    tar.directory("data/attributed-directory", pax_headers=_xattrs(user__note="on a directory"))
    tar.end()


def _changes(tar):
    """Everything a layer can do to the layers below it."""
    tar.add("bin/.wh.tool-soft")
    tar.directory("data/deep")
    tar.add("data/deep/.wh..wh..opq")
    tar.add("data/deep/instead", data=b"of all that was here")
    tar.directory("bin/tool-absolute")
    tar.add("bin/tool-absolute/now-a-directory", data=b"1")
    tar.symlink("data/block", "zeros")
    tar.add("data/empty", data=b"not any more")
    tar.directory("data", mode=0o700)
    tar.end()


def _repetition(tar):
    """The same names again and again, the landmarks' names where they mean nothing; the last of equal names counts."""
    tar.directory("again")
    tar.add("again/file", data=b"first")
    tar.add("again/.prefetch.landmark", data=b"not at the root")
    tar.add("./again/file", data=b"second")
    tar.directory("again/", mode=0o750)
    tar.add("again/other", data=b"other")
    tar.add("again/file", data=b"third and last", mode=0o600)
    tar.end()


def awkward(directory):
    layout = Layout(directory)
    for write, compressor in ((_names, {}), (_attributes, {"compressor": GZIP_MEMBERS}),
                              (_changes, {"compressor": ("cat",), "media_type": PLAIN_LAYER}),
                              (_repetition, {"compressor": ZSTD_FRAMES, "media_type": ZSTD_LAYER}),
                              (Tar.end, {}), (_changes, {})):
        with layout.layer(**compressor) as output:
            write(Tar(output))
    more = {"history": [{"created_by": "a layer"}] * 6, "unknown": {"kept": [1, 2.50, None]}}
    layout.tag("awkward", layout.manifest({"Healthcheck": {"Test": ["NONE"]}}, more=more))
    return Shape(
        "awkward", f"{directory}:awkward",
        prefetch="# what a start reads\n/bin/tool-harder\ndata/large\n/data/n*\n\nno/parents/given/file\nnot/there\n",
        first={0: [".", "./bin", "./bin/tool", "./bin/tool-hard", "./bin/tool-harder"], 1: ["data", "data/large"]})


def _small(layout, seed, **options):
    with layout.layer(**options) as output:
        tar = Tar(output)
        tar.directory("app")
        tar.add("app/main", data=_bytes(seed, 100_000), mode=0o755)
        tar.add("app/library", data=_bytes(seed + 1, 6_000_000))
        tar.end()


def platforms(directory):
    """An index for two platforms, each with an attestation about it, as BuildKit writes it."""
    layout = Layout(directory)
    manifests = []
    for seed, platform in enumerate((HOST, OTHER)):
        _small(layout, seed)
        manifests.append(layout.manifest(platform=platform))
    for manifest in manifests[:]:
        statement = layout.blob({"_type": "https://in-toto.io/Statement/v0.1", "subject": [manifest["digest"]]},
                                "application/vnd.in-toto+json")
        nowhere = {"architecture": "unknown", "os": "unknown"}
        config = layout.blob(nowhere | {"rootfs": {"type": "layers", "diff_ids": [statement["digest"]]}}, CONFIG)
        attestation = layout.blob(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [statement]}, MANIFEST)
        manifests.append(attestation | {"platform": nowhere, "annotations": {
            "vnd.docker.reference.digest": manifest["digest"],
            "vnd.docker.reference.type": "attestation-manifest"}})
    layout.tag("many", layout.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX))
    return Shape("platforms", f"{directory}:many", prefetch="app/library\n", first={0: ["app", "app/library"]},
                 platforms=(HOST, OTHER), arguments=("--all-platforms",))


def docker(directory):
    """A Docker manifest list over one Docker manifest."""
    layout = Layout(directory)
    _small(layout, 7, media_type=DOCKER_LAYER)
    more = {"container_config": {"Image": "sha256:0"}, "docker_version": "20.10.7"}
    manifest = layout.manifest({"Image": "sha256:0", "Cmd": ["/app/main"], "OnBuild": None}, platform=HOST,
                               types=(DOCKER_MANIFEST, DOCKER_CONFIG), more=more)
    manifest_list = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [manifest]}
    layout.tag("docker", layout.blob(manifest_list, DOCKER_LIST))
    # skopeo finds no Docker document at the top of a layout, so for it the same manifest lies below an OCI index.
    layout.tag("oci", layout.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}, INDEX))
    return Shape("docker", f"{directory}:docker", original=f"{directory}:oci", prefetch="app/library\n", first={0: ["app", "app/library"]})


def bulk(directory, files=3000):
    """Enough small and large files that a conversion takes a moment."""
    layout = Layout(directory)
    for part in range(2):
        with layout.layer(compressor=("gzip", "-n", "-1")) as output:
            tar = Tar(output)
            sizes = random.Random(part)
            tar.directory("files")
            for number in range(files):
                size = int(sizes.paretovariate(0.7) * 1000) % 3_000_000
                tar.add(f"files/{part}-{number}", data=_bytes(number, size)[:size])
            tar.end()
    layout.tag("bulk", layout.manifest())
    return Shape("bulk", f"{directory}:bulk")
