from pathlib import Path
from typing import Any

from common import params

import pytest

from conftest import write_params
from training import operations

CONVOLUTION = 2 * 28 * 28 * 3 * 3 * 8  # a channel in, 8 out
COMMON = {
    "train.data_pruning": 0.0,
    "train.progressive_resizing.share": 0.0,
    "train.epochs": 10,
    "train.least_steps": 1,
}
PLAIN = {"model.architecture": "plain", "model.options.plain.widths": [8]}
BLOCKS = {"model.architecture": "blocks", "model.options.blocks.widths": [8, 8, 8]}
HALVES = {"train.progressive_resizing.share": 0.5, "train.progressive_resizing.scale": 0.5}


@pytest.fixture
def count(tmp_path: Path) -> Any:
    def counted(changes: dict[str, Any], images: int = 100, epochs: int = 10) -> int:
        chosen = params.load(write_params(tmp_path, COMMON | changes))
        return operations.of_training(chosen, 2, images, epochs)[1]

    return counted


def test_they_are_those_of_each_image_in_each_epoch(count: Any) -> None:
    whole = count(PLAIN)
    # forward, and back to its kernel, but not to the image; the rest is the last layer
    assert 1 < whole / (100 * 10 * 2 * CONVOLUTION) < 1.1
    assert count(PLAIN, epochs=20) == count(PLAIN, images=200) == 2 * whole
    assert count(PLAIN | {"train.data_pruning": 0.25}) == 0.75 * whole


def test_few_rows_are_seen_several_times_an_epoch(count: Any) -> None:
    few = {"train.batch_size": 64, "train.least_steps": 8}  # batches of 32: 4 steps a pass
    assert count(PLAIN | few) == 2 * count(PLAIN)
    assert count(PLAIN | few | {"train.data_pruning": 0.5}) == 2 * count(PLAIN)  # 50 rows: 4 passes of 2 steps


def test_small_images_have_fewer(count: Any) -> None:
    assert count(BLOCKS | HALVES) / count(BLOCKS) == pytest.approx((1 + 0.25) / 2, rel=0.05)
    # a training that ends early, after the epochs with small images
    assert count(BLOCKS | HALVES, epochs=5) / count(BLOCKS, epochs=5) == pytest.approx(0.25, rel=0.1)


def test_a_network_that_takes_one_size_has_no_small_images(count: Any) -> None:
    assert count(PLAIN | HALVES) == count(PLAIN)
