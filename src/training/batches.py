"""Batches cut from arrays already in memory, in a seeded order, augmented as a whole."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from training import processes
from training.augmentation import Augmentation


class Batches(IterableDataset):
    """Yields (images, labels): normalised float32 (B, H, W, C) and int64 (B,); the last may be smaller.

    Each pass is one epoch and sees every row once; of several processes each has its share of each
    batch. With `augmentation` None, rows come in order and
    as they are; otherwise shuffled and augmented.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) uint8.
        mean, std: (C,), of pixel values 0–255; images become (pixel − mean) / std.
        seed: for the order of the rows.
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
    ):
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels).to(device, torch.int64)
        self.mean = torch.from_numpy(mean).to(device, torch.float32)
        self.std = torch.from_numpy(std).to(device, torch.float32)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch, count = self.epoch, len(self.images)
        self.epoch += 1  # now, since `fit` takes its number of batches and never asks for the end
        order = torch.arange(count)
        if self.augmentation:
            order = torch.randperm(count, generator=self.generator)
        for rows in order.to(self.images.device).split(self.batch_size):
            images = self.images[rows]
            if self.augmentation:
                images = self.augmentation(images, rows, epoch)
            own = processes.share(len(rows))
            yield (images[own].float() - self.mean) / self.std, self.labels[rows[own]]

    def loader(self) -> DataLoader:
        """What Keras' `fit` takes; batches pass through as they are."""
        return DataLoader(self, batch_size=None, generator=torch.Generator())
