#!/usr/bin/env python3
"""Writes the seeds: sound input for each target, from the fixtures in testdata and by hand. fuzz/seeds.py"""

import gzip
import io
import json
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTDATA = HERE.parent / "testdata"
GOLDEN = TESTDATA / "golden"
LARGEST = 16 << 10


def put(target, name, content):
    directory = HERE / "seeds" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def chosen(target, name, choice, content):
    """For a target whose first byte says what the rest is."""
    put(target, name, bytes([choice]) + (content if isinstance(content, bytes) else content.encode()))


def image(layout):
    """The manifest of a layout's image, and its blobs by their digests."""
    read = lambda digest: (layout / "blobs" / digest.replace(":", "/")).read_bytes()
    index = json.loads((layout / "index.json").read_bytes())
    return json.loads(read(index["manifests"][0]["digest"])), read


def documents():
    for layout in ["src", "zstdchunked", "podman-zstdchunked", "estargz-externaltoc-esgztoc"]:
        manifest, read = image(GOLDEN / layout)
        put("documents", f"{layout}-manifest", json.dumps(manifest, separators=(",", ":")))
        put("documents", f"{layout}-index", (GOLDEN / layout / "index.json").read_bytes())
        if manifest["config"]["size"] < LARGEST:
            put("documents", f"{layout}-config", read(manifest["config"]["digest"]))


def layers():
    for layout in ["zstdchunked", "zstdchunked-prioritized", "estargz", "estargz-minchunk", "src"]:
        manifest, read = image(GOLDEN / layout)
        for position, layer in enumerate(manifest["layers"]):
            if layer["size"] < LARGEST:
                put("tar" if layout == "src" else "layer", f"{layout}-{position}", read(layer["digest"]))
            if "annotations" in layer:
                choice = 1 if layout.startswith("estargz") else 0
                chosen("annotations", f"{layout}-{position}", choice, json.dumps(layer["annotations"]))
    put("tar", "kinds", tar(kinds()))
    put("tar", "kinds.gz", gzip.compress(tar(kinds()), mtime=0))


def kinds():
    """An entry of each kind, with extended headers."""
    for name, kind, link in [
        ("directory", tarfile.DIRTYPE, ""), ("file", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "file"),
        ("hard", tarfile.LNKTYPE, "file"), ("device", tarfile.CHRTYPE, ""), ("pipe", tarfile.FIFOTYPE, ""),
        ("directory/.wh.gone", tarfile.REGTYPE, ""), ("long/" + "n" * 120, tarfile.REGTYPE, ""),
    ]:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        if name == "file":
            entry.pax_headers = {"SCHILY.xattr.user.key": "value", "mtime": "1700000000.5"}
        yield entry, b"content" if kind == tarfile.REGTYPE else b""


def tar(entries):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def places():
    index = (GOLDEN / "src" / "index.json").read_bytes()
    entries = [{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["layer.tar"]}]
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"]}, "rootfs": {"type": "layers", "diff_ids": [
        "sha256:fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603"]}}
    chosen("places", "index", 0, index)
    chosen("places", "marker", 1, '{"imageLayoutVersion":"1.0.0"}')
    chosen("places", "archive-index", 2, index)
    chosen("places", "docker-list", 3, json.dumps(entries))
    chosen("places", "docker-config", 4, json.dumps(config))
    files = {"manifest.json": json.dumps(entries), "config.json": json.dumps(config), "layer.tar": "ab"}
    chosen("places", "docker-archive", 5, tar((tarfile.TarInfo(name), text.encode()) for name, text in files.items()))


def settings():
    for number, text in enumerate([
        'labels."containerd.io/gc.root"==yes', "digest~=^sha256:,size!=5\nref~=/a+/", "labels.a", r'a."\x41\u00e9\101"~=|b*|',
    ]):
        put("filter", str(number), text)
    put("jobs", "shell", "# a comment\noptimize docker://a:b oci:out:b --zstdchunked\nconvert oci:a 'oci:b c' --estargz # x\n")
    put("jobs", "json", '["copy", "oci:a", "docker://localhost:5000/a:v1"]\n')
    digest = "sha256:" + "0" * 64
    memory = {
        "media_type": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": digest, "size": 7,
        "annotations": {"a": "b"}, "diff_id": digest, "partial": {"Refused": "a device"}, "toc": [digest, 3],
        "statistics": {
            "uncompressed_size": 1, "entries": 1, "chunks": 1, "prioritized": 0, "prefetch_size": 0, "missing": ["a"],
        },
    }
    put("memo", "refused", json.dumps(memory))
    put("memo", "annotations", json.dumps({**memory, "partial": {"Annotations": {"a": "b"}}, "toc": None}))


def registries():
    put("answers", "challenge", 'Bearer realm="https://a/t",service="a",scope="repository:c/a/b:pull registry:catalog:*"')
    put("answers", "link", '<https://a/v2/b/tags/list?n=2&last=x,y>; rel="next"')
    put("answers", "errors", '{"errors":[{"code":"BLOB_UNKNOWN","message":"a","detail":{"digest":"b"}}]}')
    put("answers", "range", "bytes 0-4/5")
    put("answers", "date", "Sun, 06 Nov 1994 08:49:37 GMT")
    mirrors = '[[registry]]\nprefix = "docker.io"\ninsecure = true\n[[registry.mirror]]\nlocation = "localhost:5000/a"\n'
    hosts = 'server = "https://a"\n[host."http://example.org:5000/v2"]\ncapabilities = ["pull", "push"]\nskip_verify = true\n'
    put("hosts", "hosts", hosts)
    put("hosts", "both", f"{hosts}\0{mirrors}")
    put("logins", "docker", '{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"}},"credHelpers":{"a":"b"},"credsStore":"c"}')
    put("logins", "podman", '{"auths":{"localhost:5000/a":{"identitytoken":"t"}}}')
    digest = "sha256:" + "0" * 64
    for number, text in enumerate(["debian:12", f"example.org:5000/a/b:v1@{digest}", "oci:a:b", f"docker://a@{digest}", "store:a"]):
        put("references", str(number), text)


def records():
    put("record", "ctr-remote", (GOLDEN / "record.json").read_bytes())
    put("record", "list", (TESTDATA / "busybox.prefetch").read_bytes())
    put("record", "shares", '{"path":"a/b","layerIndex":3,"size":8192,"read":4096,"touched":8192}\n')
    chosen("sandbox", "passwd", 0, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:\n")
    network = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}
    chosen("sandbox", "network", 1, json.dumps(network))
    device = {"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "devices": [{"name": "all", "containerEdits": {
        "env": ["A=b"], "deviceNodes": [{"path": "/dev/null"}], "mounts": [{"hostPath": "/a", "containerPath": "/b"}]}}]}
    chosen("sandbox", "device", 2, json.dumps(device))


def programs():
    """The first byte is the place of the file in the cases of src/predict.rs."""
    for choice, text in {
        2: "", 4: "hosts: files dns\n", 6: "#!/bin/sh\n. ./lib.sh\ncd /app && exec real \"$@\"\n", 7: "#!/usr/bin/env sh\nreal\n",
        8: "import os, app.x as y\nfrom .z import (a,\n  b)\n", 10: "import x\n../lib\n", 11: "home = /usr/bin\n",
        12: "const a = require('./a'); import b from 'dep';\n", 13: '{"main":"main.js","imports":{"#own":"./own.js"}}',
        14: '{"scripts":{"start":"node main.js"}}', 15: '{"exports":{".":"./sub.js","./*":"./*.js"}}',
        16: "require 'rack'\nrequire_relative 'a'\n", 17: "gem 'rack'\n", 18: "GEM\n  specs:\n    rack (3.0.8)\n", 19: "run App\n",
        20: "<?php require 'a.php'; include __DIR__.'/b.php';\n", 21: "extension=a\nauto_prepend_file=b.php\n", 22: "include=/etc/fpm/*.conf\n",
        25: "-cp a.jar\ncom.Main\n", 26: "http { include mime.types; server { root /app; index index.html; } }\n",
    }.items():
        chosen("predict", f"{choice:02}", choice, text)


if __name__ == "__main__":
    documents()
    layers()
    places()
    registries()
    settings()
    records()
    programs()
