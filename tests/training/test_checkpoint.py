"""Checkpoints: a resumed training ends with the same bits; fingerprints; state files."""

import functools
import hashlib
import io
import os
import pickle
import select
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

import train as train_stage
from conftest import ROOT, with_forks
from training import checkpoint
from training.augmentation import Augmentation
from training.batches import Batches
from training.callbacks import Curves, LearningRate, Logs, Progress, ProgressiveResizing, Weights
from training.checkpoint import Checkpoint
from training.native_model import NativeModel
from twins import prepare

EPOCHS, ROWS, BATCH, SHARDS = 4, 50, 16, 3
STEPS = 3  # an epoch, of 40 rows: a fifth is left out


Undisturbed = Callable[[str], tuple[list[bytes], dict[str, bytes]]]


class Ended(Exception):
    """In place of SIGKILL."""


class EndBefore(keras.callbacks.Callback):
    """Ends training in the middle of an epoch."""

    def __init__(self, epoch: int | None):
        super().__init__()
        self.epoch, self.now = epoch, 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.now = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self.now == self.epoch and batch == 1:
            raise Ended


def batches(augmented: bool) -> Batches:
    generator = np.random.default_rng(int(augmented))
    images = generator.integers(0, 256, (ROWS, 8, 8, 1), np.uint8)
    labels = generator.integers(0, 3, ROWS).astype(np.uint8)
    augmentation = Augmentation("random", 1, 2, ROWS, 5) if augmented else None
    mean, std, pruning = np.array([128.0]), np.array([64.0]), 0.2 if augmented else 0.0
    return Batches(images, labels, mean, std, BATCH, SHARDS, "cpu", augmentation, 6, pruning)


def network() -> NativeModel:
    """With moving statistics, and with random generators of its own."""
    keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 8, 1))
    x = layers.BatchNormalization(momentum=0.5)(layers.Conv2D(4, 3)(inputs))
    x = layers.Dropout(0.3)(layers.GlobalMaxPooling2D()(layers.SpatialDropout2D(0.2)(x)))
    return NativeModel(inputs, layers.Dense(3)(x))


def callbacks_of(kind: str, folder: Path) -> list[keras.callbacks.Callback]:
    made: list[keras.callbacks.Callback] = [
        LearningRate(0.01, "constant" if "plateau" in kind else "linear", 0.3, EPOCHS * STEPS),
        Weights(0.7 if kind in ("average", "best average") else 0.0,
                "best" if "best" in kind else "last"),
        Curves(folder),
        Progress(EPOCHS, STEPS, ProgressiveResizing(1.0, 0, [])),
    ]  # fmt: skip
    if kind == "plateau":
        made.append(keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.05))
    if kind == "slow plateau":
        made.append(keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, min_delta=9.0))
    if kind == "early":
        made.append(keras.callbacks.EarlyStopping(patience=2, min_delta=9.0))
    return made


def train(
    folder: Path, kind: str = "plain", end: int | None = None, threads: int = 1
) -> tuple[list[bytes], dict[str, bytes], int]:
    """Trains for EPOCHS, or to the middle of epoch `end`.

    Returns the weights and the optimizer's variables, the curves, and the epoch begun with.
    """
    model = network()
    made = keras.optimizers.Adam(0.01)
    if kind == "sgd":
        made = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.1)
    prepare(model, made, smoothing=0.1, shards=SHARDS, threads=threads)
    rows, val = batches(augmented=True), batches(augmented=False)
    resizing = ProgressiveResizing(0.75, EPOCHS // 2, [rows, val])
    callbacks = [resizing, *callbacks_of(kind, folder / "curves")]
    resume = Checkpoint(folder / "state", rows, callbacks, "cpu")
    begun = resume.epochs
    model.fit(
        rows.loader(),
        validation_data=val.loader(),
        initial_epoch=begun,
        epochs=EPOCHS,
        callbacks=[*callbacks, resume, EndBefore(end)],
        shuffle=False,
        verbose=0,
    )
    variables = [*model.variables, *model.optimizer.variables]
    curves = {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "curves").rglob("*.tsv")}
    return [variable.numpy().tobytes() for variable in variables], curves, begun


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Weights and curves of a whole training of a kind."""

    @functools.cache
    def made(kind: str) -> tuple[list[bytes], dict[str, bytes]]:
        return train(tmp_path_factory.mktemp("whole"), kind)[:2]

    return made


KINDS = ["plain", "sgd", "average", "best", "best average", "plateau", "slow plateau", "early"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [1, 3])
def test_an_interrupted_training_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Undisturbed, kind: str, end: int
) -> None:
    if kind == "early":
        end = 1  # it stops after epoch 2
    with pytest.raises(Ended):
        train(tmp_path / "halves", kind, end, threads=3)
    torch.rand(7)  # another process has other generators
    again = train(tmp_path / "halves", kind)
    assert again[2] == end
    assert again[:2] == undisturbed(kind)


def test_twice_interrupted_in_one_epoch(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """And each time on another number of threads."""
    for threads, end in ((3, 1), (1, 1), (2, 2), (4, 3)):
        with pytest.raises(Ended):
            train(tmp_path / "parts", end=end, threads=threads)
    assert train(tmp_path / "parts", threads=2)[:2] == undisturbed("plain")


@pytest.mark.parametrize("kind", ["best average", "early"])
def test_one_that_was_complete_only_ends(tmp_path: Path, kind: str) -> None:
    whole = train(tmp_path, kind)
    assert train(tmp_path, kind) == (whole[0], whole[1], EPOCHS)


def test_each_callback_s_state_is_listed(tmp_path: Path) -> None:
    """Attributes that change from epoch to epoch are in the state, or come from the history."""
    seen: list[list[dict[str, str]]] = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
            seen.append([{k: repr(v) for k, v in vars(c).items()} for c in watched])

    for kind in KINDS:
        seen.clear()
        watched = callbacks_of(kind, tmp_path / "curves")
        model = network()
        prepare(model, keras.optimizers.Adam(0.01), smoothing=0.1, shards=SHARDS)
        model.fit(
            batches(augmented=True).loader(),
            validation_data=batches(augmented=False).loader(),
            epochs=EPOCHS,
            callbacks=[*watched, Spy()],
            verbose=0,
        )
        for callback, first, last in zip(watched, seen[0], seen[-1], strict=True):
            changed = {name for name in last if first.get(name) != last[name]}
            changed -= {"bar", "cost", "live", "last"}  # the bar, and what begins with each epoch; from the history
            assert changed <= set(checkpoint.STATE.get(type(callback), ())), (kind, callback)


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "digest", "longer"])
def test_a_damaged_state_is_reported_and_training_starts_again(
    tmp_path: Path, undisturbed: Undisturbed, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    with pytest.raises(Ended):
        train(tmp_path, end=2)
    file = tmp_path / "state"
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
    elif damage == "digest":
        content[3] ^= 1
    elif damage == "longer":
        content += b"\0"
    else:
        del content[0 if damage == "empty" else -1 :]
    file.write_bytes(content)
    capfd.readouterr()
    again = train(tmp_path)
    assert again == (*undisturbed("plain"), 0)
    (said,) = capfd.readouterr().err.splitlines()
    assert said == f"{file} is damaged: the training starts at the first epoch"


# --- fingerprint ------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_all_that_the_bytes_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[Any] = ["cpu", {"epochs": 3}]
    data: list[np.ndarray] = [np.arange(6, dtype=np.uint8), np.arange(4)]

    def made(settings: Any = settings, data: list[np.ndarray] = data) -> str:
        return checkpoint.fingerprint(settings, data)

    assert made() == made()
    fingerprints = [made(), made(["cpu", {"epochs": 4}]), made(data=data[:1]), made(data=data[::-1])]
    fingerprints += [made(data=[data[0].reshape(2, 3), data[1]]), made(data=[data[0] + 1, data[1]])]
    fingerprints += [made(data=[data[0].view(np.int8), data[1]])]
    version = checkpoint.version
    for library in ("dvclive", "keras", "numpy", "torch"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "version", lambda name, to=library: "0" if name == to else version(name))
            fingerprints.append(made())
    module = types.ModuleType("new")
    module.__file__ = str(tmp_path / "new.py")
    monkeypatch.setattr(checkpoint, "SOURCE", tmp_path)
    for code in ("x = 1", "x = 2"):
        Path(module.__file__).write_text(code)
        monkeypatch.setitem(sys.modules, "new", module)
        fingerprints.append(made())
    assert len(set(fingerprints)) == len(fingerprints) == 13
    assert {len(each) for each in fingerprints} == {16}


def test_the_fingerprint_is_the_same_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = checkpoint.fingerprint(0, []), checkpoint.version
    monkeypatch.setattr(checkpoint, "version", lambda name: version(name).partition("+")[0] + "+cu130")
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    monkeypatch.setattr("platform.processor", lambda: "another")
    monkeypatch.setattr("training.machine.processor", lambda: "another")
    for name in ("TRAIN_THREADS", "TRAIN_PROCESSES"):
        monkeypatch.setenv(name, "3")
    assert checkpoint.fingerprint(0, []) == before


def test_the_code_of_train_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sys.modules["train"] is train_stage
    before = checkpoint.fingerprint(0, [])
    monkeypatch.delitem(sys.modules, "train")
    assert checkpoint.fingerprint(0, []) != before


# --- state file -----------------------------------------------------------------------------------------


def test_the_state_goes_in_the_end_but_not_after_an_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHECKPOINT_DIR", raising=False)
    with pytest.raises(Ended), checkpoint.state_file("a") as file:
        file.write_text("state")
        raise Ended
    assert file.is_relative_to(workspace / ".cache")
    assert file.read_text() == "state"
    with checkpoint.state_file("b") as other:
        assert not other.exists()
    with checkpoint.state_file("a") as again:
        assert again == file
        assert file.read_text() == "state"
    assert not file.exists()


def test_it_may_lie_outside_the_working_directory(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("elsewhere") / "deeper"
    monkeypatch.setenv("CHECKPOINT_DIR", str(folder))
    with checkpoint.state_file("a") as file:
        assert file.parent == folder
    assert not (workspace / ".cache").exists()
    monkeypatch.setenv("CHECKPOINT_DIR", "")
    with checkpoint.state_file("a") as file:
        assert file.parent == workspace / ".cache/checkpoints"


def test_states_that_nobody_came_back_for_go(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHECKPOINT_DIR", raising=False)
    own, old, young, locked, stateless, another = (16 * digit for digit in "012abf")
    days = {own: 31, old: 31, young: 29, locked: 31, stateless: 31, "thesis": 31}
    with checkpoint.state_file(own) as file:
        folder = file.parent

        def age(name: str) -> None:
            os.utime(folder / f"{name}.lock", (time.time() - days[name] * 86_400,) * 2)

        with pytest.raises(Ended), checkpoint.state_file(locked):
            for name in days:
                (folder / f"{name}.lock").touch()
                if name != stateless:
                    (folder / name).write_text(name)
                (folder / f".{name}.part").touch()  # as files.atomic_file leaves it when it is killed
                age(name)
            with checkpoint.state_file(another):
                left = {path.name for path in folder.iterdir()}
            raise Ended
    assert left >= {young, locked, own, "thesis", "thesis.lock"}  # the last two are of another program
    assert f".{young}.part" in left
    gone = {old, f"{old}.lock", f".{old}.part", f"{stateless}.lock", f".{stateless}.part"}
    assert not left & gone  # a training that has ended leaves a lock alone
    age(locked)
    with checkpoint.state_file(another):  # what was locked is free now, and as old
        assert not {locked, f"{locked}.lock", own} & {path.name for path in folder.iterdir()}
    with pytest.raises(Ended), checkpoint.state_file(young) as file:
        os.utime(file, (0, 0))
        raise Ended
    with checkpoint.state_file(young) as file:  # someone has come back for it
        assert file.read_text() == young


TRAINING = """
import sys, time
from pathlib import Path
from training import checkpoint
with checkpoint.state_file("a") as file:
    found = int(file.read_text()) if file.exists() else 0
    print("found", found, flush=True)
    file.write_text(str(found + 1))
    input()
"""


def test_a_second_and_a_third_waiter_find_the_state(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHECKPOINT_DIR", raising=False)
    script = workspace / "training.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT / 'src')!r})\n{TRAINING}")
    folder = workspace / ".cache/checkpoints"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["python", script], env=with_forks(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def waiting(count: int) -> None:
        deadline = time.monotonic() + 60
        while len([*folder.glob("a.waiting-*")]) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def found(process: subprocess.Popen[str]) -> str:
        assert process.stdout
        return process.stdout.readline().strip()

    first = start()
    assert found(first) == "found 0"
    killed = start()  # what it leaves behind is no waiter
    waiting(1)
    killed.kill()
    killed.communicate()
    others = [start(), start()]
    waiting(3)
    assert first.communicate("\n")[1] == ""
    # whichever of the two comes first
    deadline = time.monotonic() + 60
    while (folder / "a.lock").read_text() == str(first.pid):
        assert time.monotonic() < deadline
    outputs = [process.stdout for process in others if process.stdout]
    readable, _, _ = select.select(outputs, [], [], 60)
    others.sort(key=lambda process: process.stdout not in readable)
    for number, process in enumerate(others, 1):
        assert found(process) == f"found {number}"
        process.communicate("\n")
        assert process.returncode == 0
    assert [path.name for path in folder.iterdir()] == ["a.lock"]


def test_a_state_that_would_run_code_is_refused_and_not_executed(tmp_path: Path) -> None:
    """Its digest is right: who can write into CHECKPOINT_DIR can compute one."""

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"epochs": Payload()}, buffer := io.BytesIO())
    content = buffer.getvalue()
    (tmp_path / "state").write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    with pytest.raises(pickle.UnpicklingError):
        Checkpoint(tmp_path / "state", batches(augmented=False), [], "cpu")
    assert not (tmp_path / "executed").exists()


def test_the_old_lock_of_another_user_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKPOINT_DIR", str(tmp_path))
    (old := tmp_path / f"{16 * 'a'}.lock").touch()
    os.utime(old, (0, 0))
    lock = checkpoint.FileLock

    def refuse(path: Path, timeout: float) -> Any:
        if path == old:
            raise PermissionError(13, "Permission denied", str(path))
        return lock(path, timeout=timeout)

    monkeypatch.setattr(checkpoint, "FileLock", refuse)
    with checkpoint.state_file(16 * "b"):
        assert old.exists()
