"""Daemons of our own: all that they write lies in one directory, and they are gone when the block ends."""

import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from command import Failure, run

CONTAINERD = """
version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart"]
[grpc]
address = "{0}/socket"
[ttrpc]
address = "{0}/socket.ttrpc"
"""

# A daemon ends when whoever started it does, however that happens.
OURS = ["setpriv", "--pdeathsig", "TERM", "--"]
REGISTRY = """
version: 0.1
storage:
  filesystem:
    rootdirectory: {}/blobs
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: 127.0.0.1:0
"""


class Containerd:
    """A running containerd, seen through its client ctr or ctr-remote, which is an older ctr with a few commands more."""

    def __init__(self, directory, program, process):
        self.directory, self._program, self.process = directory, program, process

    def command(self, *arguments, client="ctr-remote"):
        return [*self._program(client), "--address", self.directory / "socket", *arguments]

    def ctr(self, *arguments, **options):
        return run(*self.command(*arguments, **options))


@contextmanager
def containerd(directory, program=lambda name: [name], settings=""):
    """Starts containerd below `directory`, whose path must be short enough for a socket's.

    `program` says how a program of containerd's is called; `settings` are lines for its configuration."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(CONTAINERD.format(directory) + settings)
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [*OURS, *program("containerd"), "--config", directory / "config.toml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            client = Containerd(directory, program, process)
            for _ in range(300):
                try:
                    client.ctr("version")
                    break
                except Failure:
                    if process.poll() is not None:
                        break
                    time.sleep(0.1)
            else:
                process.kill()
                process.wait()
            if process.poll() is not None:
                raise Failure("containerd does not start\n" + (directory / "log").read_text()[-2000:])
            yield client
        finally:
            process.terminate()
            process.wait()
            _unmount_below(directory)


class Registry:
    """A running registry; `address` is how clients name it."""

    def __init__(self, directory, address):
        self.address, self._log = address, directory / "accesses"

    def requests(self):
        """Yields method, path, status, bytes sent and client of all requests answered so far."""
        pattern = re.compile(r'"(\S+) (\S+) HTTP/[0-9.]+" (\d+) (\d+) "[^"]*" "([^"]*)"')
        for line in self._log.read_text().splitlines():
            if found := pattern.search(line):
                method, path, status, size, client = found.groups()
                yield method, path, int(status), int(size), client

    def sent(self, name):
        """How many bytes of the blobs of a repository it has sent."""
        return sum(size for method, path, _, size, _ in self.requests() if method == "GET" and path.startswith(f"/v2/{name}/blobs/"))


@contextmanager
def registry(directory, peers):
    """Starts a registry on a free port of the loopback, which keeps its blobs below `directory`."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    (directory / "config.yml").write_text(REGISTRY.format(directory))
    command = peers.command("docker-registry", "serve", directory / "config.yml")
    with open(directory / "log", "wb") as log, open(directory / "accesses", "wb") as accesses:
        process = subprocess.Popen([*OURS, *command], stdin=subprocess.DEVNULL, stdout=accesses, stderr=log)
    try:
        words = ""
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", words)):
            if process.poll() is not None:
                raise Failure(f"the registry does not start\n{words[-2000:]}")
            time.sleep(0.05)
            words = (directory / "log").read_text()
        yield Registry(directory, found[1])
    finally:
        process.terminate()
        process.wait()


def _unmount_below(directory):
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            run("umount", "--lazy", mount)
