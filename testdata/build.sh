#!/bin/sh
# Rebuilds every fixture in layouts/ from Debian packages: the same bytes on any machine with GNU gzip.
# Needs apt (Debian or Ubuntu on any architecture), dpkg-deb, gzip and python3. The package is kept in cache/,
# so only the first run needs a network.
#
#   testdata/build.sh           rebuild
#   testdata/build.sh --check   rebuild elsewhere and compare with what is committed
set -eu

# The image is for amd64 whatever builds it. A new version of the package is a new image: change both lines.
package=busybox-static_1.35.0-4+deb12u1+b1_amd64
sha256=3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744

here=$(cd "$(dirname "$0")" && pwd)
deb=$here/cache/$package.deb
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
    mkdir -p "$here/cache"
    (cd "$work" && apt-get download "busybox-static:amd64=1:1.35.0-4+deb12u1+b1") ||
        echo "hint: if apt has a newer version, put $package.deb into $here/cache by hand" >&2
    mv "$work"/busybox-static_*.deb "$deb"
}

[ -f "$deb" ] || fetch
echo "$sha256  $deb" | sha256sum --check --quiet -

dpkg-deb --extract "$deb" "$work/root"
python3 "$here/busybox.py" "$work/root" "$work/busybox"

case ${1-} in
--check)
    diff --recursive "$work/busybox" "$here/layouts/busybox"
    echo "layouts/busybox: unchanged"
    ;;
*)
    rm -rf "$here/layouts/busybox"
    mkdir -p "$here/layouts"
    mv "$work/busybox" "$here/layouts/busybox"
    echo "layouts/busybox: built"
    ;;
esac
