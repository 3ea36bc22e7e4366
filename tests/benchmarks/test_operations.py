"""How operations are counted; the speed of a product is measured in another process, as in the benchmark."""

from pathlib import Path
from typing import Any

import pytest

import operations
from conftest import write_params

KERNEL = 3 * 3


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of one convolution a width, on 100 rows."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"model.architecture": "plain", "model.options.plain.widths": [8]})
    (tmp_path / "metrics/data").mkdir(parents=True)
    (tmp_path / "metrics/data/classes.csv").write_text("part,class,images\ntrain,all,100\ntrain,a,60\ntrain,b,40\n")


def of(**changes: Any) -> int:
    common = {"train.data_pruning": 0.0, "train.progressive_resizing.share": 0.0, "train.epochs": 10}
    return operations.of_training(common | {f"train.{key}": value for key, value in changes.items()})


def test_they_are_those_of_each_image_in_each_epoch(plain: None) -> None:
    convolution = 2 * 28 * 28 * KERNEL * 8  # a channel in, 8 out; back to its kernel, but not to the image
    ratio = of() / (100 * 10 * 2 * convolution)
    assert 1 < ratio < 1.1  # the rest is the last layer
    assert of(epochs=20) == 2 * of()
    assert of(data_pruning=0.25) == 0.75 * of()


def test_small_images_have_fewer(plain: None) -> None:
    half = of(**{"progressive_resizing.share": 0.5, "progressive_resizing.scale": 0.5})
    assert half / of() == pytest.approx((1 + 0.25) / 2, rel=0.05)


@pytest.mark.slow
def test_the_most_a_second_is_a_speed() -> None:
    assert 1e9 < operations.most("float32") < 1e15
