"""Training steps of the default network beside hand-written PyTorch, in one process, in turns.

- ours: steps recorded as CUDA graphs, the batch as one shard;
- ours, 4 shards: the same with the shards of the default, one after the other;
- ours, no graphs: each operation started by itself, and none waits for the GPU;
- train.device cuda: as src/train.py computes, with what waits in Keras' optimizers;
- by hand: the same network, optimizer, data feed and sums as a plain loop in PyTorch;
- by hand, graph: its whole step recorded as one CUDA graph;
- by hand, compiled: its network by torch.compile, in the first setting alone, since compiling takes long.

A figure is the median over rounds, a ratio the median of the ratios within each round. All is reported after each round.
A variant that fails is named with its error, and left out.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from typing import Any

from common.backend import keras
from common.errors import first_line

import numpy as np
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import architectures
from on_gpu import cuda_graphs, trainings
from on_gpu.jobs import Settings
from train_step import NativeBlocks
from training import machine
from training.augmentation import Augmentation
from training.batches import Batches
from training.muon import Muon, orthogonal
from training.native_model import NativeModel
from training.shards import Adder

SMOOTHING, RATE, KERNEL_RATE, MOMENTUM, KERNEL_MOMENTUM, DECAY = 0.1, 0.01, 0.2, 0.85, 0.6, 0.00667
RATIOS = {
    "ours / by hand": ("ours", "by hand"),
    "ours / by hand, graph": ("ours", "by hand, graph"),
    "ours / by hand, compiled": ("ours", "by hand, compiled"),
    "ours / ours, no graphs": ("ours", "ours, no graphs"),
    "ours / ours, 4 shards": ("ours", "ours, 4 shards"),
    "ours / train.device cuda": ("ours", "train.device cuda"),
}
SHOWN = 12  # operations of the profile


class ByHand:
    """The training loop as one would write it in PyTorch; `how` is "", "graph" or "compiled"."""

    def __init__(self, device: str, precision: str, how: str):
        keras.utils.set_random_seed(0)
        self.device, self.how, self.autocast = device, how, precision == "bfloat16"
        network: Any = NativeBlocks().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.kernels = [weight for weight in self.weights if weight.ndim == 4]
        self.others = [weight for weight in self.weights if weight.ndim != 4]
        self.momenta = {id(weight): torch.zeros_like(weight) for weight in self.weights}
        self.network = torch.compile(network.train()) if how == "compiled" else network.train()
        self.loss, self.correct = (torch.zeros((), device=device) for _ in range(2))
        self.calls = 0
        self.graph: Any = None

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """images (N, H, W, C) float32; returns the losses (N,)."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            logits = self.network(images.permute(0, 3, 1, 2)).float()
        smoothed = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        gradients = dict(zip(map(id, self.weights), torch.autograd.grad(smoothed, self.weights), strict=True))
        with torch.no_grad():
            self._update(gradients)
            losses = F.cross_entropy(logits.detach(), labels, reduction="none")
            self.loss += losses.sum()
            self.correct += (logits.argmax(-1) == labels).sum()
        return losses

    def _update(self, gradients: dict[int, torch.Tensor]) -> None:
        """Muon for kernels, SGD with Nesterov's momentum for the rest."""
        torch._foreach_mul_(self.weights, 1 - RATE * DECAY)
        rest = [gradients[id(weight)] for weight in self.others]
        momenta = [self.momenta[id(weight)] for weight in self.others]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, rest, alpha=-RATE)
        torch._foreach_add_(self.others, momenta, alpha=MOMENTUM)
        torch._foreach_add_(self.others, rest, alpha=-RATE)
        for weight in self.kernels:
            gradient, momentum = gradients[id(weight)], self.momenta[id(weight)]
            momentum.mul_(KERNEL_MOMENTUM).add_(gradient)
            direction = gradient.add(momentum, alpha=KERNEL_MOMENTUM).flatten(1)
            weight.mul_(len(weight) ** 0.5 / (weight.norm() + 1e-7))
            weight.add_(orthogonal(direction).view_as(weight), alpha=-RATE * KERNEL_RATE)

    def _record(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.own = images.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = self._step(*self.own)

    def train(self, batches: Batches) -> None:
        for batch in batches:
            images, labels = batch.normalised(batch.images), batch.labels
            self.calls += 1
            if self.how == "graph" and self.calls > 3:
                if self.graph is None:
                    self._record(images, labels)
                self.own[0].copy_(images)
                self.own[1].copy_(labels)
                self.graph.replay()
                batch.record_losses(self.losses)
            else:
                batch.record_losses(self._step(images, labels))


class Ours:
    """The training of this repository; `graphs` None: with the steps as src/train.py has them."""

    def __init__(self, device: str, precision: str, shards: int = 1, graphs: bool | None = True):
        keras.utils.set_random_seed(0)
        self.device = device
        network = architectures.build("blocks", (28, 28, 1), 10, {}, device)
        with keras.device(device):
            self.model = NativeModel(network.inputs, network.outputs[0])
            optimizer = Muon(
                learning_rate=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY,
                kernel_rate=KERNEL_RATE, kernel_momentum=KERNEL_MOMENTUM,
            )  # fmt: skip
            adder = Adder(shards, machine.cores(), device)
            self.model.prepare(optimizer, SMOOTHING, precision, adder, range(1, shards))
        if graphs is not None:
            cuda_graphs.use(self.model, graphs)

    def train(self, batches: Batches) -> None:
        with keras.device(self.device):
            self.model.fit(batches.loader(), verbose=0, shuffle=False)


def feed(device: str, batch_size: int, steps: int, shards: int) -> Batches:
    generator = np.random.default_rng(0)
    count = batch_size * steps
    images = generator.integers(0, 256, (count, 28, 28, 1), np.uint8)
    labels = generator.integers(0, 10, count).astype(np.uint8)
    augmentation = Augmentation("alternating", 1, 8, count, 0, device)
    mean, std = np.array([73.0]), np.array([90.0])
    return Batches(images, labels, mean, std, batch_size, shards, device, augmentation)


def variants(device: str, precision: str, graphs: bool, compiled: bool) -> dict[str, Callable[[], Any]]:
    """By name, how each is made."""
    ours, hand = partial(Ours, device, precision), partial(ByHand, device, precision)
    made: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, graphs=graphs),
        "ours, 4 shards": partial(ours, shards=4, graphs=graphs),
        "by hand": partial(hand, ""),
    }
    if device == "cuda":
        made |= {
            "ours, no graphs": partial(ours, graphs=False),
            "train.device cuda": partial(ours, graphs=None),
            "by hand, graph": partial(hand, "graph"),
        }
    return made | ({"by hand, compiled": partial(hand, "compiled")} if compiled else {})


def timed(variant: Any, batches: Batches) -> float:
    """Images a second."""
    trainings.synchronise()
    start = time.perf_counter()
    variant.train(batches)
    trainings.synchronise()
    return len(batches.images) / (time.perf_counter() - start)


def measure(
    device: str, precision: str, batch_size: int, made: dict[str, Callable[[], Any]], steps: int
) -> Iterator[dict[str, Any]]:
    """The figures so far, after each round of all that is `made`; endless."""
    feeds = {shards: feed(device, batch_size, steps, shards) for shards in (1, 4)}
    ready: dict[str, Any] = {}
    first, failed = {}, {}
    for name, make in made.items():
        start = time.perf_counter()
        try:  # a foreign call: what a compiler, or a recording of a whole loop by hand, raises is theirs
            variant = make()
            timed(variant, feeds[4 if "shards" in name else 1])
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {first_line(error)}"
            continue
        ready[name], first[name] = variant, round(time.perf_counter() - start, 2)
    speeds: dict[str, list[float]] = {name: [] for name in ready}
    for turn in count(1):
        for name in list(reversed(ready)) if turn % 2 else list(ready):
            speeds[name].append(timed(ready[name], feeds[4 if "shards" in name else 1]))
        ratios = {
            title: round(statistics.median(a / b for a, b in zip(speeds[one], speeds[other], strict=True)), 3)
            for title, (one, other) in RATIOS.items()
            if one in speeds and other in speeds
        }
        medians = {name: statistics.median(found) for name, found in speeds.items()}
        yield {
            "precision": precision,
            "batch size": batch_size,
            "rounds": turn,
            "seconds until the first epoch is done, compilation included": first,
            "images a second": {name: round(median) for name, median in medians.items()},
            "milliseconds a step": {name: round(1000 * batch_size / median, 3) for name, median in medians.items()},
            "ratios": ratios,
            "failed": failed,
        }


def operations(settings: Settings) -> list[str]:
    """The longest operations of a few steps of ours on the GPU, with their milliseconds."""
    ours, batches = Ours("cuda", "bfloat16", graphs=settings.graphs), feed("cuda", 512, 8, 1)
    ours.train(batches)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        ours.train(batches)
        torch.cuda.synchronize()
    table = sorted(found.key_averages(), key=lambda each: each.self_device_time_total, reverse=True)
    return [f"{each.self_device_time_total / 1000:.2f} ms, {each.count} × {each.key[:90]}" for each in table[:SHOWN]]


def throughput(
    settings: Settings, report: Callable[[dict[str, Any]], None], steps: int = 60, rounds: int = 7,
    batch_sizes: tuple[int, ...] = (256, 512, 1024),
) -> None:  # fmt: skip
    """Of each batch size in bfloat16, and before the larger ones of the first in float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first, *others = batch_sizes
    forms = [("bfloat16", first), ("float32", first), *(("bfloat16", size) for size in others)]
    found: dict[str, Any] = {"steps of a round": steps, "results": []}
    seconds = 0.0
    for precision, batch_size in forms:
        if settings.left() < seconds:
            break
        start = time.perf_counter()
        machine.set_up(precision)
        torch.use_deterministic_algorithms(True, warn_only=not settings.strict)
        compiled = device == "cuda" and not found["results"]
        made, done = variants(device, precision, settings.graphs, compiled), found["results"]
        for result in islice(measure(device, precision, batch_size, made, steps), rounds):
            found["results"] = [*done, result]
            report(found)
        seconds = time.perf_counter() - start
    if device == "cuda" and settings.left() > seconds / 2:
        try:  # a foreign call; the profile is an extra
            found["operations"] = operations(settings)
        except Exception as error:
            found["operations"] = [f"{type(error).__name__}: {first_line(error)}"]
        report(found)
