"""Writes the figures of metrics/ and benchmarks/ into README.md and MODEL_CARD.md.

With --check it says whether they are there (src/analysis/marked_pages.py).
"""

import argparse
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import pandas as pd

import benchmark_files
import model_card
from analysis import comparison, marked_pages, metric_files

README = Path("README.md")
CARD = Path("MODEL_CARD.md")
METRICS = Path("metrics")
FIGURES = ("source", "images", "accuracy_low", "accuracy_high", *metric_files.MEASURES)


def noise(seed: int) -> dict[str, dict[str, Any]]:
    """By part and measure: mean, standard deviation and n over seeds, where they were measured.

    Raises:
        InputError: metrics/noise.csv is of another training than the rest of metrics/, or does not
            belong to metrics/noise.json.
    """
    if not (METRICS / "noise.csv").exists():
        return {}
    kinds = {"seed": int, "part": str} | dict.fromkeys(metric_files.MEASURES, float)
    runs = metric_files.table(METRICS / "noise.csv", tuple(kinds), dtype=kinds)
    if runs[runs["seed"] == seed].to_dict("records") != metric_files.rows(METRICS, seed):
        raise InputError(
            f"{METRICS}/noise.csv must have the figures of {METRICS}/ for seed {seed} (make noise, or "
            "remove it and noise.json); received different ones"
        )
    summary = metric_files.summary(runs)
    if summary != metric_files.read(METRICS / "noise.json"):
        raise InputError(
            f"{METRICS}/noise.json must follow from noise.csv (make noise writes both); received different figures"
        )
    return summary


def results_table() -> str:
    """Markdown: one row for each part of metrics/ that has figures."""
    chosen = params.load()
    epochs = metric_files.read(METRICS / "train.json", ("epochs",))["epochs"]
    results = metric_files.by_part(METRICS, FIGURES)
    table = metric_files.results_table(results, noise(chosen.train.seed))
    return (
        f"`{chosen.model.architecture}`, {epochs} epochs. The interval is Wilson's, over images; mean and "
        f"standard deviation are over seeds.\n\n{marked_pages.markdown(table)}"
    )


def budgets_table() -> str:
    """Markdown: accuracy against seconds, and the training on every row, from benchmarks/recipe.json.

    Raises:
        InputError: the file is of another training than dvc.lock.
    """
    recipe = benchmark_files.read("recipe", "machine", "runs", of_this_training=True)
    if recipe is None:
        return "Not measured with this recipe (`python benchmarks/recipe.py`)."
    with benchmark_files.as_written("recipe"):
        runs = pd.DataFrame([run["changes"] | run for run in recipe["runs"]])
        parts = runs["evaluate.parts"].map("".join)
        budgets, all_rows = runs[parts == "val"], runs[parts == "test"]
        machine = benchmark_files.machine(recipe)
    blocks = []
    if len(budgets):
        blocks += [
            "![Val accuracy against seconds](benchmarks/budgets.svg)",
            marked_pages.markdown(_by_epochs(budgets, "val accuracy")),
        ]
    if len(all_rows):
        column = "test accuracy, trained on every row (`split.val_size=0`)"
        blocks.append(marked_pages.markdown(_by_epochs(all_rows, column)))
    return "\n\n".join([*blocks, f"Seconds on {machine}."])


def determinism_table() -> str:
    """Markdown: how a training differs where something other than its seed was changed.

    Raises:
        InputError: benchmarks/determinism.json is of another training than dvc.lock, or a part has no
            figure in metrics/noise.json.
    """
    found = benchmark_files.read("determinism", "machine", "runs", of_this_training=True)
    if found is None:
        return "Not measured with this recipe (`python benchmarks/determinism.py`)."
    spreads = metric_files.read(METRICS / "noise.json", ("test",))["test"]
    with benchmark_files.as_written("determinism"):
        spread = spreads["accuracy"]
        by_seed, _ = comparison.another_seed(0.0, spread)
        rows = [
            {
                "changed": name,
                "model's bytes": "the same" if run["same bytes"] else "others",
                "test predictions changed": f"{run['test']['predictions changed']:,}",
                "test accuracy": f"{100 * run['test']['accuracy']:+.2f} points",
                "p of another seed": f"{comparison.another_seed(run['test']['accuracy'], spread)[1]:.2f}",
            }
            for name, run in found["runs"].items()
        ]
        processor = found["machine"]["processor"]
    return (
        f"{marked_pages.markdown(pd.DataFrame(rows))}\n\nAnother seed alone moves it by up to "
        f"{100 * by_seed:.2f} points in 95 of 100 cases. Measured on: {processor}."
    )


def processes_table() -> str:
    """Markdown: the speed of several processes beside that of one, from benchmarks/processes.json."""
    found = benchmark_files.read("processes", "machine", "results")
    if found is None:
        return "Not measured (`python benchmarks/processes.py`)."
    with benchmark_files.as_written("processes"):
        one = found["results"][0]["images_a_second"]
        rows = [
            {
                "processes": result["train.processes"],
                "threads of each": result["train.threads"],
                "images a second": f"{result['images_a_second']:,.0f}",
                "times": f"{result['images_a_second'] / one:.2f}",
            }
            for result in found["results"]
        ]
        machine = benchmark_files.machine(found)
    return f"{marked_pages.markdown(pd.DataFrame(rows))}\n\nMeasured on {machine}."


def _by_epochs(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row for each number of epochs: mean seconds, and accuracy over seeds."""
    return pd.DataFrame(
        [
            {
                "epochs": f"{epochs:.0f}",
                "seconds": f"{same['seconds'].mean():.0f}",
                column: f"{same['accuracy'].mean():.2%} ± {same['accuracy'].std():.2%} (n = {len(same)})",
            }
            for epochs, same in runs.groupby("train.epochs")
        ]
    )


PAGES: marked_pages.Pages = {
    README: {
        "results": results_table,
        "budgets": budgets_table,
        "determinism": determinism_table,
        "processes": processes_table,
    },
    CARD: {
        "results": results_table,
        "classes": model_card.classes_table,
        "mistakes": model_card.mistakes_table,
        "calibration": model_card.calibration,
        "unlike": model_card.unlike_table,
        "speed": model_card.speed_table,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything differs")
    marked_pages.update(PAGES, parser.parse_args().check)


if __name__ == "__main__":
    main()
