"""How fast `fit` trains here, beside the alternatives, measured in one run.

(a) ours: the training step of src/training through Keras' `fit`;
(b) native: the same network, data feed and augmentation written by hand in PyTorch, channels_last,
    autocast, fused optimizer;
(c) stock Keras `fit`, float32;
(d) stock Keras `fit`, mixed_bfloat16.

Variants take turns, round by round, so that other load on the machine affects all of them; a figure is
the median over the rounds, a ratio the median of the ratios within each round. Images are random: the time
does not depend on their content.

`python benchmarks/train_step.py` prints a table and writes benchmarks/train_step/PROCESSOR.json.
"""

import argparse
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from common import files, params
from common.backend import keras

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import architectures
from training.augmentation import Augmentation
from training.batches import Batches
from training.machine import machine, processor, set_up
from training.native_model import NativeModel

SHAPE, CLASSES = (28, 28, 1), 10
ARCHITECTURE = "blocks"
EVALUATED = 5000
SMOOTHING = 0.1
SGD = {"learning_rate": 1e-3, "momentum": 0.9, "nesterov": True}


# --- (b) by hand ------------------------------------------------------------------------------------


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
    """Training and evaluation loops as usually written in PyTorch."""

    def __init__(self, precision: str):
        self.network = NativeBlocks().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            [weight for weight in self.network.parameters() if weight.requires_grad],
            SGD["learning_rate"],
            SGD["momentum"],
            nesterov=True,
            fused=True,
        )
        self.autocast = precision == "bfloat16"

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.network(images.permute(0, 3, 1, 2)).float()  # (N, H, W, C) -> (N, C, H, W)

    def train(self, batches: Batches) -> None:
        self.network.train()
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for images, labels in batches:
            logits = self._forward(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(labels)
            correct += (logits.argmax(-1) == labels).sum()

    @torch.no_grad()
    def evaluate(self, batches: Batches) -> None:
        self.network.eval()
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for images, labels in batches:
            logits = self._forward(images)
            loss_sum += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(-1) == labels).sum()


# --- (a), (c), (d): Keras ---------------------------------------------------------------------------


class Fitted:
    """A compiled Keras model through `fit` and `evaluate`."""

    model: keras.Model

    def train(self, batches: Batches) -> None:
        self.model.fit(batches.loader(), verbose=0, shuffle=False)

    def evaluate(self, batches: Batches) -> None:
        self.model.evaluate(batches.loader(), verbose=0)


class Ours(Fitted):
    def __init__(self, precision: str):
        network = architectures.build(ARCHITECTURE, SHAPE, CLASSES, {})
        self.model = NativeModel(network.inputs, network.outputs[0])
        self.model.prepare(keras.optimizers.SGD(**SGD), SMOOTHING, precision)


class Stock(Fitted):
    def __init__(self, precision: str):
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        self.model = architectures.build(ARCHITECTURE, SHAPE, CLASSES, {})
        keras.config.set_dtype_policy("float32")
        self.model.compile(
            keras.optimizers.SGD(**SGD),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )


VARIANTS: dict[str, tuple[Callable, str]] = {
    "ours float32": (Ours, "float32"),
    "native float32": (ByHand, "float32"),
    "stock float32": (Stock, "float32"),
    "ours bfloat16": (Ours, "bfloat16"),
    "native bfloat16": (ByHand, "bfloat16"),
    "stock bfloat16": (Stock, "bfloat16"),
}


def measure(batch_size: int, rounds: int, images: int) -> pd.DataFrame:
    """Images a second: a row for each round, a column for each of (variant, "train" or "evaluate").

    Each trains on `images` images a round. Evaluation is on as many images as val has, without stock Keras.
    """
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (max(images, EVALUATED), *SHAPE), np.uint8)
    labels = generator.integers(0, CLASSES, len(pixels)).astype(np.uint8)
    mean, std = np.array([73.0]), np.array([90.0])
    augmentation = Augmentation("alternating", 1, 0, images, 0)
    train = Batches(pixels[:images], labels[:images], mean, std, batch_size, "cpu", augmentation)
    val = Batches(pixels[:EVALUATED], labels[:EVALUATED], mean, std, batch_size, "cpu")
    models = {variant: make(precision) for variant, (make, precision) in VARIANTS.items()}
    speeds = defaultdict(list)
    for turn in range(rounds + 1):  # the first warms up and does not count
        order = list(models.items())
        for variant, model in order if turn % 2 else reversed(order):
            for what, batches in (("train", train), ("evaluate", val)):
                if what == "evaluate" and isinstance(model, Stock):
                    continue
                start = time.perf_counter()
                getattr(model, what)(batches)
                if turn:
                    rows = len(batches.images)
                    speeds[variant, what].append(rows / (time.perf_counter() - start))
    return pd.DataFrame(speeds)


def ratios(speeds: pd.DataFrame) -> dict[str, float]:
    def ratio(one: str, other: str, what: str = "train") -> float:
        return round((speeds[one, what] / speeds[other, what]).median(), 3)

    return {
        "ours / native, float32": ratio("ours float32", "native float32"),
        "ours / native, bfloat16": ratio("ours bfloat16", "native bfloat16"),
        "ours bfloat16 / stock float32": ratio("ours bfloat16", "stock float32"),
        "ours bfloat16 / stock bfloat16": ratio("ours bfloat16", "stock bfloat16"),
        "evaluation: ours / native, float32": ratio("ours float32", "native float32", "evaluate"),
        "evaluation: ours / native, bfloat16": ratio("ours bfloat16", "native bfloat16", "evaluate"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=2048, help="trained in a round (default: %(default)s)")
    parser.add_argument("--batch-sizes", nargs="*", type=int, default=[128, 512])
    chosen = parser.parse_args()
    set_up(params.load().train.threads)  # for all variants alike
    results = []
    for batch_size in chosen.batch_sizes:
        speeds = measure(batch_size, chosen.rounds, chosen.images)
        medians: dict[str, dict[str, int]] = {}
        for (variant, phase), speed in speeds.median().items():
            medians.setdefault(variant, {})[phase] = round(speed)
        results.append(
            {
                "architecture": ARCHITECTURE,
                "batch_size": batch_size,
                "images_a_second": medians,
                "ratios": ratios(speeds),
            }
        )
        print(f"{ARCHITECTURE}, batch {batch_size}: images a second")
        for variant, by_phase in medians.items():
            print(f"  {variant:<16}", *(f"  {phase} {n:,}" for phase, n in by_phase.items()))
        for name, ratio in results[-1]["ratios"].items():
            print(f"  {name:<36} {ratio:.3f}")
    name = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    files.write_json(
        Path(f"benchmarks/train_step/{name}.json"),
        {"machine": machine(), "rounds": chosen.rounds, "results": results},
    )


if __name__ == "__main__":
    main()
