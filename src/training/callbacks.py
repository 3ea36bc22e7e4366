"""Keras callbacks: learning rate, image size, averaged and best weights, curves, progress."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.backend import keras
from common.errors import InputError

import dvclive
import torch
from tqdm import tqdm

from training.batches import Batches

Logs = dict[str, Any] | None


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate before each step: up in a straight line, then by `schedule`.

    Args:
        peak: the highest value.
        schedule: "constant" at the peak, "linear" to 0, or "cosine" to 0.
        warmup: share of all steps on the way up; the first step has peak / number of warm-up steps.
        steps: number of steps of the whole training.
    """

    def __init__(self, peak: float, schedule: str, warmup: float, steps: int):
        super().__init__()
        self.peak, self.schedule, self.steps = peak, schedule, steps
        self.warmup_steps = round(warmup * steps)
        self.step = 0

    def value(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.peak * {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.schedule]

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self.schedule != "constant" or self.step < max(1, self.warmup_steps):
            # beyond that a constant rate is left to what makes it fall
            # in place, since Keras' `assign` copies a number from the host, which waits for a GPU
            self.model.optimizer.learning_rate.value.fill_(self.value(self.step))
        self.step += 1


class ProgressiveResizing(keras.callbacks.Callback):
    """Uses smaller images in the first epochs, in training and in validation.

    They cost less and teach nearly as much (progressive learning, arXiv 2104.00298, section 4, in one step).

    Args:
        scale: factor for height and width.
        epochs: with smaller images.
    """

    def __init__(self, scale: float, epochs: int, parts: Sequence[Batches]):
        super().__init__()
        self.scale, self.epochs, self.parts = scale, epochs, parts

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        for part in self.parts:
            part.scale = self.scale if epoch < self.epochs else 1.0


class Weights(keras.callbacks.Callback):
    """Chooses the weights for validation and for the final model.

    Args:
        averaging: decay per step of an exponential moving average over all weights, moving
            statistics included; 0 for none. Validation, "best" and the final model use the average.
        keep: the final weights: "last", or "best", the first epoch with the highest val accuracy.
        first: the first epoch, counted from 0, that can be the best: before it, images are smaller.
    """

    def __init__(self, averaging: float, keep: str, first: int = 0):
        super().__init__()
        self.averaging, self.keep, self.first = averaging, keep, first
        self.compares = False
        self.average: list[torch.Tensor] | None = None
        self.training: list[torch.Tensor] | None = None  # set aside while validation runs
        self.best: list[torch.Tensor] | None = None
        self.best_accuracy = -1.0

    def _live(self) -> list[torch.Tensor]:
        return [variable.value.detach() for variable in self.model.variables]

    def _copy(self) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in self._live()]

    def _set(self, tensors: list[torch.Tensor]) -> None:
        for live, tensor in zip(self._live(), tensors, strict=True):
            live.copy_(tensor)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.compares = self.keep == "best" and epoch >= self.first

    @torch.no_grad()
    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.averaging and self.average is None:
            self.average = self._copy()
        elif self.average is not None:
            for average, live in zip(self.average, self._live(), strict=True):
                if average.is_floating_point():
                    average.lerp_(live, 1 - self.averaging)
                else:  # states of random generators
                    average.copy_(live)

    @torch.no_grad()
    def on_test_begin(self, logs: Logs = None) -> None:
        if self.average is not None:
            self.training = self._copy()
            self._set(self.average)

    @torch.no_grad()
    def on_test_end(self, logs: Logs = None) -> None:
        accuracy = float((logs or {})["accuracy"])
        if self.compares and accuracy > self.best_accuracy:
            self.best, self.best_accuracy = self._copy(), accuracy
        if self.training is not None:
            self._set(self.training)
            self.training = None

    @torch.no_grad()
    def on_train_end(self, logs: Logs = None) -> None:
        final = self.best if self.keep == "best" else self.average
        if final is not None:
            self._set(final)


class _Live(dvclive.Live):
    def _init_dvc(self) -> None:
        """Asks git for no commit: none is needed here, and dvclive (3.49) fails where there is none."""


class Curves(keras.callbacks.Callback):
    """Train and val curves with dvclive, one point an epoch.

    dvclive's own Keras callback needs TensorFlow. `Live` must not change dvc.yaml or DVC's experiments,
    since the pipeline declares the curves itself.

    Args:
        folder: for dvclive alone, which empties it first.

    Raises:
        InputError: at the end of an epoch whose loss is not finite.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.last: dict[str, float] = {}  # the last epoch, of train alone: on val, evaluate measures the model
        self.live = _Live(str(folder), dvcyaml=None, report=None, save_dvc_exp=False)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.live.step = self.last["epochs"] = epoch + 1
        for name, value in (logs or {}).items():
            part, measure = ("val", name[4:]) if name.startswith("val_") else ("train", name)
            if measure in ("loss", "accuracy"):
                if not math.isfinite(value):
                    raise InputError(
                        f"{part} {measure} must stay finite (lower train.learning_rate); "
                        f"received {float(value)} in epoch {epoch + 1}"
                    )
                if part == "train":
                    self.last[f"train_{measure}"] = round(float(value), 6)
                self.live.log_metric(f"{part}/{measure}", float(value))
        self.live.make_summary()

    def on_train_end(self, logs: Logs = None) -> None:
        self.live.end()
        Path(self.live.metrics_file).unlink()  # the curves and `last` have it all


class Progress(keras.callbacks.Callback):
    """One plain line an epoch; on a terminal also a bar with the time left, which knows what small images save."""

    def __init__(self, epochs: int, steps_per_epoch: int, resizing: ProgressiveResizing):
        super().__init__()
        self.steps, self.cost = steps_per_epoch, 1.0
        self.costs = [resizing.scale**2 if epoch < resizing.epochs else 1.0 for epoch in range(epochs)]  # of a step
        self.bar = tqdm(
            total=self.steps * sum(self.costs), disable=not sys.stderr.isatty(), leave=False,
            bar_format="{percentage:3.0f}% |{bar}| {elapsed}, {remaining} to go{postfix}",
        )  # fmt: skip

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.cost, done = self.costs[epoch], self.steps * sum(self.costs[:epoch])
        if self.bar.n:
            self.bar.update(done - self.bar.n)
        else:  # a training that goes on was not that fast: tqdm must not take the jump for progress
            self.bar.n = self.bar.last_print_n = self.bar.initial = done
            self.bar.unpause()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.bar.update(self.cost)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        figures = ", ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
        self.bar.set_postfix_str(figures.partition(", loss")[0], refresh=False)
        self.bar.write(f"epoch {epoch + 1}/{len(self.costs)}: {figures}", file=sys.stdout)

    def on_train_end(self, logs: Logs = None) -> None:
        self.bar.close()
