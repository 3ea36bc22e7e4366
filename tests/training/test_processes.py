"""Trainings in several processes, real ones."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from common.errors import InputError

import numpy as np
import psutil
import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import train as train_stage
from conftest import ROOT, TINY, with_forks, write_params
from servers import free_port
from training import processes

# Random numbers in the network, batch statistics, penalties, and shards of different size.
DROPS = """
import keras
from keras import layers

def build(input_shape, classes):
    inputs = x = layers.Input(input_shape)
    x = layers.Conv2D(8, 3, strides=2, kernel_regularizer="l2", activity_regularizer="l2")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.25)(x)
    x = layers.Dropout(0.25, seed=1)(x)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
"""
MIXED = {
    "model.architecture": "drops",
    "train.shards": 5,
    "train.batch_size": 59,  # the last batch has 3 rows
    "train.data_pruning": 0.2,
    "train.averaging": 0.5,
    "train.augmentation.flip": "random",
}
MODEL = Path("models/model.keras")


# --- collective operations ----------------------------------------------------------------------


def test_one_process_exchanges_nothing() -> None:
    assert (processes.count(), processes.rank(), processes.on_this_machine()) == (1, 0, 1)
    assert not processes.is_distributed()
    processes.join("cpu")  # nobody
    assert processes.gather("own") == ["own"]
    assert processes.broadcast_from_first("own") == "own"


@pytest.mark.parametrize(
    ("wanted", "world", "nodes", "launches"),
    [(1, "1", None, False), (2, "1", None, True), (2, "2", None, False), (1, "1", "2", True), (1, "1", "1", False)],
)
def test_who_launches(
    monkeypatch: pytest.MonkeyPatch, wanted: int, world: str, nodes: str | None, launches: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    if nodes:
        monkeypatch.setenv("PET_NNODES", nodes)
    assert processes.should_launch(wanted) == launches


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be a number from 1; received x"),
        ({"WORLD_SIZE": "2"}, "RANK must be below WORLD_SIZE, 2, as torchrun sets both; received none"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be below WORLD_SIZE, 2, as torchrun sets both; received 2"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be below WORLD_SIZE, 2, as torchrun sets both; received -1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "0"},
         "LOCAL_WORLD_SIZE must be a number from 1; received 0"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "torchrun must start the processes; received: .*MASTER_ADDR"),
    ],
)  # fmt: skip
def test_settings_that_are_not_torchrun_s_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], error: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{error}"):
        assert processes.rank() + processes.on_this_machine()
        processes.join("cpu")


@pytest.mark.parametrize(("local", "patient"), [("2", True), ("1", False)])
def test_processes_of_one_machine_wait_for_one_that_is_suspended(
    monkeypatch: pytest.MonkeyPatch, local: str, patient: bool
) -> None:
    """Whether one has ended says torchrun; of another machine nobody says it, so the time must be up some day."""
    given: list[timedelta | None] = []

    def note(backend: str, timeout: timedelta | None) -> None:
        given.append(timeout)
        raise ValueError("joined")

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": local}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes.distributed, "init_process_group", note)
    with pytest.raises(InputError, match="joined"):
        processes.join("cpu")
    assert given == [timedelta(days=1) if patient else None]


def test_the_rank_of_a_process_that_is_alone_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv(processes.ERRORS, "nowhere")
    hook = sys.excepthook
    processes.report_error_to_launcher()
    assert (processes.rank(), processes.on_this_machine(), sys.excepthook) == (0, 1, hook)


TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: {}'
LOST = TRACE.format("[gloo/transport/tcp/pair.cc] Connection closed by peer")


@pytest.mark.parametrize(
    ("codes", "errors", "one_machine", "end"),
    [
        ([-15, -9], [], True, "all 2 processes must run to the end; process 1 received SIGKILL"),
        (
            [-9, 1],
            ["error: a file is missing"],
            True,
            "all 2 processes must run to the end; process 0 received SIGKILL",
        ),
        ([-15, 1], [LOST, "error: a file is missing"], True, "error: a file is missing"),
        ([1, 1], [LOST, TRACE.format("a bug")], True, LOST),  # nobody else failed in a way that is told
        ([1, 1], [TRACE.format("a bug"), LOST], True, TRACE.format("a bug")),
        ([1, 1], [LOST, LOST], False, "all 2 processes must run to the end; those of another machine did not"),
        ([3], [], True, "all 2 processes must run to the end; process 0 ended with 3"),
    ],
)
def test_the_end_of_a_launch_names_the_cause(
    tmp_path: Path, codes: list[int], errors: list[str], one_machine: bool, end: str
) -> None:
    for number, text in enumerate(errors):  # the first one is the oldest
        (file := tmp_path / str(number)).write_text(f"{text}\n")
        os.utime(file, (1e9, 1e9 + number))
    failures = {number: ProcessFailure(number, 1, code, "nowhere") for number, code in enumerate(codes)}
    with pytest.raises((InputError, SystemExit)) as ended:
        processes._exit_with_cause(ChildFailedError("train", failures), tmp_path, 2, one_machine)
    assert str(ended.value) == end


def test_other_machines_must_train_the_same(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None
) -> None:
    (tmp_path / "data").symlink_to(prepared / "data")
    write_params(tmp_path, TINY)
    monkeypatch.chdir(tmp_path)
    train_stage.set_up()
    monkeypatch.setattr(processes, "gather", lambda own: [own, "that of another machine"])
    with pytest.raises(InputError, match=r"^all machines must have the same parameters, .* machines that differ$"):
        train_stage.set_up()


# --- whole trainings ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data, and with the stages and an architecture more."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "src/architectures/drops.py").write_text(DROPS)
    write_params(folder, TINY)
    for stage in ("fetch", "prepare", "split"):
        subprocess.run(["python", f"src/{stage}.py"], cwd=folder, check=True, env=with_forks())
    return folder


def link(prepared: Path, folder: Path) -> None:
    for name in ("data", "src"):
        (folder / name).symlink_to(prepared / name)


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    link(prepared, tmp_path)
    return tmp_path


def start(
    folder: Path,
    changes: dict[str, Any],
    count: int = 1,
    environment: dict[str, str] | None = None,
    *,
    threads: int = 1,
    python: str = sys.executable,
    script: str = "src/train.py",
) -> subprocess.Popen[str]:
    write_params(folder, TINY | changes)
    own = {"TRAIN_PROCESSES": str(count), "TRAIN_THREADS": str(threads)}
    process = subprocess.Popen(
        [python, script],
        cwd=folder,
        env=os.environ | own | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(240, process.kill)  # a deadlock fails
    limit.daemon = True
    limit.start()
    STARTED.append((process, limit))
    return process


STARTED: list[tuple[subprocess.Popen[str], threading.Timer]] = []


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    yield
    for process, limit in STARTED:
        limit.cancel()
        process.kill()
        process.communicate()
    STARTED.clear()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout
    while text not in process.stdout.readline():
        assert process.poll() is None


def children(process: subprocess.Popen[str]) -> list[int]:
    return [child.pid for child in psutil.Process(process.pid).children()]


def train(folder: Path, changes: dict[str, Any], count: int, threads: int = 1) -> str:
    process = start(folder, changes, count, threads=threads)
    said, error = process.communicate()
    assert (process.returncode, error) == (0, ""), error
    epochs = (TINY | changes)["train.epochs"]
    assert said.count(f"epoch {epochs}/{epochs}: ") == 1
    assert (f"float32 on {count} processes of cpu" in said) == (count > 1)
    return said


def train_in_forks(folder: Path, changes: dict[str, Any], count: int, threads: int = 1) -> None:
    """The same without torchrun, whose processes are slow to start."""
    address = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [with_forks() | address | {"RANK": str(rank)} for rank in range(count)]
    started = [start(folder, changes, count, own, threads=threads, python="python") for own in ranks]
    for process in started:
        _, error = process.communicate()
        assert process.returncode == 0, error


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for top in ("models", "metrics")
        for path in (folder / top).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process and one thread write."""
    folder = tmp_path_factory.mktemp("one")
    link(prepared, folder)
    train_in_forks(folder, MIXED, 1)
    found = written(folder)
    assert MODEL.as_posix() in found
    return found


@pytest.mark.parametrize(
    ("count", "threads"),
    [(2, 2), pytest.param(3, 1, marks=pytest.mark.slow), pytest.param(5, 2, marks=pytest.mark.slow)],
)
def test_processes_write_the_bytes_of_one(
    folder: Path, undisturbed: dict[str, bytes], count: int, threads: int
) -> None:
    train_in_forks(folder, MIXED, count, threads)
    assert written(folder) == undisturbed


def test_processes_that_torchrun_starts_write_the_bytes_of_one(folder: Path, undisturbed: dict[str, bytes]) -> None:
    train(folder, MIXED, 2)
    assert written(folder) == undisturbed


@pytest.mark.parametrize("count", ["4", "x", "0"])
def test_a_process_must_have_a_shard(folder: Path, monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    write_params(folder, TINY | {"train.shards": 3})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRAIN_PROCESSES", count)
    with pytest.raises(InputError, match=r"^TRAIN_PROCESSES must be (at most .*, 3|a number from 1)") as refusal:
        train_stage.main()
    assert str(refusal.value).endswith(f"; received {count}")
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_process_that_dies_ends_all_with_one_line_and_the_training_goes_on_in_others(folder: Path) -> None:
    changes = {**MIXED, "train.epochs": 12}
    train_in_forks(folder, changes, 1)
    undisturbed = written(folder)
    for name in undisturbed:
        (folder / name).unlink()
    process = start(folder, changes, 3)
    wait_for(process, "epoch 5/")
    time.sleep(np.random.default_rng(0).uniform(0, 0.2))
    begin = time.monotonic()
    os.kill(children(process)[0], signal.SIGKILL)  # which writes the states
    _, error = process.communicate()
    assert time.monotonic() - begin < 30
    assert process.returncode == 1
    assert error == "error: all 3 processes must run to the end; process 0 received SIGKILL\n"
    process = start(folder, changes, 2, threads=2)
    wait_for(process, "goes on after epoch")
    wait_for(process, "epoch ")  # whichever comes next
    for child in children(process):
        os.kill(child, signal.SIGKILL)
    process.communicate()
    assert "goes on after epoch" in train(folder, changes, 1, threads=3)
    assert written(folder) == undisturbed


@pytest.mark.slow
def test_interrupted_is_one_line_and_leaves_nobody(folder: Path) -> None:
    process = start(folder, {"train.epochs": 1000}, 2)
    wait_for(process, "epoch 1/")
    others = children(process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert error == "interrupted\n"
    assert not any(psutil.pid_exists(other) for other in others)
    assert not (folder / MODEL).exists()


@pytest.mark.slow
def test_sigterm_of_one_process_is_named(folder: Path) -> None:
    process = start(folder, {"train.epochs": 1000}, 2)
    wait_for(process, "epoch 1/")
    os.kill(children(process)[1], signal.SIGTERM)
    _, error = process.communicate()
    assert error == "error: all 2 processes must run to the end; process 1 received SIGTERM\n"


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_started_them(folder: Path) -> None:
    process = start(folder, {"train.epochs": 1000}, 2)
    wait_for(process, "epoch 1/")
    others = [psutil.Process(child) for child in children(process)]
    process.kill()
    gone, _alive = psutil.wait_procs(others, timeout=10)
    assert len(gone) == 2


def machines(
    folder: Path, prepared: Path, changes: dict[str, Any], second: dict[str, Any] | None = None
) -> list[subprocess.Popen[str]]:
    """Two on this machine, in `folder`/0 and `folder`/1; the other one has the changes `second` too."""
    where = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    started = []
    for number in ("0", "1"):
        (folder / number).mkdir()
        link(prepared, folder / number)
        own = changes | (second or {}) if number == "1" else changes
        started.append(start(folder / number, own, 2, {**where, "PET_NODE_RANK": number}))
    return started


@pytest.mark.slow
def test_two_machines_give_the_bytes_of_one_and_the_first_writes(
    folder: Path, prepared: Path, undisturbed: dict[str, bytes]
) -> None:
    for process in machines(folder, prepared, MIXED):
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert written(folder / "0") == undisturbed
    assert written(folder / "1") == {}


@pytest.mark.slow
def test_a_machine_that_is_lost_ends_the_others_with_one_line(folder: Path, prepared: Path) -> None:
    first, second = machines(folder, prepared, {"train.epochs": 1000})
    wait_for(first, "epoch 1/")
    begin = time.monotonic()
    for lost in [*children(second), second.pid]:
        os.kill(lost, signal.SIGKILL)
    _, error = first.communicate()
    assert time.monotonic() - begin < 30
    assert first.returncode == 1
    assert error == "error: all 2 processes must run to the end; those of another machine did not\n"
    second.communicate()
    assert written(folder / "0") == {}


@pytest.mark.slow
def test_machines_must_train_the_same(folder: Path, prepared: Path) -> None:
    others = machines(folder, prepared, {}, {"train.learning_rate": 0.25})
    for process in others:
        _, error = process.communicate()
        assert error.startswith("error: all machines must have the same parameters, data, code")
        assert len(error.splitlines()) == 1
    assert written(folder / "0") == {}


@pytest.mark.slow
def test_a_machine_without_data_ends_the_others(folder: Path, prepared: Path) -> None:
    first, second = machines(folder, prepared, {})
    (folder / "1/data").unlink()
    assert second.communicate()[1].startswith("error: data/prepared/train")
    rule = "error: all 2 processes must run to the end; those of another machine did not\n"
    assert first.communicate()[1] == rule
    assert written(folder / "0") == {}


@pytest.mark.slow
def test_torchrun_must_start_as_many_as_the_environment_says(folder: Path) -> None:
    write_params(folder, TINY | {"train.shards": 3})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "src/train.py"]
    environment = os.environ | {"TRAIN_PROCESSES": "3"}
    done = subprocess.run(torchrun, cwd=folder, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    rule = "error: TRAIN_PROCESSES must be as many as torchrun starts, 2; received 3"
    assert done.stderr.count(rule) == 2  # the two may share a line


@pytest.mark.parametrize("nodes", ["3", "0", "1:2", "two"])
def test_machines_have_equal_shares(monkeypatch: pytest.MonkeyPatch, nodes: str) -> None:
    monkeypatch.setenv("PET_NNODES", nodes)
    with pytest.raises(InputError, match=f"^PET_NNODES must divide .*, 2; received {nodes}$"):
        processes.launch(2, Path("train.py"))


@pytest.mark.slow
def test_machines_that_do_not_meet_are_told_so(folder: Path) -> None:
    address = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    where = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_RDZV_CONF": "timeout=3", **address}
    process = start(folder, {}, 2, where)
    _, error = process.communicate()
    assert process.returncode == 1
    rule = "error: the machines must meet at PET_MASTER_ADDR, PET_MASTER_PORT; received: "
    assert error.startswith(rule)
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_a_first_machine_that_goes_away_before_the_start_is_one_line(folder: Path) -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    where = {"PET_NNODES": "2", "PET_NODE_RANK": "1"}
    where |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(server.port)}
    process = start(folder, {}, 2, where)
    while server.num_keys() < 2:  # the other one has written that it is there
        time.sleep(0.1)
    time.sleep(1)  # and waits
    del server
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.startswith("error: the machines must meet at PET_MASTER_ADDR, PET_MASTER_PORT; received: ")
    assert len(error.splitlines()) == 1


FAILS = """
import sys
sys.path.insert(0, "src")
from common.errors import InputError
from pathlib import Path
from training import processes
if not processes.is_distributed():
    processes.launch(2, Path(__file__))
processes.report_error_to_launcher()
if processes.rank():
    raise InputError("a rule; received two\\nlines")
processes.join("cpu")
"""


def test_an_error_of_a_process_is_one_line(folder: Path) -> None:
    (folder / "fails.py").write_text(FAILS)
    process = start(folder, {}, 2, script="fails.py")
    assert process.communicate() == ("", "error: a rule; received two lines\n")
    assert process.returncode == 1


@pytest.mark.slow
def test_a_diverging_training_is_one_line(folder: Path) -> None:
    process = start(folder, {"train.learning_rate": 1e6, "train.warmup": 0.0}, 2)
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.startswith("error: train loss must stay finite")
    assert len(error.splitlines()) == 1
    assert not (folder / MODEL).exists()
