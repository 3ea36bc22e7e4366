"""Which seeds are trained, what is kept of an interrupted run, and the figures; training is a stand-in."""

import json
import statistics
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd
import pytest

import noise
import readme
from analysis import metric_files, rerun
from conftest import write_params

FIRST = 7  # train.seed
TABLE, SUMMARY = Path("metrics/noise.csv"), Path("metrics/noise.json")
CLASSES = Path("metrics/noise_classes.csv")


def figures(part: str, seed: int) -> dict[str, Any]:
    """Figures that differ in every part, seed and measure; with what the real files have besides."""
    value = (37 * seed) % 100 / 10_000 + (0.001 if part == "test" else 0)
    return {
        "source": "idx",
        "accuracy": round(0.9 + value, 4),
        "loss": round(0.3 - 2 * value, 4),
        "macro_f1": round(0.8 + value, 4),
        "calibration_error": round(0.02 + value / 3, 4),
        "images": 50,
    }


def recalls(part: str, seed: int) -> list[float]:
    return [round(figures(part, seed)["accuracy"] - x, 4) for x in (0.1, 0.2)]


def evaluated(folder: Path, seed: int) -> None:
    """Writes what evaluate writes, in its order."""
    (folder / "metrics/classes").mkdir(parents=True, exist_ok=True)
    for part in ("val", "test"):
        table = pd.DataFrame({"class": ["1", "b"], "images": 25, "recall": recalls(part, seed)})
        table.to_csv(folder / f"metrics/classes/{part}.csv", index=False)
    for part in ("val", "test"):
        (folder / f"metrics/{part}.json").write_text(json.dumps(figures(part, seed)))


def write_lock(md5: str) -> None:
    chosen: dict[str, Any] = {"params.yaml": {}}
    stages = {"train": {"outs": [{"md5": md5}], "params": chosen}, "evaluate": {"outs": [], "params": chosen}}
    Path("dvc.lock").write_text(json.dumps({"stages": stages}))  # which is YAML too


class Trials:
    """Stands for rerun.run: notes each seed, and writes its figures or ends as `ends` says."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.ends: dict[int, BaseException] = {}

    def run(self, folder: Path, changes: dict[str, Any]) -> float:
        (name,), (seed,) = changes, changes.values()
        assert name == "train.seed"  # and nothing else is changed
        self.seeds.append(seed)
        assert not (folder / "metrics/test.json").exists()
        if seed in self.ends:  # as late as it can be
            (folder / "metrics").mkdir(parents=True)
            (folder / "metrics/val.json").write_text(json.dumps(figures("val", -1)))
            raise self.ends.pop(seed)
        evaluated(folder, seed)
        return 1.0


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trials:
    """The pipeline has run in the working directory, and trials are stand-ins."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"train.seed": FIRST})
    write_lock("a")
    evaluated(tmp_path, FIRST)
    made = Trials()
    monkeypatch.setattr(rerun, "run", made.run)
    monkeypatch.setenv("CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    return made


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


def test_five_seeds_of_which_the_pipeline_has_trained_the_first(made: Trials) -> None:
    noise.main()
    assert made.seeds == [8, 9, 10, 11]
    assert_complete()
    assert not noise.RERUNS.exists()
    names = sorted(path.name for path in Path("metrics").iterdir())
    assert names == [*("classes", "noise.csv", "noise.json", "noise_classes.csv", "test.json", "val.json")]


def test_the_summary_is_of_all_five(made: Trials) -> None:
    noise.main()
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


def test_a_part_that_is_not_evaluated_has_no_noise(made: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    def val_alone(folder: Path, changes: dict[str, Any]) -> float:
        seconds = made.run(folder, changes)
        without_test(folder)
        return seconds

    def without_test(folder: Path) -> None:
        (folder / "metrics/test.json").write_text("{}")
        (folder / "metrics/classes/test.csv").unlink()

    without_test(Path())
    monkeypatch.setattr(rerun, "run", val_alone)
    noise.main()
    assert pd.read_csv(TABLE)["part"].tolist() == ["val"] * 5
    assert pd.read_csv(CLASSES)["part"].tolist() == ["val"] * 10
    assert list(json.loads(SUMMARY.read_text())) == ["val"]


def test_the_readme_accepts_what_noise_has_written(made: Trials) -> None:
    noise.main()
    assert set(readme.noise(FIRST)) == {"val", "test"}


# --- runs that end early --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [8, 10, 11])
def test_an_interrupted_run_goes_on_with_the_seed_that_is_missing(made: Trials, seed: int) -> None:
    made.ends = {seed: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        noise.main()
    assert made.seeds == list(range(8, seed + 1))
    assert not TABLE.exists()
    assert not SUMMARY.exists()
    noise.main()
    assert made.seeds == [*range(8, seed + 1), *range(seed, 12)]
    assert_complete()
    assert not noise.RERUNS.exists()


def test_another_training_shares_no_seed_with_an_interrupted_one(made: Trials) -> None:
    made.ends = {10: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        noise.main()
    write_lock("b")
    made.seeds.clear()
    noise.main()
    assert made.seeds == [8, 9, 10, 11]
    assert not noise.RERUNS.exists()  # the interrupted one's neither


def test_a_second_measurement_trains_all_seeds_again(made: Trials) -> None:
    noise.main()
    before = (TABLE.read_bytes(), SUMMARY.read_bytes())
    noise.main()
    assert made.seeds == [8, 9, 10, 11] * 2
    assert (TABLE.read_bytes(), SUMMARY.read_bytes()) == before


@pytest.mark.parametrize("before", [None, "of another training"])
@pytest.mark.parametrize("damage", ["failing stage", "missing figure", "no pipeline", "no lock"])
def test_a_failure_leaves_the_figures_as_they_were(made: Trials, damage: str, before: str | None) -> None:
    if before is not None:
        TABLE.write_text(before)
        SUMMARY.write_text(before)
    if damage == "failing stage":
        made.ends = {11: InputError("train must succeed")}
    elif damage == "missing figure":
        made.ends = {11: InputError("this run writes no test.json, the next has half of one")}
        with pytest.raises(InputError):
            noise.main()
        (key,) = noise.RERUNS.iterdir()
        (key / "11/metrics/test.json").write_text('{"accuracy": 0.9}')
    else:
        Path("metrics/val.json" if damage == "no pipeline" else "dvc.lock").unlink()
    with pytest.raises(InputError, match="must"):
        noise.main()
    for path in (TABLE, SUMMARY):
        assert (path.read_text() if path.exists() else None) == before
    assert not list(Path("metrics").glob(".*"))  # no temporary file either


def test_what_cannot_work_is_said_before_hours_of_training(made: Trials) -> None:
    Path("metrics/test.json").unlink()
    with pytest.raises(InputError, match=r"metrics/test\.json"):
        noise.main()
    assert made.seeds == []
