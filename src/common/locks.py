"""Who may write: one process at a time, also beside one that an interrupted dvc left running."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

STAGE = Path(".cache/stage.lock")


def wanted(path: Path) -> Path:
    """The file that is there while someone waits for the lock `path`."""
    return path.with_suffix(".wanted")


@contextmanager
def alone(path: Path = STAGE) -> Iterator[None]:
    """Waits, and says for whom, until no other process holds the lock `path`, then holds it.

    Every stage writes within the default, so that no two of them write into one working directory. The
    lock is the operating system's: it goes with its process, however that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        wanted(path).touch()
        print(
            f"waiting until process {path.read_text()} ends, which writes here too",
            file=sys.stderr,
            flush=True,
        )
        lock.acquire()
    try:
        wanted(path).unlink(missing_ok=True)
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
