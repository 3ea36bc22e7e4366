import os
import subprocess
import sys
from pathlib import Path

from common.errors import InputError

import pytest
from dvc.exceptions import DvcException

from analysis import revisions
from conftest import ROOT

LOCK = "stages: {train: {outs: [{path: models/model.keras, md5: '12'}]}, split: {outs: [{path: x, md5: '3'}]}}"


def git(*words: str) -> str:
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    return subprocess.run(["git", *author, *words], check=True, capture_output=True, text=True).stdout.strip()


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


def test_a_revision_is_a_commit_or_the_working_directory() -> None:
    found = {name: revisions.resolve(name) for name in ("workspace", "main", "HEAD~1")}
    assert {name: revision.json("a.json") for name, revision in found.items()} == {
        "workspace": {"x": 3},
        "main": {"x": 2},
        "HEAD~1": {"x": 1},
    }
    commit = git("rev-parse", "HEAD~1")
    assert revisions.resolve(commit[:8]) == revisions.Revision(commit[:8], commit)
    assert str(revisions.resolve(commit[:8])) == commit[:8]
    assert str(found["HEAD~1"]) == f"`HEAD~1` ({commit[:7]})"  # two of them could strike out what is between
    assert str(found["workspace"]) == "workspace"
    assert not any(revision.is_experiment for revision in found.values())


def test_an_experiment_is_one_that_no_branch_holds() -> None:
    tried = git("commit-tree", "HEAD~1^{tree}", "-p", "HEAD", "-m", "tried")
    git("update-ref", "refs/exps/aa/bbbb/mine", tried)
    found = revisions.resolve("mine")
    assert (found.json("a.json"), found.is_experiment) == ({"x": 1}, True)
    git("update-ref", "--no-deref", "HEAD", tried)
    assert revisions.resolve("mine").is_experiment
    git("symbolic-ref", "HEAD", "refs/heads/main")
    git("branch", "kept", tried)
    assert not found.is_experiment
    git("branch", "-D", "kept")
    git("update-ref", "-d", "refs/exps/aa/bbbb/mine")


@pytest.mark.parametrize("name", ["nonsense", "--help", "HEAD~9"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be a commit, an experiment or workspace; received"):
        revisions.resolve(name)


def test_a_damaged_setting_of_dvc_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def damaged() -> None:
        raise DvcException("config file error")

    monkeypatch.setattr(revisions, "Repo", damaged)
    with pytest.raises(InputError, match=r"received main: config file error$"):
        revisions.resolve("main")


def test_in_hooks_and_aliases_git_means_the_working_directory(tmp_path: Path) -> None:
    git("init", "--quiet", str(other := tmp_path / "other"))
    code = f"import sys; sys.path.append({str(ROOT / 'src')!r}); from analysis.git import git; print(git('rev-parse', '--git-dir'))"
    hook = os.environ | {
        "GIT_DIR": str(Path(".git").resolve()),
        "GIT_WORK_TREE": str(Path.cwd()),
        "GIT_INDEX_FILE": "a",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=other, env=hook, capture_output=True, text=True, check=True)
    assert done.stdout == ".git\n"


def test_what_is_not_there_is_nothing() -> None:
    for name in ("workspace", "main"):
        revision = revisions.resolve(name)
        assert revision.content("b") is None
        assert revision.table("b.csv", "x") is None
        assert (revision.json("b.json"), revision.outputs(), revision.predicted()) == ({}, {}, [])


@pytest.mark.parametrize(
    ("content", "rule"), [(b"{", "be JSON"), (b"\xff", "be JSON"), (b"[1]", "hold figures by name")]
)
def test_a_damaged_file_is_named(content: bytes, rule: str) -> None:
    Path("damaged.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"^damaged.json in workspace must {rule}; received"):
        revisions.resolve("workspace").json("damaged.json")


@pytest.mark.parametrize("content", ["", "y\n1", 'x\n"'])
def test_a_damaged_table_is_named(content: str) -> None:
    Path("damaged.csv").write_text(content)
    with pytest.raises(InputError, match=r"^damaged.csv in workspace must be a table with x"):
        revisions.resolve("workspace").table("damaged.csv", "x")


def test_outputs_are_those_of_every_stage() -> None:
    Path("dvc.lock").write_text(LOCK)
    assert revisions.resolve("workspace").outputs() == {"models/model.keras": "12", "x": "3"}
    Path("dvc.lock").unlink()


@pytest.mark.parametrize("content", ["<<<<<<< HEAD", "stages: []", "stages: {a: {outs: [1]}}"])
def test_a_damaged_lock_is_named(content: str) -> None:
    Path("dvc.lock").write_text(content)
    with pytest.raises(InputError, match=r"^dvc.lock in workspace must have every stage"):
        revisions.resolve("workspace").outputs()
    Path("dvc.lock").unlink()


def test_a_command_that_fails_is_one_line() -> None:
    with pytest.raises(InputError, match=r"git merge-base nonsense HEAD must succeed; .*nonsense"):
        revisions.git("merge-base", "nonsense", "HEAD")


@pytest.mark.parametrize("name", ["", "nonsense", "main^{tree}", "main:", "caf\udce9", "a" * 5000, "twice"])
def test_what_is_no_revision_is_one_line(name: str) -> None:
    """Of two experiments of one name DVC says that they are."""
    for baseline in ("aa/bbbb", "cc/dddd"):
        git("update-ref", f"refs/exps/{baseline}/twice", git("commit-tree", "HEAD^{tree}", "-m", baseline))
    with pytest.raises(InputError, match=r"^a revision must be a commit, an experiment or workspace; received") as said:
        revisions.resolve(name)
    assert ("ambiguous" in str(said.value).lower()) == (name == "twice")


def test_a_tag_with_a_message_is_its_commit() -> None:
    git("tag", "--annotate", "--message", "it", "v1", "HEAD~1")
    assert revisions.resolve("v1").commit == git("rev-parse", "HEAD~1")
