"""One training in this process: timed, hashed, and held against val and test images."""

import gc
import importlib.metadata
import os
import signal
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from common import arrays
from common.backend import keras

import numpy as np
import torch

try:
    import dvclive  # noqa: F401
except ImportError:  # it needs dvc, and draws the curves of the train stage alone; `train` imports it
    sys.modules["dvclive"] = types.ModuleType("dvclive")
    sys.modules["dvclive"].Live = object  # type: ignore[attr-defined]

import rerun
import split
import train
from on_gpu import cuda_graphs
from on_gpu.jobs import Settings
from training import checkpoint, machine, model_file, temperature

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 1000  # images of an evaluation


def version(name: str) -> str:
    """Of an installed library, or "none"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


class Forgetful(keras.callbacks.Callback):
    """In place of checkpoint.Checkpoint, where the seconds of writing states are not asked for."""

    epochs = 0

    def __init__(self, *arguments: Any):
        super().__init__()


class Clock(keras.callbacks.Callback):
    """The figures and seconds of each epoch; may end the process as if it were killed."""

    def __init__(self, kill_in_epoch: int | None = None):
        super().__init__()
        self.kill_in_epoch = kill_in_epoch
        self.epochs: list[dict[str, float]] = []
        self.ends: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.epoch == self.kill_in_epoch and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append({name: round(float(value), 6) for name, value in (logs or {}).items()})
        self.ends.append(time.perf_counter())


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def folder(settings: Settings, name: str, changes: dict[str, Any], base: Path) -> Iterator[None]:
    """Within the block, the working directory is a folder with these changes to the params.yaml of `base`, split."""
    path = settings.work / name
    (path / "data").mkdir(parents=True, exist_ok=True)
    if not (path / "data/prepared").exists():
        (path / "data/prepared").symlink_to(settings.prepared.resolve())
    with chdir(base):
        rerun.write_params(path / "params.yaml", changes | settings.changes)
    with chdir(path):
        split.main()
        yield


def set_up(settings: Settings) -> train.Training:
    """As the train stage does, in the mode of `settings`."""
    with mock.patch.object(checkpoint, "version", version):
        training = train.set_up()
    torch.use_deterministic_algorithms(True, warn_only=not settings.strict)
    cuda_graphs.use(training.model, settings.graphs)
    return training


def once(
    settings: Settings,
    name: str,
    changes: dict[str, Any],
    base: Path = ROOT,
    state: Path | None = None,
    kill_in_epoch: int | None = None,
) -> tuple[dict[str, Any], train.Training]:
    """Trains; gives the figures and what was trained. Its seconds are without those of recording graphs.

    Args:
        name: of its folder.
        changes: to the params.yaml of the folder `base`.
        state: the file of its state after each epoch, from which it goes on; None: none is written.
        kill_in_epoch: counted from 0; in its second step this process is killed.
    """
    begun = time.perf_counter()
    with folder(settings, name, changes, base):
        training = set_up(settings)
        clock = Clock(kill_in_epoch)
        synchronise()
        start = time.perf_counter()
        if state:
            train.fit(training, train.make_resizing(training), [clock], state)
        else:
            with mock.patch.object(checkpoint, "Checkpoint", Forgetful):
                train.fit(training, train.make_resizing(training), [clock], Path())
        synchronise()
        seconds = time.perf_counter() - start
    recording = getattr(training.model.update, "seconds", 0.0)
    training.model.update = training.model._update  # without the graphs, which hold memory
    gc.collect()
    found = {
        "changes": changes,
        "set-up seconds": round(start - begun, 3),
        "seconds": round(seconds - recording, 3),
        "seconds of recording graphs": round(recording, 3),
        "steps": len(training.train) * len(clock.epochs),
        "seconds a step in the last epoch": round(
            (clock.ends[-1] - ([start, *clock.ends])[-2]) / len(training.train), 6
        )
        if clock.ends
        else None,
        "last epoch": clock.epochs[-1] if clock.epochs else {},
        "best val accuracy": max((epoch.get("val_accuracy", 0.0) for epoch in clock.epochs), default=0.0),
    }
    return found, training


def model_hash(training: train.Training) -> str:
    """The MD5 hash of the model file, as the train stage would write it."""
    with keras.device(training.device):
        fitted = temperature.fit(training.model, training.val)
        classifier = model_file.with_preprocessing(training.network, training.mean, training.std, fitted)
        with tempfile.TemporaryDirectory() as temporary:
            return model_file.save(classifier, training.class_names, Path(temporary) / "model.keras")


@torch.no_grad()
def accuracy(training: train.Training, images: np.ndarray, labels: np.ndarray) -> float:
    """Of one plain forward pass of the finished classifier in float32.

    Args:
        images: (N, H, W, C) uint8, as `labels` (N,).
    """
    with keras.device(training.device):
        classifier = model_file.with_preprocessing(training.network, training.mean, training.std)
        parts = [
            classifier(torch.from_numpy(images[start : start + AT_ONCE]).to(training.device)).argmax(-1).cpu()
            for start in range(0, len(images), AT_ONCE)
        ]
    return float((torch.cat(parts).numpy() == labels).mean())


def test_accuracies(settings: Settings, trainings: Sequence[train.Training]) -> list[float]:
    """Of finished models, on the prepared test images. Nothing may be chosen by them."""
    with mock.patch.object(arrays, "PREPARED", settings.prepared.resolve()):
        images, labels = arrays.load("test")
    return [round(accuracy(training, images, labels), 6) for training in trainings]


def about_the_machine() -> dict[str, Any]:
    """The card and the versions that figures depend on."""
    known: dict[str, Any] = {"torch": torch.__version__, "keras": version("keras")}
    known |= {"python": sys.version.split()[0], "processor": machine.processor(), "cores": machine.cores()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        known |= {"card": card.name, "multiprocessors": card.multi_processor_count, "cuda": torch.version.cuda}
        known |= {"cudnn": torch.backends.cudnn.version(), "GiB": round(card.total_memory / 2**30, 1)}
    return known
