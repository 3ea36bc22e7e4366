"""How fast `fit` trains here, beside the alternatives, measured in one run.

- ours: src/training through Keras' `fit`, the shards of a batch by as many threads as there are cores;
- one thread: the same by one thread;
- Muon: ours with the optimizer Muon; all others have SGD;
- by hand: the same network, shards, threads, data feed and sums, written by hand in PyTorch;
- OpenMP: ours with the whole batch as one shard, and as many OpenMP threads an operation as cores;
- stock: stock Keras `fit`, with as many OpenMP threads.

Variants take turns, round by round, so that other load on the machine affects all of them; a figure is
the median over the rounds, a ratio the median of the ratios within each round. Two variants are measured
beside one busy process too. Images are random: the time does not depend on their content.

`python benchmarks/train_step.py --precision float32` prints a table and writes it into
benchmarks/train_step/PROCESSOR.json, beside that of the other precision: a process has one.
"""

import argparse
import copy
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Threads that wait for each other spin for this many rounds (under a millisecond), then sleep. The default of
# libgomp, PyTorch's thread pool on Linux, makes a step with OpenMP ten times as slow where one other process is
# busy; sleeping at once makes it half as fast where none is. Read when PyTorch is loaded.
os.environ["GOMP_SPINCOUNT"] = "10000"

from common import files
from common.backend import keras

import numpy as np
import pandas as pd
import torch
from keras.optimizers import SGD
from torch import nn
from torch.nn import functional as F

import architectures
import benchmark_files
from analysis.git import git
from busy import busy_process
from conditions import machine
from training.augmentation import Augmentation
from training.batches import Batch, Batches
from training.machine import cores, set_up
from training.muon import Muon
from training.native_model import NativeModel
from training.shards import Adder

SHAPE, CLASSES = (28, 28, 1), 10
ARCHITECTURE = "blocks"
SHARDS = 4
EVALUATED, EVALUATED_AT_ONCE, EVALUATION_SHARDS = 5000, 1000, 8
SMOOTHING = 0.1
OPTIONS = {"learning_rate": 1e-3, "momentum": 0.9, "nesterov": True}
RATIOS = {  # one / other, of training speeds unless it says evaluation
    "ours / by hand": ("ours", "by hand"),
    "ours / OpenMP": ("ours", "OpenMP"),
    "ours / one thread": ("ours", "one thread"),
    "ours / stock": ("ours", "stock"),
    "ours with Muon / with SGD": ("Muon", "ours"),
    "ours beside a busy process / undisturbed": ("ours, busy", "ours"),
    "OpenMP beside a busy process / undisturbed": ("OpenMP, busy", "OpenMP"),
    "evaluation: ours / by hand": ("ours, evaluation", "by hand, evaluation"),
}


# --- by hand ----------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)


class NativeBlocks(nn.Module):
    """src/architectures/blocks.py with its default options."""

    def __init__(self) -> None:
        super().__init__()
        whitening = nn.Conv2d(1, 8, 2, bias=False).requires_grad_(False)
        layers: list[nn.Module] = [whitening, nn.SiLU()]
        for inputs, width in ((8, 64), (64, 128), (128, 256)):
            layers += [conv(inputs, width), nn.MaxPool2d(2), self.norm(width), nn.SiLU()]
            layers += [conv(width, width), self.norm(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(256, CLASSES)

    @staticmethod
    def norm(width: int) -> nn.BatchNorm2d:
        norm = nn.BatchNorm2d(width)
        norm.weight.requires_grad_(False)  # without a scale
        return norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layers(x).amax((2, 3))) / 9


class ByHand:
    """Training and evaluation loops as one would write them in PyTorch for shards."""

    operation_threads, shards = 1, SHARDS

    def __init__(self, precision: str):
        network = NativeBlocks().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # the weights are shared; each has its own moving statistics, whose mean over shards counts
        shared = {id(weight): weight for weight in network.parameters()}
        self.networks = [copy.deepcopy(network, dict(shared)) for _ in range(SHARDS)]
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.weights, OPTIONS["learning_rate"], OPTIONS["momentum"], nesterov=True, fused=True
        )
        self.autocast = precision == "bfloat16"
        self.pool = ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,))

    def _forward(self, network: nn.Module, batch: Batch, rows: slice) -> torch.Tensor:
        images = batch.normalised(batch.images[rows]).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            return network(images).float()

    def _train_shard(self, batch: Batch, number: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
        """The shard's gradients, losses (n,) and number of correct rows."""
        rows = batch.shards[number]
        logits, labels = self._forward(self.networks[number], batch, rows), batch.labels[rows]
        losses = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="none")
        gradients = torch.autograd.grad(losses.sum() / len(batch.labels), self.weights)
        return gradients, losses.detach(), (logits.argmax(-1) == labels).sum()

    def train(self, batches: Batches) -> None:
        for network in self.networks:
            network.train()
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for batch in batches:
            numbers = range(len(batch.shards))
            done = list(self.pool.map(lambda number, batch=batch: self._train_shard(batch, number), numbers))
            gradients, losses, right = zip(*done, strict=True)
            for weight, parts in zip(self.weights, zip(*gradients, strict=True), strict=True):
                weight.grad = sum_in_pairs(list(parts))
            self.optimizer.step()
            batch.record_losses(torch.cat(losses))
            loss_sum += sum(part.sum() for part in losses)
            correct += sum(right)

    @torch.no_grad()
    def evaluate(self, batches: Batches) -> None:
        for statistics in zip(*(network.buffers() for network in self.networks), strict=True):
            if statistics[0].is_floating_point():
                statistics[0].copy_(torch.stack(statistics).mean(0))
        self.networks[0].eval()
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for batch in batches:
            for loss, right in self.pool.map(lambda rows, batch=batch: self._test_shard(batch, rows), batch.shards):
                loss_sum += loss
                correct += right

    @torch.no_grad()  # a setting of each thread
    def _test_shard(self, batch: Batch, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = self._forward(self.networks[0], batch, rows), batch.labels[rows]
        return F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).sum()


def sum_in_pairs(parts: list[torch.Tensor]) -> torch.Tensor:
    while len(parts) > 1:
        parts = [one.add_(other) for one, other in zip(parts[::2], parts[1::2], strict=False)] + parts[
            len(parts) // 2 * 2 :
        ]
    return parts[0]


# --- Keras ------------------------------------------------------------------------------------------


class Ours:
    def __init__(
        self, precision: str, shards: int = SHARDS, threads: int = 1, operation_threads: int = 1, kind: type = SGD
    ):
        self.shards, self.operation_threads = shards, operation_threads
        network = architectures.build(ARCHITECTURE, SHAPE, CLASSES, {})
        self.model = NativeModel(network.inputs, network.outputs[0])
        adder = Adder(shards, threads, "cpu")
        self.model.prepare(kind(**OPTIONS), SMOOTHING, precision, adder, range(1, shards))

    def train(self, batches: Batches) -> None:
        self.model.fit(batches.loader(), verbose=0, shuffle=False)

    def evaluate(self, batches: Batches) -> None:
        self.model.evaluate(batches.loader(), verbose=0)


class Stock:
    shards = SHARDS  # of the batches, which it takes whole

    def __init__(self, precision: str):
        self.operation_threads = cores()
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        self.model = architectures.build(ARCHITECTURE, SHAPE, CLASSES, {})
        keras.config.set_dtype_policy("float32")
        self.model.compile(
            SGD(**OPTIONS), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
        )

    def train(self, batches: Batches) -> None:
        def whole() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for batch in batches:
                yield batch.normalised(batch.images), batch.labels

        self.model.fit(whole(), steps_per_epoch=len(batches), shuffle=False, verbose=0)


# ----------------------------------------------------------------------------------------------------


def measure(precision: str, batch_size: int, rounds: int, images: int) -> pd.DataFrame:
    """Images a second: a row for each round, a column for each variant, in training unless it says evaluation."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (max(images, EVALUATED), *SHAPE), np.uint8)
    labels = generator.integers(0, CLASSES, len(pixels)).astype(np.uint8)
    mean, std = np.array([73.0]), np.array([90.0])
    train = {}
    for shards in (1, SHARDS):
        augmentation = Augmentation("alternating", 1, 0, images, 0)
        train[shards] = Batches(pixels[:images], labels[:images], mean, std, batch_size, shards, "cpu", augmentation)
    val = Batches(pixels[:EVALUATED], labels[:EVALUATED], mean, std, EVALUATED_AT_ONCE, EVALUATION_SHARDS, "cpu")
    variants: dict[str, Any] = {
        "ours": Ours(precision, threads=cores()),
        "one thread": Ours(precision),
        "by hand": ByHand(precision),
        "Muon": Ours(precision, threads=cores(), kind=Muon),
        "OpenMP": Ours(precision, shards=1, operation_threads=cores()),
        "stock": Stock(precision),
    }

    def speed(name: str, what: str) -> float:
        variant, batches = variants[name], val
        if what == "train":
            batches = train[variant.shards]
        torch.set_num_threads(variant.operation_threads)
        start = time.perf_counter()
        getattr(variant, what)(batches)
        return len(batches.images) / (time.perf_counter() - start)

    speeds = defaultdict(list)
    for turn in range(rounds + 1):  # the first warms up and does not count
        order = list(variants) if turn % 2 else list(reversed(variants))
        now = {name: speed(name, "train") for name in order}
        with busy_process():
            now |= {f"{name}, busy": speed(name, "train") for name in order if name in ("ours", "OpenMP")}
        now |= {f"{name}, evaluation": speed(name, "evaluate") for name in order if name in ("ours", "by hand")}
        for name, value in now.items() if turn else ():
            speeds[name].append(value)
    return pd.DataFrame(speeds)


def ratios(speeds: pd.DataFrame) -> dict[str, float]:
    """The medians of the ratios within each round."""
    return {name: round(float((speeds[one] / speeds[other]).median()), 3) for name, (one, other) in RATIOS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=benchmark_files.positive, default=11)
    parser.add_argument("--images", type=int, default=2048, help="trained in a round (default: %(default)s)")
    parser.add_argument("--batch-sizes", nargs="*", type=int, default=[128, 256, 512])
    chosen = parser.parse_args()
    here = machine()
    set_up(chosen.precision)  # for all variants alike
    results = []
    for batch_size in chosen.batch_sizes:
        speeds = measure(chosen.precision, batch_size, chosen.rounds, chosen.images)
        medians = {name: round(speed) for name, speed in speeds.median().items()}
        results.append({"batch_size": batch_size, "images_a_second": medians, "ratios": ratios(speeds)})
        print(f"{ARCHITECTURE}, {chosen.precision}, batch {batch_size}: images a second")
        for name, median in medians.items():
            print(f"  {name:<42} {median:>7,}")
        for name, ratio in results[-1]["ratios"].items():
            print(f"  {name:<42} {ratio:>7.3f}")
    name = re.sub(r"[^a-z0-9]+", "-", str(here["processor"]).lower()).strip("-")
    path = Path(f"benchmarks/train_step/{name}.json")
    key = {"machine": here, "architecture": ARCHITECTURE}
    known: dict[str, Any] = benchmark_files.earlier(path, **key) or key | {"precisions": {}}
    known["precisions"][chosen.precision] = {
        "rounds": chosen.rounds,
        "results": results,
        "commit": git("rev-parse", "--short", "HEAD"),
    }
    files.write_json(path, known)


if __name__ == "__main__":
    main()
