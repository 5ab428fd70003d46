"""Writes the layout of testdata/layouts/busybox: busybox.py UNPACKED-PACKAGE LAYOUT.

Every entry's metadata is written here, so nothing of the machine (umask, user, clock, order of a directory)
reaches the image. GNU gzip compresses, because its output does not change with the version of a library.
"""

import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile

TIME = 1_700_000_000

APPLETS_IN_BIN = (
    "ash cat chgrp chmod chown cp date dd df dmesg echo egrep false fgrep grep gunzip gzip hostname kill ln ls"
    " mkdir mknod mktemp more mount mv ping ps pwd rm rmdir sed sh sleep stty sync tar touch true umount uname"
    " vi zcat"
).split()
APPLETS_IN_USR_BIN = (
    "awk basename bc cal clear cmp cut diff dirname du env expr find fold head id install less md5sum nc nohup"
    " od paste printf readlink realpath seq sha256sum sort split stat strings tail tee test time tr tty uniq"
    " unzip uptime wc wget which who whoami xargs xxd yes"
).split()

ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "group": "root:x:0:\nstaff:x:50:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
    "nsswitch.conf": "hosts: files dns\n",
    "os-release": 'PRETTY_NAME="restow test root"\nID=restow-test\n',
    "profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n[ -r /etc/motd ] && cat /etc/motd\n",
    "motd": "This root is busybox and little else.\n",
    "hostname": "hold\n",
}


class Layer:
    """A tar in the making."""

    def __init__(self, prefix=""):
        self.prefix = prefix
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, path, kind=tarfile.REGTYPE, content=b"", **fields):
        entry = tarfile.TarInfo(self.prefix + path)
        entry.type = kind
        entry.mode = 0o644
        entry.mtime = TIME
        entry.size = len(content)
        for field, value in fields.items():
            setattr(entry, field, value)
        self.tar.addfile(entry, io.BytesIO(content))

    def directory(self, path, mode=0o755, **fields):
        self.add(path, tarfile.DIRTYPE, mode=mode, **fields)

    def symlink(self, path, target, **fields):
        self.add(path, tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)

    def hardlink(self, path, target, **fields):
        self.add(path, tarfile.LNKTYPE, linkname=self.prefix + target, **fields)

    def finish(self):
        self.tar.close()
        return self.buffer.getvalue()


def root_layer(package):
    """A root file system as a distribution would ship it."""
    layer = Layer()
    for path, mode in [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o555),
                       ("root", 0o700), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777), ("usr", 0o755),
                       ("usr/bin", 0o755), ("usr/share", 0o755), ("var", 0o755), ("var/cache", 0o755),
                       ("var/cache/apt", 0o755), ("var/log", 0o755)]:
        layer.directory(path, mode)
    layer.add("bin/busybox", content=(package / "bin/busybox").read_bytes(), mode=0o755)
    for name in APPLETS_IN_BIN:
        layer.hardlink(f"bin/{name}", "bin/busybox", mode=0o755)
    for name in APPLETS_IN_USR_BIN:
        layer.symlink(f"usr/bin/{name}", "../../bin/busybox")
    layer.symlink("sbin", "bin")
    layer.symlink("var/run", "/run")
    for name, text in sorted(ETC.items()):
        layer.add(f"etc/{name}", content=text.encode())
    layer.add("etc/shadow", content=b"root:*:19000:0:99999:7:::\n", mode=0o640, gid=42, gname="shadow")
    layer.add("dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
    layer.add("run/initctl", tarfile.FIFOTYPE, mode=0o600)
    layer.add("var/cache/apt/pkgcache.bin", content=b"stale\n" * 2000)
    layer.add("var/log/install.log", content=b"installed\n" * 50)
    for path in sorted((package / "usr/share").rglob("*")):
        name = str(path.relative_to(package))
        if path.is_dir():
            layer.directory(name)
        else:
            layer.add(name, content=path.read_bytes(), mode=0o755 if path.stat().st_mode & 0o100 else 0o644)
    return layer.finish()


def app_layer():
    """An application on top: whiteouts, links, one file of more than one chunk, names that need care."""
    layer = Layer("./")
    layer.directory("")
    layer.directory("etc")
    layer.add("etc/.wh.motd")
    layer.add("etc/hostname", content=b"harbour\n")
    layer.directory("var")
    layer.directory("var/cache")
    layer.directory("var/cache/apt")
    layer.add("var/cache/apt/.wh..wh..opq")
    layer.add("var/cache/apt/fresh", content=b"fresh\n")
    layer.directory("app", uid=1000, gid=1000, uname="app", gname="app")
    layer.add("app/main", content=b'#!/bin/sh\nset -eu\n. /app/lib/greet.sh\ngreet "${1:-world}"\n', mode=0o755)
    # Every directory has an entry: an implied one would get the time of its unpacking, and no two trees be equal.
    layer.directory("app/lib")
    layer.add("app/lib/greet.sh", content=b'greet() { echo "hello, $1"; wc -l < /app/data/manifest.csv; }\n')
    layer.symlink("app/run", "main")
    layer.symlink("app/shell", "/bin/sh")
    layer.directory("app/data")
    rows = "".join(f"{n // 8:06},crate-{n % 8},bay-{n // 8000:02},in order,nothing to declare\n" for n in range(120_000))
    layer.add("app/data/manifest.csv", content=rows.encode(), mtime=TIME + 0.25)
    layer.hardlink("app/data/manifest.latest", "app/data/manifest.csv", mtime=TIME + 0.25)
    layer.add("app/data/empty")
    layer.add("app/data/zeros", content=bytes(70_000))
    layer.add("app/data/noise", content=b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3000)))
    layer.directory("app/names")
    long = "l" + "o" * 80 + "ng"
    layer.directory(f"app/names/{long}")
    for name in ["with space", "quote'\"", "back\\slash", "new\nline", "-dash", "<&>", "\u2028", "grüße-日本語",
                 ".wh", "a" * 120, f"{long}/{long}"]:
        layer.add(f"app/names/{name}", content=name.encode())
    layer.add("app/noted", content=b"see my xattr\n", pax_headers={"SCHILY.xattr.user.restow": "noted"})
    layer.add("app/old", content=b"old\n", mtime=0)
    layer.add("app/suid", content=b"#!/bin/sh\n", mode=0o4755)
    return layer.finish()


class Layout:
    """An OCI layout in the making."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)

    def blob(self, media_type, content):
        encoded = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / encoded).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(content)}

    def document(self, media_type, value):
        return self.blob(media_type, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def main(package, directory):
    layers = [root_layer(package), app_layer()]
    layout = Layout(directory)
    config = {
        "created": "2023-11-14T22:13:20Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": "1000:1000",
            "Env": ["PATH=/app:/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=hello"],
            "Entrypoint": ["/bin/sh", "/app/main"],
            "Cmd": ["world"],
            "WorkingDir": "/app",
            "Healthcheck": {"Test": ["CMD", "/bin/true"], "Interval": 30_000_000_000},
            "Labels": {"org.example.zebra": "z", "org.example.apple": "a"},
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers]},
        "history": [
            {"created": "2023-11-14T22:13:20Z", "created_by": "ADD root /"},
            {"created": "2023-11-14T22:13:20Z", "created_by": "ENV GREETING=hello", "empty_layer": True},
            {"created": "2023-11-14T22:13:20Z", "created_by": "COPY app /app"},
        ],
    }
    manifest = layout.document("application/vnd.oci.image.manifest.v1+json", {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layout.document("application/vnd.oci.image.config.v1+json", config),
        "layers": [
            layout.blob("application/vnd.oci.image.layer.v1.tar+gzip",
                        subprocess.run(["gzip", "-n", "-9"], input=tar, stdout=subprocess.PIPE, check=True).stdout)
            for tar in layers
        ],
        "annotations": {"org.opencontainers.image.title": "busybox with a small application"},
    })
    manifest["platform"] = {"architecture": "amd64", "os": "linux"}
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "demo"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]}
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (directory / "index.json").write_text(json.dumps(index, separators=(",", ":")))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
