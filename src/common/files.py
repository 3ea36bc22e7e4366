"""Outputs that appear under their final name complete, or not at all."""

import json
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
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives an empty temporary folder beside `path` to fill; it replaces `path` unless the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
    part.mkdir()
    try:
        yield part
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.replace(old)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """JSON with one key a line, in the order given, so that a diff shows what changed."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
