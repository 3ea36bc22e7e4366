"""Each network twice, in stock Keras and as a NativeModel, to hold one against the other."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from torch.utils.data import DataLoader

import architectures
from training.batches import Batches
from training.native_model import NativeModel
from training.shards import Adder

Build = Callable[[], keras.Model]


def architecture(name: str, shape: tuple[int, int, int] = (28, 28, 1)) -> Build:
    return lambda: architectures.build(name, shape, 10, {})


def twins(build: Build, fresh: bool = False) -> tuple[keras.Model, NativeModel]:
    """The same network twice, with the same weights: as it is, and native (not yet prepared).

    Unless `fresh`, biases and batch normalisation are away from the zeros and ones of their start,
    with which much would agree by chance.
    """
    networks = []
    for _ in range(2):
        keras.utils.clear_session(free_memory=False)  # so that both have the same names
        keras.utils.set_random_seed(0)
        networks.append(build())
    stock, other = networks
    generator = np.random.default_rng(0)
    for one, two in zip(stock.weights, other.weights, strict=True):
        if len(one.shape) == 1 and not fresh:
            one.assign(generator.uniform(0.5, 1.5, one.shape))
        two.assign(one)
    return stock, NativeModel(other.inputs, other.outputs[0])


def prepare(
    model: NativeModel,
    optimizer: keras.Optimizer,
    *,
    smoothing: float = 0.0,
    precision: str = "float32",
    shards: int = 1,
    threads: int = 1,
) -> NativeModel:
    """Compiles `model`; where the batches have as many shards."""
    model.prepare(optimizer, smoothing, precision, Adder(shards, threads, "cpu"), range(1, shards))
    return model


def batches(count: int, batch_size: int, shape: tuple[int, ...] = (28, 28, 1), shards: int = 1) -> Batches:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, *shape), np.uint8)
    labels = generator.integers(0, 10, count).astype(np.uint8)
    channels = np.ones(shape[-1])
    return Batches(images, labels, 127.5 * channels, 73.9 * channels, batch_size, shards, "cpu")


def pairs(data: Batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Normalised images (B, H, W, C) and labels (B,) of each batch, as stock Keras takes them."""
    return [(batch.normalised(batch.images), batch.labels) for batch in data]


def everything(data: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*pairs(data), strict=True)
    return torch.cat(images), torch.cat(labels)


def sgd(learning_rate: float) -> keras.Optimizer:
    return keras.optimizers.SGD(learning_rate)


class Losses(keras.callbacks.Callback):
    """The loss of each step of an epoch, from the means up to it."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.means: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.means.append(float(self.model.get_metrics_result()["loss"]))

    def by_step(self) -> np.ndarray:
        sums = np.array(self.means) * np.arange(1, len(self.means) + 1)
        return np.diff(sums, prepend=0)


def fit(model: keras.Model, data: Batches) -> np.ndarray:
    """One epoch; returns the loss of each step."""
    losses = Losses()
    native = isinstance(model, NativeModel)
    loader = data.loader() if native else DataLoader(pairs(data), batch_size=None)  # type: ignore[arg-type]
    model.fit(loader, callbacks=[losses], verbose=0)
    return losses.by_step()


def assert_same_weights(stock: keras.Model, native: keras.Model, tolerance: float, kind: str = "") -> None:
    """All weights, or those with `kind` in their name."""
    expected = {weight.path: weight for weight in stock.weights if kind in weight.name}
    assert expected or kind
    for weight in native.weights:
        if kind in weight.name:
            np.testing.assert_allclose(
                weight.numpy(), expected.pop(weight.path).numpy(), rtol=tolerance, atol=tolerance, err_msg=weight.path
            )
    assert not expected
