"""Commits rebuilt: one with a forged figure by the real stages, others by stand-ins that copy results."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from common.errors import InputError

import pytest

import check
import rebuild
from analysis import dvc_lock, metric_files
from conftest import Clone, with_forks
from edits import edit, write_output

TEST = "metrics/test.json"


@pytest.fixture
def clone(reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    clone = reproduced.copied(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    return clone


@pytest.fixture
def call(
    clone: Clone, reproduced: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Rebuilds with stages that give what was reproduced."""

    def run_stages(project: Path) -> None:
        assert not (project / "dvc.lock").exists()
        shutil.copy(reproduced.folder / "dvc.lock", project)
        shutil.copytree(reproduced.folder / "metrics", project / "metrics", dirs_exist_ok=True)

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rebuild.py", *words])
        rebuild.main()
        return capsys.readouterr().out

    monkeypatch.setattr(rebuild, "run_stages", run_stages)
    return call


def forge() -> None:
    """A better loss, which no other file contradicts."""
    figures = metric_files.read(Path(TEST))
    write_output(TEST, json.dumps(figures | {"loss": round(figures["loss"] / 2, 4)}))


@pytest.mark.slow
def test_a_forged_figure_survives_check_and_no_rebuild(clone: Clone, tmp_path: Path) -> None:
    """Also where the commit brings a cache, and commit and user name others that have every result."""
    forge()
    path = clone.folder / ".dvc/cache/files/md5"
    assert path.is_dir()
    clone.git("add", "--force", ".dvc/cache")
    setting = f"[cache]\n    dir = {clone.folder}/.dvc/cache\n"
    edit(Path(".dvc/config"), "[core]\n", f"{setting}[core]\n")
    clone.commit("forge")
    assert "belong together" in clone.run("python", "tools/check.py")
    assert clone.git("ls-files", ".dvc/cache")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/config").write_text(setting)
    hostile = {"DVC_GLOBAL_CONFIG_DIR": tmp_path / "settings", "CHECKPOINT_DIR": tmp_path / "checkpoints"}
    done = subprocess.run(
        ["python", "tools/rebuild.py"], capture_output=True, text=True, check=False,
        env=with_forks() | {name: str(value) for name, value in hostile.items()},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    for stage in dvc_lock.read():
        assert f"Running stage '{stage}'" in done.stdout
    commit = clone.git("rev-parse", "HEAD")[:7]
    count = sum(len(stage.outputs) for stage in dvc_lock.read().values())
    assert f"1 of {count} outputs are not as in commit {commit}.\n  evaluate  {TEST} " in done.stdout
    assert done.stderr.endswith(
        f"error: a rebuild of {commit} must give dvc.lock and every output as committed; received another {TEST}\n"
    )
    assert not (tmp_path / "checkpoints").exists()
    assert clone.git("status", "--porcelain") == ""


def test_a_commit_is_rebuilt_whatever_the_workspace_has(clone: Clone, call: Callable[..., str]) -> None:
    forge()
    (clone.folder / ".cache/rebuild/older").mkdir(parents=True)
    said = call()
    assert "Uncommitted changes are left out." in said
    assert said.splitlines()[-1].startswith("Reproduced: every byte as committed in ")
    (copy,) = Path(".cache/rebuild").iterdir()
    assert json.loads((copy / TEST).read_text()) != json.loads(Path(TEST).read_text())
    clone.commit("forge")
    with pytest.raises(InputError, match=f"received another {TEST}$"):
        call()
    assert "Uncommitted" not in call("HEAD~1")


def test_a_commit_whose_params_name_no_source_is_rebuilt(clone: Clone, call: Callable[..., str]) -> None:
    Path("params.yaml").write_text("train: {}\n")
    clone.commit("no source")
    assert "every byte" in call()


def test_a_stage_that_dvc_lock_lacks_is_refused(clone: Clone, call: Callable[..., str]) -> None:
    last, locked = list(dvc_lock.read().items())[-1]
    text = dvc_lock.LOCK.read_text()
    dvc_lock.LOCK.write_text(text[: text.index(f"  {last}:\n")])
    clone.commit("lose a stage")
    with pytest.raises(InputError, match=f"received another {', '.join(locked.outputs)}, input .* more$"):
        call()


def test_a_stage_that_dvc_yaml_lacks_is_refused(clone: Clone, call: Callable[..., str]) -> None:
    edit(dvc_lock.LOCK, "  export:\n", "  more:\n    cmd: ''\n    outs:\n    - path: more\n      md5: 00\n  export:\n")
    clone.commit("add a stage")
    with pytest.raises(InputError, match=r"received another more, input the command of more "):
        call()


def test_an_input_that_was_forged_is_refused(clone: Clone, call: Callable[..., str]) -> None:
    md5 = dvc_lock.read()["train"].inputs["data/split", ""]
    before, stage, after = dvc_lock.LOCK.read_text().partition("  train:\n")
    dvc_lock.LOCK.write_text(before + stage + after.replace(md5, f"{'0' * 32}.dir"))
    clone.commit("forge an input")
    with pytest.raises(InputError, match=r"received another input data/split"):
        call()


@pytest.mark.parametrize(
    "name",
    ["src/common/__pycache__/arrays.cpython-311.pyc", "src/common/more.pyc", f"src/arrays{EXTENSION_SUFFIXES[0]}"],
)
def test_what_runs_in_the_place_of_source_is_refused(clone: Clone, call: Callable[..., str], name: str) -> None:
    assert list(check.file_problems()) == []
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(b"")
    clone.git("add", "--force", name)
    assert list(check.file_problems()) == [f"{name} is in git, and Python could run it in the place of its source"]
    clone.commit("compiled")
    with pytest.raises(InputError, match=rf"^a commit must not have what Python runs .*; received {name}$"):
        call()


def test_a_commit_with_parameters_of_another_version_is_rebuilt(clone: Clone, call: Callable[..., str]) -> None:
    edit(Path("params.yaml"), "precision: float32", "precision: auto")
    clone.commit("as it was")
    assert "Reproduced: every byte as committed" in call()


def test_a_figure_that_the_commit_s_own_dvc_lock_lacks_is_refused(clone: Clone, call: Callable[..., str]) -> None:
    Path(TEST).write_text("{}")
    clone.commit("forge without dvc.lock")
    with pytest.raises(InputError, match=f"received another {TEST}$"):
        call()


def test_a_copy_has_the_commit_alone(clone: Clone) -> None:
    edit(Path("params.yaml"), "source: synthetic", "source: csv")
    clone.commit("other images")
    Path("data/input/train.csv").write_text("ours")
    Path("data/input/README.md").write_text("changed")
    project = rebuild.copy(clone.git("rev-parse", "HEAD").strip())
    assert (project / "data/input/train.csv").read_text() == "ours"
    assert (project / "data/input/README.md").read_text() == clone.git("show", "HEAD:data/input/README.md")
    outputs = [path for stage in dvc_lock.read().values() for path in stage.outputs]
    assert not [path for path in outputs if (project / path).exists()]
    assert not (project / "dvc.lock").exists()
    clone.git("restore", ".")
    edit(Path("params.yaml"), "source: csv", "source: synthetic")
    clone.commit("drawn images")
    project = rebuild.copy(clone.git("rev-parse", "HEAD").strip())
    assert not (project / "data/input/train.csv").exists()


def test_an_experiment_is_rebuilt_too(clone: Clone, call: Callable[..., str]) -> None:
    """No branch holds its commit."""
    head = clone.git("rev-parse", "HEAD").strip()
    tried = clone.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "tried").strip()
    clone.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/mine", tried)
    assert f"as committed in {tried[:7]}" in call("mine")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("workspace", "^COMMIT must be a commit or an experiment; received workspace$"),
        ("nonsense", "^a revision must be "),
        ("HEAD~1", "^dvc.lock of commit .* must have every stage and md5; received: no such file$"),
    ],
)
def test_what_cannot_be_rebuilt_is_one_line(call: Callable[..., str], name: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        call(name)


def test_a_stage_that_fails_ends_the_rebuild(clone: Clone, tmp_path: Path, forks: None) -> None:
    (tmp_path / "no project").mkdir()
    with pytest.raises(InputError, match=r"^every stage must succeed in .*; dvc repro ended with 25\d$"):
        rebuild.run_stages(tmp_path / "no project")


def test_what_no_stage_writes_is_no_part_of_a_rebuild(clone: Clone, call: Callable[..., str]) -> None:
    Path("metrics/mine.json").write_text("{}")
    clone.commit("a figure by hand")
    with pytest.raises(InputError, match=r"received another metrics/mine\.json, which no stage writes,$"):
        call()


@pytest.mark.parametrize("given", ["", "images"])
def test_a_folder_of_images_that_is_named_stays_where_it_is_and_none_stays_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASHION_MNIST_DIR", given)
    found = rebuild.environment(tmp_path / "copy")["FASHION_MNIST_DIR"]
    assert found == (str(tmp_path / "images") if given else "")
