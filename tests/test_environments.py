"""Machines, clones and environments that are not as usual: docs/environments.md lists them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Clone, with_forks


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A target that comes no further than to the installation: pip finds nothing there."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=folder, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1", "UV_OFFLINE": "1"} | variables,
    )  # fmt: skip


@pytest.fixture
def unpacked(reproduced: Clone, tmp_path: Path) -> Clone:
    """The files of a commit as an archive has them, without .git; with DVC's cache of their outputs."""
    clone = reproduced.copied(tmp_path / "unpacked")
    shutil.rmtree(clone.folder / ".git")
    return clone


def test_line_endings_are_those_of_the_commit_whatever_git_is_set_to(reproduced: Clone, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    reproduced.git("clone", "--quiet", "--config=core.autocrlf=true", ".", str(clone.folder))
    names = reproduced.git("ls-files", "-z").split("\0")[:-1]
    differ = [
        name for name in names if (clone.folder / name).read_bytes() != (reproduced.folder / name).read_bytes()
    ]
    assert names and not differ
    clone.run("python", "tools/check.py")
    assert not clone.git("status", "--short")


def test_an_unpacked_archive_gets_a_repository_before_anything_is_installed(unpacked: Clone) -> None:
    done = make(unpacked.folder, "repro", PYTHON="false")
    assert done.stdout.startswith(
        "There is no git repository here: one is made, with these files as its first commit.\n"
    )
    assert not (unpacked.folder / ".venv").exists()
    assert not unpacked.git("status", "--short")
    assert make(unpacked.folder, "repository").stdout == ""  # the next time there is one
    unpacked.dvc("repro")
    assert unpacked.run("python", "tools/verdict.py").startswith("Reproduced: ")


def test_a_repository_without_a_commit_is_named_before_anything_is_installed(unpacked: Clone) -> None:
    unpacked.git("init", "--quiet")
    done = make(unpacked.folder, "repro")
    assert done.returncode == 2
    line, _ = done.stdout.splitlines()  # the other is make's own
    assert (
        line
        == "error: git must have a commit here (git add --all && git commit); received a repository without one"
    )
    assert not (unpacked.folder / ".venv").exists()


def test_no_git_is_named_before_anything_is_installed(unpacked: Clone, tmp_path: Path) -> None:
    for name in ("cmp", "make", "rm", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = make(unpacked.folder, "repro", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout.startswith("error: git must be installed; received no git in PATH\n")
    assert not (unpacked.folder / ".venv").exists()


def test_a_clone_of_another_user_is_named_with_what_to_do(reproduced: Clone) -> None:
    done = make(reproduced.folder, "repro", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert done.returncode == 2
    line, _ = done.stdout.splitlines()
    assert line.startswith(
        "error: git must be able to read this repository, but said: fatal: detected dubious ownership"
    )
    assert "git config --global --add safe.directory " in line


TOOLS = (
    "check.py", "compare.py HEAD", "experiments.py", "rebuild.py", "replicate.py", "review.py HEAD", "sweep.py",
    "verdict.py",
)  # fmt: skip


@pytest.mark.parametrize("words", TOOLS)
@pytest.mark.parametrize("state", ["of another user", "no repository", "no commit", "no git"])
def test_tools_say_in_one_line_what_git_cannot_do(
    words: str, state: str, reproduced: Clone, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, environment = reproduced.folder, with_forks()
    if state == "of another user":
        environment["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"
    elif state == "no git":
        (tmp_path / "dvc").symlink_to(Path(sys.executable).with_name("dvc"))
        environment["PATH"] = str(tmp_path)
    else:
        clone = request.getfixturevalue("unpacked")
        folder = clone.folder
        if state == "no commit":
            clone.git("init", "--quiet")
    python = sys.executable if state == "no git" else "python"
    done = subprocess.run(
        [python, *f"tools/{words}".split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "git" in line
    assert state != "of another user" or ": git config --global --add safe.directory " in line


def test_training_needs_no_git(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "clone")
    before = (clone.folder / "models/model.keras").read_bytes()
    shutil.rmtree(clone.folder / ".git")
    clone.git("init", "--quiet")  # without a commit
    shutil.rmtree(clone.folder / ".cache", ignore_errors=True)
    clone.run("python", "src/train.py")
    assert (clone.folder / "models/model.keras").read_bytes() == before
