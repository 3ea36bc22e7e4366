import itertools
import json
import os
import threading
from pathlib import Path

import pytest

import speed
from conftest import write_params


def test_a_recipe_is_trained_on_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(
        tmp_path, {"model.architecture": "plain", "train.data_pruning": 0.0, "train.epochs": 2, "train.least_steps": 1}
    )
    (tmp_path / "metrics/data").mkdir(parents=True)
    classes = tmp_path / "metrics/data/classes.csv"
    found = []
    for images in (100, 200):
        classes.write_text(f"part,class,images\ntrain,all,{images}\ntrain,a,60\ntrain,b,40\ntest,all,9\n")
        found.append(speed.of_recipe({"train.epochs": 10}))
    assert found[1] == 2 * found[0] > 0
    assert speed.of_recipe({"train.epochs": 5}) == found[0]


@pytest.mark.slow
def test_the_most_is_of_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a process of its own, since the first operation of a process fixes its instructions."""
    monkeypatch.setattr(speed, "cores", lambda: 2)
    rates = speed.rates("float32", rounds=1)
    assert len(rates) == 2
    assert os.getpid() not in rates
    assert min(rates.values()) > 0


def test_a_rate_counts_products_and_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(speed, "set_up", lambda precision: None)
    monkeypatch.setattr(speed, "IMAGES", 2)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(seconds)))
    _, rate = speed.rate("float32", threading.Barrier(1), rounds=1)
    assert rate == 2 * (2 * 14 * 14) * (3 * 3 * 256) * 256


def test_a_machine_has_one_entry_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed.benchmark_files, "key_to_train", lambda: "this training")
    monkeypatch.setattr(speed, "of_recipe", lambda changes: changes["train.epochs"])
    for name, rate, again in (("one", 1.0, []), ("other", 2.0, []), ("one", 3.0, ["--again"]), ("one", 4.0, [])):
        monkeypatch.setattr("sys.argv", ["speed.py", *again])
        monkeypatch.setattr(speed, "machine", lambda name=name: {"processor": name})
        monkeypatch.setattr(speed, "rates", lambda precision, rate=rate: {1: rate, 2: rate})
        speed.main()
    found = json.loads(speed.RESULTS.read_text("utf-8"))["machines"]
    assert [(entry["machine"]["processor"], entry["most a second"]["bfloat16"]) for entry in found] == [
        ("other", 4), ("one", 6),
    ]  # fmt: skip
