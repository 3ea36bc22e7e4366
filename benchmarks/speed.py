"""What bounds the trainings of benchmarks/recipe.py: their operations, and how many a second this processor reaches.

Operations are those of src/training/operations.py. The most a second is measured: convolutions of 3 × 3 with 256
channels in and out, forwards, in the instructions of a precision, one on each core at once.

`python benchmarks/speed.py` (on an idle machine, one of those of benchmarks/recipe.py) writes benchmarks/speed.json,
where it replaces the entry of this machine.
"""

import argparse
import multiprocessing
import os
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import files, params

import torch
from torch.nn import functional as F

import benchmark_files
from analysis import metric_files
from conditions import machine
from recipe import PRECISIONS, RECIPES
from training import operations
from training.machine import cores, set_up

RESULTS = Path("benchmarks/speed.json")
IMAGES, SIDE, CHANNELS, ROUNDS = 64, 14, 256, 30
PATIENCE = 120  # seconds until the processes of all cores have started


def of_recipe(changes: dict[str, Any]) -> int:
    """Operations of a training of params.yaml with these changes on every row of train."""
    chosen = params.changed(params.load(), changes)
    counts = metric_files.table(Path("metrics/data/classes.csv"), ("part", "images"))
    counts = counts.loc[counts["part"] == "train", "images"]  # the first of all classes
    return operations.of_training(chosen, len(counts) - 1, int(counts.iloc[0]), chosen.train.epochs)[1]


def rate(precision: str, all_cores: threading.Barrier, rounds: int) -> tuple[int, float]:
    """The id of this process, whose first operation fixes its instructions, and operations a second of its core."""
    all_cores.wait(PATIENCE)
    set_up(precision)
    shapes = (IMAGES, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3)
    images, kernel = (
        torch.rand(shape, generator=torch.Generator().manual_seed(0))
        .to(getattr(torch, precision))
        .contiguous(memory_format=torch.channels_last)
        for shape in shapes
    )
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        F.conv2d(images, kernel, padding=1)
        seconds.append(time.perf_counter() - start)
    return os.getpid(), 2 * IMAGES * (3 * SIDE * CHANNELS) ** 2 / statistics.median(seconds)


def rates(precision: str, rounds: int = ROUNDS) -> dict[int, float]:
    """Operations a second of each core while all compute, by the id of its process."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(cores(), context) as pool:
        barrier = manager.Barrier(cores())
        return dict(pool.map(rate, [precision] * cores(), [barrier] * cores(), [rounds] * cores()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure this machine once more")
    again = parser.parse_args().again
    key, here = benchmark_files.key_to_train(), machine()
    earlier = benchmark_files.earlier(RESULTS)
    if not again and earlier.get("training") == key and here in [each["machine"] for each in earlier["machines"]]:
        print(f"{RESULTS} has this machine (--again measures once more)")
        return
    known = [entry for entry in earlier.get("machines", []) if entry["machine"] != here]
    most = {precision: round(sum(rates(precision).values())) for precision in PRECISIONS}
    operations = {name: of_recipe(changes) for name, changes in RECIPES.items()}
    machines = [*known, {"most a second": most, "machine": here}]
    files.write_json(RESULTS, {"training": key, "operations": operations, "machines": machines})
    print(RESULTS.read_text("utf-8"))


if __name__ == "__main__":
    main()
