"""Batches cut from arrays already in memory, in a seeded order, augmented as a whole."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from training import shards
from training.augmentation import Augmentation


class Batch(NamedTuple):
    images: torch.Tensor  # (B, H, W, C) uint8
    labels: torch.Tensor  # (B,) int64
    weights: torch.Tensor | None  # (B,) float32; None: all count alike
    shards: list[slice]  # of the rows
    normalised: Callable[[torch.Tensor], torch.Tensor]  # of images: float32, resized
    record_losses: Callable[[torch.Tensor], Any]  # takes the batch's losses (B,)


def resized(images: torch.Tensor, scale: float) -> torch.Tensor:
    """(B, H, W, C) of any type -> float32 (B, scale · H, scale · W, C), rounded and at least 1."""
    size = [max(1, round(scale * side)) for side in images.shape[1:3]]
    images = images.permute(0, 3, 1, 2).float()
    return F.interpolate(images, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)


class Batches(IterableDataset):
    """Yields `Batch`es; the last may be smaller.

    An epoch visits every row once, and few rows several times: where it has fewer than `least_steps` batches, these
    become smaller, down to 32 rows, and then it has several passes. With `augmentation` None, rows come in order and
    unchanged; otherwise shuffled and augmented, anew in each pass.

    With `pruning`, a pass leaves out that share of the rows (InfoBatch, https://arxiv.org/abs/2303.04947, with a
    fixed share): twice that share, the rows with the lowest loss at their last visit, are candidates. A random half of
    the candidates is left out, and the other half counts twice.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) uint8.
        mean, std: (C,), of pixel values 0–255; images become (pixel − mean) / std.
        shards: the number of shards of a full batch.
        seed: for the order of the rows, and for the choice of the rows left out.
        pruning: from 0 to 0.5.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        batch_size: int,
        shards: int,
        device: str,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        pruning: float = 0.0,
        least_steps: int = 1,
    ):
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device, torch.int64)
        self.mean = torch.from_numpy(mean).to(device, torch.float32)
        self.std = torch.from_numpy(std).to(device, torch.float32)
        self.batch_size, self.shards = batch_size, shards
        self.augmentation = augmentation
        self.generator = torch.Generator(device).manual_seed(seed)
        self.epoch = 0  # counts passes
        self.scale = 1.0  # of height and width; may be changed between epochs
        self.left_out = round(pruning * len(images))
        self.rows_a_pass = len(images) - self.left_out
        if math.ceil(self.rows_a_pass / batch_size) < least_steps:
            self.batch_size = min(batch_size, max(32, self.rows_a_pass // least_steps))
        self.steps_a_pass = math.ceil(self.rows_a_pass / self.batch_size)
        self.passes = math.ceil(least_steps / max(1, self.steps_a_pass))
        # of each row at its last visit; rows without a visit count as hard
        self.losses = torch.full((len(images),), torch.inf, device=device)

    def __len__(self) -> int:
        return self.passes * self.steps_a_pass

    def __iter__(self) -> Iterator[Batch]:
        return chain.from_iterable(self._pass() for _ in range(self.passes))

    def _pass(self) -> Iterator[Batch]:
        epoch, count, device = self.epoch, len(self.images), self.images.device
        self.epoch += 1  # now, since `fit` takes its number of batches and never asks for the end
        order = torch.arange(count, device=device)
        if self.augmentation:
            order = torch.randperm(count, generator=self.generator, device=device)
        weights = torch.ones(count, device=device)
        if self.left_out:
            easiest = order[self.losses[order].argsort(stable=True)[: 2 * self.left_out]]
            chosen = torch.randperm(len(easiest), generator=self.generator, device=device)
            weights[easiest] = 2.0
            weights[easiest[chosen[: self.left_out]]] = 0.0
            order = order[weights[order] > 0]
        for rows in order.split(self.batch_size):
            images = self.images[rows]
            if self.augmentation:
                images = self.augmentation(images, rows, epoch)
            yield Batch(
                images,
                self.labels[rows],
                weights[rows] if self.left_out else None,
                shards.cut(len(rows), self.batch_size, self.shards),
                self._normalised,
                partial(self.losses.index_put_, (rows,)),
            )

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        if self.scale < 1:
            images = resized(images, self.scale)
        return (images.float() - self.mean) / self.std

    def loader(self) -> DataLoader:
        """For Keras' `fit`; batches pass through unchanged."""
        return DataLoader(self, batch_size=None, generator=torch.Generator())
