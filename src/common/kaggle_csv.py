"""Kaggle's CSV form of Fashion-MNIST: header `label,pixel1,…,pixel784`, one image a row.

Pixels are integers 0–255, row by row from the top left. Every row is checked before NumPy parses
it: NumPy passes over blank lines, and does not show the cell that it refuses.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError, shorten

import numpy as np

HEIGHT = WIDTH = 28
COLUMNS = ["label", *(f"pixel{number}" for number in range(1, HEIGHT * WIDTH + 1))]
_MAX_LINE = 100_000  # bytes; a row has 3,140 at most, or twice that in quotes
_PIXEL = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[0-9]{1,2})"
_INTEGER = re.compile(r" *[+-]?[0-9]+ *")  # signs, leading zeros and spaces are unambiguous


def read(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1) and labels (N,), both uint8.

    Raises:
        InputError: the file has another form; the message names the line where there is one.
    """
    values = np.loadtxt(_rows(path, classes), np.uint8, delimiter=",", ndmin=2)  # (N, 785)
    return values[:, 1:].reshape(-1, HEIGHT, WIDTH, 1), values[:, 0]


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The inverse of `read`."""
    values = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    np.savetxt(path, values, "%d", ",", header=",".join(COLUMNS), comments="")


def _rows(path: Path, classes: int) -> Iterator[bytes]:
    """Each row below the header, checked, as 785 numbers between commas."""
    labels = "|".join(map(str, range(classes)))
    plain = re.compile(f"(?:{labels})(?:,{_PIXEL}){{784}}".encode())
    number = 1
    try:
        with path.open("rb") as file:
            _check_header(path, file.readline(_MAX_LINE))
            while line := file.readline(_MAX_LINE):
                number += 1
                row = line.removesuffix(b"\n").removesuffix(b"\r")
                yield row if plain.fullmatch(row) else _plain(path, row, number, classes)
    except OSError as error:
        raise InputError(f"{path} must be a readable file; received: {error.strerror}") from None
    if number == 1:
        raise InputError(f"{path} must hold at least one row below its header; received none")


def _check_header(path: Path, line: bytes) -> None:
    try:
        names = line.decode("utf-8-sig").rstrip("\r\n").split(",")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path} must be UTF-8; received byte {byte:#04x} in line 1") from None
    names = [_unquoted(name) for name in names]
    if names == COLUMNS:
        return
    rule = f"{path} must begin with the header label,pixel1,…,pixel784, separated by commas"
    if len(names) != len(COLUMNS):
        raise InputError(f"{rule}; received {len(names)} columns, {shorten(names[0], 40)} first")
    place = next(place for place, name in enumerate(names) if name != COLUMNS[place])
    raise InputError(f"{rule}; received {shorten(names[place], 40)} as column {place + 1}")


def _plain(path: Path, row: bytes, line: int, classes: int) -> bytes:
    """A row with quotes, signs, leading zeros or spaces, as 785 numbers between commas.

    Raises:
        InputError: the row is not a label and 784 pixels.
    """
    cells = [_unquoted(cell) for cell in row.decode("utf-8", "backslashreplace").split(",")]
    if len(cells) != len(COLUMNS):
        raise InputError(
            f"{path} must hold 785 values a row; "
            f"received {len(cells)} in line {line}, {shorten(cells[0], 40)} first"
        )
    for name, cell, highest in zip(COLUMNS, cells, [classes - 1, *[255] * (HEIGHT * WIDTH)], strict=True):
        if not _INTEGER.fullmatch(cell) or len(cell) > 30 or not -(2**63) <= int(cell) < 2**63:
            raise InputError(
                f"{path} must hold 785 integers a row; "
                f"received {shorten(cell, 40) if cell else 'nothing'} as {name} in line {line}"
            )
        if not 0 <= int(cell) <= highest:
            raise InputError(
                f"{path} must hold {'labels' if name == 'label' else 'pixels'} from 0 to {highest}; "
                f"received {int(cell)} as {name} in line {line}"
            )
    return ",".join(str(int(cell)) for cell in cells).encode()


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
