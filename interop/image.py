"""Reads images in a layout with nothing but JSON, and their layers with nothing but gzip, zstd and tar."""

import hashlib
import json
import posixpath
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path

from command import Failure, require


class Image:
    """A tagged image in a layout."""

    def __init__(self, reference):
        self.reference = str(reference)
        self.directory, _, self._tag = self.reference.partition(":")

    def root(self):
        for descriptor in json.loads(Path(self.directory, "index.json").read_text())["manifests"]:
            if descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name") == self._tag:
                return descriptor
        raise Failure(f"{self.directory} has no tag {self._tag}")

    def blob(self, descriptor):
        return Path(self.directory, "blobs", *descriptor["digest"].split(":"))

    def json(self, descriptor):
        return json.loads(self.blob(descriptor).read_text())

    def seekable(self, manifest):
        """Position, descriptor and TOC digest of the layers that can be read lazily: all but those with nothing to read."""
        for position, layer in enumerate(manifest["layers"]):
            toc = layer.get("annotations", {}).get("containerd.io/snapshot/stargz/toc.digest")
            if toc:
                yield position, layer, toc
            else:
                require(not self.names(layer), f"layer {position} is not seekable")

    def manifest(self, platform):
        document = self.json(self.root())
        while "manifests" in document:
            choices = [one for one in document["manifests"] if one.get("platform", platform).items() >= platform.items()]
            require(choices, f"{self.reference} has nothing for {platform}")
            document = self.json(choices[0])
        return document

    def config(self, platform):
        return self.json(self.manifest(platform)["config"])

    def blobs(self):
        return {path.name for path in Path(self.directory, "blobs", "sha256").iterdir()}

    @contextmanager
    def tar(self, descriptor):
        """The tar of a layer, as a third party's decoder and parser see it."""
        decoder = "gzip" if descriptor["mediaType"].endswith("gzip") else "zstd"
        process = subprocess.Popen([decoder, "-dcq", self.blob(descriptor)], stdout=subprocess.PIPE)
        with process.stdout, tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar

    def names(self, descriptor):
        """The names in a layer, in order."""
        with self.tar(descriptor) as tar:
            return [entry.name for entry in tar]

    def contents(self, descriptor):
        """What a layer leaves in each path that is a file: path -> SHA-256. The last entry of a path counts."""
        files = {}
        with self.tar(descriptor) as tar:
            for entry in tar:
                path = _path(entry.name)
                files.pop(path, None)
                if entry.isreg():
                    files[path] = hashlib.file_digest(tar.extractfile(entry), "sha256").hexdigest()
                elif entry.islnk():
                    files[path] = files[_path(entry.linkname)]
        return files


def _path(name):
    return posixpath.normpath(name).lstrip("/")
