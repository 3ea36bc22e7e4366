"""Every row once an epoch, in a seeded order, cut into shards, normalised."""

import numpy as np
import pytest
import torch

from training.augmentation import Augmentation
from training.batches import Batches, resized

ROWS = 70
MEAN, STD = np.array([100.0]), np.array([50.0])


def make(shuffled: bool, batch_size: int = 32, seed: int = 0, pruning: float = 0.0, shards: int = 3) -> Batches:
    """Image i is filled with i, and its label is i % 10."""
    images = np.broadcast_to(np.arange(ROWS, dtype=np.uint8)[:, None, None, None], (ROWS, 4, 5, 1))
    augmentation = Augmentation("none", 0, 0, ROWS, 0) if shuffled else None
    labels = np.arange(ROWS, dtype=np.uint8) % 10
    return Batches(images.copy(), labels, MEAN, STD, batch_size, shards, "cpu", augmentation, seed, pruning)


def epoch(batches: Batches) -> list[int]:
    """The rows of one epoch, read off the pixels, in the order of their shards."""
    return [row for batch in batches for part in batch.shards for row in batch.images[part, 0, 0, 0].tolist()]


def normalised(batches: Batches) -> torch.Tensor:
    """The images of one epoch."""
    return torch.cat([batch.normalised(batch.images) for batch in batches])


def test_every_row_comes_once_an_epoch_in_another_order_each_time() -> None:
    batches = make(shuffled=True)
    first, second = epoch(batches), epoch(batches)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert list(range(ROWS)) not in (first, second)


def test_the_seed_decides_the_order() -> None:
    def orders(seed: int) -> list[list[int]]:
        batches = make(shuffled=True, seed=seed)
        return [epoch(batches), epoch(batches)]

    assert orders(3) == orders(3)
    assert orders(3) != orders(4)


def test_the_order_does_not_touch_the_global_generator() -> None:
    state = torch.get_rng_state()
    for _ in make(shuffled=True).loader():
        pass
    assert torch.equal(torch.get_rng_state(), state)


def test_without_augmentation_rows_come_in_order() -> None:
    batches = make(shuffled=False)
    assert epoch(batches) == epoch(batches) == list(range(ROWS))


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize(("batch_size", "sizes"), [(32, [32, 32, 6]), (35, [35, 35]), (69, [69, 1]), (100, [70])])
def test_sizes_of_batches(batch_size: int, sizes: list[int], shuffled: bool) -> None:
    batches = make(shuffled, batch_size)
    assert [len(batch.labels) for batch in batches.loader()] == sizes
    assert len(batches) == len(batches.loader()) == len(sizes)


@pytest.mark.parametrize(
    ("batch_size", "shards", "sizes"),
    [
        (32, 4, [[8, 8, 8, 8], [8, 8, 8, 8], [6]]),
        (32, 3, [[10, 11, 11], [10, 11, 11], [6]]),
        (69, 1, [[69], [1]]),
        (68, 5, [[13, 14, 13, 14, 14], [2]]),
        (67, 2, [[33, 34], [3]]),
        (2, 8, [[1, 1]] * 35),
    ],
)
def test_a_smaller_batch_has_fewer_shards_of_the_same_size(
    batch_size: int, shards: int, sizes: list[list[int]]
) -> None:
    found = [[len(b.labels[part]) for part in b.shards] for b in make(True, batch_size, shards=shards)]
    assert found == sizes


def test_shards_leave_the_rows_as_they_were() -> None:
    one, four = make(True, pruning=0.2, shards=1), make(True, pruning=0.2, shards=4)
    for _ in range(3):
        assert epoch(one) == epoch(four)


@pytest.mark.parametrize("shuffled", [True, False])
def test_labels_belong_to_their_images(shuffled: bool) -> None:
    for batch in make(shuffled).loader():
        images = batch.normalised(batch.images)
        assert images.dtype == torch.float32
        assert batch.labels.dtype == torch.int64
        rows = (images[:, 0, 0, 0] * STD[0] + MEAN[0]).round().long()
        assert torch.equal(batch.labels, rows % 10)


def test_each_channel_is_normalised_with_its_own_figures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 7, 3), np.uint8)
    mean, std = np.array([10.0, 120.0, 250.0]), np.array([1.0, 60.0, 7.0])
    found = normalised(Batches(images, np.zeros(9, np.uint8), mean, std, 9, 2, "cpu"))
    np.testing.assert_allclose(found.numpy(), (images - mean) / std, rtol=1e-6, atol=1e-6)


def test_what_augmentation_brings_in_is_a_black_pixel() -> None:
    white = np.full((ROWS, 6, 6, 1), 255, np.uint8)
    augmentation = Augmentation("none", 2, 0, ROWS, 0)
    batches = Batches(white, np.zeros(ROWS, np.uint8), MEAN, STD, ROWS, 1, "cpu", augmentation)
    assert normalised(batches).unique().tolist() == pytest.approx([(0 - 100) / 50, (255 - 100) / 50])


def test_augmentation_is_told_the_epoch() -> None:
    gradient = np.tile(np.arange(6, dtype=np.uint8)[None, None, :, None], (ROWS, 6, 1, 1))
    labels = np.arange(ROWS, dtype=np.uint8)
    augmentation = Augmentation("alternating", 0, 0, ROWS, 0)
    batches = Batches(gradient, labels, MEAN, STD, 32, 2, "cpu", augmentation)

    def flipped() -> set[int]:
        return {
            int(label)
            for batch in batches.loader()
            for image, label in zip(batch.images, batch.labels, strict=True)
            if image[0, 0, 0] > image[0, 5, 0]
        }

    first, second, third = flipped(), flipped(), flipped()
    assert first ^ second == set(range(ROWS))
    assert first & second == set()
    assert third == first


def test_augmentation_counts_epochs_from_0() -> None:
    told = []

    class Told(Augmentation):
        def __call__(self, images: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
            told.append(epoch)
            return images

    batches = make(shuffled=True, batch_size=35)
    batches.augmentation = Told("none", 0, 0, ROWS, 0)
    epoch(batches)
    epoch(batches)
    assert told == [0, 0, 1, 1]


def test_an_epoch_is_counted_even_where_nobody_asks_for_its_end() -> None:
    batches = make(shuffled=True)
    for number in range(3):
        assert batches.epoch == number
        loader = iter(batches.loader())
        for _ in range(len(batches)):  # as Keras' fit does
            next(loader)


def pruned_epoch(batches: Batches) -> dict[int, float]:
    """The weight of each row that an epoch shows; row i has the loss i."""
    weights: dict[int, float] = {}
    for batch in batches.loader():
        rows = batch.images[:, 0, 0, 0]
        batch.record_losses(rows.float())
        assert batch.weights is not None
        weights |= dict(zip(rows.tolist(), batch.weights.tolist(), strict=True))
    return weights


@pytest.mark.parametrize("batch_size", [7, 32, 100])
@pytest.mark.parametrize(("pruning", "left_out"), [(0.2, 14), (0.27, 19), (0.33, 23), (0.5, 35)])
def test_pruning_leaves_out_half_of_the_easiest_rows(batch_size: int, pruning: float, left_out: int) -> None:
    batches = make(True, batch_size, pruning=pruning)
    assert len(batches) == -(-(ROWS - left_out) // batch_size)
    first, second = pruned_epoch(batches), pruned_epoch(batches)
    assert len(first) == len(second) == ROWS - left_out
    if 3 * left_out <= ROWS:  # as many as this have been seen, and what has not comes next
        assert set(first) | set(second) == set(range(ROWS))
    chosen = []
    for _ in range(4):
        weights = pruned_epoch(batches)
        assert len(weights) == ROWS - left_out
        easy = {row for row, weight in weights.items() if weight == 2}
        assert len(easy) == left_out
        assert max(easy) < 2 * left_out
        assert {row: weights[row] for row in range(2 * left_out, ROWS)} == dict.fromkeys(range(2 * left_out, ROWS), 1.0)
        assert sum(weights.values()) == ROWS
        chosen.append(easy)
    assert chosen[0] != chosen[1]  # drawn anew each time


@pytest.mark.parametrize(
    ("batch_size", "least_steps", "expected_size", "passes"),
    [(32, 3, 32, 1), (64, 2, 64, 1), (64, 3, 32, 1), (64, 4, 32, 2), (64, 7, 32, 3), (16, 6, 16, 2), (100, 1, 70, 1)],
)
def test_an_epoch_of_few_rows_has_smaller_batches_then_more_passes(
    batch_size: int, least_steps: int, expected_size: int, passes: int
) -> None:
    augmentation = Augmentation("none", 0, 0, ROWS, 0)
    pixels, labels = np.zeros((ROWS, 2, 2, 1), np.uint8), np.arange(ROWS, dtype=np.uint8)
    batches = Batches(pixels, labels, MEAN, STD, batch_size, 1, "cpu", augmentation, least_steps=least_steps)
    seen = [batch.labels for batch in batches]
    assert len(seen) == len(batches) >= least_steps
    assert (len(seen[0]), batches.passes, batches.epoch) == (expected_size, passes, passes)
    orders = torch.cat(seen).split(ROWS)
    assert [sorted(order.tolist()) for order in orders] == passes * [list(range(ROWS))]
    assert passes == 1 or orders[0].tolist() != orders[1].tolist()


def test_the_seed_decides_what_is_left_out() -> None:
    def epochs(seed: int) -> list[list[tuple[int, float]]]:
        batches = make(True, seed=seed, pruning=0.3)
        return [list(pruned_epoch(batches).items()) for _ in range(3)]

    assert epochs(3) == epochs(3)
    assert epochs(3) != epochs(4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_smaller_image_is_the_mean_of_what_it_stands_for(channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(256, (50, 10, 12, channels), generator=generator).to(torch.uint8)
    images = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)  # of 2 x 2 equal pixels
    small = resized(images, 0.5)
    assert small.shape == blocks.shape
    assert small.dtype == torch.float32
    # of each pixel three quarters in either direction, the rest from its neighbours
    near = torch.stack([blocks.roll((y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    share = torch.tensor([1, 6, 1]) / 8
    expected = ((share[:, None] * share).flatten()[:, None, None, None, None] * near).sum(0)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(small[inside], expected[inside], rtol=1e-5, atol=1e-3)
    even = resized(torch.full((1, 28, 30, channels), 77), 0.7)
    torch.testing.assert_close(even, torch.full((1, 20, 21, channels), 77.0))
    assert resized(images, 1e-9).shape == (50, 1, 1, channels)


def test_the_scale_holds_for_the_epochs_that_follow() -> None:
    batches = make(shuffled=False)
    for scale, shape in ((0.5, (2, 2)), (1.0, (4, 5))):
        batches.scale = scale
        found = {tuple(batch.normalised(batch.images).shape[1:3]) for batch in batches.loader()}
        assert found == {shape}
        assert epoch(batches) == list(range(ROWS))  # each image has one value
