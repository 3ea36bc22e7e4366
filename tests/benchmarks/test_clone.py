"""What is recorded of a fresh clone, and that other bytes are refused; make is a stand-in."""

import json
import subprocess
from pathlib import Path

from common.errors import InputError

import pytest

import benchmark_files
import clone
from conftest import call

MAKE = """#!/bin/sh
echo "$@" >> "$CALLS"
mkdir -p .venv .cache/checkpoints
head -c 5000000 /dev/zero > .venv/library
ln -f .venv/library .venv/again
echo abc,42 > .cache/checkpoints/seconds.csv
cat "$SAYS"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit, where make ends with what the file `says` says."""
    folder = tmp_path / "project"
    (folder / "benchmarks").mkdir(parents=True)
    (folder / "benchmarks/readme").touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "make").write_text(MAKE)
    (programs / "make").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SAYS", str(tmp_path / "says"))
    (tmp_path / "says").write_text("stages\nReproduced: every byte\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(benchmark_files, "training_key", lambda: "this training")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.invalid")
    for words in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message", "start"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def test_seconds_and_disk_are_recorded_once(project: Path) -> None:
    call(clone)
    found = json.loads(clone.RESULTS.read_text("utf-8"))
    assert found["training"] == "this training"
    assert found["seconds"]["train"] == 42
    assert found["megabytes"]["environment"] == pytest.approx(5, abs=1)  # a file with two names counts once
    assert found["megabytes"]["all"] >= found["megabytes"]["environment"]
    call(clone)
    assert (project / "calls").read_text().splitlines() == [".venv/run", "repro"]


def test_other_bytes_are_no_result(project: Path) -> None:
    (project / "says").write_text("stages\nOther bytes, same result\n")
    with pytest.raises(InputError, match=r"^make repro must end with Reproduced; received: Other bytes"):
        call(clone)
    assert not clone.RESULTS.exists()


def test_an_edited_lock_is_refused(project: Path) -> None:
    Path("dvc.lock").write_text("edited")
    with pytest.raises(InputError, match=r"^dvc\.lock must be committed, .*; received an edited one$"):
        call(clone)
    assert not (project / "calls").exists()
