"""Flip, shift and cutout on raw images, grey and in colour."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from training.augmentation import Augmentation

ROWS = 1000
ALL = torch.arange(ROWS)
both_kinds = pytest.mark.parametrize(("channels", "dtype"), [(1, torch.uint8), (3, torch.uint8), (3, torch.float32)])


def random_images(channels: int = 1, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """(ROWS, 10, 12, C) without a black pixel, and no two alike."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (ROWS, 10, 12, channels), generator=generator).to(dtype)


def is_flipped(images: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """(ROWS,) whether each is its image mirrored from left to right; each must be that or as it was."""
    flipped = (changed == images.flip(2)).all((1, 2, 3))
    assert (flipped ^ (changed == images).all((1, 2, 3))).all()
    return flipped


@both_kinds
def test_alternating_flips_each_row_every_other_epoch(channels: int, dtype: torch.dtype) -> None:
    images = random_images(channels, dtype)
    augmentation = Augmentation("alternating", 0, 0, ROWS, 0)
    epochs = [is_flipped(images, augmentation(images, ALL, epoch)) for epoch in range(4)]
    assert 0.45 < epochs[0].float().mean() < 0.55
    for before, after in itertools.pairwise(epochs):
        assert torch.equal(before, ~after)


def test_alternating_follows_the_row_and_not_its_place_in_the_batch() -> None:
    images = random_images()
    augmentation = Augmentation("alternating", 0, 0, ROWS, 0)
    in_order = is_flipped(images, augmentation(images, ALL, 0))
    rows = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))[:100]
    assert torch.equal(is_flipped(images[rows], augmentation(images[rows], rows, 0)), in_order[rows])


@both_kinds
def test_random_flips_half_anew_at_every_visit(channels: int, dtype: torch.dtype) -> None:
    images = random_images(channels, dtype)
    augmentation = Augmentation("random", 0, 0, ROWS, 0)
    first, second = (is_flipped(images, augmentation(images, ALL, 0)) for _ in range(2))
    assert 0.45 < first.float().mean() < 0.55
    assert 0.45 < (first ^ second).float().mean() < 0.55  # independent


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """What moving (B, H, W, C) must give: what leaves is lost, what comes in is black."""
    height, width = images.shape[1:3]
    result = torch.zeros_like(images)
    result[:, max(down, 0) : height + down, max(right, 0) : width + right] = images[
        :, max(-down, 0) : height - down, max(-right, 0) : width - right
    ]
    return result


@both_kinds
@pytest.mark.parametrize("bound", [1, 2])
def test_shift_moves_pixels_within_its_bound_and_fills_with_black(
    bound: int, channels: int, dtype: torch.dtype
) -> None:
    images = random_images(channels, dtype)
    changed = Augmentation("none", bound, 0, ROWS, 0)(images, ALL, 0)
    assert changed.dtype == dtype
    steps = range(-bound, bound + 1)
    moves = torch.stack(
        [(changed == shifted(images, down, right)).all((1, 2, 3)) for down in steps for right in steps]
    )  # (moves, ROWS)
    assert (moves.sum(0) == 1).all()  # each image is moved by exactly one of them
    share = moves.float().mean(1) * len(moves)
    assert ((share > 0.5) & (share < 1.5)).all()  # all alike


def squares(cutout: int, channels: int, dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """Height and width of what is blanked in each image; all else must be as it was."""
    images = random_images(channels, dtype)
    changed = Augmentation("none", 0, cutout, ROWS, 0)(images, ALL, 0)
    assert changed.dtype == dtype
    blank = (changed == 0).all(-1)  # (ROWS, H, W)
    assert torch.equal(torch.where(blank[..., None], 0, images), changed)
    for one in blank:
        height, width = int(one.any(1).sum()), int(one.any(0).sum())
        ys, xs = one.any(1).nonzero(), one.any(0).nonzero()
        # one rectangle without holes
        assert one[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all()
        assert one.sum() == height * width
        yield height, width


@both_kinds
@pytest.mark.parametrize("cutout", [1, 3, 4])
def test_cutout_blanks_a_square_around_a_pixel_of_the_image(cutout: int, channels: int, dtype: torch.dtype) -> None:
    sizes = list(squares(cutout, channels, dtype))
    smallest = cutout - cutout // 2  # centred on the border
    for side in range(2):
        assert {size[side] for size in sizes} == set(range(smallest, cutout + 1))
    # wherever the centre is far enough from the border, the whole square is inside
    whole = sum(size == (cutout, cutout) for size in sizes) / ROWS
    assert whole == pytest.approx((10 - cutout + 1) * (12 - cutout + 1) / 120, abs=0.05)


def test_a_cutout_larger_than_the_image_blanks_at_most_all_of_it() -> None:
    assert max(squares(28, 1, torch.uint8)) == (10, 12)


@both_kinds
def test_with_all_off_nothing_changes(channels: int, dtype: torch.dtype) -> None:
    images = random_images(channels, dtype)
    for epoch in range(2):
        assert torch.equal(Augmentation("none", 0, 0, ROWS, 0)(images, ALL, epoch), images)


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_the_seed_decides_everything(flip: str) -> None:
    images = random_images()

    def result(seed: int) -> torch.Tensor:
        augmentation = Augmentation(flip, 2, 3, ROWS, seed)
        return torch.stack([augmentation(images, ALL, epoch) for epoch in range(2)])

    original = images.clone()
    assert torch.equal(result(5), result(5))
    assert not torch.equal(result(5), result(6))
    assert torch.equal(images, original)  # the set itself is never written to
