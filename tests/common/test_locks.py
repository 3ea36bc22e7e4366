"""Locks between processes, so with real ones."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common import locks

import pytest

from conftest import ROOT

HOLDER = """
from common import locks
with locks.exclusive():
    print("holds", flush=True)
    input()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    deadline = time.monotonic() + 60
    while not locks.waiting_marker(tmp_path / locks.STAGE).exists():  # made after the line was said
        assert time.monotonic() < deadline
    assert second.poll() is None
    if end == "killed":
        holder.send_signal(signal.SIGKILL)
    else:
        holder.communicate("\n")
    assert line(second.stdout) == "holds\n"
    assert not locks.waiting_marker(tmp_path / locks.STAGE).exists()
    assert (tmp_path / locks.STAGE).read_text() == str(second.pid)
    _, error = second.communicate("\n")
    assert (second.returncode, error) == (0, "")


def test_another_folder_has_another_lock(
    holder: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = start(tmp_path_factory.mktemp("other"))
    assert other.communicate("\n", timeout=60) == ("holds\n", "")


def test_it_is_free_again_after_an_error_and_as_a_decorator(
    workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    @locks.exclusive()
    def fail() -> None:
        raise ValueError("x")

    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            fail()
    with locks.exclusive():
        assert locks.STAGE.read_text() == str(os.getpid())
    assert capfd.readouterr().err == ""
