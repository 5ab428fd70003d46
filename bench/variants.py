#!/usr/bin/env python3
"""Adds an nginx and a Node.js image to the layout of `make image`, tags `nginx` and `node`: the layers of `bench` and one more,
which holds what the command needs. Images that are there already stay.

usage: bench/variants.py DIRECTORY
"""

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

TAG = "org.opencontainers.image.ref.name"

SERVER = """
const http = require("http");
const { helper } = require("./lib/helper");
http.createServer((request, response) => response.end(helper())).listen(0, () => console.log("ready"));
"""
HELPER = 'const path = require("path");\nconst zlib = require("zlib");\nexports.helper = () => path.join("a", "b");\n'

# Tag, command, further files.
VARIANTS = [
    ("nginx", ["nginx", "-g", "daemon off;"], {"run/nginx/.keep": "", "var/log/nginx/.keep": ""}),
    ("node", ["node", "/srv/server.js"], {"srv/server.js": SERVER, "srv/lib/helper.js": HELPER}),
]


def layer(files):
    """A tar of files and their directories, without which ctr-remote moves nothing."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return tar.getvalue()


def main(directory):
    directory = Path(directory)
    index = json.loads((directory / "index.json").read_text())
    tags = {one["annotations"][TAG]: one for one in index["manifests"]}

    def blob(digest):
        return directory / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read(descriptor):
        return json.loads(blob(descriptor["digest"]).read_text())

    def write(data, media_type):
        descriptor = {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}
        blob(descriptor["digest"]).write_bytes(data)
        return descriptor

    for tag, command, files in VARIANTS:
        manifest = read(tags["bench"])
        config = read(manifest["config"])
        config["config"]["Cmd"] = command
        added = write(layer(files), "application/vnd.oci.image.layer.v1.tar")
        manifest["layers"].append(added)
        config["rootfs"]["diff_ids"].append(added["digest"])
        config["history"].append({"created": config["created"], "created_by": f"copy what {tag} needs"})
        manifest["config"] = write(json.dumps(config).encode(), manifest["config"]["mediaType"])
        descriptor = write(json.dumps(manifest).encode(), manifest["mediaType"])
        tags[tag] = descriptor | {"annotations": {TAG: tag}}
    index["manifests"] = list(tags.values())
    # Renamed, so that no reader finds half of it.
    new = directory / "index.json.new"
    new.write_text(json.dumps(index))
    os.replace(new, directory / "index.json")
    print(f"image: {directory} is ready (tags {', '.join(tags)})")


if __name__ == "__main__":
    main(*sys.argv[1:])
