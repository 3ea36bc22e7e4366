"""Kaggle's CSV form of Fashion-MNIST: header `label,pixel1,…,pixel784`, one image a row.

Pixels are integers 0–255, row by row from the top left. Blank lines hold no image.
"""

import csv
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TextIO

from common.errors import InputError, shorten

import numpy as np

HEIGHT = WIDTH = 28
COLUMNS = ["label", *(f"pixel{number}" for number in range(1, HEIGHT * WIDTH + 1))]
_MAX_LINE = 100_000  # characters; the header has 7,737 with quotes
# A whole cell. NumPy's `quotechar` would take all to the next quote for one cell, and so name another line.
_QUOTED = re.compile(r'(?<![^,])"([^",]*)"(?![^,\r\n])')


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1) and labels (N,), both uint8.

    Raises:
        InputError: the file has another form; the message names the line where there is one.
    """
    line = 1

    def rows(file: TextIO) -> Iterator[str]:
        nonlocal line
        yield ",".join("0" * len(COLUMNS))  # NumPy holds all other rows to the length of the first
        while row := file.readline(_MAX_LINE):
            line += 1
            yield _QUOTED.sub(r"\1", row)

    try:
        with path.open(encoding="utf-8-sig", errors="backslashreplace") as file:
            _check_header(path, file.readline(_MAX_LINE))
            values = np.loadtxt(rows(file), np.uint8, delimiter=",", comments=None, ndmin=2)[1:]  # (N, 785)
    except OSError as error:
        raise InputError(f"{path} must be a readable file; received: {error.strerror}") from None
    except ValueError as error:
        reason = re.sub(r" at row \d+(;.*)?", "", str(error))  # a count without header and blank lines
        raise InputError(f"{path} must hold 785 integers 0 to 255 a row; received in line {line}: {reason}") from None
    return values[:, 1:].reshape(-1, HEIGHT, WIDTH, 1), values[:, 0]


def _check_header(path: Path, line: str) -> None:
    names = next(csv.reader([line]), [])
    for place, (name, expected) in enumerate(zip_longest(names, COLUMNS), 1):
        if name != expected:
            raise InputError(
                f"{path} must begin with the header label,pixel1,…,pixel784, separated by commas; "
                f"received {shorten(name, 40)} as column {place} of {len(names)}"
            )
