"""Which seeds are trained, what is kept of an interrupted run, and the figures; trainings are stand-ins."""

import json
import statistics
import sys
from pathlib import Path

from common.errors import InputError

import pandas as pd
import pytest

import check
import dvc_experiments
import readme
import replicate
import replicates
from analysis import metric_files, seeds
from replicates import FIRST, Trainings, figures, recalls

TABLE, SUMMARY = Path("metrics/noise.csv"), Path("metrics/noise.json")
CLASSES = Path("metrics/noise_classes.csv")


def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch, made: Trainings) -> Trainings:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["replicate.py", "--record"])
    replicates.repository(**made.kinds)
    monkeypatch.setattr(check, "lock_problems", lambda own=False: [])
    monkeypatch.setattr(dvc_experiments, "refuse_missing_files", lambda: None)
    monkeypatch.setattr(dvc_experiments, "run", made.run)
    return made


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return prepared(tmp_path, monkeypatch, Trainings())


def assert_complete() -> None:
    """Every seed is in the table once, with its own figures."""
    table = pd.read_csv(TABLE)
    assert list(table.columns) == ["seed", "part", *metric_files.MEASURES]
    assert table.to_dict("records") == [
        {"seed": seed, "part": part} | {name: figures(part, seed)[name] for name in metric_files.MEASURES}
        for seed in range(FIRST, FIRST + 5)
        for part in ("val", "test")
    ]
    classes = pd.read_csv(CLASSES, dtype={"class": str})
    assert classes.to_dict("records") == [
        {"seed": seed, "part": part, "class": name, "recall": recall}
        for seed in range(FIRST, FIRST + 5)
        for part in ("val", "test")
        for name, recall in zip("1b", recalls(part, seed), strict=True)
    ]


def test_five_seeds_of_which_the_pipeline_has_trained_the_first(made: Trainings) -> None:
    replicate.main()
    assert made.seeds == [8, 9, 10, 11]
    assert_complete()
    assert set(readme.noise()) == {"val", "test"}  # the pages accept it
    before = TABLE.read_bytes(), SUMMARY.read_bytes()
    replicate.main()
    assert made.seeds == [8, 9, 10, 11]  # they are there
    assert (TABLE.read_bytes(), SUMMARY.read_bytes()) == before


def test_seeds_that_are_recorded_are_not_trained_again_elsewhere(
    made: Trainings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replicate.main()
    monkeypatch.setattr(seeds, "replicates", lambda model: {model.seed(): model})  # another clone has no experiments
    replicate.main()
    assert made.seeds == [8, 9, 10, 11]
    assert capsys.readouterr().out.endswith("metrics/noise.csv has 5 seeds of this training\n")
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--seeds", "6"])
    replicate.main()
    assert made.seeds[4:] == [8, 9, 10, 11, 12]


@pytest.mark.parametrize("damaged", [TABLE, SUMMARY, CLASSES])
@pytest.mark.parametrize("lines", [None, 3])
def test_files_that_do_not_belong_together_are_written_anew(made: Trainings, damaged: Path, lines: int | None) -> None:
    replicate.main()
    before = damaged.read_bytes()
    damaged.write_bytes(b"".join(before.splitlines(keepends=True)[:lines])) if lines else damaged.unlink()
    replicate.main()
    assert damaged.read_bytes() == before
    assert made.seeds == [8, 9, 10, 11]  # all that it needed was there
    assert_complete()


def test_the_summary_is_of_all_five(made: Trainings) -> None:
    replicate.main()
    summary = json.loads(SUMMARY.read_text())
    assert list(summary) == ["val", "test"]
    for part, measures in summary.items():
        assert tuple(measures) == metric_files.MEASURES
        for name, spread in measures.items():
            values = [figures(part, seed)[name] for seed in range(FIRST, FIRST + 5)]
            assert spread["n"] == 5
            assert spread["mean"] == pytest.approx(statistics.mean(values), abs=6e-7)
            assert spread["std"] == pytest.approx(statistics.stdev(values), abs=6e-7)
            assert spread["std"] > 0


def test_a_part_that_is_not_evaluated_has_no_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path, monkeypatch, Trainings(parts=("val",)))
    replicate.main()
    assert pd.read_csv(TABLE)["part"].tolist() == ["val"] * 5
    assert pd.read_csv(CLASSES)["part"].tolist() == ["val"] * 10
    assert list(json.loads(SUMMARY.read_text())) == ["val"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("train must succeed")])
def test_an_interrupted_run_goes_on_with_the_seed_that_is_missing(made: Trainings, error: BaseException) -> None:
    made.ends = {10: error}
    with pytest.raises(type(error)):
        replicate.main()
    assert not TABLE.exists()
    assert not SUMMARY.exists()
    replicate.main()
    assert made.seeds == [8, 9, 10, 10, 11]
    assert_complete()


@pytest.mark.parametrize("missing", ["metrics/test.json", "dvc.lock"])
def test_what_cannot_work_is_said_before_hours_of_training(made: Trainings, missing: str) -> None:
    Path(missing).unlink()
    with pytest.raises(InputError, match=missing):
        replicate.main()
    assert not made.seeds
