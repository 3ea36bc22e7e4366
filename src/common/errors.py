"""How every script of this repository ends when it cannot go on: one line, never a traceback.

Importing this module installs the hook, so a script imports it before anything slow. Programming
errors still show their traceback: only what the reader can mend is reduced to a line.
"""

import os
import sqlite3
import sys
from pathlib import Path
from types import TracebackType


class InputError(Exception):
    """A file, parameter or source is wrong. The message gives the rule, then the value."""


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replaces `sys.excepthook`; Python still chooses the exit status (1; 130 for Ctrl-C)."""
    # DVC removes a stage's outputs before it runs the command, and names the stage to it.
    restore = (
        f"; to get back the outputs that dvc removed: dvc checkout --allow-missing && git restore {_metrics()}"
        if "DVC_STAGE" in os.environ
        else ""
    )
    if issubclass(kind, InputError):
        line = " ".join(str(error).splitlines())  # a file name may hold a line break
        print(f"error: {line}{restore}", file=sys.stderr)
    # of the machine, such as a full disk, which dvclive meets in a database of DVC's
    elif issubclass(kind, OSError | sqlite3.OperationalError):
        print(
            f"error: files must be readable and writable; received {error}{restore}",
            file=sys.stderr,
        )
    elif issubclass(kind, KeyboardInterrupt):
        print(f"interrupted{restore}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _metrics() -> Path:
    """The folder of the stage's figures, as seen from where one calls dvc."""
    here = Path.cwd()
    roots = [folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()]
    return here.relative_to(roots[0] if roots else here) / "metrics"


sys.excepthook = _one_line
