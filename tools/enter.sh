#!/usr/bin/env bash
# Runs a program of another root. It sees the directories given here, under the same paths, and nothing else of this
# machine's files; what it writes to the places where such programs keep state is gone as soon as it ends. The mounts
# are in a namespace of their own, so nothing has to be undone.
#
# usage: unshare --mount tools/enter.sh ROOT DIRECTORY... -- PROGRAM ARGUMENT...
set -euo pipefail
root=$1
shift
for shared in /proc /sys /dev; do
    mount --rbind "$shared" "$root$shared"
done
for private in /run /tmp /dev/shm /var/lib/containers; do
    mkdir -p "$root$private"
    mount -t tmpfs tmpfs "$root$private"
done
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind "$1" "$root$1"
    shift
done
shift
exec chroot "$root" "$@"
