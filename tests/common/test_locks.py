"""Locks between processes, so with real ones."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from common import locks, params

import pytest
from filelock import FileLock, Timeout

import evaluate
import export
import fetch
import prepare
import split
from conftest import ROOT

HOLDER = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
from common import locks
with locks.exclusive():
    print("holds", flush=True)
    input()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(60, process.kill)  # who waits for ever fails
    limit.daemon = True
    limit.start()
    return process


def line(stream: object) -> str:
    return stream.readline()  # type: ignore[attr-defined]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(tmp_path)
    assert line(process.stdout) == "holds\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_second_process_says_for_whom_it_waits_and_goes_on_when_that_ends(
    holder: subprocess.Popen[str], tmp_path: Path, end: str
) -> None:
    second = start(tmp_path)
    assert line(second.stderr) == (f"waiting until process {holder.pid} ends, which writes here too\n")
    assert locks.is_awaited(tmp_path / locks.STAGE)
    assert second.poll() is None
    if end == "killed":
        holder.send_signal(signal.SIGKILL)
    else:
        holder.communicate("\n")
    assert line(second.stdout) == "holds\n"
    assert not locks.is_awaited(tmp_path / locks.STAGE)
    assert (tmp_path / locks.STAGE).read_text() == str(second.pid)
    _, error = second.communicate("\n")
    assert (second.returncode, error) == (0, "")


def test_each_waiter_counts_until_it_has_the_lock_or_is_killed(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    lock = tmp_path / locks.STAGE
    assert not locks.is_awaited(lock)
    waiters = [start(tmp_path) for _ in range(3)]
    for waiter in waiters:
        assert line(waiter.stderr).startswith(f"waiting until process {holder.pid} ends")
    markers = {f"stage.waiting-{waiter.pid}" for waiter in waiters}
    assert {path.name for path in lock.parent.glob("*.waiting-*")} == markers
    for waiter in waiters[:2]:
        assert locks.is_awaited(lock)
        waiter.kill()
        waiter.communicate()
    assert locks.is_awaited(lock)
    holder.communicate("\n")
    assert line(waiters[2].stdout) == "holds\n"
    assert not locks.is_awaited(lock)
    assert not list(lock.parent.glob("*.waiting-*"))
    waiters[2].communicate("\n")


def test_waiters_for_another_lock_do_not_count(tmp_path: Path) -> None:
    with FileLock(tmp_path / "other.waiting-1"), FileLock(tmp_path / "a.waiting-2"):
        assert not locks.is_awaited(tmp_path / "b.lock")
        assert not locks.is_awaited(tmp_path / "the.lock")
        assert locks.is_awaited(tmp_path / "a.lock")


def test_another_folder_has_another_lock(
    holder: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = start(tmp_path_factory.mktemp("other"))
    assert other.communicate("\n", timeout=60) == ("holds\n", "")


def test_it_is_free_again_after_an_error_and_as_a_decorator(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    @locks.exclusive()
    def fail() -> None:
        raise ValueError("x")

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            fail()
    with locks.exclusive():
        assert locks.STAGE.read_text() == str(os.getpid())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stage", [fetch, prepare, split, evaluate, export], ids=lambda stage: stage.__name__)
def test_every_stage_holds_the_lock_before_it_reads(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, stage: ModuleType
) -> None:
    def load() -> None:
        FileLock(locks.STAGE).acquire(timeout=0)

    monkeypatch.setattr(params, "load", load)
    with pytest.raises(Timeout):
        stage.main()
