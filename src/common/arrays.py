"""The prepared arrays: a folder for train, one for test, with `images.npy` and `labels.npy` each.

Nothing is pickled.
"""

import io
from pathlib import Path
from typing import Any

from common.errors import InputError, first_line

import numpy as np
import pydantic

PREPARED = Path("data/prepared")
NEAR_DUPLICATES = PREPARED / "near_duplicates.npy"  # (N,) int64: one number for each group of near-duplicates in train
SPLIT = Path("data/split")


def save(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """images (N, H, W, C) uint8 and labels (N,) uint8, into an existing folder."""
    save_array(folder / "images.npy", images)
    save_array(folder / "labels.npy", labels)


def save_array(path: Path, array: np.ndarray) -> None:
    """An .npy file. `np.save` into a file writes through C's buffers and does not report a full disk.

    Raises:
        OSError: the array cannot be written as a whole.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    path.write_bytes(content.getbuffer())


def load(part: str) -> tuple[np.ndarray, np.ndarray]:
    """The prepared images (N, H, W, C) uint8 and labels (N,) uint8 of `part`, train or test.

    Raises:
        InputError: a file is missing, damaged, or not of this form.
    """
    return load_array(PREPARED / part / "images.npy", np.uint8, 4), load_labels(part)


def load_labels(part: str) -> np.ndarray:
    """The labels (N,) uint8 alone."""
    return load_array(PREPARED / part / "labels.npy", np.uint8, 1)


def load_rows(name: str, count: int) -> np.ndarray:
    """The row numbers (N,) int64 of `name`, train or val, into the prepared train arrays.

    Args:
        count: of rows in these arrays.

    Raises:
        InputError: the file is missing, damaged, or of other arrays.
    """
    path = SPLIT / f"{name}.npy"
    rows = load_array(path, np.int64, 1)
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise InputError(
            f"{path} must have rows below {count}, the number of images; received {rows.min()} to {rows.max()}"
        )
    return rows


def load_class_names() -> list[str]:
    """The names of the classes, in the order of the labels; InputError where the file is missing or damaged."""
    return _load_json(PREPARED / "classes.json", list[str], "list of names")


def load_source() -> dict[str, str]:
    """`source`, as in data.source, and `release`, Fashion-MNIST's where it is one; errors as of `load_class_names`."""
    return _load_json(PREPARED / "source.json", dict[str, str], "object of source and release")


def _load_json(path: Path, kind: Any, words: str) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise InputError(f"{path} must be a JSON {words}; received: {reason}") from None


def load_array(path: Path, dtype: type, dimensions: int) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        InputError: the file is missing, damaged, or has another type or number of dimensions.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} must exist (dvc repro, pull or checkout brings it); received no file") from None
    except Exception as error:  # NumPy's reader raises whatever a damaged header makes it
        raise InputError(f"{path} must be a whole .npy file; received: {first_line(error)}") from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != dimensions:
        raise InputError(
            f"{path} must hold {np.dtype(dtype).name} in {dimensions} dimensions; "
            f"received {getattr(array, 'dtype', type(array).__name__)} in {getattr(array, 'ndim', 'no')}"
        )
    return array
