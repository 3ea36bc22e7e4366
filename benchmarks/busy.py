"""Other work on the machine, while something is measured."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy_process() -> Iterator[None]:
    """Within the block, one other process computes without a pause."""
    words = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()  # it has started
            yield
        finally:
            process.kill()
