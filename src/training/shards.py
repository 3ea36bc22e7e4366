"""Batches cut into fixed shards, each computed by one thread, and added up in one fixed order.

With several threads an operation of PyTorch adds up in an order that depends on their number. Here an
operation has one thread, and the threads compute different shards. Neither the number of threads, nor of
processes, nor of machines has an influence on the bytes: they only decide who computes which shard.

Batch normalisation uses the statistics of its shard, as in PyTorch's DistributedDataParallel, and so the
number of shards is part of the result.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from common.backend import keras

import torch

from training import machine, processes

Range = tuple[int, int]  # the first shard, and the one after the last


def cut(rows: int, batch_size: int, shards: int) -> list[slice]:
    """The shards of a batch, whose sizes differ by one row at most.

    A batch of fewer than `batch_size` rows has fewer shards, not smaller ones.
    """
    count = min(rows, math.ceil(rows * shards / batch_size))
    return [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]


class Shard(keras.StatelessScope):
    """The scope in which one shard is computed: it collects losses and new values of the model's state.

    Args:
        generator: for the shard's random draws.
        start: pairs of a variable and the value that it has for this shard, where that is another one.
    """

    def __init__(self, generator: torch.Generator, start: Iterable[tuple[keras.Variable, torch.Tensor]] = ()):
        super().__init__(start, collect_losses=True)
        self.generator = generator


class Adder:
    """Computes the shards of a batch, of which each process has its own, and adds them up.

    Args:
        shards: the number of shards of a full batch.
        threads: of this process.
        device: cpu or cuda.
    """

    def __init__(self, shards: int, threads: int, device: str):
        self.shards, self.device = shards, device
        self.map: Callable[..., Iterable] = map  # of as many items at a time as there are threads
        if threads > 1 and device == "cpu":  # a GPU computes the operations of one thread side by side
            self.map = ThreadPoolExecutor(threads, initializer=machine.prepare_thread, initargs=(device,)).map

    def owner(self, shard: int) -> int:
        """The rank of the process that computes a shard, in every batch the same."""
        return shard % self.shards * processes.count() // self.shards

    def own_shards(self, count: int) -> list[int]:
        return [shard for shard in range(count) if self.owner(shard) == processes.rank()]

    def __call__(self, compute: Callable[[int], torch.Tensor], count: int, length: int) -> torch.Tensor:
        """The sum of `compute(0)` to `compute(count - 1)`, vectors (length,) float32, in every process."""
        own = self.own_shards(count)
        sums = {(shard, shard + 1): vector for shard, vector in zip(own, self.map(compute, own), strict=True)}
        if processes.is_distributed():
            self._exchange(sums, count, length)
        return _tree_sum((0, count), sums)

    def _exchange(self, sums: dict[Range, torch.Tensor], count: int, length: int) -> None:
        """Adds to `sums` the sums of the other processes, in one collective operation."""
        ranges: list[list[Range]] = [[] for _ in range(processes.count())]
        for part in _largest_of_one_owner((0, count), self.owner):
            ranges[self.owner(part[0])].append(part)
        # as many from each process, as all-gather needs
        buffer = torch.zeros(max(map(len, ranges)), length, device=self.device)
        for row, part in zip(buffer, ranges[processes.rank()], strict=False):
            row.copy_(_tree_sum(part, sums))
        for parts, received in zip(ranges, processes.all_gather(buffer), strict=True):
            sums.update(zip(parts, received, strict=False))


def _halves(part: Range) -> tuple[Range, Range]:
    """The two branches of a binary tree below `part`; the left one is full."""
    first, end = part
    middle = first + 2 ** ((end - first - 1).bit_length() - 1)
    return (first, middle), (middle, end)


def _tree_sum(part: Range, sums: dict[Range, torch.Tensor]) -> torch.Tensor:
    """The sum over the shards of `part`, from known `sums`, which it may change."""
    if part in sums:
        return sums[part]
    left, right = _halves(part)
    return _tree_sum(left, sums).add_(_tree_sum(right, sums))


def _largest_of_one_owner(part: Range, owner: Callable[[int], int]) -> list[Range]:
    """The largest branches of the tree whose shards one process computes."""
    if len({owner(shard) for shard in range(*part)}) == 1:
        return [part]
    return [branch for half in _halves(part) for branch in _largest_of_one_owner(half, owner)]


def views(vector: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The parts of a vector, one for each tensor, with its shape and its layout in memory; last what is left of it."""
    sizes = [tensor.numel() for tensor in tensors]
    *parts, rest = vector.split([*sizes, len(vector) - sum(sizes)])
    pairs = zip(parts, tensors, strict=True)
    return [*(part.as_strided(like.shape, like.stride(), part.storage_offset()) for part, like in pairs), rest]
