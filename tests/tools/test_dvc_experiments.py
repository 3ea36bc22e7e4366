"""Which files a temporary copy would lack, which experiments are the same, and how runs end; dvc is a stand-in."""

import math
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from common import errors
from common.errors import InputError

import pytest

import dvc_experiments
from conftest import ROOT
from training import callbacks

# Notes what it was called with, says what its run says, and makes the experiment if it is to.
DVC = """#!/bin/sh
echo "$@" >> called
echo "$CHECKPOINT_DIR" > checkpoints
echo "Reproducing experiment '$5'"
if [ -e says ]; then cat says; fi
if [ -e makes ]; then git update-ref "refs/exps/$(git rev-parse HEAD | sed 's|^..|&/|')/$5" HEAD; fi
if [ -e makes ]; then exit 0; fi
exit 255
"""


def git(*words: str) -> str:
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a pipeline that reads src/a.py and data/input, and figures on val."""
    folder = tmp_path / "project"
    for name, text in {
        "src/a.py": "",
        "data/input/README.md": "",
        ".gitignore": "/data/input/*\n!/data/input/README.md\n/data/raw\n.cache\n__pycache__\n/called\n/says\n/makes\n/checkpoints\n",
        "dvc.yaml": "stages: {a: {cmd: a, deps: [src/a.py, data/input, data/raw], outs: [data/raw, {m: {cache: false}}]}}",
        "metrics/val.json": '{"accuracy": 0.5}',
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    git("init", "--quiet")
    git("config", "user.name", "Test")
    git("config", "user.email", "test@example.invalid")
    git("add", "--all")
    git("commit", "--quiet", "--message", "start")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dvc").write_text(DVC)
    (tmp_path / "bin/dvc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CHECKPOINT_DIR", raising=False)
    return folder


def add(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("new")


# --- missing files --------------------------------------------------------------------------------


def test_nothing_is_missed_where_git_and_dvc_have_all(project: Path) -> None:
    add(".cache/journal")
    add("src/__pycache__/a.pyc")
    add("data/raw/images")  # an output: DVC has it
    add("src/staged.py")
    git("add", "src/staged.py")
    add("src/a.py")  # changed
    assert dvc_experiments.missing_files() == []


def test_files_that_git_does_not_have_are_missed_and_ignored_ones_that_a_stage_reads(project: Path) -> None:
    add("src/new.py")
    add("notes with space.txt")
    add("data/input/train.csv")
    assert sorted(dvc_experiments.missing_files()) == [
        "data/input/train.csv",
        "notes with space.txt",
        "src/new.py",
    ]


@pytest.mark.parametrize("tracked", ["data/input/train", "data/input/train/a/1.png"])
def test_what_dvc_tracks_is_not_missed(project: Path, tracked: str) -> None:
    add("data/input/train/a/1.png")
    add(f"{tracked}.dvc")
    git("add", "--force", f"{tracked}.dvc")
    assert dvc_experiments.missing_files() == []


def test_a_dvc_file_that_git_does_not_have_is_missed(project: Path) -> None:
    add("data/input/a.csv")
    add("data/input/a.csv.dvc")
    assert dvc_experiments.missing_files() == ["data/input/a.csv.dvc"]


@pytest.mark.parametrize("name", ["a.csv.dvc", "train.dvc"])
def test_git_takes_what_dvc_add_writes_into_data_input(name: str) -> None:
    done = subprocess.run(["git", "check-ignore", f"data/input/{name}"], cwd=ROOT, check=False)
    assert done.returncode == 1


# --- names ----------------------------------------------------------------------------------------


def change_a_file() -> None:
    add("src/a.py")


def commit() -> None:
    git("commit", "--quiet", "--allow-empty", "--message", "more")


@pytest.mark.parametrize("change", [change_a_file, commit])
def test_another_state_has_other_names(project: Path, change: Callable[[], None]) -> None:
    before = dvc_experiments.state()
    assert dvc_experiments.state() == before
    change()
    assert dvc_experiments.state() != before
    assert dvc_experiments.name(dvc_experiments.state(), {}) != dvc_experiments.name(before, {})


def test_a_file_can_be_left_out_of_the_state(project: Path) -> None:
    before = dvc_experiments.state("src/a.py")
    change_a_file()
    assert dvc_experiments.state("src/a.py") == before


def test_other_changes_have_other_names(project: Path) -> None:
    names = [
        dvc_experiments.name("state", changes) for changes in ({}, {"a": 1}, {"a": 1.5}, {"b": 1}, {"a": [1]})
    ]
    assert len(set(names)) == 5
    assert names[1] == dvc_experiments.name("state", {"a": 1})


# --- run ------------------------------------------------------------------------------------------


def run() -> dict:
    changes = {"train.epochs": 2, "evaluate.parts": ["val"], "train.optimizer": "sgd"}
    return dvc_experiments.run("sweep-x", changes, "trial 3", threading.Lock(), lambda: None)


def test_a_run_gives_the_figures_of_its_experiment_and_a_second_one_asks_git_alone(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("makes").touch()
    assert run() == {"accuracy": 0.5}
    assert Path("called").read_text() == (
        "exp run --temp --name sweep-x --set-param=train.epochs=2 "
        '--set-param=evaluate.parts=["val"] --set-param=train.optimizer="sgd"\n'
    )
    assert Path("checkpoints").read_text().strip() == str(project / ".cache/checkpoints")
    assert capfd.readouterr().err == "trial 3 | Reproducing experiment 'sweep-x'\n"
    assert run() == {"accuracy": 0.5}
    assert len(Path("called").read_text().splitlines()) == 1


def test_a_copy_of_another_state_is_not_made(project: Path) -> None:
    def changed() -> None:
        raise InputError("another state")

    with pytest.raises(InputError, match="another state"):
        dvc_experiments.run("sweep-x", {}, "trial 3", threading.Lock(), changed)
    assert not Path("called").exists()


def test_an_experiment_of_another_commit_is_not_taken(project: Path) -> None:
    Path("makes").touch()
    run()
    commit()
    assert dvc_experiments.figures("sweep-x") is None


def test_a_run_that_fails_is_named(project: Path) -> None:
    with pytest.raises(InputError, match=r"^sweep-x must succeed; dvc exp run ended with 255$"):
        run()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_that_diverged_is_no_fault_of_the_machine(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    curves = callbacks.Curves(tmp_path / "curves")
    curves.on_train_begin()
    with pytest.raises(InputError) as raised:
        curves.on_epoch_end(0, {"loss": value})
    errors.print_one_line(InputError, raised.value, None)  # as the train stage ends
    Path("says").write_text(capsys.readouterr().err)
    with pytest.raises(dvc_experiments.Diverged):
        run()


def test_an_experiment_that_another_dvc_took_up_is_run_again(project: Path) -> None:
    """As the dvc of another job does before it ends: then its own ends well, without an experiment."""
    dvc = Path(os.environ["PATH"].split(":")[0]) / "dvc"
    dvc.write_text(DVC.replace("exit 255", "touch makes; exit 0"))
    assert run() == {"accuracy": 0.5}
    assert len(Path("called").read_text().splitlines()) == 2


@pytest.mark.parametrize("said", ["", "error: train loss must stay finite (…); received nan\n"])
def test_what_counts_is_the_experiment(project: Path, said: str) -> None:
    """Not how dvc ends: one that is left of an interrupted sweep may be faster, or fail after it."""
    Path("makes").touch()
    Path("says").write_text(said)
    dvc = Path(os.environ["PATH"].split(":")[0]) / "dvc"
    dvc.write_text(DVC.replace("exit 0", "exit 255"))
    assert run() == {"accuracy": 0.5}


def test_only_the_folders_of_its_own_killed_runs_are_removed(project: Path) -> None:
    Path("makes").touch()
    for name in ("sweep-x", "sweep-y"):
        add(f".dvc/tmp/exps/standalone/{name}/params.yaml")
        note = Path(f".dvc/tmp/exps/run/{name}/{name}.run")
        note.parent.mkdir(parents=True)
        root = project / f".dvc/tmp/exps/standalone/{name}"
        note.write_text(f'{{"name": "{name}", "root_dir": "{root}"}}')
    run()
    assert [path.name for path in Path(".dvc/tmp/exps/standalone").iterdir()] == ["sweep-y"]


def test_only_one_dvc_at_a_time_takes_up_its_experiment(project: Path) -> None:
    Path("makes").touch()
    starting = threading.Lock()
    with starting:
        thread = threading.Thread(target=dvc_experiments.run, args=("sweep-x", {}, "", starting, print))
        thread.start()
        thread.join(timeout=0.5)
        assert not Path("called").exists()
    thread.join()
    assert Path("called").exists()
