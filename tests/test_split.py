from pathlib import Path

from common import arrays
from common.errors import InputError

import numpy as np
import pytest

import split
from conftest import write_params

EVEN = np.random.default_rng(0).permutation(np.arange(1000, dtype=np.uint8) % 10)
UNEVEN = np.random.default_rng(0).permutation(np.repeat(np.arange(4, dtype=np.uint8), [500, 300, 150, 57]))


@pytest.mark.parametrize("labels", [EVEN, UNEVEN])
@pytest.mark.parametrize(("train_size", "val_size"), [(None, 100), (None, 333), (100, 333), (667, 333), (50, 0)])
def test_rows_are_disjoint_sorted_and_stratified(labels: np.ndarray, train_size: int | None, val_size: int) -> None:
    train, val = split.split(labels, train_size, val_size, seed=0)
    assert len(train) == (len(labels) - val_size if train_size is None else train_size)
    assert len(val) == val_size
    for rows in (train, val):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()  # sorted, and none twice
        counts = np.bincount(labels[rows], minlength=labels.max() + 1)
        proportional = np.bincount(labels) * len(rows) / len(labels)
        # Train is drawn from what val leaves, so that two roundings add up.
        assert abs(counts - proportional).max() < (1 if rows is val else 2)
    assert not set(train) & set(val)
    assert set(train) | set(val) <= set(range(len(labels)))


@pytest.mark.parametrize(("share", "rows"), [(0.1, 100), (0.25, 250), (0.3333, 333), (0.1417, 142)])
def test_val_may_be_a_share_of_all_rows(share: float, rows: int) -> None:
    for one, other in zip(split.split(EVEN, None, share, 0), split.split(EVEN, None, rows, 0), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_a_share_is_of_all_rows_beside_a_slice_too() -> None:
    train, val = split.split(EVEN, None, 0.1, 0, (200, 500))
    assert (len(train), len(val)) == (300, 100)


@pytest.mark.parametrize(
    "sizes", [[8] * 5, [6] * 10, [11] * 26, [3, 3], [20, 20, 4], [200, 120, 70, 40, 6], [2, 300]], ids=str
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("in_pairs", [False, True])
def test_a_share_leaves_a_row_of_each_class_on_both_sides(sizes: list[int], seed: int, in_pairs: bool) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    groups = None
    if in_pairs:  # a group has a copy of each row
        labels, groups = np.tile(labels, 2), np.tile(np.arange(len(labels)), 2)
    train, val = split.split(labels, None, 0.08334, seed, groups=groups)
    assert np.array_equal(np.sort([*train, *val]), np.arange(len(labels)))
    assert set(labels[train]) == set(labels[val]) == set(range(len(sizes)))
    assert len(val) <= max(len(labels) * 0.08334, (1 + in_pairs) * len(sizes)) + (1 + in_pairs) * len(sizes)


@pytest.mark.parametrize(("train_size", "val_size"), [(None, 0), (None, 200), (150, 200), (300, 700)])
def test_train_is_in_its_slice_and_val_outside(train_size: int | None, val_size: int) -> None:
    train, val = split.split(EVEN, train_size, val_size, 0, (200, 500))
    assert (len(train), len(val)) == (train_size or 300, val_size)
    assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    assert train.min() >= 200 and train.max() < 500
    assert not set(val) & set(range(200, 500))


@pytest.mark.parametrize(
    ("rows", "train_size", "val_size", "message"),
    [
        ((500, 1001), None, 0, "split.train_slice must lie in the 1,000 rows; received [500, 1001]"),
        ((500, 500), None, 0, "split.train_slice must lie in the 1,000 rows; received [500, 500]"),
        ((200, 500), None, 701, "split.val_size must be between 0 and 700; received 701"),
        ((200, 500), 301, 0, "split.train_size must be at most 300, as val leaves; received 301"),
    ],
)
def test_a_slice_that_does_not_fit_is_refused(
    rows: tuple[int, int], train_size: int | None, val_size: int, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        split.split(EVEN, train_size, val_size, 0, rows)
    assert str(caught.value) == message


@pytest.mark.parametrize("val_size", [0, 10, 333, 990])
@pytest.mark.parametrize("to_the_last_row", [False, True])
def test_together_they_cover_all_rows(val_size: int, to_the_last_row: bool) -> None:
    train_size = len(EVEN) - val_size if to_the_last_row else None
    train, val = split.split(EVEN, train_size, val_size, seed=0)
    assert sorted([*train, *val]) == list(range(len(EVEN)))


def test_the_seed_decides() -> None:
    first, again, other = (split.split(EVEN, 300, 200, seed) for seed in (0, 0, 1))
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two, strict=True)
        assert not np.array_equal(one, three)


def test_the_seed_decides_which_of_the_rows_that_val_leaves_train_has() -> None:
    (first, _), (other, _) = (split.split(EVEN, 300, 0, seed) for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_a_row_for_a_class_that_val_lacks_is_drawn_with_the_seed() -> None:
    labels = np.repeat(np.arange(11), [300, *[8] * 10])
    first, again = (split.split(labels, None, 0.08334, 0) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two, strict=True)


def test_val_does_not_depend_on_train_size() -> None:
    rows = [split.split(EVEN, train_size, 200, seed=0)[1] for train_size in (None, 100, 800)]
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


RARE = np.array([0] * 98 + [1] * 2, np.uint8)
SINGLE = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.uint8)


@pytest.mark.parametrize(
    ("labels", "train_size", "val_size", "message"),
    [
        (EVEN, None, 1000, "split.val_size must be between 0 and 999; received 1,000"),
        (EVEN, None, 1001, "split.val_size must be between 0 and 999; received 1,001"),
        (EVEN, 901, 100, "split.train_size must be at most 900, as val leaves; received 901"),
        (
            EVEN,
            None,
            9,
            "split.val_size must leave a row of each class on both sides; received 9: "
            "The test_size = 9 should be greater or equal to the number of classes = 10",
        ),
        (
            EVEN,
            None,
            991,
            "split.val_size must leave a row of each class on both sides; received 991: "
            "The train_size = 9 should be greater or equal to the number of classes = 10",
        ),
        (
            EVEN,
            9,
            100,
            "split.train_size must leave a row of each class on both sides; received 9: "
            "The test_size = 9 should be greater or equal to the number of classes = 10",
        ),
        (SINGLE, None, 4, "split.val_size must find 2 rows of each class or more; received 1 of label 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    labels: np.ndarray, train_size: int | None, val_size: int, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        split.split(labels, train_size, val_size, seed=0)
    assert str(caught.value) == message


def test_a_set_without_a_rare_class_is_refused() -> None:
    # Two rows in proportion to 98 and 2 are two of the one and none of the other.
    with pytest.raises(InputError, match=r"^split\.val_size "):
        split.split(RARE, None, 2, seed=0)


def test_a_slice_without_a_class_is_refused() -> None:
    message = r"^split\.train_size must leave a row of each class .*; received 100, with none of label 1$"
    with pytest.raises(InputError, match=message):
        split.split(np.repeat([0, 1], 100), None, 0, 0, (0, 100))


PAIRS = np.array([(row, row + 500) for row in range(0, 400, 2)] + [(0, 2), (2, 4)])
GROUPS = np.arange(1000)
for pair in PAIRS:
    GROUPS[np.isin(GROUPS, GROUPS[pair])] = GROUPS[pair[0]]


@pytest.mark.parametrize("val_size", [1, 100, 0.25, 500, 999])
def test_a_group_is_on_one_side(val_size: float) -> None:
    labels = np.zeros(1000, np.uint8)
    train, val = split.split(labels, None, val_size, 0, None, GROUPS)
    assert not set(GROUPS[train]) & set(GROUPS[val])
    assert sorted([*train, *val]) == list(range(1000))
    assert len(train)
    assert len(val) == pytest.approx(1000 * val_size if isinstance(val_size, float) else val_size, rel=0.15, abs=5)


@pytest.mark.parametrize("val_size", [4, 0.1])
def test_one_group_has_no_two_sides(val_size: float) -> None:
    message = rf"^split\.val_size must leave groups of images on both sides; received {val_size} of 1 group$"
    with pytest.raises(InputError, match=message):
        split.split(EVEN, None, val_size, 0, groups=np.zeros(len(EVEN), np.int64))


def test_a_slice_keeps_its_groups() -> None:
    train, val = split.split(np.zeros(1000, np.uint8), None, 300, 0, (0, 200), GROUPS)
    assert train.tolist() == list(range(200))
    assert not set(GROUPS[train]) & set(GROUPS[val])
    assert len(val) == pytest.approx(300, rel=0.15)


@pytest.mark.parametrize("together", [True, False])
def test_groups_that_are_apart_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], together: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"split.val_size": 200, "split.group_duplicates": together})
    write_prepared(EVEN, GROUPS)
    split.main()
    train, val = (arrays.load_rows(name, 1000) for name in ("train", "val"))
    apart = len({*GROUPS[train]} & {*GROUPS[val]})
    said = f"{apart} groups of near-duplicates have rows in both (split.group_duplicates keeps them together)\n"
    assert (said in capsys.readouterr().out) is not together
    assert (apart > 0) is not together


@pytest.mark.parametrize("count", [999, 1001])
def test_groups_of_other_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {})
    write_prepared(EVEN, np.resize(GROUPS, count))
    message = rf"near_duplicates\.npy must have a number a label \(1,000\); received {count:,}$"
    with pytest.raises(InputError, match=message):
        split.main()


def write_prepared(labels: np.ndarray, groups: np.ndarray) -> None:
    (arrays.PREPARED / "train").mkdir(parents=True)
    np.save(arrays.PREPARED / "train" / "labels.npy", labels)
    np.save(arrays.NEAR_DUPLICATES, groups)


def test_the_stage_writes_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"split.train_size": 300, "split.val_size": 200, "split.seed": 3})
    write_prepared(EVEN, np.arange(1000))
    split.main()
    train, val = split.split(EVEN, 300, 200, seed=3)
    np.testing.assert_array_equal(arrays.load_rows("train", 10_000), train, strict=True)
    np.testing.assert_array_equal(arrays.load_rows("val", 10_000), val, strict=True)
    assert sorted(path.name for path in arrays.SPLIT.iterdir()) == ["train.npy", "val.npy"]
    assert capsys.readouterr().out == "300 of 1,000 rows for training, 200 for validation\n"


def test_the_stage_takes_train_from_its_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"split.val_size": 200, "split.train_slice": [200, 500]})
    write_prepared(EVEN, np.arange(1000))
    split.main()
    assert arrays.load_rows("train", 1000).tolist() == list(range(200, 500))
