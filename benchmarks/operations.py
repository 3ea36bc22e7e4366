"""What bounds the trainings of benchmarks/recipe.py: their operations, and how many a second this processor reaches.

Operations are those of convolutions and matrix products, forwards and back, for every image that a training sees; a
multiply-add counts as two (torch.utils.flop_counter). The most a second is measured: convolutions of 3 × 3 with 256
channels in and out, forwards, in the instructions of a precision, one on each core at once.

`python benchmarks/operations.py` (on an idle machine, that of benchmarks/recipe.py) writes benchmarks/operations.json.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import files, params

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import architectures
import benchmark_files
from analysis import metric_files
from conditions import machine
from recipe import PRECISIONS, RECIPES
from training.machine import cores, set_up

RESULTS = Path("benchmarks/operations.json")
IMAGES, SIDE, CHANNELS, ROUNDS = 64, 14, 256, 30


def of_training(changes: dict[str, Any]) -> int:
    """Operations of a training of params.yaml with these changes on every row of train."""
    chosen = params.changed(params.load(), changes)
    data, train, resizing = chosen.data, chosen.train, chosen.train.progressive_resizing
    counts = metric_files.table(Path("metrics/data/classes.csv"), ("part", "images"))
    counts = counts.loc[counts["part"] == "train", "images"]  # the first of all classes

    def of_image(scale: float) -> int:
        shape = (*(max(1, round(scale * side)) for side in (data.height, data.width)), data.channels)
        name = chosen.model.architecture
        network = architectures.build(name, shape, len(counts) - 1, chosen.model.options.get(name, {}))
        with FlopCounterMode(display=False) as counter:
            logits = network(torch.zeros(1, *shape), training=False)
            F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64)).backward()
        return counter.get_total_flops()

    small = int(resizing.share * train.epochs)
    images = round((1 - train.data_pruning) * counts.iloc[0])
    return images * (small * of_image(resizing.scale) + (train.epochs - small) * of_image(1.0))


def rate(precision: str) -> float:
    """Operations a second of one core; for a process of its own, whose first operation fixes its instructions."""
    set_up(precision)
    shapes = (IMAGES, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3)
    images, kernel = (
        torch.rand(shape, generator=torch.Generator().manual_seed(0))
        .to(getattr(torch, precision))
        .contiguous(memory_format=torch.channels_last)
        for shape in shapes
    )
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        F.conv2d(images, kernel, padding=1)
        seconds.append(time.perf_counter() - start)
    return 2 * IMAGES * (3 * SIDE * CHANNELS) ** 2 / statistics.median(seconds)


def most(precision: str) -> float:
    """Operations a second of all cores at once."""
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(rate, [precision] * cores()))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    files.write_json(
        RESULTS,
        {
            "training": benchmark_files.training_key(),
            "operations": {name: of_training(changes) for name, changes in RECIPES.items()},
            "most a second": {precision: round(most(precision)) for precision in PRECISIONS},
            "machine": machine(),
        },
    )
    print(RESULTS.read_text("utf-8"))


if __name__ == "__main__":
    main()
