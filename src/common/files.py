"""Outputs that appear under their final name complete, or not at all: after a kill or a loss of power too."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Gives a temporary file beside `path` to write; it replaces `path` unless the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives an empty temporary folder beside `path` to fill; it replaces `path` unless the block raises."""
    (path := path.resolve()).parent.mkdir(parents=True, exist_ok=True)  # so a link stays one
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    if old.exists() and not path.exists():
        old.replace(path)
    for remains in (part, old):  # of a run that was killed
        shutil.rmtree(remains, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for folder, _, names in os.walk(part, topdown=False):
            for name in (*names, "."):
                _sync(Path(folder, name))
        if path.exists():  # two steps, of which the next block takes back the first
            path.replace(old)
        part.replace(path)
        _sync(path.parent)
    finally:
        for remains in (part, *[old] * path.exists()):  # without it, the next block takes it back
            shutil.rmtree(remains, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until the disk holds a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def md5(path: Path) -> str | None:
    """DVC's hash of a file, or of the list of files in a folder as DVC writes it; None where there is nothing."""
    if path.is_dir():
        from dvc import fs, ignore  # takes half a second

        whole = path.resolve()
        root = next((above for above in whole.parents if (above / ".dvc").is_dir()), Path.cwd())
        seen = ignore.DvcIgnoreFilter(fs.localfs, str(root)).find(fs.localfs, str(whole))
        within = sorted((Path(file).relative_to(whole).as_posix(), Path(file)) for file in seen)
        listing = [{"md5": md5(file), "relpath": name} for name, file in within]
        return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """JSON with one key a line, in the order given, so that a diff shows what changed."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
