#!/usr/bin/env bash
# Builds the image that the benchmarks run on into an OCI layout (tag `bench`): a Debian root, the packages of a
# data-science web service installed over it, and a small application layer with whiteouts and hard links.
# About 600 MB of tar, 20 000 entries. Needs root and Debian's package archive. Built once; again only when this script changes.
#
# usage: bench/image.sh [DIRECTORY]      (default: target/image)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
image=${1:-${here%/*}/target/image}
stamp=$image.built-by
suite=bookworm
packages=(python3 python3-numpy python3-pandas python3-flask python3-boto3 python3-lxml python3-sqlalchemy
    nodejs git nginx-light iputils-ping)
# Files made while building carry this time, so that two builds from the same packages differ as little as can be.
newest=2025-01-01T00:00:00Z

identity=$(sha256sum <"$0")
if [ -f "$image/index.json" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$identity" ]; then
    echo "image: $image is up to date"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "image: building a Debian root needs root" >&2
    exit 1
fi
"$here/../.ci/need" debootstrap gzip tar python3

mkdir -p "$(dirname "$image")"
work=$(mktemp -d "$image.work.XXXXXX")
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

# What no image should carry: package lists, downloaded packages, logs and the builder's name server.
tidy() {
    local root=$1
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
    rm -rf "$root"/var/log/*.log "$root"/var/log/apt "$root"/tmp/* "$root"/usr/sbin/policy-rc.d "$root"/etc/resolv.conf
}

echo "image: layer 1, Debian $suite"
base=$work/base
debootstrap --variant=minbase "$suite" "$base" >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; exit 1; }
tidy "$base"

echo "image: layer 2, ${packages[*]}"
full=$work/full
cp -a "$base" "$full"
cp -L /etc/resolv.conf "$full/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$full/usr/sbin/policy-rc.d"
chmod 755 "$full/usr/sbin/policy-rc.d"
{
    chroot "$full" apt-get update -qq
    chroot "$full" env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
        apt-get install -y -qq --no-install-recommends "${packages[@]}"
} >"$work/log" 2>&1 </dev/null || { tail -n 30 "$work/log" >&2; exit 1; }
tidy "$full"

echo "image: layer 3, the application"
app=$work/app
mkdir -p "$app"/app/data "$app"/etc/nginx/sites-enabled "$app"/usr/share/doc "$app"/usr/lib/python3/dist-packages/flask
cat >"$app/app/app.py" <<'PYTHON'
"""A service that answers with the sum of a table: touches the interpreter, flask, numpy and pandas."""
import flask
import pandas

application = flask.Flask(__name__)
table = pandas.read_csv("/app/data/current.csv")


@application.route("/")
def total():
    return str(table["amount"].sum())


if __name__ == "__main__":
    print(total() if "--once" in __import__("sys").argv else application.run(host="0.0.0.0"))
PYTHON
seq 200000 | awk 'BEGIN { print "id,amount" } { print $1 "," ($1 * 7919) % 10007 }' >"$app/app/data/current.csv"
ln "$app/app/data/current.csv" "$app/app/data/2025.csv"
ln "$app/app/app.py" "$app/app/main.py"
ln -s app.py "$app/app/wsgi.py"
: >"$app/etc/nginx/sites-enabled/.wh.default"
: >"$app/usr/share/doc/.wh.git"
mkdir "$app/usr/share/common-licenses"
: >"$app/usr/share/common-licenses/.wh..wh..opq"

echo "image: packing"
new=$work/image
python3 - "$here/../tools" "$new" "$newest" "$base" "$full" "$app" <<'PYTHON'
import os, stat, subprocess, sys, tempfile

tools, new, newest, base, full, app = sys.argv[1:]
sys.path.insert(0, tools)
from layout import Layout

SKIPPED = {"dev", "proc", "sys", "run"}          # directories that a runtime fills; packed empty


def walk(root):
    """Every path below root, sorted, parents first."""
    for directory, directories, files in os.walk(root):
        below = os.path.relpath(directory, root)
        if below.split("/")[0] in SKIPPED:
            directories.clear()
            continue
        directories.sort()
        for name in directories + files:
            yield os.path.normpath(os.path.join(below, name))


def state(root, path):
    full_path = os.path.join(root, path)
    try:
        found = os.lstat(full_path)
    except FileNotFoundError:
        return None
    kind = stat.S_IFMT(found.st_mode)
    link = os.readlink(full_path) if stat.S_ISLNK(found.st_mode) else None
    size = 0 if kind == stat.S_IFDIR else found.st_size
    return (found.st_mode, found.st_uid, found.st_gid, size, found.st_mtime_ns, found.st_rdev, link)


def changed():
    """What layer 2 holds: all that differs from the base, with the directories above it, and whiteouts."""
    paths = set()
    for path in walk(full):
        if state(full, path) != state(base, path):
            while path:
                paths.add(path)
                path = os.path.dirname(path)
    for path in walk(base):
        if state(full, path) is None and state(full, os.path.dirname(path) or ".") is not None:
            whiteout = os.path.join(os.path.dirname(path), ".wh." + os.path.basename(path))
            open(os.path.join(full, whiteout), "x").close()
            paths.add(whiteout)
    return sorted(paths)


def pack(layout, root, paths):
    tar = ["tar", "--create", "--directory", root, "--format=posix", "--numeric-owner", "--no-recursion",
           "--pax-option=delete=atime,delete=ctime", f"--mtime={newest}", "--clamp-mtime",
           "--xattrs", "--xattrs-include=*", "--null", "--verbatim-files-from", "--files-from=-"]
    with layout.layer() as output, tempfile.TemporaryFile() as listing:
        listing.write("\0".join(paths).encode())
        listing.seek(0)
        process = subprocess.Popen(tar, stdin=listing, stdout=subprocess.PIPE)
        while data := process.stdout.read(1 << 20):
            output.write(data)
        if process.wait() != 0:
            sys.exit("tar failed")


layout = Layout(new)
pack(layout, base, sorted(walk(base)))
pack(layout, full, changed())
pack(layout, app, sorted(walk(app)))
layout.tag("bench", layout.manifest({
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Cmd": ["python3", "/app/app.py"],
    "WorkingDir": "/app",
    "ExposedPorts": {"5000/tcp": {}},
}, more={"history": [
    {"created": newest, "created_by": "debootstrap --variant=minbase"},
    {"created": newest, "created_by": "apt-get install"},
    {"created": newest, "created_by": "CMD python3 /app/app.py", "empty_layer": True},
    {"created": newest, "created_by": "copy the application"},
]}))
PYTHON

rm -rf "$image"
mv "$new" "$image"
printf '%s\n' "$identity" >"$stamp"
echo "image: $image is ready (tag bench)"
