"""Runs in a folder of their own: the real stages once, stand-ins for what can go wrong."""

import argparse
import json
import os
import runpy
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from common import arrays, inputs
from common.errors import InputError

import numpy as np
import pytest
from ruamel.yaml import YAML

import rerun
from conftest import ROOT

NAMES = [f"class {label}" for label in range(10)]


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path)


def everything(folder: Path) -> dict[str, bytes]:
    """The files below `folder`, and what they hold."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- write_params ---------------------------------------------------------------------------------


def test_params_are_those_of_the_working_directory_but_for_the_changes(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_bytes()
    changes = {
        "train.seed": 5,
        "split.train_size": None,
        "evaluate.parts": ["val"],
        "train.optimizer_options.sgd.momentum": 0.25,
        "train.learning_rate": 1e-6,
    }
    rerun.write_params(workspace / "new/params.yaml", changes)
    expected = read(workspace / "params.yaml")
    expected["train"].update(seed=5, learning_rate=1e-6)
    expected["train"]["optimizer_options"]["sgd"]["momentum"] = 0.25
    expected["split"]["train_size"] = None
    expected["evaluate"]["parts"] = ["val"]
    assert read(workspace / "new/params.yaml") == expected
    assert expected["train"]["epochs"] == 2  # of the TINY ones, not of the committed ones
    assert (workspace / "params.yaml").read_bytes() == before


def test_a_section_that_is_not_there_is_not_invented(workspace: Path) -> None:
    with pytest.raises(KeyError, match="trian"):
        rerun.write_params(workspace / "new.yaml", {"trian.seed": 1})
    assert not (workspace / "new.yaml").exists()


# --- run ------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """What the stages before split leave, with random pixels."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 50)):
        target = folder / arrays.PREPARED / part
        target.mkdir(parents=True)
        images = generator.integers(0, 256, (count, 28, 28, 1), np.uint8)
        arrays.save(target, images, (np.arange(count) % 10).astype(np.uint8))
    arrays.save_array(folder / arrays.NEAR_DUPLICATES, np.arange(200))
    (folder / arrays.PREPARED / "classes.json").write_text(json.dumps(NAMES))
    (folder / arrays.PREPARED / "source.json").write_text(json.dumps({"source": "idx", "release": "unknown"}))


def in_this_process(words: list[Any], cwd: Path, **_: Any) -> subprocess.CompletedProcess:
    """Runs a script where Keras is imported already, which takes longer than the three stages."""
    with chdir(cwd), mock.patch("sys.argv", words[-1:]):
        runpy.run_path(str(words[-1]), run_name="__main__")
    return subprocess.CompletedProcess(words, 0)


def run_all(folder: Path, changes: dict[str, Any]) -> float:
    """Split, train and evaluate, as benchmarks do; gives the seconds of train."""
    rerun.prepare(folder, changes)
    seconds = rerun.run_stage("train", folder)
    rerun.run_stage("evaluate", folder)
    return seconds


def test_a_run_has_its_results_in_its_folder_and_leaves_the_rest_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None
) -> None:
    monkeypatch.setattr(rerun, "subprocess", SimpleNamespace(run=in_this_process))
    # else for good in this process, which evaluates too
    monkeypatch.setattr(inputs, "declare", lambda *paths, options=None: argparse.Namespace())
    prepare(workspace)
    before = everything(workspace)
    folder = Path(".cache/trial")  # relative, and not there yet
    changes = {"train.epochs": 1, "split.val_size": 70, "train.seed": 9}
    start = time.perf_counter()
    seconds = run_all(folder, changes)
    assert 0 < seconds < time.perf_counter() - start  # without split and evaluate
    assert json.loads((folder / "metrics/train.json").read_text())["epochs"] == 1  # TINY has 2
    images = {part: json.loads((folder / f"metrics/{part}.json").read_text())["images"] for part in ("val", "test")}
    assert images == {"val": 70, "test": 50}
    assert (folder / "models/model.keras").exists()
    assert read(folder / "params.yaml")["train"]["seed"] == 9
    new = {name for name in everything(workspace) if not name.startswith(".cache/")}
    assert new == set(before)
    assert everything(workspace).items() >= before.items()


FAKE_STAGE = """
import os, sys
from pathlib import Path
name = Path(__file__).stem
assert Path("data/prepared/here").exists(), "the prepared data"
Path("log").open("a").write(name + "\\n")
sys.exit(int(os.environ.get("FAIL_" + name, 0)))
"""


@pytest.fixture
def fakes(workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:  # fmt: skip
    """The working directory, where stages do nothing but note that they ran, or fail as FAIL_name says."""
    source = tmp_path_factory.mktemp("source")
    for name in ("split", "train", "evaluate"):
        (source / f"{name}.py").write_text(FAKE_STAGE)
    monkeypatch.setattr(rerun, "SOURCE", source)
    (workspace / "data/prepared").mkdir(parents=True)
    (workspace / "data/prepared/here").write_text("prepared")
    return workspace


def test_a_second_run_starts_from_an_empty_folder_and_keeps_the_prepared_data(fakes: Path) -> None:
    folder = fakes / "trial"
    run_all(folder, {})
    (folder / "metrics").mkdir()
    (folder / "metrics/test.json").write_text("of another run")
    run_all(folder, {})
    assert (folder / "log").read_text().split() == ["split", "train", "evaluate"]
    assert not (folder / "metrics").exists()
    assert (fakes / "data/prepared/here").read_text() == "prepared"


@pytest.mark.parametrize(
    ("fails", "ran"),
    [("split", ["split"]), ("train", ["split", "train"]), ("evaluate", ["split", "train", "evaluate"])],
)
def test_a_stage_that_fails_is_named_and_the_last(
    fakes: Path, monkeypatch: pytest.MonkeyPatch, fails: str, ran: list[str]
) -> None:
    monkeypatch.setenv(f"FAIL_{fails}", "3")
    with pytest.raises(InputError, match=rf"^{fails} must succeed in .*/trial; it ended with 3$"):
        run_all(fakes / "trial", {"train.seed": 7})
    assert (fakes / "trial/log").read_text().split() == ran


def test_a_parameter_that_a_stage_refuses_ends_the_run(
    workspace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workspace)
    monkeypatch.setenv("DVC_STAGE", "another")  # whose outputs are not in the trial's folder
    with pytest.raises(InputError, match=r"^split must succeed in .*/trial; "):
        run_all(workspace / "trial", {"split.val_size": 200})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: split.val_size must be ")
    assert "git restore" not in line


def test_a_rerun_starts_without_dvc_pandas_and_scikit_learn() -> None:
    """A machine with a GPU has no dvc, and a process of benchmarks/gpu.py has seconds."""
    code = "import common, rerun, sys; print({'dvc', 'pandas', 'sklearn'} & {*sys.modules})"
    paths = os.pathsep.join(str(ROOT / name) for name in ("src", "benchmarks"))
    words = [sys.executable, "-c", code]
    assert subprocess.check_output(words, text=True, env=os.environ | {"PYTHONPATH": paths}) == "set()\n"
