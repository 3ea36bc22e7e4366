"""Calls of git, and what a commit has."""

import os
import subprocess
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES
from pathlib import Path, PurePath

from common.errors import InputError

for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # which hooks and aliases get: another place may be meant
    os.environ.pop(name, None)


def git(*words: str) -> str:
    """The output of git, without the line break at its end.

    Raises:
        InputError: it fails; the message has its first line and advice, and says so where the clone is shallow.
    """
    return _output(*words).decode(errors="replace").removesuffix("\n")


def content(commit: str | None, path: str) -> bytes | None:
    """The bytes of a file in a commit; None where there is no such file.

    Args:
        commit: None for the working directory.
        path: relative to the working directory, which may lie below the root of the repository.

    Raises:
        InputError: git cannot read the commit or the file.
    """
    if commit is None:
        return Path(path).read_bytes() if Path(path).exists() else None
    listed = git("ls-tree", "-z", commit, "--", f"./{path}")
    return _output("cat-file", "blob", listed.split()[2]) if listed else None


def shallow() -> str:
    """A hint for an error message, "" where the clone has the whole history."""
    words = ["git", "rev-parse", "--is-shallow-repository"]
    is_shallow = subprocess.run(words, capture_output=True, check=False).stdout == b"true\n"
    return " (this clone is shallow: git fetch --unshallow brings the rest of the history)" if is_shallow else ""


def _output(*words: str) -> bytes:
    done = subprocess.run(["git", *words], capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        reason = ": ".join(line.strip() for line in lines if line is lines[0] or "safe.directory" in line)
        raise InputError(f"git {' '.join(words)} must succeed; it said: {reason}{shallow()}")
    return done.stdout


def names(listed: str) -> list[str]:
    """The paths that git lists with -z."""
    return [name for name in listed.split("\0") if name]


def is_compiled(path: str) -> bool:
    """Whether Python could run a file in the place of its source."""
    return "__pycache__" in PurePath(path).parts or path.endswith((*BYTECODE_SUFFIXES, *EXTENSION_SUFFIXES))
