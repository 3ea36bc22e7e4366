"""Pairs that hardly differ, held against a comparison of every pair."""

from itertools import combinations

from common import near_duplicates

import numpy as np
import pytest


def every_pair(images: np.ndarray) -> list[tuple[int, int]]:
    """By definition: in Python's integers, pair by pair."""
    size = int(np.prod(images.shape[1:]))
    flat = images.reshape(len(images), -1).astype(int).tolist()
    return [
        (i, j)
        for i, j in combinations(range(len(flat)), 2)
        if sum((a - b) ** 2 for a, b in zip(flat[i], flat[j], strict=True)) <= near_duplicates.LIMIT**2 * size
    ]


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 20, 3), (8, 8, 1), (30, 11, 1)])
@pytest.mark.parametrize("chunk", [7, 5_000])
def test_exactly_the_pairs_within_the_limit_are_found(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], chunk: int
) -> None:
    monkeypatch.setattr(near_duplicates, "CHUNK", chunk)
    generator = np.random.default_rng(0)
    first = generator.integers(60, 180, (12, *shape))
    # noise with a root mean square around the limit, on one side or around zero; copies, and another brightness
    more = [first + generator.normal(0, scale, first.shape) for scale in (3, 9.5, 9.9, 10.1, 10.5)]
    more += [first + level for level in (0, 9, 10, 11, -10)]
    images = np.concatenate([first, *more]).round().clip(0, 255).astype(np.uint8)
    found = near_duplicates.pairs(images)
    assert found.dtype == np.int64
    expected = every_pair(images)
    assert [tuple(pair) for pair in found.tolist()] == expected
    assert 12 * 3 < len(expected) < 66 * 66


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_have_few_pairs(count: int) -> None:
    found = near_duplicates.pairs(np.full((count, 10, 10, 1), 7, np.uint8))
    assert found.tolist() == ([[0, 1]] if count == 2 else [])
    assert found.shape == (len(found), 2)
