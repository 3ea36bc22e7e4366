import subprocess
from pathlib import Path

import pytest

from analysis import revisions
from common.errors import InputError

LOCK = "stages: {train: {outs: [{path: models/model.keras, md5: '12'}]}, split: {outs: [{path: x, md5: '3'}]}}"


def git(*words: str) -> str:
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    return subprocess.run(
        ["git", *author, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits, and a change that is in neither."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "--quiet", "--initial-branch=main")
        subprocess.run(["dvc", "init", "--quiet"], check=True)
        for content in ('{"x": 1}', '{"x": 2}'):
            Path("a.json").write_text(content)
            git("add", "--all")
            git("commit", "--quiet", "--message", content)
        Path("a.json").write_text('{"x": 3}')
    return folder


@pytest.fixture(autouse=True)
def inside(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def test_a_side_is_a_commit_or_the_working_directory() -> None:
    found = {name: revisions.side(name) for name in ("workspace", "main", "HEAD~1")}
    assert {name: side.json("a.json") for name, side in found.items()} == {
        "workspace": {"x": 3},
        "main": {"x": 2},
        "HEAD~1": {"x": 1},
    }
    commit = git("rev-parse", "HEAD~1")
    assert revisions.side(commit[:8]) == revisions.Side(commit[:8], commit)
    assert str(revisions.side(commit[:8])) == commit[:8]
    assert str(found["HEAD~1"]) == f"HEAD~1 ({commit[:7]})"
    assert str(found["workspace"]) == "workspace"
    assert not any(side.is_experiment for side in found.values())


def test_an_experiment_is_one_that_no_branch_holds() -> None:
    tried = git("commit-tree", "HEAD~1^{tree}", "-p", "HEAD", "-m", "tried")
    git("update-ref", "refs/exps/aa/bbbb/mine", tried)
    found = revisions.side("mine")
    assert (found.json("a.json"), found.is_experiment) == ({"x": 1}, True)
    git("branch", "kept", tried)
    assert not found.is_experiment
    git("branch", "-D", "kept")
    git("update-ref", "-d", "refs/exps/aa/bbbb/mine")


@pytest.mark.parametrize("name", ["nonsense", "--help", "HEAD~9"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be a commit, an experiment or workspace; received"):
        revisions.side(name)


def test_what_is_not_there_is_nothing() -> None:
    for name in ("workspace", "main"):
        side = revisions.side(name)
        assert side.text("b") is None
        assert side.table("b.csv", "x") is None
        assert (side.json("b.json"), side.outputs(), side.predicted()) == ({}, {}, [])


@pytest.mark.parametrize("content", ["{", "[1]", "1"])
def test_a_damaged_file_is_named(content: str) -> None:
    Path("damaged.json").write_text(content)
    with pytest.raises(InputError, match=r"^damaged.json in workspace must hold figures"):
        revisions.side("workspace").json("damaged.json")


@pytest.mark.parametrize("content", ["", "y\n1", 'x\n"'])
def test_a_damaged_table_is_named(content: str) -> None:
    Path("damaged.csv").write_text(content)
    with pytest.raises(InputError, match=r"^damaged.csv in workspace must be a table with x"):
        revisions.side("workspace").table("damaged.csv", "x")


def test_outputs_are_those_of_every_stage() -> None:
    Path("dvc.lock").write_text(LOCK)
    assert revisions.side("workspace").outputs() == {"models/model.keras": "12", "x": "3"}
    Path("dvc.lock").unlink()


@pytest.mark.parametrize("content", ["<<<<<<< HEAD", "stages: []", "stages: {a: {outs: [1]}}"])
def test_a_damaged_lock_is_named(content: str) -> None:
    Path("dvc.lock").write_text(content)
    with pytest.raises(InputError, match=r"^dvc.lock in workspace must be as DVC writes it"):
        revisions.side("workspace").outputs()
    Path("dvc.lock").unlink()


def test_a_command_that_fails_is_one_line() -> None:
    with pytest.raises(InputError, match=r"git merge-base nonsense HEAD must succeed; .*nonsense"):
        revisions.git("merge-base", "nonsense", "HEAD")
