"""Calls of git."""

import subprocess

from common.errors import InputError


def git(*words: str) -> str:
    """The output of git, without the line break at its end.

    Raises:
        InputError: it fails; the message has its first line.
    """
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nothing"])[0]
        raise InputError(f"git {' '.join(words)} must succeed; it said: {reason}")
    return done.stdout.strip()
