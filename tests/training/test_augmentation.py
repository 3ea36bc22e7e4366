"""Flip, rotation, zoom, shift and cutout on raw images, grey and in colour."""

import itertools
import math
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


def disc(height: int, width: int, row: float, column: float) -> torch.Tensor:
    """(1, H, W, 1) uint8: a soft bright spot on black."""
    y, x = torch.arange(height)[:, None] - row, torch.arange(width)[None] - column
    return (255 * torch.exp(-(y**2 + x**2) / 8)).round().to(torch.uint8)[None, :, :, None]


def centre(image: torch.Tensor) -> tuple[float, float]:
    """Row and column of the centre of mass, from the middle of the image."""
    values = image[0, :, :, 0].double()
    height, width = values.shape
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return float((values.sum(1) * rows).sum() / values.sum()), float((values.sum(0) * columns).sum() / values.sum())


@pytest.mark.parametrize(("height", "width"), [(41, 41), (41, 61)])
def test_rotation_turns_around_the_middle_by_up_to_its_angle(height: int, width: int) -> None:
    spot = disc(height, width, 20, width / 2 + 11)
    augmentation = Augmentation("none", 0, 0, 1, 0, rotation=30.0)
    angles = []
    for _ in range(200):
        row, column = centre(augmentation(spot, torch.tensor([0]), 0))
        assert math.hypot(row, column) == pytest.approx(math.hypot(*centre(spot)), abs=0.2)
        angles.append(math.degrees(math.atan2(row, column)))
    assert -31 < min(angles) < -25
    assert 25 < max(angles) < 31
    assert abs(sum(angles) / 200) < 5


def test_zoom_scales_each_side_by_itself_and_extends_the_edges() -> None:
    spot = disc(41, 41, 26, 27)  # 6 and 7 pixels from the middle
    augmentation = Augmentation("none", 0, 0, 1, 0, zoom=0.2)
    factors = torch.tensor([centre(augmentation(spot, torch.tensor([0]), 0)) for _ in range(200)])
    factors = torch.tensor([6.0, 7.0]) / factors  # a factor below 1 enlarges
    assert ((factors > 0.78) & (factors < 1.22)).all()
    assert (factors.amin(0) < 0.84).all() and (factors.amax(0) > 1.16).all()
    assert abs(torch.corrcoef(factors.T)[0, 1]) < 0.3
    full = torch.full((ROWS, 10, 12, 1), 200, dtype=torch.uint8)
    assert (Augmentation("none", 0, 0, ROWS, 0, rotation=45.0, zoom=0.5)(full, ALL, 0) == 200).all()


@both_kinds
def test_with_all_off_nothing_changes(channels: int, dtype: torch.dtype) -> None:
    images = random_images(channels, dtype)
    for epoch in range(2):
        assert torch.equal(Augmentation("none", 0, 0, ROWS, 0)(images, ALL, epoch), images)


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_the_seed_decides_everything(flip: str) -> None:
    images = random_images()

    def result(seed: int) -> torch.Tensor:
        augmentation = Augmentation(flip, 2, 3, ROWS, seed, rotation=10.0, zoom=0.1)
        return torch.stack([augmentation(images, ALL, epoch) for epoch in range(2)])

    original = images.clone()
    assert torch.equal(result(5), result(5))
    assert not torch.equal(result(5), result(6))
    assert torch.equal(images, original)  # the set itself is never written to
