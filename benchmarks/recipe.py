"""The committed recipe with fewer and with more epochs: test accuracy against the seconds of training.

Each is trained on every row, in both precisions, with five seeds; else it differs from `params.yaml`, which was chosen
on val (LOG.md), in `train.epochs` alone. Nothing is chosen by the test images, which are evaluated here.

Seconds are those of the whole train stage, start-up included; of the runs of a recipe the fastest counts, since other
programs on the machine can only add to them. Processors differ: beside each run stands the time of a fixed step of
stock PyTorch, measured before it.

`python benchmarks/recipe.py` (after `make repro`) writes benchmarks/recipe.json and draws
benchmarks/recipe.svg after each run, and continues where it was stopped, on any machine.
"""

import argparse
import os
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

from common import files

import pandas as pd
import torch
from torch.nn import functional as F

import benchmark_files
import rerun
from analysis.figures import plt
from conditions import machine

RESULTS = Path("benchmarks/recipe.json")
FIGURE = Path("benchmarks/recipe.svg")
RERUN = Path(".cache/recipe")
RECIPES: dict[str, dict[str, Any]] = {"shorter": {"train.epochs": 15}, "longer": {"train.epochs": 31}}
PRECISIONS = ("float32", "bfloat16")
SEEDS = 5
ALL_ROWS = {"split.val_size": 0, "evaluate.parts": ["test"]}
STEPS = 30  # of the fixed step; of their seconds the median counts


def measure(run: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Trains and evaluates one run; gives it with its machine, seconds and accuracy."""
    before = fixed_step()
    rerun.prepare(RERUN, ALL_ROWS | changes | {"train.precision": run["precision"], "train.seed": run["seed"]})
    seconds, figures = rerun.train_and_evaluate(RERUN, "test")
    measured = {"accuracy": figures["accuracy"], "seconds": round(seconds, 1), "fixed_step_ms": round(1000 * before, 2)}
    return run | {"changes": changes} | measured | {"machine": machine()}


def fixed_step() -> float:
    """Seconds of a convolution of 256 images, forwards and back, in float32 by stock PyTorch with all threads.

    Limited to AVX2, as the recipes in float32 are (src/common/backend.py).
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(256, 64, 14, 14, generator=generator).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3, generator=generator, requires_grad=True)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        torch.autograd.grad(F.conv2d(images, kernel, padding=1).square().sum(), kernel)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def draw(runs: list[dict[str, Any]]) -> None:
    """Mean test accuracy of all seeds over the fastest time, with their standard deviation.

    A line for each precision and machine; machines with fewer cores than another one are left out.
    """
    plt.rcParams["svg.hashsalt"] = "recipe"  # the same bytes for the same figures
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    table = pd.DataFrame([run | run["machine"] | {"machine": benchmark_files.machine(run)} for run in runs])
    for (precision, place), here in table[table["threads"] == table["threads"].max()].groupby(
        ["precision", "machine"], sort=False
    ):
        seconds = here.groupby("recipe")["seconds"].min().sort_values()
        recipes = table[table["precision"] == precision].groupby("recipe")["accuracy"]
        means, deviations = (100 * values[seconds.index] for values in (recipes.mean(), recipes.std().fillna(0)))
        axes.errorbar(seconds, means, deviations, marker="o", capsize=3, label=f"{precision}, {place}")
    axes.set(
        xlabel="seconds of the train stage, fastest run",
        ylabel="test accuracy (%)",
        title="Trained on every row; mean and standard deviation over seeds",
    )
    axes.title.set_fontsize("medium")
    figure.legend(loc="outside lower center", fontsize="small")
    axes.grid(alpha=0.3)
    with files.atomic_file(FIGURE) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=benchmark_files.positive, default=SEEDS, help="of each recipe (default: %(default)s)"
    )
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES), help="(default: all)")
    chosen = parser.parse_args()
    # in the re-run's folder, which each run empties: else a training could continue an earlier one
    os.environ["CHECKPOINT_DIR"] = ".cache/checkpoints"
    training = benchmark_files.key_to_train()
    earlier = benchmark_files.earlier(RESULTS, training=training).get("runs", [])
    runs = [run for run in earlier if run["changes"] == RECIPES.get(run["recipe"])]
    for seed, name, precision in product(range(chosen.seeds), chosen.recipes, PRECISIONS):
        run = {"recipe": name, "precision": precision, "seed": seed}
        if any(run.items() <= done.items() for done in runs):
            continue
        print(", ".join(f"{key} {value}" for key, value in run.items()), flush=True)
        runs.append(measure(run, RECIPES[name]))
        files.write_json(RESULTS, {"training": training, "runs": runs})
        draw(runs)


if __name__ == "__main__":
    main()
