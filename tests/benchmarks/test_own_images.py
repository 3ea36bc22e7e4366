"""The sets of benchmarks/own_images.py, and that it continues where it was stopped."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from common import files

import numpy as np
import pytest

import benchmark_files
import own_images
from conftest import TINY, write_params


def test_shapes_are_drawn_in_unequal_numbers_and_each_in_another_way() -> None:
    drawn = list(own_images.shapes())
    for part in ("train", "test"):
        assert Counter(name for found, name, _ in drawn if found == part) == own_images.SHAPES
    assert len({picture.tobytes() for _, _, picture in drawn}) == len(drawn)
    assert {picture.size for _, _, picture in drawn} == {(64, 64)}


def test_no_tile_of_train_is_one_of_test() -> None:
    found: dict[str, list[bytes]] = {"train": [], "test": []}
    for part, _, picture in own_images.tiles():
        found[part].append(picture.tobytes())
    assert min(map(len, found.values())) > 300
    assert not {*found["train"]} & {*found["test"]}


def test_digits_are_split_by_class() -> None:
    parts = own_images.digits()
    counts = {part: np.bincount(labels) for part, (_, labels) in parts.items()}
    assert sum(map(sum, counts.values())) == 1797
    np.testing.assert_allclose(counts["test"] / (counts["train"] + counts["test"]), 0.4, atol=0.01)


def test_it_continues_where_it_was_stopped_and_forgets_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    made: list[tuple[str, int]] = []
    changes: dict[str, Any] = {}
    monkeypatch.setattr(benchmark_files, "key_to_train", lambda: "this training")
    monkeypatch.setattr(own_images, "lay_out", lambda write, given: changes.update(given))
    monkeypatch.setattr(own_images, "ours", lambda: {"ours": 1.0, "seconds": 1.0})

    def theirs(seed: int) -> dict[str, float]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((str(changes["data.source"]), seed))
        return {"boosting": 0.5, "logistic": 0.5}

    monkeypatch.setattr(own_images, "theirs", theirs)
    monkeypatch.setattr(sys, "argv", ["own_images.py", "--seeds=2", "--sets", "digits, PNG", "digits, IDX, 8 × 8"])
    write_params(tmp_path, TINY)
    with pytest.raises(KeyboardInterrupt):
        own_images.main()
    first = json.loads(own_images.RESULTS.read_text())["runs"]
    made.clear()
    own_images.main()
    assert made == [("folder", 1), ("idx", 1)]
    assert json.loads(own_images.RESULTS.read_text())["runs"][:2] == first
    files.write_json(own_images.RESULTS, json.loads(own_images.RESULTS.read_text()) | {"recipe": {}})
    made.clear()
    monkeypatch.setattr(sys, "argv", ["own_images.py", "--seeds=1", "--sets", "digits, PNG"])
    own_images.main()
    assert made == [("folder", 0)]


class Regression:
    """Stands for a model: right on val with the least penalty, on test with every other one."""

    def __init__(self, _: Any, penalty: float) -> None:
        self.least = penalty == min(own_images.PENALTIES)

    def fit(self, pixels: np.ndarray, labels: np.ndarray) -> "Regression":
        return self

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[:, 0] ^ pixels[:, 1] ^ self.least


def test_val_chooses_the_penalty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_images, "FOLDER", tmp_path)
    monkeypatch.setattr(own_images, "LogisticRegression", lambda **settings: settings["C"])
    monkeypatch.setattr(own_images, "make_pipeline", Regression)
    labels = np.arange(60) % 2
    for part, bit in (("train", 1), ("test", 0)):
        (folder := tmp_path / "data/prepared" / part).mkdir(parents=True)
        np.save(folder / "images.npy", np.stack([labels, np.full(60, bit)], 1).astype(np.uint8).reshape(60, 1, 2, 1))
        np.save(folder / "labels.npy", labels)
    (split := tmp_path / "data/split").mkdir()
    for part, rows in (("train", range(40)), ("val", range(40, 60))):
        np.save(split / f"{part}.npy", np.array(rows))
    assert own_images.theirs(0)["logistic"] == 0
