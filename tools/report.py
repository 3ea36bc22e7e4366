"""One page on the model of the working directory, which opens from disk without a network: `make report`.

Verdict, mistakes, curves, confusions, reliability, classes, experiments. tools/templates/charts.js has the charts.
"""

import argparse
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from common import arrays, params
from common.errors import InputError

import experiments
import pages
import readme
import verdict
from analysis import metric_files, revisions, seeds
from analysis.revisions import Revision

REPORT = Path("report.html")
CURVES = "metrics/curves/plots/metrics"
VEGA_LITE = "6.4"  # which charts.js is written for, and vl-convert has
VERSIONS = ("keras", "torch", "numpy", "scikit-learn", "dvc", "dvclive")
KINDS, PICTURES = 6, 8  # of mistakes, and of each
TABLES = {  # of each part: the columns that charts need
    "predictions": ("label", "predicted"),
    "reliability": ("confidence", "accuracy", "ideal", "images"),
    "classes": ("class", "images", "precision", "recall", "f1"),
}


def curves(here: Revision, measure: str) -> list[dict[str, Any]]:
    """The points of train and val by epoch, as far as they are there."""
    return [
        {"step": step, "value": value, "part": part}
        for part in ("train", "val")
        if (table := here.table(f"{CURVES}/{part}/{measure}.tsv", "step", measure, sep="\t")) is not None
        for step, value in table.to_numpy().tolist()
    ]


def tables(here: Revision, part: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of TABLES for val or test, as far as they are there; of predictions, how many images are alike."""
    found = {folder: here.table(f"metrics/{folder}/{part}.csv", *columns) for folder, columns in TABLES.items()}
    if found["predictions"] is not None:
        found["predictions"] = found["predictions"].groupby([*TABLES["predictions"]]).size().reset_index(name="images")
    return {name: table.to_dict("records") for name, table in found.items() if table is not None}


def mistakes(here: Revision, part: str) -> list[dict[str, Any]]:
    """The commonest kinds of mistakes; of each the images that the model is surest of, where the images are here."""
    table = seeds.predictions(here, part).reset_index()
    images = readme.images_of(part, table) if (arrays.PREPARED / "test/images.npy").exists() else None
    sizes = table["label"].value_counts()
    wrong = table[table["label"] != table["predicted"]].sort_values("confidence", ascending=False, kind="stable")
    found = []
    for (label, predicted), rows in wrong.groupby(["label", "predicted"], sort=False):
        surest = rows.head(PICTURES).itertuples()
        shown = [] if images is None else [(pages.data_url(images[row.id]), row.confidence) for row in surest]
        found.append({"label": label, "predicted": predicted, "count": len(rows), "size": sizes[label], "shown": shown})
    return sorted(found, key=lambda kind: -kind["count"])[:KINDS]


def content(here: Revision) -> dict[str, Any]:
    """What the template shows.

    Raises:
        InputError: there are no results, a file of them is damaged, or the images are not those of the predictions.
    """
    found = {part: here.json(f"metrics/{part}.json", *metric_files.FIGURES) for part in metric_files.PARTS}
    results = {part: figures for part, figures in found.items() if figures}
    if not results:
        raise InputError("metrics/ must have results (make repro); received none")
    chosen, runs = params.load(), seeds.noise(here)
    return {
        "chosen": chosen,
        "bundle": pages.vega(VEGA_LITE),
        "verdict": verdict.text().splitlines(),
        "results": metric_files.results_table(results, {} if runs is None else metric_files.summary(runs)),
        "data": {
            "results": [{"part": part} | result for part, result in results.items()],
            "runs": [] if runs is None else runs.to_dict("records"),
            "small_epochs": params.small_epochs(chosen.train.progressive_resizing, chosen.train.epochs),
            "curves": {measure: curves(here, measure) for measure in ("accuracy", "loss")},
            "tables": {part: tables(here, part) for part in results},
        },
        "mistakes": {part: mistakes(here, part) for part in here.predicted() if part in results},
        "experiments": experiments.table(),
        "made": {
            "commit": revisions.git("rev-parse", "HEAD"),
            "uncommitted changes": bool(revisions.git("status", "--porcelain")),
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS},
            **here.outputs(),
        },
        "parameters": Path("params.yaml").read_text("utf-8"),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    pages.write("report.html.j2", content(revisions.HERE), REPORT)
    print(f"{REPORT}: open it in a browser")


if __name__ == "__main__":
    main()
