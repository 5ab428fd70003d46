"""A containerd of our own: its root, state and socket lie in one directory, and it is gone when the block ends."""

import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from command import Failure, run

CONFIG = """
version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart"]
[grpc]
address = "{0}/socket"
[ttrpc]
address = "{0}/socket.ttrpc"
"""


class Containerd:
    """A running containerd, seen through its client ctr-remote, which is ctr with a few commands more."""

    def __init__(self, directory, program, process):
        self.directory, self._program, self.process = directory, program, process

    def command(self, *arguments):
        return [*self._program("ctr-remote"), "--address", self.directory / "socket", *arguments]

    def ctr(self, *arguments):
        return run(*self.command(*arguments))


@contextmanager
def containerd(directory, program=lambda name: [name], settings=""):
    """Starts containerd below `directory`, whose path must be short enough for a socket's.

    `program` says how a program of containerd's is called; `settings` are lines for its configuration."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(CONFIG.format(directory) + settings)
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [*program("containerd"), "--config", directory / "config.toml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            client = Containerd(directory, program, process)
            for _ in range(100):
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


def _unmount_below(directory):
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            run("umount", "--lazy", mount)
