"""Stage 3: which rows of the prepared training images are for training and which for validation.

Both sets are stratified by class and drawn with `split.seed`. The outputs are sorted row numbers, not
copies of the images.
"""

from common import arrays, files, inputs, locks, params
from common.errors import InputError, first_line

import numpy as np
from sklearn.model_selection import train_test_split


def draw(labels: np.ndarray, size: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Draws `size` rows, stratified by class.

    Returns:
        The drawn and the remaining row numbers into `labels`, each sorted, int64.

    Raises:
        InputError: there are too few rows for one of each class in both sets; `name` is the parameter.
    """
    rows = np.arange(len(labels))
    if size in (0, len(labels)):
        return rows[:size], rows[size:]
    try:
        rest, drawn = train_test_split(rows, test_size=size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise InputError(
            f"{name} must leave a row of each class on both sides; received {size:,}: {first_line(error)}"
        ) from None
    return np.sort(drawn), np.sort(rest)


def split(
    labels: np.ndarray, train_size: int | None, val_size: float, seed: int, train_slice: tuple[int, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint row numbers for train and for val.

    Args:
        labels: (N,) of all rows.
        train_size: None: all rows that val leaves, or all of the slice.
        val_size: below 1 a share of N, rounded.
        train_slice: first row and end of those for train; val is drawn from the others. None: both from all rows.

    Raises:
        InputError: there are too few rows.
    """
    size = round(val_size * len(labels)) if isinstance(val_size, float) else val_size
    candidates, left = np.arange(len(labels)), None
    if train_slice is not None:
        if not 0 <= train_slice[0] < train_slice[1] <= len(labels):
            raise InputError(f"split.train_slice must lie in the {len(labels):,} rows; received {list(train_slice)}")
        candidates, left = np.delete(candidates, slice(*train_slice)), candidates[slice(*train_slice)]
    most = len(candidates) - (left is None)
    if size > most:
        raise InputError(f"split.val_size must be between 0 and {most:,}; received {val_size:,}")
    drawn, rest = draw(labels[candidates], size, seed, "split.val_size")
    val = candidates[drawn]
    left = candidates[rest] if left is None else left
    if train_size is not None and train_size > len(left):
        raise InputError(
            f"split.train_size must be at most the {len(left):,} rows that val leaves; received {train_size:,}"
        )
    chosen, _ = draw(labels[left], len(left) if train_size is None else train_size, seed, "split.train_size")
    train = left[chosen]
    for name, rows in (("split.val_size", val), ("split.train_size", train)):
        missing = np.setdiff1d(labels, labels[rows])
        if len(rows) and missing.size:  # the share of a rare class may round to no row
            raise InputError(
                f"{name} must leave a row of each class for train and for val; "
                f"received {len(rows):,}, with none of label {missing[0]}"
            )
    return train, val


@locks.exclusive()
def main() -> None:
    chosen = params.load().split
    labels = arrays.load_labels("train")
    train, val = split(labels, chosen.train_size, chosen.val_size, chosen.seed, chosen.train_slice)
    with files.atomic_folder(arrays.SPLIT) as folder:
        arrays.save_array(folder / "train.npy", train)
        arrays.save_array(folder / "val.npy", val)
    print(f"{len(train):,} of {len(labels):,} rows for training, {len(val):,} for validation")


if __name__ == "__main__":
    inputs.declare("data/prepared/train")
    main()
