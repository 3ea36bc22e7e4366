"""Kaggle's CSV form of Fashion-MNIST: header `label,pixel1,…,pixel784`, one image a row.

Pixels are integers 0–255, row by row from the top left. The form of every row is checked before NumPy
parses it: NumPy names no line of a file that is read in pieces.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError, shorten

import numpy as np

HEIGHT = WIDTH = 28
COLUMNS = ["label", *(f"pixel{number}" for number in range(1, HEIGHT * WIDTH + 1))]
_CHUNK_ROWS = 5_000  # bounds the memory
_MAX_LINE = 100_000  # bytes; a row has 3,140 at most, or twice that in quotes
_PLAIN_ROW = re.compile(rb"[0-9]{1,3}(?:,[0-9]{1,3}){784}")
_INTEGER = re.compile(r" *[+-]?[0-9]+ *")  # signs, leading zeros and spaces are unambiguous


def read(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1) and labels (N,), both uint8.

    Raises:
        InputError: the file has another form; the message names the line where there is one.
    """
    images, labels = [], []
    highest = np.array([classes - 1, *[255] * (HEIGHT * WIDTH)])  # (785,)
    for first_line, rows in _chunks(path):
        values = np.loadtxt(rows, np.int64, delimiter=",", ndmin=2)  # (rows, 785)
        outside = np.argwhere((values < 0) | (values > highest))
        if outside.size:
            row, column = outside[0]
            raise InputError(
                f"{path} must hold {'pixels' if column else 'labels'} from 0 to {highest[column]}; "
                f"received {values[row, column]} as {COLUMNS[column]} in line {first_line + row}"
            )
        labels.append(values[:, 0].astype(np.uint8))
        images.append(values[:, 1:].astype(np.uint8).reshape(-1, HEIGHT, WIDTH, 1))
    if not images:
        raise InputError(f"{path} must hold at least one row below its header; received none")
    return np.concatenate(images), np.concatenate(labels)


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The inverse of `read`."""
    values = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    np.savetxt(path, values, "%d", ",", header=",".join(COLUMNS), comments="")


def _chunks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Up to `_CHUNK_ROWS` rows at a time, as 785 integers between commas, with their first line's number."""
    try:
        with path.open("rb") as file:
            _check_header(path, file.readline(_MAX_LINE))
            first_line, rows = 2, list[bytes]()
            while line := file.readline(_MAX_LINE):
                row = line.removesuffix(b"\n").removesuffix(b"\r")
                if not _PLAIN_ROW.fullmatch(row):
                    row = _plain(path, row, first_line + len(rows))
                rows.append(row)
                if len(rows) == _CHUNK_ROWS:
                    yield first_line, rows
                    first_line, rows = first_line + len(rows), []
            if rows:
                yield first_line, rows
    except OSError as error:
        raise InputError(f"{path} must be a readable file; received: {error.strerror}") from None


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


def _plain(path: Path, row: bytes, line: int) -> bytes:
    """A row with quotes, signs, leading zeros or spaces, as 785 integers between commas.

    Raises:
        InputError: the row is not 785 integers.
    """
    cells = [_unquoted(cell) for cell in row.decode("utf-8", "backslashreplace").split(",")]
    if len(cells) != len(COLUMNS):
        raise InputError(
            f"{path} must hold 785 values a row; "
            f"received {len(cells)} in line {line}, {shorten(cells[0], 40)} first"
        )
    for name, cell in zip(COLUMNS, cells, strict=True):
        if not _INTEGER.fullmatch(cell) or len(cell) > 30 or not -(2**63) <= int(cell) < 2**63:
            raise InputError(
                f"{path} must hold 785 integers a row; "
                f"received {shorten(cell, 40) if cell else 'nothing'} as {name} in line {line}"
            )
    return ",".join(str(int(cell)) for cell in cells).encode()


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell
