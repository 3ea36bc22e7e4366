"""Groups of images that hardly differ, held against a comparison of every pair."""

from itertools import combinations
from unittest.mock import Mock

from common import near_duplicates

import numpy as np
import pytest


def by_definition(images: np.ndarray) -> list[set[int]]:
    """In Python's integers, pair by pair."""
    size = int(np.prod(images.shape[1:]))
    flat = images.reshape(len(images), -1).astype(int).tolist()
    found = [{row} for row in range(len(flat))]
    for i, j in combinations(range(len(flat)), 2):
        if sum((a - b) ** 2 for a, b in zip(flat[i], flat[j], strict=True)) <= near_duplicates.LIMIT**2 * size:
            joined = found[i] | found[j]
            for row in joined:
                found[row] = joined
    return found


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 20, 3), (8, 8, 1), (30, 11, 1)])
@pytest.mark.parametrize("chunk", [7, 5_000])
def test_exactly_the_images_within_the_limit_are_together(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], chunk: int
) -> None:
    monkeypatch.setattr(near_duplicates, "CHUNK", chunk)
    monkeypatch.setattr(near_duplicates, "BYTES", 1000 * chunk)
    generator = np.random.default_rng(0)
    first = generator.integers(60, 180, (12, *shape))
    # noise with a root mean square around the limit, on one side or around zero; copies, and another brightness
    noisy = [first + generator.normal(0, scale, first.shape) for scale in (3, 9.5, 9.9, 10.1, 10.5)]
    others = [generator.integers(0, 255, (12, *shape)), *(first + change for change in (0, 10, 20, 31, -10))]
    images = np.concatenate([first, *noisy, *others]).round().clip(0, 255).astype(np.uint8)
    found = near_duplicates.groups(images)
    assert found.dtype == np.int64
    expected = by_definition(images)
    assert [set(np.flatnonzero(found == found[row])) for row in range(len(images))] == expected
    assert 12 * 2 < len({min(group) for group in expected}) < 12 * 8  # some are together, and some are apart


def test_what_is_joined_already_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    joins = Mock(side_effect=near_duplicates.connected_components)
    monkeypatch.setattr(near_duplicates, "connected_components", joins)
    monkeypatch.setattr(near_duplicates, "BYTES", 60 * 64)  # 60 images beside 60: 15 times all of them
    dark = np.random.default_rng(0).integers(0, 8, (300, 8, 8, 1), np.uint8)
    assert near_duplicates.groups(dark).tolist() == [0] * 300
    assert joins.call_count < 8


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_have_few_groups(count: int) -> None:
    found = near_duplicates.groups(np.full((count, 10, 10, 1), 7, np.uint8))
    assert found.tolist() == [0] * count
