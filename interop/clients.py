"""Programs that fetch images from registries and put them there, each in its own way."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from command import Failure, run

EVERYTHING = ("--all", "--preserve-digests")


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Client:
    """A program that keeps every digest."""

    name: str
    # Fetches an image, given how it is called and an empty directory; returns the digest of what came.
    fetch: Callable
    # Puts what it has fetched into that directory, or what went by that name, to another place.
    put: Callable


def all_of(peers, old, new):
    """The clients of Debian 12, and those of `peers`; `old` and `new` are running containerds, one of each."""
    return [skopeo("1.9", run), skopeo("1.22", peers.run), crane(peers), oras(peers), containerd("1.6", old), containerd("2.1", new)]


def skopeo(version, runner):
    def copy(*arguments):
        runner("skopeo", "--insecure-policy", "copy", "--quiet", *EVERYTHING, *arguments)

    def fetch(image, directory):
        copy("--src-tls-verify=false", f"docker://{image}", f"dir:{directory}")
        return digest(Path(directory, "manifest.json").read_bytes())

    def put(_, directory, image):
        copy("--dest-tls-verify=false", f"dir:{directory}", f"docker://{image}")

    return Client(f"skopeo {version}", fetch, put)


def crane(peers):
    """Takes addresses of this machine for such that speak no TLS."""

    def fetch(image, directory):
        peers.run("crane", "pull", "--format", "oci", image, directory)
        return only_entry(directory)

    def put(_, directory, image):
        peers.run("crane", "push", directory, image)

    return Client("crane 0.20", fetch, put)


def oras(peers):
    def fetch(image, directory):
        peers.run("oras", "cp", "--no-tty", "--from-plain-http", "--to-oci-layout", image, f"{directory}:fetched")
        return only_entry(directory, tag="fetched")

    def put(_, directory, image):
        peers.run("oras", "cp", "--no-tty", "--from-oci-layout", "--to-plain-http", f"{directory}:fetched", image)

    return Client("oras 1.3", fetch, put)


def containerd(version, daemon):
    def ctr(*arguments):
        return daemon.ctr(*arguments, client="ctr").stdout

    def fetch(image, _):
        ctr("content", "fetch", "--all-platforms", "--plain-http", image)
        for line in ctr("images", "ls", f"name=={image}").splitlines()[1:]:
            return line.split()[2]
        raise Failure(f"containerd does not know {image}")

    def put(source, _, image):
        ctr("images", "tag", "--force", source, image)
        ctr("images", "push", "--plain-http", image)

    return Client(f"containerd {version}", fetch, put)


def only_entry(layout, tag=None):
    """The digest of the image in a layout that has one, or one of that name."""
    found = [one["digest"] for one in json.loads(Path(layout, "index.json").read_text())["manifests"]
             if tag in (None, one.get("annotations", {}).get("org.opencontainers.image.ref.name"))]
    if len(found) != 1:
        raise Failure(f"{layout} holds {found}")
    return found[0]
