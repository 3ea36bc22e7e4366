"""Forked programs end, print and see the same as real ones; a fork is told by torch, which it has imported."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from conftest import FORKED_PROGRAMS, with_forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere tests run real programs")
IS_FORK = "import sys; print('torch' in sys.modules)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def both(code: str, *words: str, **environment: str) -> list[tuple[int, str, str]]:
    """Status, output and error of a script that a real interpreter runs, then a fork."""
    Path("script.py").write_text(code)
    return [
        (done.returncode, done.stdout, done.stderr)
        for done in (
            subprocess.run(
                ["python", "script.py", *words],
                env=outer | environment,
                check=False,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                input="a line\n",
            )
            for outer in (os.environ, with_forks())
        )
    ]


def test_a_script_runs_in_a_fork_and_finds_itself_there(folder: Path) -> None:
    (real, real_out, _), (status, out, _) = both(IS_FORK)
    assert (real, real_out, status, out) == (0, "False\n", 0, "True\n")


@pytest.mark.parametrize(
    "code",
    [
        "import sys, os; print(sys.argv, sys.path[0], __name__, __file__, os.getcwd(), input())",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(-1)",
        "raise SystemExit",
        "raise SystemExit('said')",
        "raise SystemExit(2.5)",
        "print('é'); print('é\\udcff', file=__import__('sys').stderr)",
        "def f():\n    1 / 0\n\nf()",
        "x = = 1",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import atexit; atexit.register(print, 'late'); print('soon')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import sys; sys.excepthook = lambda *_: print('hook'); 1 / 0",
        "import sys; print('begun', end=''); sys.stdout = None; sys.exit(1)",
        "import os; print(os.umask(0o22), os.environ['NAME'], 'OTHER' in os.environ)",
        "import pickle, sys\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    ],
)
def test_it_does_what_a_real_interpreter_does(folder: Path, code: str) -> None:
    real, fork = both(code, "a", "b c", NAME="a value")
    assert real == fork


def test_scripts_that_it_starts_are_forks_and_their_output_keeps_its_order(folder: Path) -> None:
    Path("inner.py").write_text(f"{IS_FORK}; print(sys.argv[1:]); sys.exit(5)")
    code = (
        "import subprocess, sys; print('before', flush=True)\n"
        "for name in (sys.executable, 'python'):\n"
        "    print(subprocess.run([name, 'inner.py', 'x']).returncode, flush=True)"
    )
    _, (status, out, _) = both(code)
    assert (status, out) == (0, "before\n" + 2 * "True\n['x']\n5\n")


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONSAFEPATH", "OMP_NUM_THREADS", "LC_ALL"])
def test_what_is_read_at_the_start_demands_a_real_interpreter(folder: Path, name: str) -> None:
    real, fork = both(IS_FORK, **{name: "C" if name == "LC_ALL" else "1"})
    assert real == fork == (0, "False\n", "")


def test_what_make_exports_does_not(folder: Path) -> None:
    _, fork = both(IS_FORK, PYTHON="python3")
    assert fork == (0, "True\n", "")


def test_output_is_not_held_back_where_it_must_not_be(folder: Path) -> None:
    Path("script.py").write_text(f"{IS_FORK}; input()")
    environment = with_forks() | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        ["python", "script.py"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "True\n"
        process.stdin.write("\n")


def test_the_server_has_no_thread_that_forks_would_miss(folder: Path) -> None:
    _, fork = both("import psutil; print(psutil.Process().parent().num_threads())")
    assert fork == (0, "1\n", "")


def test_it_takes_the_option_that_stages_are_started_with(folder: Path) -> None:
    Path("script.py").write_text(IS_FORK)
    assert subprocess.check_output(["python", "-EB", "script.py"], env=with_forks(), text=True) == "True\n"


@pytest.mark.parametrize("words", [["-c", IS_FORK], ["-u", "script.py"]])
def test_so_do_options(folder: Path, words: list[str]) -> None:
    Path("script.py").write_text(IS_FORK)
    assert subprocess.check_output(["python", *words], env=with_forks(), text=True) == "False\n"


def test_forks_draw_other_numbers(folder: Path) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    drawn = [both(code)[1][1].split() for _ in range(2)]
    assert not {*drawn[0]} & {*drawn[1]}


def started(folder: Path, code: str) -> tuple[subprocess.Popen[str], int]:
    """A program that has printed a first line; and the process id of that line."""
    (folder / "script.py").write_text(code)
    process = subprocess.Popen(["python", "script.py"], cwd=folder, env=with_forks(), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_fork(folder: Path, number: int) -> None:
    process, child = started(folder, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    assert child != process.pid
    process.send_signal(number)
    assert process.wait(timeout=10) == -number
    assert not psutil.pid_exists(child)


def test_nothing_outlives_a_killed_program(folder: Path) -> None:
    code = "import subprocess; subprocess.run(['sh', '-c', 'echo $$; sleep 60; true'])"
    process, shell = started(folder, code)
    process.kill()
    process.wait()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(shell).wait(timeout=10)


def test_orphans_become_its_children(folder: Path) -> None:
    """It is the server's child: the first process of a container may take seconds to clear it away."""
    code = (
        "import psutil, subprocess\n"
        "orphan = psutil.Process(int(subprocess.check_output(['sh', '-c', 'sleep 60 >&2 & echo $!'])))\n"
        "print(orphan.parent() == psutil.Process().parent())\n"
        "orphan.kill()\n"
        "orphan.wait(timeout=10)"
    )
    _, fork = both(code)
    assert fork == (0, "True\n", "")


def test_dvc_is_a_fork_too() -> None:
    path = Path(os.environ[FORKED_PROGRAMS], "dvc")
    known, told = (
        subprocess.check_output([name, "--version"], env=with_forks(), text=True)
        for name in (Path(sys.executable).with_name("dvc"), path)
    )
    assert known == told
