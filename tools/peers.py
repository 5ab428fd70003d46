"""Runs the programs that tools/peers.sh has put into a root of their own."""

from pathlib import Path

from command import run

ENTER = Path(__file__).resolve().parent / "enter.sh"


class Peers:
    """A root with programs. They see the directories given here, under the same paths, and nothing else from outside."""

    def __init__(self, root, *directories):
        self.root = Path(root).resolve()
        self._directories = [Path(directory).resolve() for directory in directories]

    def command(self, *arguments):
        """The command that runs a program of the root, in the place of the process that it is given to."""
        return ["unshare", "--mount", ENTER, self.root, *self._directories, "--", *arguments]

    def run(self, *arguments, **options):
        return run(*self.command(*arguments), **options)

    def version(self, package):
        return run("dpkg-query", f"--admindir={self.root}/var/lib/dpkg", "--show", "--showformat=${Version}", package).stdout
