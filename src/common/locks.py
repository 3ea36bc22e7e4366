"""One process at a time writes, even where an interrupted dvc has left a stage running."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

STAGE = Path(".cache/stage.lock")


@contextmanager
def exclusive(path: Path = STAGE) -> Iterator[None]:
    """Holds the lock `path`. While another process holds it, waits, and names that process on stderr.

    Every stage writes under the default lock, so no two stages write into one working directory. The
    operating system releases the lock when its process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        marker = path.with_suffix(f".waiting-{os.getpid()}")
        with FileLock(marker):
            print(f"waiting until process {path.read_text()} ends, which writes here too", file=sys.stderr)
            lock.acquire()
            marker.unlink(missing_ok=True)
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def is_awaited(path: Path) -> bool:
    """Whether another process waits for the lock `path`; removes what killed processes left."""
    for marker in path.parent.glob(f"{path.stem}.waiting-*"):
        try:
            with FileLock(marker, timeout=0):
                marker.unlink(missing_ok=True)
        except Timeout:
            return True
    return False
