"""Trainings in several processes, real ones on one thread each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

import numpy as np
import psutil
import pytest
import torch

from conftest import ROOT, TINY, with_forks, write_params
from servers import free_port
from train import load_batches
from training import processes
from training.batches import Batches

# Random numbers in the network, batch statistics, and shards of different size among three.
DROPS = """
import keras
from keras import layers

def build(input_shape, classes):
    inputs = x = layers.Input(input_shape)
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.25)(x)
    x = layers.Dropout(0.25, seed=1)(x)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
"""
MIXED = {"model.architecture": "drops", "train.data_pruning": 0.3}
MODEL = Path("models/model.keras")


# --- shards -------------------------------------------------------------------------------------


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_row_belongs_to_one_process(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for rows in range(count, 20):
        shards = []
        for rank in range(count):
            as_process(monkeypatch, rank, count)
            shards.append(torch.arange(rows)[processes.shard(rows)])
        assert torch.cat(shards).equal(torch.arange(rows))
        sizes = {len(shard) for shard in shards}
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > 0


def test_together_the_shards_are_the_batches_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
    labels = np.arange(10, dtype=np.uint8)

    def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(Batches(images, labels, np.zeros(1), np.ones(1), 4, "cpu"))

    whole = batches()
    parts = []
    for rank in range(2):
        as_process(monkeypatch, rank, 2)
        parts.append(batches())
    for (all_images, all_labels), *shards in zip(whole, *parts, strict=True):
        assert torch.cat([shard[0] for shard in shards]).equal(all_images)
        assert torch.cat([shard[1] for shard in shards]).equal(all_labels)


def test_generators_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    as_process(monkeypatch, 2, 3)
    variables = [torch.ones(2), torch.tensor([5, 7])]
    torch.manual_seed(3)
    processes.reseed_for_rank(variables)
    assert torch.initial_seed() == 5
    assert variables[0].tolist() == [1, 1]
    assert variables[1].tolist() == [2_000_005, 7]  # Keras adds one for each draw


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
    environment: dict[str, str] | None = None,
    *,
    python: str = sys.executable,
    script: str = "src/train.py",
) -> subprocess.Popen[str]:
    write_params(folder, TINY | changes)
    process = subprocess.Popen(
        [python, script],
        cwd=folder,
        env=os.environ | (environment or {}),
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


def train(folder: Path, changes: dict[str, Any]) -> dict[str, float]:
    process = start(folder, changes)
    said, error = process.communicate()
    assert (process.returncode, error) == (0, ""), error
    count = changes.get("train.processes", 1)
    assert said.count("epoch 1/") == 1
    assert (f"float32 on {count} processes of cpu" in said) == (count > 1)
    return json.loads((folder / "metrics/train.json").read_text())


def train_in_forks(folder: Path, changes: dict[str, Any]) -> dict[str, float]:
    """The same without torchrun, whose processes are slow to start."""
    count, port = changes.get("train.processes", 1), str(free_port())
    address = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        start(folder, changes, with_forks() | address | {"RANK": str(rank)}, python="python")
        for rank in range(count)
    ]
    for process in started:
        _, error = process.communicate()
        assert process.returncode == 0, error
    return json.loads((folder / "metrics/train.json").read_text())


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for top in ("models", "metrics")
        for path in (folder / top).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_bytes_are_the_same_from_run_to_run(folder: Path, count: int) -> None:
    changes = {**MIXED, "train.processes": count}
    train(folder, changes)
    first = written(folder)
    shutil.rmtree(folder / "models")
    train_in_forks(folder, changes)
    assert written(folder) == first
    assert MODEL.as_posix() in first


def test_without_batch_statistics_it_is_the_training_of_one_process(folder: Path) -> None:
    shards_of_two_and_three = {"train.batch_size": 5, "train.epochs": 1}
    one = train_in_forks(folder, shards_of_two_and_three)
    two = train_in_forks(folder, {"train.processes": 2, **shards_of_two_and_three})
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(("batch_size", "smallest"), [(299, 1), (75, 75), (150, 100)])
def test_each_process_has_a_row_of_each_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, smallest: int
) -> None:
    write_params(folder, TINY | {"train.batch_size": batch_size})  # beside one of 100 val rows
    monkeypatch.chdir(folder)
    as_process(monkeypatch, 0, smallest)
    load_batches("cpu", 0, 0)
    as_process(monkeypatch, 0, smallest + 1)
    rule = f"^train.processes must be at most {smallest}, the rows of the smallest batch"
    with pytest.raises(InputError, match=f"{rule}.*; received {smallest + 1}$"):
        load_batches("cpu", 0, 0)


@pytest.mark.slow
def test_a_process_that_dies_ends_all_with_one_line_and_the_training_goes_on(folder: Path) -> None:
    changes = {**MIXED, "train.processes": 3, "train.epochs": 12}
    train(folder, changes)
    undisturbed = written(folder)
    for name in undisturbed:
        (folder / name).unlink()
    process = start(folder, changes)
    wait_for(process, "epoch 3/")
    begin = time.monotonic()
    os.kill(children(process)[-1], signal.SIGKILL)
    _, error = process.communicate()
    assert time.monotonic() - begin < 30
    assert process.returncode == 1
    assert error == "error: all 3 processes must run to the end; process 2 received SIGKILL\n"
    process = start(folder, changes)
    said, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert said.count("goes on after epoch") == 1
    assert written(folder) == undisturbed


@pytest.mark.slow
def test_interrupted_is_one_line_and_leaves_nobody(folder: Path) -> None:
    process = start(folder, {"train.processes": 2, "train.epochs": 1000})
    wait_for(process, "epoch 1/")
    others = children(process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert error == "interrupted\n"
    assert not any(psutil.pid_exists(other) for other in others)
    assert not (folder / MODEL).exists()


@pytest.mark.slow
def test_sigterm_of_one_process_is_named(folder: Path) -> None:
    process = start(folder, {"train.processes": 2, "train.epochs": 1000})
    wait_for(process, "epoch 1/")
    os.kill(children(process)[0], signal.SIGTERM)
    _, error = process.communicate()
    assert error == "error: all 2 processes must run to the end; process 0 received SIGTERM\n"


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_started_them(folder: Path) -> None:
    process = start(folder, {"train.processes": 2, "train.epochs": 1000})
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
        started.append(start(folder / number, own, {**where, "PET_NODE_RANK": number}))
    return started


@pytest.mark.slow
def test_two_machines_give_the_bytes_of_one_and_the_first_writes(folder: Path, prepared: Path) -> None:
    changes = {**MIXED, "train.processes": 2}
    for process in machines(folder, prepared, changes):
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    train(folder, changes)
    assert written(folder / "0") == written(folder)
    assert written(folder / "1") == {}


@pytest.mark.slow
def test_a_machine_that_is_lost_ends_the_others_with_one_line(folder: Path, prepared: Path) -> None:
    first, second = machines(folder, prepared, {"train.processes": 2, "train.epochs": 1000})
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
    others = machines(folder, prepared, {"train.processes": 2}, {"train.learning_rate": 0.25})
    for process in others:
        _, error = process.communicate()
        assert error.startswith("error: all machines must have the same parameters, data, code")
        assert len(error.splitlines()) == 1
    assert written(folder / "0") == {}


@pytest.mark.slow
def test_a_machine_without_data_ends_the_others(folder: Path, prepared: Path) -> None:
    first, second = machines(folder, prepared, {"train.processes": 2})
    (folder / "1/data").unlink()
    assert second.communicate()[1].startswith("error: data/prepared/train")
    rule = "error: all 2 processes must run to the end; those of another machine did not\n"
    assert first.communicate()[1] == rule
    assert written(folder / "0") == {}


@pytest.mark.slow
def test_torchrun_must_start_as_many_as_params_say(folder: Path) -> None:
    write_params(folder, {**TINY, "train.processes": 3})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, "src/train.py"], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    rule = "error: train.processes must be as many as torchrun starts, 2; received 3"
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
    process = start(folder, {"train.processes": 2}, where)
    _, error = process.communicate()
    assert process.returncode == 1
    rule = "error: the machines must meet at PET_MASTER_ADDR, PET_MASTER_PORT; received: "
    assert error.splitlines()[-1].startswith(rule)  # PyTorch's C++ may have a line before
    assert "Traceback" not in error


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
    process = start(folder, {}, script="fails.py")
    assert process.communicate() == ("", "error: a rule; received two lines\n")
    assert process.returncode == 1


@pytest.mark.slow
def test_a_diverging_training_is_one_line(folder: Path) -> None:
    process = start(folder, {"train.processes": 2, "train.learning_rate": 1e30})
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.startswith("error: train loss must stay finite")
    assert len(error.splitlines()) == 1
    assert not (folder / MODEL).exists()
