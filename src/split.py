"""Stage 3: which rows of the prepared training images are for training and which for validation.

Both are drawn with `split.seed`, stratified by class, but for a train that is all other rows or `split.train_slice`.
"""

from common import arrays, files, inputs, locks, params
from common.errors import InputError, first_line

import numpy as np
from sklearn.model_selection import train_test_split


def draw(labels: np.ndarray, size: int, seed: int, name: str) -> np.ndarray:
    """The numbers of `size` rows of `labels`, drawn stratified by class, sorted, int64.

    Raises:
        InputError: there are too few rows for one of each class in both sets; `name` is the parameter.
    """
    rows = np.arange(len(labels))
    if size in (0, len(labels)):
        return rows[:size]
    if 1 in (counts := [*np.bincount(labels)]):
        raise InputError(f"{name} must find 2 rows of each class or more; received 1 of label {counts.index(1)}")
    try:
        _, drawn = train_test_split(rows, test_size=size, random_state=seed, stratify=labels)
    except ValueError as error:
        received = f"received {size:,}: {first_line(error)}"
        raise InputError(f"{name} must leave a row of each class on both sides; {received}") from None
    return np.sort(drawn)


def split(
    labels: np.ndarray,
    train_size: int | None,
    val_size: float,
    seed: int,
    train_slice: tuple[int, ...] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for train and for val: disjoint, sorted, int64.

    Args:
        labels: (N,) of all rows.
        train_size: None: all rows that val leaves, or all of the slice.
        val_size: below 1 a share of N, rounded, but a row of each class or more.
        train_slice: first row and end of those for train; val is drawn from the others. None: both from all rows.
        groups: (N,) rows of one number stay on one side, so that val has about `val_size`; None: each row by itself.

    Raises:
        InputError: there are too few rows, or `train_slice` is outside of them.
    """
    is_share = 0 < val_size < 1
    size = round(val_size * len(labels)) if is_share else int(val_size)
    candidates, left = np.arange(len(labels)), None
    groups = candidates if groups is None else groups
    if train_slice is not None:
        if not 0 <= train_slice[0] < train_slice[1] <= len(labels):
            raise InputError(f"split.train_slice must lie in the {len(labels):,} rows; received {list(train_slice)}")
        left = candidates[slice(*train_slice)]
        candidates = candidates[~np.isin(groups, groups[left])]
    most = len(candidates) - (left is None)
    if size > most:
        raise InputError(f"split.val_size must be between 0 and {most:,}; received {val_size:,}")
    heads = candidates[np.unique(groups[candidates], return_index=True)[1]]  # one row of each group
    size = max(-(-size * len(heads) // max(1, len(candidates))), len(np.unique(labels[heads])) if is_share else 0)
    drawn = draw(labels[heads], min(size, len(heads) - (left is None)), seed, "split.val_size")
    if is_share:  # a row more of each class that has none there, but several rows
        generator, of_heads = np.random.default_rng(seed), labels[heads]
        lacking = [np.flatnonzero(of_heads == label) for label in np.setdiff1d(of_heads, of_heads[drawn])]
        drawn = np.append(drawn, [generator.choice(rows) for rows in lacking if len(rows) > 1]).astype(np.int64)
    in_val = np.isin(groups[candidates], groups[heads[drawn]])
    val = candidates[in_val]
    if size and not len(val):
        raise InputError(f"split.val_size must leave groups of images on both sides; received {val_size:,} of 1 group")
    left = candidates[~in_val] if left is None else left
    if train_size is not None and train_size > len(left):
        raise InputError(f"split.train_size must be at most {len(left):,}, as val leaves; received {train_size:,}")
    train = left[draw(labels[left], len(left) if train_size is None else train_size, seed, "split.train_size")]
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
    near = arrays.load_array(path := arrays.NEAR_DUPLICATES, np.int64, 1)
    if len(near) != len(labels):
        raise InputError(f"{path} must have a number a label ({len(labels):,}); received {len(near):,}")
    groups = near if chosen.group_duplicates else None
    train, val = split(labels, chosen.train_size, chosen.val_size, chosen.seed, chosen.train_slice, groups)
    with files.atomic_folder(arrays.SPLIT) as folder:
        arrays.save_array(folder / "train.npy", train)
        arrays.save_array(folder / "val.npy", val)
    print(f"{len(train):,} of {len(labels):,} rows for training, {len(val):,} for validation")
    if apart := np.intersect1d(near[train], near[val]).size:
        print(f"{apart:,} groups of near-duplicates have rows in both (split.group_duplicates keeps them together)")


if __name__ == "__main__":
    inputs.declare("data/prepared/near_duplicates.npy", "data/prepared/train")
    main()
