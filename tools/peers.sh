#!/usr/bin/env bash
# Puts the programs that read and write the same formats, as the newest Debian has them, into a root of their own;
# tools/peers.py runs them there. Needs root and Debian's package archive. Built once, and again when this script changes.
#
# usage: tools/peers.sh DIRECTORY
set -euo pipefail
peers=$1
packages=skopeo,containerd,stargz-snapshotter,podman,docker-registry,umoci,xfsprogs,crane,oras
identity=$(sha256sum <"$0")
[ "$(cat "$peers/built-by" 2>/dev/null)" != "$identity" ] || exit 0
"$(dirname "$0")/../.ci/need" debootstrap
mkdir -p "$(dirname "$peers")"
partial=$(mktemp -d "$peers.partial.XXXXXX")
trap 'rm -rf --one-file-system "$partial"' EXIT
echo "peers: ${packages//,/, } of Debian unstable"
debootstrap --variant=minbase --include="$packages" sid "$partial/root" >"$partial/log" 2>&1 ||
    { tail -n 30 "$partial/log" >&2; exit 1; }
rm -rf "$partial"/root/var/cache/apt/archives/*.deb "$partial"/root/var/lib/apt/lists/*
printf '%s\n' "$identity" >"$partial/root/built-by"
rm -rf --one-file-system "$peers"
mv "$partial/root" "$peers"
