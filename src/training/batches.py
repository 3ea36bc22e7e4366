"""Batches cut from arrays already in memory, in a seeded order, augmented as a whole."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from training import processes
from training.augmentation import Augmentation

Batch = tuple[Any, ...]  # images, labels; with `pruning` also weights and a function of the losses


def resized(images: torch.Tensor, scale: float) -> torch.Tensor:
    """(B, H, W, C) of any type -> float32 (B, scale · H, scale · W, C), rounded and at least 1."""
    size = [max(1, round(scale * side)) for side in images.shape[1:3]]
    images = images.permute(0, 3, 1, 2).float()
    return F.interpolate(images, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)


class Batches(IterableDataset):
    """Yields (images, labels): normalised float32 (B, H, W, C) and int64 (B,); the last may be smaller.

    Each pass is one epoch and visits every row once; in several processes, each process gets its shard
    of each batch. With `augmentation` None, rows come in order and unchanged; otherwise shuffled and
    augmented.

    With `pruning`, an epoch leaves out that share of the rows (InfoBatch,
    https://arxiv.org/abs/2303.04947, with a fixed share): twice that share, the rows with the lowest
    loss at their last visit, are candidates. A random half of the candidates is left out, and the other
    half counts twice. A batch is then (images, labels, weights, record_losses): weights are float32
    (B,), and the function must be called with the batch's losses (B,).

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) uint8.
        mean, std: (C,), of pixel values 0–255; images become (pixel − mean) / std.
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
        device: str,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        pruning: float = 0.0,
    ):
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device, torch.int64)
        self.mean = torch.from_numpy(mean).to(device, torch.float32)
        self.std = torch.from_numpy(std).to(device, torch.float32)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self.scale = 1.0  # of height and width; may be changed between epochs
        self.left_out = round(pruning * len(images))
        self.rows_an_epoch = len(images) - self.left_out
        # of each row at its last visit; rows without a visit count as hard
        self.losses = torch.full((len(images),), torch.inf, device=device)

    def __len__(self) -> int:
        return math.ceil(self.rows_an_epoch / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, count, device = self.epoch, len(self.images), self.images.device
        self.epoch += 1  # now, since `fit` takes its number of batches and never asks for the end
        order = torch.arange(count)
        if self.augmentation:
            order = torch.randperm(count, generator=self.generator)
        order = order.to(device)
        weights = torch.ones(count, device=device)
        if self.left_out:
            easiest = order[self.losses[order].argsort(stable=True)[: 2 * self.left_out]]
            chosen = torch.randperm(len(easiest), generator=self.generator).to(device)
            weights[easiest] = 2.0
            weights[easiest[chosen[: self.left_out]]] = 0.0
            order = order[weights[order] > 0]
        for rows in order.split(self.batch_size):
            images = self.images[rows]
            if self.augmentation:
                images = self.augmentation(images, rows, epoch)
            own = processes.shard(len(rows))
            images = images[own]
            if self.scale < 1:
                images = resized(images, self.scale)
            normalised = (images.float() - self.mean) / self.std
            if self.left_out:
                record = partial(self._record_losses, rows, own)
                yield normalised, self.labels[rows[own]], weights[rows[own]], record
            else:
                yield normalised, self.labels[rows[own]]

    def _record_losses(self, rows: torch.Tensor, own: slice, losses: torch.Tensor) -> None:
        batch_losses = torch.zeros(len(rows), device=losses.device)
        batch_losses[own] = losses
        self.losses[rows] = processes.all_reduce(batch_losses)

    def loader(self) -> DataLoader:
        """For Keras' `fit`; batches pass through unchanged."""
        return DataLoader(self, batch_size=None, generator=torch.Generator())
