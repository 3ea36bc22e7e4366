"""Which trainings are one model: by metrics/noise.csv, and by experiments that differ in the seed alone."""

import io
import json
import subprocess
from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest
from ruamel.yaml import YAML

from analysis import seeds
from replicates import Written

FIGURES = {"accuracy": 0.9, "loss": 0.3, "macro_f1": 0.89, "calibration_error": 0.01}
ROWS = "seed,part,accuracy,loss,macro_f1,calibration_error\n"
NOISE = ROWS + "0,val,0.9,0.3,0.89,0.01\n0,test,0.8,0.3,0.89,0.01\n1,val,0.91,0.3,0.89,0.01\n1,test,0.7,0.3,0.89,0.01\n"
CLASSES = "seed,part,class,recall\n0,val,1,0.5\n1,val,1,0.7\n0,test,1,0.1\n1,test,1,0.2\n"
PREDICTIONS = "id,label,predicted,confidence\n0,1,1,0.9\n1,1,2,0.9\n"


def lock(
    seed: int = 0, code: str = "c", data: str = "d", epochs: int = 2, parts: str = "val", test: str = "t"
) -> dict[str, Any]:
    deps = [{"path": "src/train.py", "md5": code}, {"path": "data/split", "md5": data}]
    train = {"deps": deps, "params": {"params.yaml": {"train": {"seed": seed, "epochs": epochs}}}}
    deps = [{"path": "models/model.keras", "md5": f"{seed}{code}{epochs}"}, {"path": "data/prepared/test", "md5": test}]
    return {
        "stages": {"train": train, "evaluate": {"deps": deps, "params": {"params.yaml": {"evaluate.parts": [parts]}}}}
    }


def written(**changes: str) -> Written:
    files = {
        "dvc.lock": json.dumps(lock()),
        "metrics/val.json": json.dumps(FIGURES),
        "metrics/test.json": "{}",
        "metrics/noise.csv": NOISE,
        "metrics/noise_classes.csv": CLASSES,
        "metrics/predictions/val.csv": PREDICTIONS,
    }
    return Written("x", files=files | changes)


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    return tmp_path


def test_noise_belongs_to_the_model_whose_figures_its_seed_has() -> None:
    runs = seeds.noise(written())
    assert runs is not None
    assert runs["part"].unique().tolist() == ["val"]  # test was not evaluated
    assert runs["accuracy"].tolist() == [0.9, 0.91]


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics/val.json": json.dumps(FIGURES | {"accuracy": 0.91})},  # an experiment, or other images
        {"metrics/val.json": json.dumps(FIGURES | {"loss": 0.31})},
        {"metrics/val.json": json.dumps({"accuracy": 0.9})},
        {"metrics/val.json": "{}"},
        {"metrics/test.json": json.dumps(FIGURES)},
        {"dvc.lock": json.dumps(lock(seed=1))},
        {"dvc.lock": json.dumps(lock(seed=5))},
        {"metrics/noise.csv": ROWS},
    ],
)
def test_no_other_model_has_that_noise(changes: dict[str, str]) -> None:
    model = written(**changes)
    assert seeds.noise(model) is None
    assert len(seeds.trainings(model, "val").accuracy) == 1


def test_a_damaged_noise_is_named() -> None:
    with pytest.raises(InputError, match=r"^metrics/noise.csv in x must be a table"):
        seeds.noise(written(**{"metrics/noise.csv": "seed,part\n0,val"}))


def test_seeds_without_predictions_have_accuracy_and_recalls() -> None:
    found = seeds.trainings(written(), "val")
    assert found.accuracy.to_dict() == {0: 0.5, 1: 0.91}  # of the predictions, where they are there
    assert found.right.to_dict() == {0: {0: True, 1: False}}
    assert found.of_class("1").accuracy.to_dict() == {0: 0.5, 1: 0.7}
    alone = seeds.trainings(written(), "val", own_only=True)
    assert alone.accuracy.to_dict() == alone.of_class("1").accuracy.to_dict() == {0: 0.5}


def test_the_seed_and_the_parts_alone_leave_the_training() -> None:
    def training(**changes: Any) -> str | None:
        return seeds.training(written(**{"dvc.lock": json.dumps(lock(**changes))}))

    assert training() is not None
    assert training() == training(seed=3) == training(parts="test")
    others = [training(), training(code="x"), training(data="x"), training(epochs=3), training(test="x")]
    assert len(set(others)) == 5
    for missing in ("train", "evaluate"):
        stages = {name: stage for name, stage in lock()["stages"].items() if name != missing}
        assert seeds.training(written(**{"dvc.lock": json.dumps({"stages": stages})})) is None


def test_a_confidence_that_is_no_number_is_refused() -> None:
    path = "metrics/predictions/val.csv"
    *rows, last = PREDICTIONS.splitlines()
    damaged = "\n".join([*rows, last.rpartition(",")[0] + ",high\n"])
    with pytest.raises(InputError, match=f"^{path} in x must be a table with .*; received: .*high"):
        seeds.predictions(written(**{path: damaged}), "val")


def commit(name: str, content: dict[str, Any]) -> None:
    """An experiment."""
    words = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    YAML().dump(content, Path("dvc.lock"))
    Path("metrics/predictions").mkdir(parents=True, exist_ok=True)
    Path("metrics/predictions/val.csv").write_text(PREDICTIONS.replace("1,2", "1,1"))
    subprocess.run([*words, "add", "--all"], check=True)
    subprocess.run([*words, "commit", "--quiet", "--message", name], check=True)
    subprocess.run([*words, "update-ref", f"refs/exps/aa/bbbb/{name}", "HEAD"], check=True)


def test_experiments_that_differ_in_the_seed_alone_are_the_same_model() -> None:
    commit("second", lock(seed=1))
    commit("edited", lock(seed=2, code="x"))
    commit("third", lock(seed=3))
    model = written(**{"metrics/noise.csv": ROWS})
    found = seeds.replicates(model)
    assert {seed: revision.name for seed, revision in found.items()} == {0: "x", 1: "second", 3: "third"}
    both = seeds.trainings(model, "val")
    assert both.right.columns.tolist() == [0, 1, 3]
    assert both.accuracy.to_dict() == {0: 0.5, 1: 1.0, 3: 1.0}
    assert seeds.trainings(model, "val", own_only=True).accuracy.to_dict() == {0: 0.5}


def test_figures_are_one_row_a_part_with_the_measures_alone() -> None:
    model = written(**{"metrics/test.json": json.dumps({"source": "idx"} | FIGURES | {"images": 7})})
    assert seeds.figures(model) == [{"seed": 0, "part": part} | FIGURES for part in ("val", "test")]
    assert [row["part"] for row in seeds.figures(written())] == ["val"]  # test was not evaluated


def test_a_class_may_have_any_name() -> None:
    model = written(**{"metrics/classes/val.csv": "class,recall\nNA,1\n01,0.5\n"})
    assert [row["class"] for row in seeds.recalls(model)] == ["NA", "01"]
    with pytest.raises(InputError, match=r"classes/val\.csv in x must be a table with class, recall; received: "):
        seeds.recalls(written(**{"metrics/classes/val.csv": "class,precision\na,1\n"}))


def test_a_seed_twice_counts_once() -> None:
    for again in ("1,val,0.91,0.3,0.89,0.01\n", "1,val,0.95,0.3,0.89,0.01\n"):  # the same figures, or others
        model = written(**{"metrics/noise.csv": NOISE + again})
        assert seeds.trainings(model, "val").accuracy.tolist() == [0.5, 0.91]


def test_figures_are_those_of_the_part() -> None:
    evaluated = {
        "metrics/test.json": json.dumps(FIGURES | {"accuracy": 0.8}),
        "metrics/predictions/test.csv": PREDICTIONS,
    }
    found = seeds.trainings(written(**evaluated), "test")
    assert found.accuracy.to_dict() == {0: 0.5, 1: 0.7}
    assert found.of_class("1").accuracy.to_dict() == {0: 0.5, 1: 0.2}


def test_a_recall_that_is_no_number_is_one_line() -> None:
    model = written(**{"metrics/noise_classes.csv": CLASSES + "1,val,2,high\n"})
    with pytest.raises(InputError, match=r"^metrics/noise_classes.csv in x must be a table with seed, part, class, "):
        seeds.trainings(model, "val")


def test_a_parameter_may_be_a_date() -> None:
    changed = lock()
    changed["stages"]["train"]["params"]["params.yaml"]["train"] |= {"since": "2017-08-31", 5: 6}
    text = YAML(typ="safe", pure=True)
    text.dump(changed, dumped := io.StringIO())
    with_date = written(**{"dvc.lock": dumped.getvalue().replace("'2017-08-31'", "2017-08-31")})
    assert seeds.training(with_date) not in (None, seeds.training(written()))
