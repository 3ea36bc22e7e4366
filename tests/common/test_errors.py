"""How a script ends: in a process of its own, because the hook and the exit status are Python's."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from common import errors

import pytest

from conftest import ROOT

RESTORE = "; to get back the outputs that dvc removed: dvc checkout --allow-missing && git restore metrics"


def start(
    code: str, stage: str | None, cwd: Path = ROOT, experiment: str | None = None, root: str = str(ROOT)
) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    environment |= {"DVC_EXP_NAME": experiment} if experiment else {}
    environment |= {"PYTHONPATH": str(ROOT / "src")} | ({"DVC_STAGE": stage, "DVC_ROOT": root} if stage else {})
    return subprocess.Popen(
        [sys.executable, "-c", f"from common import errors\n{code}"],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("stage", "end"), [(None, ""), ("train", RESTORE)])
def test_an_input_error_is_one_line_and_status_1(stage: str | None, end: str) -> None:
    script = start("raise errors.InputError('epochs must be above 0; received -1')", stage)
    output, error = script.communicate(timeout=60)
    assert (script.returncode, output) == (1, "")
    assert error == f"error: epochs must be above 0; received -1{end}\n"


def test_in_an_experiment_it_says_where_the_parameters_are_without_advice_that_would_lose_others() -> None:
    script = start("raise errors.InputError('x')", "train", experiment="idea")
    assert (
        script.communicate(timeout=60)[1]
        == f"error: x{RESTORE}; params.yaml keeps what -S has changed, see git diff params.yaml\n"
    )


@pytest.mark.parametrize("folder", [".dvc/tmp/exps/standalone/tmpx", ".cache/experiments/1", ".cache/rebuild/1"])
def test_in_a_copy_that_nobody_works_in_there_is_nothing_to_take_back(tmp_path: Path, folder: str) -> None:
    (copy := tmp_path / folder).mkdir(parents=True)
    script = start("raise errors.InputError('x')", "train", copy, experiment="idea", root=str(copy))
    assert script.communicate(timeout=60)[1] == "error: x\n"


def test_a_clone_may_lie_in_a_folder_for_caches(tmp_path: Path) -> None:
    (clone := tmp_path / ".cache/clone").mkdir(parents=True)
    script = start("raise errors.InputError('x')", "train", clone, root=str(clone))
    assert script.communicate(timeout=60)[1] == f"error: x{RESTORE}\n"


def test_the_figures_of_a_stage_elsewhere_are_named_from_the_top(tmp_path: Path) -> None:
    (below := tmp_path / "published" / "deep").mkdir(parents=True)
    script = start("raise errors.InputError('x')", "published/dvc.yaml:train@deep", below, root=str(tmp_path))
    assert script.communicate(timeout=60)[1].endswith(" git restore published/deep/metrics\n")


def test_a_message_is_one_line_whatever_it_names() -> None:
    assert str(errors.InputError("a\nb\r\nc.png must exist; received none\n")) == (
        "a b c.png must exist; received none"
    )


@pytest.mark.parametrize(
    ("message", "line"), [("a\nb", "a"), ("\n a\n", "a"), ("", "ValueError"), (" \n", "ValueError")]
)
def test_the_first_line_of_a_foreign_error(message: str, line: str) -> None:
    assert errors.first_line(ValueError(message)) == line


@pytest.mark.parametrize(
    ("value", "text"), [("a" * 198, repr("a" * 198)), ("a" * 199, "'" + "a" * 199 + "…"), ([1, "b"], "[1, 'b']")]
)
def test_a_long_value_is_shortened(value: object, text: str) -> None:
    assert errors.shorten(value) == text


def test_what_the_error_came_from_is_not_shown() -> None:
    _, error = start(
        "try: 1 / 0\nexcept ZeroDivisionError as cause: raise errors.InputError('x') from cause", None
    ).communicate(timeout=60)
    assert error == "error: x\n"


@pytest.mark.parametrize(("stage", "end"), [(None, ""), ("train", RESTORE)])
def test_ctrl_c_is_one_line_and_a_failure(stage: str | None, end: str) -> None:
    # A shell starts background jobs with SIGINT ignored, and Python keeps that: the handler is set here.
    script = start(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)",
        stage,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "ready\n"
    script.send_signal(signal.SIGINT)
    _, error = script.communicate(timeout=60)
    assert error == f"interrupted{end}\n"
    assert script.returncode in (-signal.SIGINT, 130)  # the same to a shell


@pytest.mark.parametrize(("stage", "end"), [(None, ""), ("train", RESTORE)])
def test_what_the_system_refuses_is_one_line(stage: str | None, end: str) -> None:
    code = "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'x.npy')"
    script = start(code, stage)
    output, error = script.communicate(timeout=60)
    assert (script.returncode, output) == (1, "")
    assert error == (f"error: No space left on device: 'x.npy'{end}\n")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import os; os.rename('/no/a', '/no/b')", "No such file or directory: '/no/a' -> '/no/b'"),
        ("import subprocess; subprocess.run(['no-git'])",
         "No such file or directory: 'no-git' (a program that must be in PATH)"),
        ("import socket; socket.create_connection(('127.0.0.1', 1))", "Connection refused (host 127.0.0.1, port 1)"),
        ("import socket; socket.getaddrinfo('no host', 80)", "Name or service not known (host no host, port 80)"),
        ("raise OSError('a\\nb')", "a b"),
        ("import numpy as np\nnp.empty(2**60, 'uint8')", "Unable to allocate 1.00 EiB for an array with shape (1152921504606846976,) and data type uint8"),
        ("raise TimeoutError", "TimeoutError"),
    ],
)  # fmt: skip
def test_the_cause_comes_first_and_names_what_it_is_of(code: str, line: str) -> None:
    script = start(code, None)
    _, error = script.communicate(timeout=60)
    assert (script.returncode, error) == (1, f"error: {line}\n")


def test_a_lack_of_memory_in_pytorch_is_one_line() -> None:
    script = start("import torch\ntorch.empty(2**60, dtype=torch.uint8)", None)
    _, error = script.communicate(timeout=60)
    assert script.returncode == 1
    assert re.fullmatch(r"error: .*can't allocate memory.*\n", error)


def test_what_libraries_cannot_clean_up_does_not_follow(tmp_path: Path) -> None:
    code = """
import atexit, logging, weakref
class Library:
    def __del__(self): 1 / 0
library = Library()
atexit.register(logging.exception, "x")
atexit.register(lambda: 1 / 0)
weakref.finalize(library, lambda: 1 / 0)
raise errors.InputError("x")
"""
    assert start(code, None).communicate(timeout=60)[1] == "error: x\n"


@pytest.mark.parametrize("code", ["raise errors.InputError('x')", "raise OSError('x')"])
def test_debug_shows_the_traceback_before_the_line(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "1")
    lines = start(code, None).communicate(timeout=60)[1].splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", "error: x")


def test_debug_reaches_a_sealed_script(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "src/predict.py"), "x.png"]
    done = subprocess.run(
        script, cwd=tmp_path, env=os.environ | {"DEBUG": "1"}, capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output_is_one_line(unbuffered: str) -> None:
    code = f"from common import errors; print({'x' * 9!r})"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_so_is_what_it_refuses_a_database() -> None:
    script = start("import sqlite3\nsqlite3.connect('/no/such/folder/x')", None)
    _, error = script.communicate(timeout=60)
    assert (script.returncode, len(error.splitlines())) == (1, 1)
    assert error == "error: unable to open database file\n"


def test_a_programming_error_keeps_its_traceback() -> None:
    script = start("raise ValueError('a bug')", "train")
    _, error = script.communicate(timeout=60)
    assert script.returncode == 1
    assert error.startswith("Traceback (most recent call last):\n")
    assert error.endswith("ValueError: a bug\n")
