"""How every script of this repository ends when it cannot go on: one line for what its user can mend.

Programming errors keep their traceback; DEBUG=1 shows it of every error.
"""

import logging
import os
import re
import sqlite3
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

# C0 and C1, line and paragraph separators, and what turns the direction of all text after it
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
COPY = re.compile(r"/\.(dvc/tmp|cache/(experiments|rebuild))/")  # for one run: it has no user


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
    restore, top = "", os.environ.get("DVC_ROOT", "")
    if "DVC_STAGE" in os.environ and not COPY.search(top):
        metrics = os.path.relpath("metrics", top or None)
        restore = f"; to get back the outputs that dvc removed: dvc checkout --allow-missing && git restore {metrics}"
        if "DVC_EXP_NAME" in os.environ:  # dvc exp run has written its -S into params.yaml, and leaves them there
            restore += "; params.yaml keeps what -S has changed, see git diff params.yaml"
    if issubclass(kind, InputError):
        line = f"error: {error}"
    # The machine's, such as a full disk or memory: dvclive meets it as an error of the database that DVC keeps.
    elif issubclass(kind, OSError | MemoryError | sqlite3.OperationalError) or "allocate" in str(error):
        line = f"error: {InputError(_cause(error, trace))}"
    elif issubclass(kind, KeyboardInterrupt):
        line = "interrupted"
    else:
        sys.__excepthook__(kind, error, trace)
        return
    if os.environ.get("DEBUG") == "1":
        sys.__excepthook__(kind, error, trace)
    elif not hasattr(sys, "ps1"):  # which ends now: what libraries then cannot clean up is no news
        logging.disable()
        sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *_: None  # type: ignore[assignment]
        sys.stdout = None  # where nothing can be written, a last flush would make it 120
    print(f"{line}{restore}", file=sys.stderr)


def _cause(error: BaseException, trace: TracebackType | None) -> str:
    """What the system says, and of which file, program or host."""
    said = str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ") or type(error).__name__
    *_, (frame, _) = traceback.walk_tb(trace)
    module, values = frame.f_globals.get("__name__"), frame.f_locals
    if module == "subprocess":
        said += " (a program that must be in PATH)"
    if module == "socket" and "host" in values:  # which the error does not name
        said += f" (host {values['host']}, port {values['port']})"
    return said
