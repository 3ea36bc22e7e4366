"""Which files a copy would lack, what it has, and how runs end; dvc is a stand-in."""

import asyncio
import contextlib
import math
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import errors
from common.errors import InputError

import psutil
import pytest
from dvc.config import Config

import dvc_experiments
from analysis.revisions import Revision
from conftest import ROOT
from training import callbacks

# Notes what it was called with, says what its run says, and makes the experiment unless it is to fail.
DVC = """#!/bin/sh
echo "$@" >> $NOTES/called
pwd > $NOTES/folder
echo "$CHECKPOINT_DIR $FASHION_MNIST_DIR" > $NOTES/folders
cp src/a.py .dvc/config.local $NOTES
echo "Reproducing experiment '$4'"
if [ -e $NOTES/says ]; then cat $NOTES/says; fi
if [ -e $NOTES/fails ]; then exit 255; fi
git update-ref "refs/exps/$(git rev-parse HEAD | sed 's|^..|&/|')/$4" HEAD
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
        ".gitignore": "/data/input/*\n!/data/input/README.md\n/data/raw\n.cache\n__pycache__\n",
        ".dvc/config": "",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
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
    monkeypatch.setenv("NOTES", str(tmp_path / "bin"))
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
    dvc_experiments.refuse_missing_files()


def test_files_that_git_does_not_have_are_missed_and_ignored_ones_that_a_stage_reads(project: Path) -> None:
    add("src/new.py")
    add("notes with space.txt")
    add("data/input/train.csv")
    with pytest.raises(InputError, match=r"received 3: notes with space\.txt, src/new\.py, data/input/train\.csv$"):
        dvc_experiments.refuse_missing_files()
    for number in range(1000):
        add(f"data/input/train/a/{number}.png")
    with pytest.raises(InputError, match=r"received 1,003: .+") as refusal:
        dvc_experiments.refuse_missing_files()
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("tracked", ["data/input/train", "data/input/train/a/1.png"])
def test_what_dvc_tracks_is_not_missed(project: Path, tracked: str) -> None:
    add("data/input/train/a/1.png")
    add(f"{tracked}.dvc")
    git("add", "--force", f"{tracked}.dvc")
    dvc_experiments.refuse_missing_files()


def test_a_dvc_file_that_git_does_not_have_is_missed(project: Path) -> None:
    add("data/input/a.csv")
    add("data/input/a.csv.dvc")
    with pytest.raises(InputError, match=r"received 1: data/input/a\.csv\.dvc$"):
        dvc_experiments.refuse_missing_files()


@pytest.mark.parametrize("name", ["a.csv.dvc", "train.dvc"])
def test_git_takes_what_dvc_add_writes_into_data_input(name: str) -> None:
    done = subprocess.run(["git", "check-ignore", f"data/input/{name}"], cwd=ROOT, check=False)
    assert done.returncode == 1


# --- run ------------------------------------------------------------------------------------------


@pytest.fixture
def notes(project: Path) -> Path:
    return project.parent / "bin"


def run() -> Revision:
    head = git("rev-parse", "HEAD").strip()
    changes = {"train.epochs": 2, "evaluate.parts": ["val"], "train.optimizer": "sgd"}
    return asyncio.run(dvc_experiments.run("sweep-x", dvc_experiments.snapshot(), head, changes, "trial 3"))


def test_a_run_gives_its_experiment_and_a_second_one_asks_git_alone(
    project: Path, notes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = run()
    assert found.json("metrics/val.json") == {"accuracy": 0.5}
    assert found.is_experiment
    assert git("rev-parse", f"{found.commit}^") == git("rev-parse", "HEAD")
    assert (notes / "called").read_text() == (
        "exp run --name sweep-x --set-param=train.epochs=2 "
        '--set-param=evaluate.parts=["val"] --set-param=train.optimizer="sgd"\n'
    )
    assert (notes / "folders").read_text().strip() == str(project / ".cache/checkpoints")
    assert f"dir = {project}/.dvc/cache" in (notes / "config.local").read_text()
    assert capfd.readouterr().err == "trial 3 | Reproducing experiment 'sweep-x'\n"
    assert run() == found
    assert len((notes / "called").read_text().splitlines()) == 1
    assert not Path((notes / "folder").read_text().strip()).exists()


@pytest.mark.parametrize(("given", "checkpoints"), [("", ".cache/checkpoints"), ("states", "states")])
def test_folders_that_the_environment_names_are_those_of_the_workspace(
    project: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, given: str, checkpoints: str
) -> None:
    monkeypatch.setenv("CHECKPOINT_DIR", given)
    monkeypatch.setenv("FASHION_MNIST_DIR", given)
    run()
    found = (notes / "folders").read_text().split()
    assert found == [str(project / checkpoints), *([str(project / given)] if given else [])]


def test_git_must_know_who_commits(project: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    git("config", "--unset", "user.email")
    with pytest.raises(InputError, match=r"^git must know your user\.email, .*; received none$"):
        run()
    assert not (notes / "called").exists()


def test_a_file_with_another_time_is_no_change(project: Path) -> None:
    os.utime("src/a.py", (0, 0))
    assert dvc_experiments.snapshot() == git("rev-parse", "HEAD").strip()


def test_a_copy_has_the_changes_that_git_tracks_and_the_workspace_keeps_them(project: Path, notes: Path) -> None:
    add("src/a.py")
    add("src/staged.py")
    git("add", "src/staged.py")
    before = git("status", "--porcelain")
    found = run()
    assert (notes / "a.py").read_text() == "new"
    assert found.content("src/staged.py") == b"new"
    assert git("status", "--porcelain") == before
    assert git("stash", "list") == ""
    assert git("rev-parse", f"{found.commit}^") == git("rev-parse", "HEAD")


def test_in_a_subfolder_of_a_larger_repository_the_copy_is_of_the_whole(
    project: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "below").mkdir()
    for name in ("src", ".dvc", "metrics", ".gitignore"):
        git("mv", name, "below")
    git("commit", "--quiet", "--message", "below")
    monkeypatch.chdir(project / "below")
    assert run().json("metrics/val.json") == {"accuracy": 0.5}
    assert (notes / "folder").read_text().strip().endswith("/below")


def test_an_experiment_of_another_commit_is_not_taken(project: Path, notes: Path) -> None:
    run()
    git("commit", "--quiet", "--allow-empty", "--message", "more")
    run()
    assert len((notes / "called").read_text().splitlines()) == 2


def test_a_run_that_fails_is_named_and_leaves_no_copy(project: Path, notes: Path) -> None:
    (notes / "fails").touch()
    with pytest.raises(InputError, match=r"^sweep-x must succeed; dvc exp run ended with 255$") as raised:
        run()
    assert not isinstance(raised.value, dvc_experiments.Diverged)
    assert not Path((notes / "folder").read_text().strip()).exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_that_diverged_is_no_fault_of_the_machine(
    project: Path, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    curves = callbacks.Curves(tmp_path / "curves")
    curves.on_train_begin()
    with pytest.raises(InputError) as raised:
        curves.on_epoch_end(0, {"loss": value})
    errors.print_one_line(InputError, raised.value, None)  # as the train stage ends
    (notes / "says").write_text(capsys.readouterr().err)
    (notes / "fails").touch()
    with pytest.raises(dvc_experiments.Diverged):
        run()


def test_copies_of_its_own_killed_runs_are_removed_and_no_others(project: Path) -> None:
    for name in ("sweep-x-killed_0", "sweep-y-running0", "sweep-x-test-running0"):  # "sweep-x-test" is another one
        add(f".cache/experiments/{name}/params.yaml")
    run()
    left = sorted(path.name for path in Path(".cache/experiments").iterdir() if path.is_dir())
    assert left == ["sweep-x-test-running0", "sweep-y-running0"]


def test_so_is_the_copy_of_a_run_that_is_killed_now(project: Path, notes: Path) -> None:
    """What tempfile adds to a name has the length that is looked for."""
    run()
    copy = Path((notes / "folder").read_text().strip())
    assert copy.match(f"sweep-x-{'?' * 8}")


def test_a_submodule_with_changes_is_no_change_of_the_project(project: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    for words in (("init", "--quiet"), ("-c", "user.name=T", "-c", "user.email=t@example.invalid", "commit", "--quiet",
                                        "--allow-empty", "--message", "a")):  # fmt: skip
        git("-C", str(other), *words)
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "below")
    git("commit", "--quiet", "--message", "a submodule")
    Path("below/new").write_text("")
    git("-C", "below", "add", "new")
    assert dvc_experiments.snapshot() == git("rev-parse", "HEAD").strip()


def test_the_same_experiment_twice_at_a_time_runs_once(project: Path, notes: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = (pool.submit(run) for _ in range(2))
        assert one.result() == other.result()
    assert len((notes / "called").read_text().splitlines()) == 1


def test_a_failure_ends_what_other_tasks_run_at_once(project: Path, notes: Path) -> None:
    (notes / "dvc").write_text("#!/bin/sh\nsleep 600 & echo $! > $NOTES/child\ntouch $NOTES/called\nwait\n")
    head = git("rev-parse", "HEAD").strip()

    async def fail() -> None:
        while not (notes / "called").exists():
            await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async def both() -> None:
        await asyncio.gather(dvc_experiments.run("sweep-x", head, head, {}, "trial 3"), fail())

    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(both())
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(int((notes / "child").read_text()))
        while child.status() != psutil.STATUS_ZOMBIE:  # it closes its files some time before
            time.sleep(0.05)
    assert time.monotonic() - start < 300
    assert not [path for path in Path(".cache/experiments").iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["a, b", "c #1", "it's", 'the "one"', "50% $HOME"])
def test_a_copy_has_the_cache_whatever_its_folder_is_called(
    project: Path, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(project.rename(tmp_path / name))
    run()
    (project_copy := tmp_path / "copy/.dvc").mkdir(parents=True)
    (notes / "config.local").rename(project_copy / "config.local")
    assert Config(str(project_copy))["cache"]["dir"] == f"{tmp_path / name}/.dvc/cache"
