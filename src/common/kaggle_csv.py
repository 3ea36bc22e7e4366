"""Kaggle's CSV form of Fashion-MNIST: header `label,pixel1,…,pixel784`, one image a row.

Pixels are integers 0–255, row by row from the top left.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError

HEIGHT = WIDTH = 28
COLUMNS = ["label", *(f"pixel{number}" for number in range(1, HEIGHT * WIDTH + 1))]
_CHUNK_ROWS = 5_000  # bounds the memory: 8 bytes a value while a chunk is parsed
_HEADER_BYTES = 100_000  # far more than the right header has


def read(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1) and labels (N,), both uint8.

    Raises:
        InputError: anything that is not of this form, with the line where there is one.
    """
    _check_header(path)
    images, labels = [], []
    for first_line, chunk in _chunks(path):
        values = _integers(path, chunk, first_line)  # (rows, 785)
        _refuse(path, first_line, values[:, :1], classes - 1)
        _refuse(path, first_line, values[:, 1:], 255)
        labels.append(values[:, 0].astype(np.uint8))
        images.append(values[:, 1:].astype(np.uint8).reshape(-1, HEIGHT, WIDTH, 1))
    if not images:
        raise InputError(f"{path} must hold at least one row below its header; received none")
    return np.concatenate(images), np.concatenate(labels)


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The opposite of `read`."""
    values = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    pd.DataFrame(values, columns=COLUMNS).to_csv(path, index=False)


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            line = file.readline(_HEADER_BYTES)
        names = line.decode("utf-8-sig").rstrip("\r\n").split(",")
    except OSError as error:
        raise InputError(f"{path} must be a readable file; received: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} must be UTF-8; received byte {line[error.start]:#04x} in line 1"
        ) from None
    names = [name.strip('"') for name in names]
    if names == COLUMNS:
        return
    rule = f"{path} must begin with the header label,pixel1,…,pixel784, separated by commas"
    if len(names) != len(COLUMNS):
        raise InputError(f"{rule}; received {len(names)} columns, {_shown(names[0])} first")
    place = next(place for place, name in enumerate(names) if name != COLUMNS[place])
    raise InputError(f"{rule}; received {_shown(names[place])} as column {place + 1}")


def _chunks(path: Path) -> Iterator[tuple[int, pd.DataFrame]]:
    """Data rows with the number of their first line, as integers where all are, else as they parse."""
    line = 2
    try:
        with pd.read_csv(
            path,
            header=None,
            skiprows=1,
            names=COLUMNS,
            index_col=False,
            chunksize=_CHUNK_ROWS,
            skip_blank_lines=False,
            encoding="utf-8-sig",
            low_memory=False,
        ) as reader:
            for chunk in reader:
                yield line, chunk
                line += len(chunk)
    except pd.errors.EmptyDataError:  # no rows: the caller says so
        return
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} must hold 785 comma-separated UTF-8 values a row; received: {reason}"
        ) from None


def _integers(path: Path, chunk: pd.DataFrame, first_line: int) -> np.ndarray:
    """The values (rows, 785) of a chunk, refused unless every cell was written as an integer."""
    wrong = [name for name in COLUMNS if chunk[name].dtype != np.int64]
    if wrong:
        cells = chunk[wrong]
        # what an integer column may not hold: text, fractions, and gaps (short rows read as gaps)
        numbers = cells.apply(pd.to_numeric, errors="coerce")
        bad = (numbers.isna() | (numbers % 1 != 0) | (numbers.abs() >= 2**63)).to_numpy()
        if not bad.any():  # written as 3.0: a number, yet not as the form has it
            bad[:] = True
        row, column = np.argwhere(bad)[0]
        value = cells.iat[row, column]
        shown = "nothing" if pd.isna(value) else _shown(str(value))
        raise InputError(
            f"{path} must hold 785 integers a row; received {shown} as {wrong[column]} in line {first_line + row}"
        )
    return chunk.to_numpy()


def _refuse(path: Path, first_line: int, values: np.ndarray, highest: int) -> None:
    """Raises if a value is outside 0 to `highest`: (rows, 1) labels or (rows, 784) pixels."""
    outside = np.argwhere((values < 0) | (values > highest))
    if outside.size:
        row, column = outside[0]
        name = "label" if values.shape[1] == 1 else f"pixel{column + 1}"
        kind = "labels" if name == "label" else "pixels"
        raise InputError(
            f"{path} must hold {kind} from 0 to {highest}; "
            f"received {values[row, column]} as {name} in line {first_line + row}"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
