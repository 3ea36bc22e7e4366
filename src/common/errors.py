"""How every script of this repository ends when it cannot go on: one line for what its user can mend.

Programming errors keep their traceback.
"""

import os
import re
import sqlite3
import sys
from types import TracebackType
from typing import Any

# C0 and C1, line and paragraph separators, and what turns the direction of all text after it
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """Without line ends, and without what would steer a terminal."""
    return CONTROL.sub("�", " ".join(text.splitlines()))


class InputError(Exception):
    """A file, parameter or source is wrong. The message, one line, gives the rule, then the value."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # a file name may hold anything


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type where the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shorten(value: Any, length: int = 200) -> str:
    """A value for an error message: its `repr`, cut after `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[:length] + "…"


def print_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The `sys.excepthook` that `import common` sets; Python still chooses the exit status (1; 130 for Ctrl-C)."""
    # DVC removes a stage's outputs before it runs the command, and tells it the stage and the top folder.
    restore = ""
    if "DVC_STAGE" in os.environ:
        metrics = os.path.relpath("metrics", os.environ.get("DVC_ROOT"))
        restore = (
            f"; to get back the outputs that dvc removed: dvc checkout --allow-missing && git restore {metrics}"
        )
    if "DVC_EXP_NAME" in os.environ:  # dvc exp run has written its -S into params.yaml, and leaves them there
        restore += "; to take back what -S has changed: git restore params.yaml"
    if issubclass(kind, InputError):
        line = f"error: {error}"
    # The machine's, such as a full disk: dvclive meets it as an error of the database that DVC keeps.
    elif issubclass(kind, OSError | sqlite3.OperationalError):
        line = f"error: files must be readable and writable; received {error}"
    elif issubclass(kind, KeyboardInterrupt):
        line = "interrupted"
    else:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{line}{restore}", file=sys.stderr)
