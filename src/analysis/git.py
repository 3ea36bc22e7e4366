"""Calls of git."""

import subprocess
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES
from pathlib import PurePath

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


def names(listed: str) -> list[str]:
    """The paths that git lists with -z."""
    return [name for name in listed.split("\0") if name]


def is_compiled(path: str) -> bool:
    """Whether Python could run a file in the place of its source."""
    return "__pycache__" in PurePath(path).parts or path.endswith((*BYTECODE_SUFFIXES, *EXTENSION_SUFFIXES))
