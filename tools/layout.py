"""Writes OCI image layouts layer by layer, streaming: nothing of a layer's size is held in memory."""

import hashlib
import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
HOST_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


class _HashingWriter:
    """What a layer's tar is written to: hashes the plain bytes on their way into the compressor."""

    def __init__(self, output):
        self._output = output
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data):
        self._hash.update(data)
        self.size += len(data)
        return self._output.write(data)

    def digest(self):
        return "sha256:" + self._hash.hexdigest()


class Layout:
    """An OCI layout being written to a new directory: layers, then the manifest over them, then a tag."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self._blobs = self.directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._layers, self._diff_ids, self._roots = [], [], []

    def blob(self, data, media_type):
        """Stores bytes, or a value as JSON, and returns their descriptor."""
        if not isinstance(data, bytes):
            data = json.dumps(data, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    @contextmanager
    def layer(self, compressor=("gzip", "-n", "-6"), media_type=GZIP_LAYER):
        """Gives a writer for the tar of the next layer."""
        partial = self._blobs / "partial"
        with open(partial, "wb") as output:
            process = subprocess.Popen(compressor, stdin=subprocess.PIPE, stdout=output)
            tar = _HashingWriter(process.stdin)
            yield tar
            process.stdin.close()
            if process.wait() != 0:
                raise RuntimeError(f"{compressor[0]} failed with status {process.returncode}")
        with open(partial, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        descriptor = {"mediaType": media_type, "digest": f"sha256:{digest}", "size": partial.stat().st_size}
        partial.rename(self._blobs / digest)
        self._layers.append(descriptor)
        self._diff_ids.append(tar.digest())

    def manifest(self, config=None, *, platform=None, types=(MANIFEST, CONFIG), more=None):
        """Writes config and manifest over the layers since the last one; `more` is merged into the config document."""
        document = {
            "created": "2025-01-01T00:00:00Z",
            **(platform or {"architecture": HOST_ARCHITECTURE, "os": "linux"}),
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
            **(more or {}),
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": types[0],
            "config": self.blob(document, types[1]),
            "layers": self._layers,
        }
        self._layers, self._diff_ids = [], []
        descriptor = self.blob(manifest, types[0])
        return descriptor | ({"platform": platform} if platform else {})

    def tag(self, name, root):
        """Adds a tagged root and writes index.json."""
        self._roots.append(root | {"annotations": {"org.opencontainers.image.ref.name": name}})
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self.directory / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": self._roots}))
