#!/usr/bin/env bash
# Builds lazyread with Debian's Go and Debian's copy of stargz-snapshotter's reader.
# usage: interop/lazyread/build.sh PROGRAM
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")"
[ ! "$program" -nt main.go ] || exit 0
../../.ci/need golang-go golang-github-hashicorp-go-multierror-dev golang-github-klauspost-compress-dev \
    golang-github-opencontainers-go-digest-dev golang-github-opencontainers-image-spec-dev \
    golang-github-vbatts-tar-split-dev golang-golang-x-sync-dev
# Installed in the usual way, this one would bring a few hundred packages that the reader alone does not need.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get -o APT::Sandbox::User=root download -qq golang-github-containerd-stargz-snapshotter-dev)
dpkg-deb --extract "$work"/*.deb "$work"
GO111MODULE=off GOFLAGS='' GOPATH=$work/usr/share/gocode:/usr/share/gocode go build -o "$program" .
