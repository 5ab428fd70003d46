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
    have been at does not keep its DiffIDs: their landmarks go. podman would refuse to pull the layers at the positions
    `refused` in part; what it says of an image that it cannot pull at all, not even the source, is `impossible`."""

    name: str
    reference: str
    original: str = ""
    prefetch: str = ""
    first: dict = field(default_factory=dict)
    platforms: tuple = (HOST,)
    arguments: tuple = ()
    keeps_diff_ids: bool = True
    refused: tuple = ()
    impossible: str = ""


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
        self.raw(data + bytes(-len(data) % tarfile.BLOCKSIZE))

    def raw(self, data):
        self._output.write(data)

    def directory(self, name, **attributes):
        self.add(name, tarfile.DIRTYPE, **attributes)

    def link(self, name, target, **attributes):
        self.add(name, tarfile.LNKTYPE, linkname=target, **attributes)

    def symlink(self, name, target, **attributes):
        self.add(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **attributes)

    def extended(self, **records):
        """Writes a PAX header for the next entry with these bytes as values, which no text could give."""
        text = b""
        for key, value in records.items():
            record = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
            length = next(length for length in range(len(record) + 1, len(record) + 8) if length == len(record) + len(str(length)))
            text += str(length).encode() + record
        self.add("PaxHeaders/extended", tarfile.XHDTYPE, text, format=tarfile.USTAR_FORMAT)

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
    tar.directory("bin", mode=0o2775)
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
        first={0: [".", "./bin", "./bin/tool", "./bin/tool-hard", "./bin/tool-harder"], 1: ["data", "data/large"]},
        refused=(0, 3), impossible="duplicates of file paths not supported")


def _times(tar):
    tar.directory("times")
    for name, when in (("nanoseconds", "1600000000.000000001"), ("tenth", "1600000000.1"), ("finer", "1600000000.1234567891"),
                       ("zero", "0"), ("almost-zero", "0.000000001"), ("before", "-0.000000001"), ("long-before", "-2147483649.25"),
                       ("far", "16725225599.999999999")):
        tar.add(f"times/modified-{name}", pax_headers={"mtime": when})
        tar.add(f"times/accessed-{name}", pax_headers={"atime": when})
        tar.add(f"times/changed-{name}", pax_headers={"ctime": when})
    tar.add("times/all", pax_headers={"mtime": "1.5", "atime": "-2.25", "ctime": "3.125"})
    tar.directory("times/directory", pax_headers={"mtime": "-1.5", "atime": "-2.5", "ctime": "-3.5"})
    tar.symlink("times/link", "all", pax_headers={"mtime": "-4.75", "atime": "5.75"})
    for when in (0, -1, -1 << 31, 1 << 33):
        tar.add(f"times/binary{when}", mtime=when, format=tarfile.GNU_FORMAT)
    tar.end()


def _owners(tar):
    tar.directory("owners")
    for kind, format in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        for owner in (0, 0o7777777, 0o10000000, (1 << 31) - 1, 1 << 31, (1 << 32) - 2):
            tar.add(f"owners/{kind}-{owner}", uid=owner, gid=owner, uname="näme", gname="x" * 31, format=format)
    tar.end()


def _binary_attributes(tar):
    tar.directory("attributes")
    every = bytes(range(256))
    tar.extended(SCHILY__xattr__user__every=every, SCHILY__xattr__user__zero=b"\0", SCHILY__xattr__user__newline=b"\n=\n")
    tar.add("attributes/bytes", data=b"1", format=tarfile.USTAR_FORMAT)
    tar.extended(SCHILY__xattr__security__capability=bytes.fromhex("0000000300040000000000000000000000000000e8030000"))
    tar.add("attributes/capable", data=b"2", mode=0o755, format=tarfile.USTAR_FORMAT)
    tar.extended(SCHILY__xattr__user__none=b"", SCHILY__xattr__trusted__note=every[::-1])
    tar.directory("attributes/directory", format=tarfile.USTAR_FORMAT)
    tar.end()


def _devices(tar):
    tar.directory("dev")
    tar.directory("dev/numbers")
    for major, minor in ((1, 3), (0, 1), (4095, 0o7777777)):
        tar.add(f"dev/numbers/character-{major}", tarfile.CHRTYPE, devmajor=major, devminor=minor)
        tar.add(f"dev/numbers/block-{major}", tarfile.BLKTYPE, devmajor=major, devminor=minor)
    tar.add("dev/numbers/pipe", tarfile.FIFOTYPE, devmajor=7, devminor=8)
    tar.add("dev/numbers/file", data=b"with the numbers of a device", devmajor=5, devminor=6)
    tar.directory("dev/numbers/directory", devmajor=1, devminor=2)
    tar.end()


def _links(tar):
    tar.directory("links")
    tar.add("links/empty")
    tar.link("links/to-empty", "links/empty")
    tar.add("./links/data", data=_bytes(5, 5_000_000), mode=0o640, uid=7, pax_headers=_xattrs(user__note="of the target"))
    # What a link's own header says of owner and mode is not what the file has, and still has to come back.
    tar.link("links/to-data", "links/data", mode=0o777, uid=9, mtime=0)
    tar.link("/links/to-link", "./links/to-data")
    tar.symlink("links/long", "l" * 3000)
    tar.symlink("links/long-gnu", "g" * 3000, format=tarfile.GNU_FORMAT)
    tar.end()


def _runs(tar):
    """Empty files, and runs of zeros around what podman takes for a hole."""
    tar.directory("runs")
    for number in range(3):
        tar.add(f"runs/empty-{number}")
    for size in (1, 511, 512, 513, 1023, 1024, 1025, 100_000):
        tar.add(f"runs/zeros-{size}", data=bytes(size))
        tar.add(f"runs/between-{size}", data=b"a" + bytes(size) + b"b")
        tar.add(f"runs/around-{size}", data=bytes(1024) + b"c" * size + bytes(1024))
    tar.add("runs/several", data=bytes(70_000) + _bytes(6, 300_000) + bytes(5000) + b"d" + bytes(1024) + _bytes(8, 5_000_000) + bytes(2000))
    tar.end()


def _spellings(tar):
    tar.directory("names")
    for name in ("<a>&b", "\u2028\u2029", "\x01\x7f\x85", "e\u0301-é", "\U0001f6a2", "\\u003c", '"', "%41", "a\\", " "):
        tar.directory(f"names/{name}")
        tar.add(f"names/{name}/{name}", data=name.encode())
        tar.symlink(f"names/{name}/link", name)
        tar.link(f"names/{name}/hard", f"names/{name}/{name}")
    tar.add("names/" + "ä" * 120, data=b"long", format=tarfile.GNU_FORMAT)
    tar.link("names/link-" + "ö" * 120, "names/" + "ä" * 120, format=tarfile.GNU_FORMAT)
    for depth in range(1, 100):
        tar.directory("names" + "/d" * depth, format=tarfile.GNU_FORMAT)
    tar.add("names" + "/d" * 99 + "/" + "n" * 255, data=b"longer", format=tarfile.GNU_FORMAT)
    tar.directory("./names/twice")
    tar.add("/names//./twice//slashed", data=b"unclean")
    tar.end()


def _old_headers(tar):
    """What older tars write: no magic, directories that are files with a slash, types within modes, no type at all."""
    tar.add("old/", tarfile.AREGTYPE, mode=0o40755, format=tarfile.USTAR_FORMAT)
    tar.add("old/file", tarfile.AREGTYPE, b"1", mode=0o100644, format=tarfile.USTAR_FORMAT)
    tar.add("old/set", data=b"2", mode=0o107755, format=tarfile.USTAR_FORMAT)
    tar.end()


def _no_end(tar):
    tar.directory("ends")
    tar.add("ends/none", data=b"the archive just stops")


def _half_an_end(tar):
    tar.directory("ends")
    tar.add("ends/half", data=b"one block of zeros")
    tar.end(1)


def _garbage(tar):
    tar.directory("ends")
    tar.add("ends/garbage", data=b"and then")
    tar.end()
    tar.raw(random.Random(11).randbytes(20_000) + b"\0garbage")


def _many_ends(tar):
    tar.directory("ends")
    tar.add("ends/many", data=b"and two megabytes of zeros")
    tar.end(4096)


def _sized_link(tar):
    tar.directory("refused")
    tar.symlink("refused/link", "elsewhere", size=100)
    tar.end()


def _no_parent(tar):
    tar.add("refused/no/parent", data=b"below directories that are not listed")
    tar.end()


def _much_garbage(tar):
    tar.directory("refused")
    tar.add("refused/garbage", data=b"and then more than fits into a segment")
    tar.end()
    tar.raw(random.Random(12).randbytes(3_000_000))


# What readers that put a tar together again get wrong, a layer each.
DETAILS = (_times, _owners, _binary_attributes, _devices, _links, _runs, _spellings, _old_headers, _no_end, _half_an_end,
           _garbage, _many_ends)


def details(directory):
    layout = Layout(directory)
    for write in (*DETAILS, Tar.end):
        with layout.layer() as output:
            write(Tar(output))
    layout.tag("details", layout.manifest())
    return Shape("details", f"{directory}:details", prefetch="names/**\nlinks/to-data\nends/*\n")


def refused(directory):
    """A layer that podman pulls in part between some of which it can pull none in part."""
    layout = Layout(directory)
    for write in (_sized_link, _links, _much_garbage, _no_parent):
        with layout.layer() as output:
            write(Tar(output))
    layout.tag("refused", layout.manifest())
    return Shape("refused", f"{directory}:refused", prefetch="links/to-data\n", refused=(0, 2, 3))


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


def everywhere(directory):
    """One layer for all the platforms whose names have more than one spelling, and for some that have not."""
    names = ("amd64", "386", "arm/v5", "arm/v6", "arm/v7", "arm64", "ppc64le", "riscv64", "s390x")
    everywhere = [{"architecture": architecture, "os": "linux"} | ({"variant": variant} if variant else {})
                  for architecture, _, variant in (name.partition("/") for name in names)]
    layout = Layout(directory)
    manifests = []
    for platform in everywhere:
        with layout.layer() as output:
            tar = Tar(output)
            tar.add("file", data=b"for all")
            tar.end()
        manifests.append(layout.manifest(platform=platform))
    layout.tag("everywhere", layout.blob({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX))
    return Shape("everywhere", f"{directory}:everywhere", platforms=tuple(everywhere), arguments=("--all-platforms",))


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


def successive(directory):
    """Two versions of an image of one layer: most files stay, a few change, and two large ones change a little."""
    layout = Layout(directory)
    for version in range(2):
        with layout.layer() as output:
            tar = Tar(output)
            # podman 5.8.6 makes parents nobody lists side by side, and then one of the makers may fail.
            tar.directory("files")
            tar.directory("large")
            for number in range(200):
                tar.add(f"files/{number}", data=_bytes(number + 10_000 * version * (number % 40 == 0), 30_000))
            large = _bytes(77, 10_000_000)
            tar.add("large/overwritten", data=large[:5_000_000] + b"%d" % version + large[5_000_001:])
            tar.add("large/shifted", data=large[::-1][:6_000_000] + b"more" * version + large[::-1][6_000_000:])
            tar.end()
        layout.tag(f"v{version}", layout.manifest())
    return [Shape("successive", f"{directory}:v{version}") for version in range(2)]


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
