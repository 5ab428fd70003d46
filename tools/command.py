"""Runs the programs under test; what fails says which command it was and what it said last."""

import os
import subprocess


class Failure(Exception):
    """A check that does not hold."""


def run(*command, **options):
    """Returns what a command wrote to stdout and stderr; raises Failure with the end of its words when it fails."""
    environment = os.environ | options.pop("environment", {})
    done = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="backslashreplace", env=environment, **options)
    if done.returncode != 0:
        words = (done.stdout + done.stderr)[-2000:]
        raise Failure(f"`{' '.join(map(str, command))}` ended with status {done.returncode}\n{words}")
    return done


def require(holds, message):
    if not holds:
        raise Failure(message)
