"""Which runs there are, that each is measured once, and what is drawn; the stages are stand-ins."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import benchmark_files
import recipe
import rerun


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The changes of every training that is begun; each takes 9 s, and its accuracy is its seed."""
    changes: list[dict[str, Any]] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setenv("CHECKPOINT_DIR", "as before the test")
    monkeypatch.setattr(benchmark_files, "key_to_train", lambda: "this training")
    monkeypatch.setattr(recipe, "fixed_step", lambda: 0.02)
    monkeypatch.setattr(rerun, "prepare", lambda _, changed: changes.append(changed))

    def run_stage(name: str, folder: Path) -> float:
        (folder / "metrics").mkdir(parents=True, exist_ok=True)
        (folder / "metrics/test.json").write_text(json.dumps({"accuracy": changes[-1]["train.seed"] / 10}))
        return 9.0

    monkeypatch.setattr(rerun, "run_stage", run_stage)
    return changes


def call(*words: str) -> dict[str, Any]:
    with mock.patch("sys.argv", ["recipe.py", *words]):
        recipe.main()
    return json.loads(recipe.RESULTS.read_text("utf-8"))


def test_every_run_is_on_all_rows_and_each_is_made_once(ran: list[dict[str, Any]]) -> None:
    first = len(call("--seeds", "1")["runs"])
    assert len(ran) == first == len(recipe.RECIPES) * 2
    assert all(changes["split.val_size"] == 0 and changes["evaluate.parts"] == ["test"] for changes in ran)
    runs = call("--seeds", "2")["runs"]
    assert len(ran) == len(runs) == 2 * first
    assert [run["accuracy"] for run in runs] == [0.0] * first + [0.1] * first
    assert all(run["seconds"] == 9 and run["fixed_step_ms"] == 20 and run["machine"]["threads"] for run in runs)
    drawn = recipe.FIGURE.read_text("utf-8")
    assert call("--seeds", "2", "--recipes", "longer")["runs"] == runs
    assert len(ran) == len(runs)
    recipe.draw(runs)
    assert recipe.FIGURE.read_text("utf-8") == drawn


def test_another_training_and_another_recipe_are_measured_anew(
    ran: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--seeds", "1", "--recipes", "shorter"
    call(*words)
    monkeypatch.setattr(recipe, "RECIPES", {"shorter": {"train.epochs": 7}})
    assert [run["changes"] for run in call(*words)["runs"]] == [{"train.epochs": 7}] * 2
    monkeypatch.setattr(benchmark_files, "key_to_train", lambda: "another training")
    assert len(call(*words)["runs"]) == 2


def test_the_fixed_step_takes_time() -> None:
    assert recipe.fixed_step() > 0


def test_the_picture_has_means_over_the_fastest_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(recipe, "FIGURE", tmp_path / "recipe.svg")
    runs = [
        {"recipe": name, "precision": "bfloat16", "seconds": seconds, "accuracy": share}
        | {"machine": {"threads": threads, "processor": processor}}
        for name, seconds, share, threads, processor in (
            ("longer", 9, 0.9, 2, "one"), ("longer", 7, 0.94, 2, "one"), ("longer", 5, 0.92, 2, "other"),
            ("longer", 3, 0.92, 1, "one"), ("shorter", 4, 0.91, 2, "one"),
        )
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(recipe.plt, "close", kept.append)
        recipe.draw(runs)
    drawn = {bars.get_label(): bars[0].get_xydata().tolist() for bars in kept[0].axes[0].containers}
    assert drawn == {
        "bfloat16, 2 cores: one": [[4, pytest.approx(91)], [7, pytest.approx(92)]],
        "bfloat16, 2 cores: other": [[5, pytest.approx(92)]],
    }
    recipe.plt.close(kept[0])
