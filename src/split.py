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


def split(labels: np.ndarray, train_size: int | None, val_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint row numbers for train and for val. `train_size` None: all rows that val leaves."""
    if val_size >= len(labels):
        raise InputError(f"split.val_size must be between 0 and {len(labels) - 1:,}; received {val_size:,}")
    left = len(labels) - val_size
    if train_size is not None and train_size > left:
        raise InputError(f"split.train_size must be at most the {left:,} rows that val leaves; received {train_size:,}")
    val, rest = draw(labels, val_size, seed, "split.val_size")
    chosen, _ = draw(labels[rest], len(rest) if train_size is None else train_size, seed, "split.train_size")
    train = rest[chosen]
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
    train, val = split(labels, chosen.train_size, chosen.val_size, chosen.seed)
    with files.atomic_folder(arrays.SPLIT) as folder:
        arrays.save_array(folder / "train.npy", train)
        arrays.save_array(folder / "val.npy", val)
    print(f"{len(train):,} of {len(labels):,} rows for training, {len(val):,} for validation")


if __name__ == "__main__":
    inputs.declare("data/prepared/train")
    main()
