"""Stage 3: which rows of the prepared training images are for training and which for validation.

Both sets are stratified by class and drawn with `split.seed`; what is written are row numbers,
sorted, not copies of the images.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import numpy as np
from sklearn.model_selection import train_test_split

from common import arrays, files, locks, params
from common.errors import InputError


def draw(labels: np.ndarray, size: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Draws `size` rows, stratified by class.

    Returns:
        The drawn and the remaining row numbers into `labels`, each sorted, int64.

    Raises:
        InputError: too few rows for one of each class on both sides; `name` names the parameter.
    """
    everything = np.arange(len(labels))
    if size == 0 or size == len(labels):
        drawn, rest = (everything, everything[:0]) if size else (everything[:0], everything)
        return drawn, rest
    present, counts = np.unique(labels, return_counts=True)
    if not len(present) <= size <= len(labels) - len(present):
        raise InputError(
            f"{name} must leave at least a row of each of the {len(present)} classes on both sides "
            f"({len(present)} to {len(labels) - len(present):,}); received {size:,}"
        )
    if counts.min() < 2:
        raise InputError(
            f"{name} needs two rows or more of each class; received 1 of label {present[counts.argmin()]}"
        )
    rest, drawn = train_test_split(everything, test_size=size, random_state=seed, stratify=labels)
    return np.sort(drawn), np.sort(rest)


def split(
    labels: np.ndarray, train_size: int | None, val_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for train and for val, disjoint. `train_size` None: all that val leaves."""
    if val_size >= len(labels):
        raise InputError(
            f"split.val_size must be between 0 and {len(labels) - 1:,}; received {val_size:,}"
        )
    left = len(labels) - val_size
    if train_size is not None and train_size > left:
        raise InputError(
            f"split.train_size must be at most the {left:,} rows that val leaves; received {train_size:,}"
        )
    val, rest = draw(labels, val_size, seed, "split.val_size")
    chosen, _ = draw(
        labels[rest], len(rest) if train_size is None else train_size, seed, "split.train_size"
    )
    train = rest[chosen]
    for name, rows in (("split.val_size", val), ("split.train_size", train)):
        missing = np.setdiff1d(labels, labels[rows])
        if len(rows) and missing.size:  # in proportion, a rare class may be none
            raise InputError(
                f"{name} must leave a row of each class for train and for val; "
                f"received {len(rows):,}, with none of label {missing[0]}"
            )
    return train, val


@locks.alone()
def main() -> None:
    chosen = params.load().split
    labels = arrays.load_labels("train")
    train, val = split(labels, chosen.train_size, chosen.val_size, chosen.seed)
    with files.whole_folder(arrays.SPLIT) as folder:
        arrays.save_array(folder / "train.npy", train)
        arrays.save_array(folder / "val.npy", val)
    print(f"{len(train):,} rows for training, {len(val):,} for validation, of {len(labels):,}")


if __name__ == "__main__":
    arrays.forbid_test_images()
    main()
