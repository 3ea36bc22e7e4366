"""The state of a training after each epoch, from which a killed training goes on to the same bytes.

Keras' BackupAndRestore saves weights and optimizer only: the order of the rows, augmentation, random
generators, the callbacks' state and the curves would start again.
"""

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import files, locks
from common.backend import keras

import numpy as np
import torch
from filelock import FileLock, Timeout

from training import processes
from training.batches import Batches
from training.callbacks import Curves, LearningRate, Logs, Weights

KEPT_DAYS = 30
SOURCE = Path(__file__).resolve().parents[1]
# the attributes that each kind of callback carries from one epoch to the next
STATE: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    LearningRate: ("step",),
    Weights: ("average", "best", "best_accuracy"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
}


def fingerprint(settings: Any, arrays: Sequence[np.ndarray]) -> str:
    """A hash of everything that a training's bytes depend on, 16 hexadecimal digits.

    Beside the arguments these are the loaded code of this repository and the versions of the libraries.

    Args:
        settings: parameters, and anything else that JSON can hold.
        arrays: the data.
    """
    # without the build: "+cpu"
    versions = [version(name).partition("+")[0] for name in ("dvclive", "keras", "numpy", "torch")]
    digest = hashlib.sha256(json.dumps([settings, versions]).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    loaded = [Path(name) for module in list(sys.modules.values()) if (name := getattr(module, "__file__", None))]
    own = {folder for folder in {path.parent for path in loaded} if folder.resolve().is_relative_to(SOURCE)}
    for path in sorted({path.resolve() for path in loaded if path.parent in own}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def state_file(training: str) -> Iterator[Path]:
    """The file for the state of the training with the fingerprint `training`, locked within the block.

    It lies in .cache/checkpoints, since dvc removes a stage's outputs before it runs the stage, or in the folder that
    the environment variable CHECKPOINT_DIR names. At the end of the block the file is removed, unless an exception is
    raised, or another process waits to run the same training: that process then starts from the state of the last
    epoch. States of other trainings that nobody has come back for in `KEPT_DAYS` days are removed.
    """
    folder = Path(os.environ.get("CHECKPOINT_DIR") or ".cache/checkpoints").resolve()
    file, lock = folder / training, folder / f"{training}.lock"
    with locks.exclusive(lock):
        for path in folder.glob("[0-9a-f]" * 16 + ".lock"):
            with suppress(FileNotFoundError, PermissionError, Timeout):
                if time.time() - path.stat().st_mtime > KEPT_DAYS * 86_400:  # locks.exclusive sets it anew
                    with FileLock(path, timeout=0):
                        for remains in folder.glob(f"*{path.stem}*"):  # also what a kill has left half-written
                            remains.unlink()
        yield file
        if not locks.is_awaited(lock):
            file.unlink(missing_ok=True)


class Checkpoint(keras.callbacks.Callback):
    """Writes the state of a training after each epoch, and restores it when a training starts.

    It must be the last callback: Keras' own callbacks reset themselves at the start of a training.
    In a training in several processes, the first process reads and writes the file for all.

    Args:
        file: holds the state. A damaged file is reported, and the training starts at the first epoch.
        batches: the training batches, whose random generators are part of the state.
        callbacks: all callbacks before this one.
        device: cpu or cuda.
    """

    def __init__(self, file: Path, batches: Batches, callbacks: Sequence[keras.callbacks.Callback], device: str):
        super().__init__()
        self.file, self.batches, self.callbacks, self.device = file, batches, callbacks, device
        # the callbacks that have a state, and the names of its attributes
        self.stateful = [(c, STATE[type(c)]) for c in callbacks if type(c) in STATE]
        self.state = processes.broadcast_from_first({} if processes.rank() else self._read())
        self.history: list[dict[str, float]] = self.state.get("history", [])
        self.epochs: int = self.state.get("epochs", 0)  # done; all, where the training was stopped early

    def _read(self) -> dict[str, Any]:
        try:
            digest, _, content = self.file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return {}
        if hashlib.sha256(content).hexdigest().encode() != digest:
            print(f"{self.file} is damaged: the training starts at the first epoch", file=sys.stderr)
            return {}
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def _write(self) -> None:
        buffer = io.BytesIO()
        torch.save(self.state, buffer)
        content = buffer.getbuffer()
        with files.atomic_file(self.file) as part, part.open("wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)

    def _variables(self) -> list[torch.Tensor]:
        return [variable.value.detach() for variable in (*self.model.variables, *self.model.optimizer.variables)]

    def _generators(self) -> list[torch.Generator]:
        augmentation = [self.batches.augmentation.generator] if self.batches.augmentation else []
        return [*self.model.generators, self.batches.generator, *augmentation]

    def _generator_states(self) -> list[torch.Tensor]:
        """As from `_generators`; a shard's is from the process that computes the shard."""
        states = dict(enumerate(generator.get_state() for generator in self._generators()))
        own = self.model.adder.own_shards(len(self.model.generators))
        for part in processes.gather({shard: states[shard] for shard in own}):
            states |= part
        return list(states.values())

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        self.state = {
            "epochs": self.params["epochs"] if self.model.stop_training else epoch + 1,
            "history": self.history,
            "variables": self._variables(),
            "generators": self._generator_states(),
            "batches": self.batches.epoch,
            "losses": self.batches.losses,
            "callbacks": [{name: getattr(callback, name) for name in names} for callback, names in self.stateful],
        }
        if not processes.rank():
            self._write()

    @torch.no_grad()
    def on_train_begin(self, logs: Logs = None) -> None:
        if not self.state:
            return
        state = self.state
        if not processes.rank():
            print(f"goes on after epoch {len(self.history)}")
        for variable, tensor in zip(self._variables(), state["variables"], strict=True):
            variable.copy_(tensor)
        for generator, generator_state in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(generator_state)
        self.batches.epoch = state["batches"]
        self.batches.losses.copy_(state["losses"])
        for (callback, _), attributes in zip(self.stateful, state["callbacks"], strict=True):
            for name, value in attributes.items():
                moved = keras.tree.map_structure(lambda x: x.to(self.device) if torch.is_tensor(x) else x, value)
                setattr(callback, name, moved)
        for callback in self.callbacks:
            if isinstance(callback, Curves):
                for epoch, figures in enumerate(self.history):
                    callback.on_epoch_end(epoch, figures)
