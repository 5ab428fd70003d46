#!/usr/bin/env bash
# Puts the newest skopeo, containerd and ctr-remote that Debian has into a root of their own; they are called through
# its dynamic linker, so nothing of this machine changes. Needs root and Debian's package archive. Built once.
#
# usage: bench/peers.sh DIRECTORY
set -euo pipefail
peers=$1
[ ! -d "$peers" ] || exit 0
"$(dirname "$0")/../.ci/need" debootstrap
partial=$(mktemp -d "$peers.partial.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "peers: skopeo, containerd and stargz-snapshotter of Debian unstable"
debootstrap --variant=minbase --include=skopeo,containerd,stargz-snapshotter sid "$partial/root" >"$partial/log" 2>&1 ||
    { tail -n 30 "$partial/log" >&2; exit 1; }
mv "$partial/root" "$peers"
