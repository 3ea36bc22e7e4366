"""What another training changes in the key of the committed one, and what leaves it."""

import json
from pathlib import Path
from typing import Any

from common import files
from common.errors import InputError

import pytest
from ruamel.yaml import YAML

import benchmark_files
from analysis import dvc_lock

RESULTS = {"train": dvc_lock.MODEL, "evaluate": benchmark_files.PREDICTIONS}


def stage(name: str) -> dict[str, Any]:
    return {
        "cmd": f"python src/{name}.py",
        "deps": [{"path": f"src/{name}.py", "md5": "a1"}, {"path": "data/split", "md5": "b2.dir"}],
        "params": {"params.yaml": {name: {"seed": 0, "rate": 0.5}, f"{name}.parts": ["val"]}},
        "outs": [{"path": RESULTS.get(name, "data/split"), "md5": "c3"}],
    }


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What dvc.lock of the working directory holds: as DVC writes it, all that matters of it."""
    monkeypatch.chdir(tmp_path)
    content = {"schema": "2.0", "stages": {name: stage(name) for name in ("split", "train", "evaluate")}}  # fmt: skip
    write(content)
    return content


def write(content: dict[str, Any]) -> None:
    YAML(typ="safe").dump(content, Path("dvc.lock"))


def test_another_model_or_other_predictions_are_another_key(lock: dict[str, Any]) -> None:
    keys = [benchmark_files.training_key()]
    for name in ("train", "evaluate"):
        lock["stages"][name]["outs"][0]["md5"] = "c4"
        write(lock)
        keys.append(benchmark_files.training_key())
    assert len(set(keys)) == 3


def test_code_that_leaves_the_model_and_its_figures_leaves_the_key(lock: dict[str, Any]) -> None:
    before = benchmark_files.training_key()
    lock["stages"]["train"]["outs"].append({"path": "metrics/train.json", "md5": "d4"})  # which the model decides
    lock["stages"]["train"]["params"]["params.yaml"]["train"]["new"] = 1
    for name in lock["stages"]:
        lock["stages"][name]["deps"][0]["md5"] = "a2"
        lock["stages"][name]["cmd"] += " --quietly"
    write(lock)
    with Path("dvc.lock").open("a") as file:
        file.write("# a comment\n")
    assert benchmark_files.training_key() == before


@pytest.mark.parametrize("missing", ["train", "evaluate", "stages", "file"])
def test_a_lock_without_every_stage_is_refused(lock: dict[str, Any], missing: str) -> None:
    lock.pop(missing, None)
    lock.get("stages", {}).pop(missing, None)
    write(lock)
    if missing == "file":
        Path("dvc.lock").unlink()
    with pytest.raises(InputError, match=r"^dvc\.lock must have every stage .*; received: .") as no:
        benchmark_files.training_key()
    assert "\n" not in str(no.value)


def test_a_model_is_measured_once_and_it_must_be_the_one_in_dvc_lock(
    lock: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(dvc_lock.MODEL)
    for place in (model, results := Path("benchmarks/speed of it.json")):
        place.parent.mkdir()
    with pytest.raises(
        InputError, match=r"^models/ must be as dvc\.lock says .*; received models/model.keras which is missing$"
    ):
        benchmark_files.is_measured("speed of it", again=False)
    model.write_bytes(b"weights")
    with pytest.raises(InputError, match=r"; received models/model.keras which was changed$"):
        benchmark_files.is_measured("speed of it", again=False)
    lock["stages"]["train"]["outs"][0]["md5"] = files.md5(model)
    write(lock)
    assert not benchmark_files.is_measured("speed of it", again=False)
    files.write_json(results, {"training": benchmark_files.training_key()})
    assert not benchmark_files.is_measured("speed of it", again=True)
    assert capsys.readouterr().out == ""
    assert benchmark_files.is_measured("speed of it", again=False)
    assert capsys.readouterr().out == "benchmarks/speed of it.json is of this model (--again measures once more)\n"
    files.write_json(results, {"training": "another"})
    assert not benchmark_files.is_measured("speed of it", again=False)


def test_nothing_is_trained_under_the_key_of_other_parameters_or_code(lock: dict[str, Any]) -> None:
    own = {name: {"seed": 0, "rate": 0.5, "parts": ["val"]} for name in lock["stages"]}
    Path("src").mkdir()
    for name in lock["stages"]:
        Path(f"src/{name}.py").write_text(name)
        lock["stages"][name]["deps"][0]["md5"] = files.md5(Path(f"src/{name}.py"))
    write(lock)
    Path("params.yaml").write_text(json.dumps(own))
    assert benchmark_files.key_to_train() == benchmark_files.training_key()
    for train, received in (
        ({"rate": 0.4}, "train.rate 0.4, there 0.5"),
        ({"new": {"deeper": 3}}, "train.new.deeper 3, there nothing"),
    ):
        Path("params.yaml").write_text(json.dumps(own | {"train": own["train"] | train}))
        with pytest.raises(
            InputError, match=rf"^params.yaml and src/ must be as dvc.lock has them .*; received {received}$"
        ):
            benchmark_files.key_to_train()
    Path("params.yaml").write_text(json.dumps(own))
    Path("src/train.py").write_text("edited")
    with pytest.raises(InputError, match=r"; received src/train\.py \w{32}, there \w{32}$"):
        benchmark_files.key_to_train()
