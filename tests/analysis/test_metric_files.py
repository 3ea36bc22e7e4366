"""Figures of several seeds as a table, and their mean and spread on hand-made cases."""

import json
from pathlib import Path

from common.errors import InputError

import pandas as pd
import pytest

from analysis import metric_files

FIGURES = {"accuracy": 0.9, "loss": 0.25, "macro_f1": 0.8, "calibration_error": 0.01}


def write(folder: Path, **parts: dict) -> Path:
    for part, figures in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(figures))
    return folder


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff{}", b"[1]", b"3", b"null", b"[" * 100_000, *(
        json.dumps({name: 1 for name in metric_files.MEASURES if name != missing} | wrong).encode()
        for missing in metric_files.MEASURES for wrong in ({}, {missing: "0.9"}, {missing: [0.9]})
    )],
)  # fmt: skip
def test_a_file_without_every_measure_is_refused_by_name(tmp_path: Path, part: str, content: bytes | None) -> None:
    write(tmp_path, val=FIGURES, test=FIGURES)
    path = tmp_path / f"{part}.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^[^ ]*/{part}\.json must .+; .+"):
        metric_files.by_part(tmp_path)


def test_summary_is_the_mean_and_the_deviation_of_a_sample() -> None:
    # (-2, 0, 2) around 0.5: the squares sum to 8, over n - 1 = 2 that is 4
    by_seed = {4: 0.48, 5: 0.5, 6: 0.52}
    table = pd.DataFrame(
        {"seed": seed, "part": part} | FIGURES | {measure: value}
        for seed, value in by_seed.items()
        for part, measure in (("val", "accuracy"), ("test", "loss"))
    )
    fixed = {name: {"mean": value, "std": 0.0, "n": 3} for name, value in FIGURES.items()}
    spread = {"mean": 0.5, "std": 0.02, "n": 3}
    summary = metric_files.summary(table)
    assert summary == {"val": fixed | {"accuracy": spread}, "test": fixed | {"loss": spread}}
    assert list(summary) == ["val", "test"]  # not by the alphabet


def test_summary_counts_each_part_by_itself_and_shows_six_decimals() -> None:
    rows = [{"seed": seed, "part": "val"} | FIGURES for seed in range(3)]
    rows += [{"seed": seed, "part": "test"} | FIGURES | {"loss": seed / 3} for seed in range(2)]
    summary = metric_files.summary(pd.DataFrame(rows))
    assert summary["val"]["loss"]["n"] == 3
    # 0 and 1/3: half of it, and that over √2
    assert summary["test"]["loss"] == {"mean": 0.166667, "std": 0.235702, "n": 2}
    assert json.loads(json.dumps(summary)) == summary  # no number of NumPy's


def test_unequal_classes_show_their_means_first() -> None:
    equal = FIGURES | {"source": "folder", "images": 9, "accuracy_low": 0.8, "accuracy_high": 1.0}
    assert list(metric_files.results_table({"val": equal}, {}))[2] == "accuracy"
    table = metric_files.results_table({"val": equal, "test": equal | {"macro_accuracy": 0.75}}, {})
    assert list(table)[2:5] == ["macro accuracy", "macro F1", "accuracy"]
    assert table["macro accuracy"].tolist() == ["", "75.00%"]


def test_a_figure_of_0_is_not_missing(tmp_path: Path) -> None:
    none = dict.fromkeys(metric_files.MEASURES, 0.0)
    assert metric_files.by_part(write(tmp_path, val=none, test={})) == {"val": none}


def test_no_figures_are_refused_where_there_must_be_some(tmp_path: Path) -> None:
    path = write(tmp_path, val={}) / "val.json"
    assert metric_files.read(path) == {}
    with pytest.raises(InputError, match="must have loss; loss is missing"):
        metric_files.read(path, ("loss",))
