"""The committed recipe: its accuracy against training time, in bfloat16, and when trained on every row.

- Budgets: only train.epochs changes; three seeds each, evaluated on val.
- bfloat16: train.precision changes; three seeds, evaluated on val.
- All rows: split.val_size 0; five seeds, evaluated on the test images, by which nothing is chosen.

Seconds are those of the whole train stage, start-up included, on an otherwise idle machine.

`python benchmarks/recipe.py` (after `make repro`) writes benchmarks/recipe.json and draws
benchmarks/budgets.svg after each run, and continues where it was stopped.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from common import files, params

import rerun
from analysis import dvc_lock
from analysis.figures import plt
from conditions import machine

RESULTS = Path("benchmarks/recipe.json")
FIGURE = Path("benchmarks/budgets.svg")
RERUN = Path(".cache/recipe")


def planned(budgets: list[int], bfloat16: list[int], all_rows: list[int]) -> list[dict[str, Any]]:
    """The changes to params.yaml of every run, one seed after the other; arguments are numbers of epochs."""
    on_val = [
        {"train.epochs": count, "train.precision": precision, "train.seed": seed, "evaluate.parts": ["val"]}
        for precision, counts in (("float32", budgets), ("bfloat16", bfloat16))
        for count in counts
        for seed in range(3)
    ]
    on_test = [
        {"split.val_size": 0, "train.epochs": count, "train.seed": seed, "evaluate.parts": ["test"]}
        for count in all_rows
        for seed in range(5)
    ]
    return sorted(on_val + on_test, key=lambda changes: changes["train.seed"])


def measure(changes: dict[str, Any]) -> dict[str, Any]:
    (part,) = changes["evaluate.parts"]
    rerun.prepare(RERUN, changes)
    seconds = rerun.run_stage("train", RERUN)  # start-up included
    rerun.run_stage("evaluate", RERUN)
    result = json.loads((RERUN / f"metrics/{part}.json").read_text())
    return {"changes": changes, "accuracy": result["accuracy"], "seconds": round(seconds, 1)}


def draw(runs: list[dict[str, Any]]) -> None:
    """Mean val accuracy of float32 over mean seconds, with its standard deviation over seeds; of two budgets or more."""
    by_epochs: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        if run["changes"].get("train.precision") == "float32":
            by_epochs.setdefault(run["changes"]["train.epochs"], []).append(run)
    if len(by_epochs) < 2:
        return
    plt.rcParams["svg.hashsalt"] = "budgets"  # the same bytes for the same figures
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    accuracies = [[100 * run["accuracy"] for run in same] for same in by_epochs.values()]
    seconds = [statistics.mean(run["seconds"] for run in same) for same in by_epochs.values()]
    axes.errorbar(
        seconds,
        [statistics.mean(same) for same in accuracies],
        [statistics.stdev(same) if len(same) > 1 else 0 for same in accuracies],
        marker="o",
        capsize=3,
    )
    axes.set(
        xscale="log",
        xlabel="seconds of training",
        ylabel="val accuracy (%)",
        title="Mean and standard deviation over seeds; train.epochs alone changed",
    )
    axes.title.set_fontsize("medium")
    axes.set_xticks(seconds, [f"{each:.0f}" for each in seconds])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    with files.atomic_file(FIGURE) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = params.load().train.epochs
    budgets = [max(1, round(default * share / 6)) for share in (1, 2, 4, 6)]
    parser.add_argument("--epochs", nargs="*", type=int, default=budgets, help="the budgets (default: %(default)s)")
    parser.add_argument(
        "--bfloat16",
        nargs="*",
        metavar="EPOCHS",
        type=int,
        default=[default],
        help="trainings in bfloat16 (default: train.epochs)",
    )
    parser.add_argument(
        "--all-rows",
        nargs="*",
        metavar="EPOCHS",
        type=int,
        default=[default],
        help="trainings on every row (default: train.epochs)",
    )
    chosen = parser.parse_args()
    # in the re-run's folder, which each run empties: else a training could continue an earlier one
    os.environ["CHECKPOINT_DIR"] = ".cache/checkpoints"
    results: dict[str, Any] = {"machine": machine(), "training": dvc_lock.training_key(), "runs": []}
    if RESULTS.exists():
        earlier = json.loads(RESULTS.read_text("utf-8"))
        if all(earlier[key] == results[key] for key in ("machine", "training")):
            results = earlier
    done = [run["changes"] for run in results["runs"]]
    missing = [changes for changes in planned(chosen.epochs, chosen.bfloat16, chosen.all_rows) if changes not in done]
    for changes in missing:
        print(", ".join(f"{key} {value}" for key, value in changes.items()), flush=True)
        results["runs"].append(measure(changes))
        files.write_json(RESULTS, results)
        draw(results["runs"])


if __name__ == "__main__":
    main()
