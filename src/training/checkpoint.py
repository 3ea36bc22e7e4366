"""Where a training stands after each epoch, so that one that was killed goes on to the same bytes.

Keras' BackupAndRestore keeps weights and optimizer only: the order of the rows, augmentation, random
generators, the callbacks' memory and the curves would begin anew.
"""

import hashlib
import io
import json
import os
import platform
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import backend, files, locks

# isort: split
import keras
import numpy as np
import torch

from training import machine, processes
from training.batches import Batches
from training.callbacks import Curves, LearningRate, Logs, Weights

SOURCE = Path(__file__).resolve().parents[1]
# what each kind of callback remembers from one epoch to the next
MEMORY: dict[type[keras.callbacks.Callback], tuple[str, ...]] = {
    LearningRate: ("step",),
    Weights: ("average", "best", "best_accuracy"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
}


def key(choices: Any, arrays: Sequence[np.ndarray]) -> str:
    """Stands for all that a training's bytes depend on, in 16 hexadecimal digits.

    Beside the arguments these are this repository's code as far as it is loaded, the versions of the
    libraries, and the kind of processor.

    Args:
        choices: parameters and whatever else JSON can hold.
        arrays: the data.
    """
    versions = [version(name) for name in ("dvclive", "keras", "numpy", "torch")]
    place = [platform.python_version(), machine.processor()]
    digest = hashlib.sha256(json.dumps([choices, versions, place]).encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    paths = {Path(name).resolve() for name in loaded if name}
    for path in sorted(path for path in paths if path.is_relative_to(SOURCE)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def kept(of: str) -> Iterator[Path]:
    """The file in which the training with the key `of` keeps its state until all of it is written.

    It lies in .cache/checkpoints, since dvc removes a stage's outputs before it runs the stage, or in
    the folder that the environment variable CHECKPOINT_DIR names. Nobody else runs the same training
    meanwhile. Who waits for that finds the last epoch's state; otherwise the file goes in the end,
    unless something is raised.
    """
    folder = Path(os.environ.get("CHECKPOINT_DIR", ".cache/checkpoints")).resolve()
    file, lock = folder / of, folder / f"{of}.lock"
    with locks.alone(lock):
        yield file
        if not locks.wanted(lock).exists():
            file.unlink(missing_ok=True)


class Checkpoint(keras.callbacks.Callback):
    """Writes the state of a training after each epoch; given one, puts it back when the training starts.

    It must come last of the callbacks: Keras' own forget everything at the start of a training.

    Of several processes the first reads and writes, and the others have its state.

    Args:
        file: of the state. One that is damaged is reported, and the training begins at the first epoch.
        batches: those of the training, whose place in their random draws is kept.
        callbacks: the others.
        device: cpu or cuda.
    """

    def __init__(
        self,
        file: Path,
        batches: Batches,
        callbacks: Sequence[keras.callbacks.Callback],
        device: str,
    ):
        super().__init__()
        self.file, self.batches, self.callbacks, self.device = file, batches, callbacks, device
        self.state = processes.of_first({} if processes.rank() else self._read())
        self.history: list[dict[str, float]] = self.state.get("history", [])

    @property
    def epochs(self) -> int:
        """How many are done: all, where the training was stopped early."""
        return self.state.get("epochs", 0)

    def _read(self) -> dict[str, Any]:
        try:
            digest, _, content = self.file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return {}
        if hashlib.sha256(content).hexdigest().encode() != digest:
            print(
                f"{self.file} must be whole; it is damaged, and the training begins anew",
                file=sys.stderr,
            )
            return {}
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def _write(self) -> None:
        buffer = io.BytesIO()
        torch.save(self.state, buffer)
        content = buffer.getbuffer()
        with files.whole_file(self.file) as part, part.open("wb") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)

    def _variables(self) -> list[torch.Tensor]:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        return [variable.value.detach() for variable in variables]

    def _generators(self) -> list[torch.Generator]:
        augmentation = self.batches.augmentation
        return [self.batches.generator] + ([augmentation.generator] if augmentation else [])

    def _remembering(self) -> list[tuple[keras.callbacks.Callback, tuple[str, ...]]]:
        """The callbacks that have something to remember, and the names of it."""
        return [(each, MEMORY[type(each)]) for each in self.callbacks if type(each) in MEMORY]

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.history.append({name: float(value) for name, value in (logs or {}).items()})
        numpy_state = np.random.get_state(legacy=False)
        numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
        self.state = {
            "epochs": self.params["epochs"] if self.model.stop_training else epoch + 1,
            "history": self.history,
            "variables": self._variables(),
            "generators": [generator.get_state() for generator in self._generators()],
            "batches": self.batches.epoch,
            "losses": self.batches.losses,
            "python": random.getstate(),
            "numpy": numpy_state,
            "torch": processes.of_all(torch.get_rng_state()),
            "cuda": processes.of_all(torch.cuda.get_rng_state() if self.device == "cuda" else None),
            "callbacks": [
                {name: getattr(callback, name) for name in names}
                for callback, names in self._remembering()
            ],
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
        processes.draw_apart([variable.value for variable in self.model.variables])
        for generator, of_generator in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(of_generator)
        self.batches.epoch = state["batches"]
        self.batches.losses.copy_(state["losses"])
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"][processes.rank()])
        if self.device == "cuda":
            torch.cuda.set_rng_state(state["cuda"][processes.rank()])
        for (callback, _), memory in zip(self._remembering(), state["callbacks"], strict=True):
            for name, value in memory.items():
                setattr(callback, name, keras.tree.map_structure(self._on_device, value))
        for callback in self.callbacks:
            if isinstance(callback, Curves):
                for epoch, figures in enumerate(self.history):
                    callback.on_epoch_end(epoch, figures)

    def _on_device(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, torch.Tensor) else value
