"""One page on the model of the working directory, which opens from disk without a network: `make report`.

Results, curves, confusions, reliability, classes, mistakes, experiments, and how the model was made.
Zoom with the wheel or two fingers, drag to move, double-click to go back; point at a mark for its figures.
"""

import argparse
import base64
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import files, params
from common.errors import InputError

import altair as alt
import pandas as pd

import experiments
import pages
from analysis import metric_files, revisions, seeds
from analysis.revisions import Revision

CURVES = "metrics/curves/plots/metrics"
VEGA_LITE = "6.4"  # which this altair writes, and vl-convert has
VERSIONS = ("keras", "torch", "numpy", "scikit-learn", "dvc", "dvclive")


def curves(here: Revision, measure: str, unit: str) -> alt.Chart:
    """Of train and val by epoch, to zoom into."""
    tables = [
        table.rename(columns={measure: "value"}).assign(part=part)
        for part in ("train", "val")
        if (table := here.table(f"{CURVES}/{part}/{measure}.tsv", "step", measure, sep="\t")) is not None
    ]
    return (
        alt.Chart(pd.concat(tables)[["step", "value", "part"]])
        .mark_line(point=True)
        .encode(
            alt.X("step:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
            alt.Y("value:Q", title=unit, scale=alt.Scale(zero=False)),
            alt.Color("part:N", title=None, legend=alt.Legend(orient="bottom")),
            tooltip=["part", "step", alt.Tooltip("value", format=".4f")],
        )
        .interactive()
        .properties(width="container", height=300)
    )


def confusion(table: pd.DataFrame) -> alt.LayerChart:
    """Shares of each true class, the diagonal left pale so that mistakes show."""
    names = sorted(table["label"].unique())
    counted = table.groupby(["label", "predicted"]).size().rename("images").reset_index()
    counted["share"] = counted["images"] / counted.groupby("label")["images"].transform("sum")
    counted["wrong"] = counted["share"].where(counted["label"] != counted["predicted"], 0)
    base = alt.Chart(counted).encode(
        alt.X("predicted:N", title="predicted", sort=names, axis=alt.Axis(labelAngle=-60)),
        alt.Y("label:N", title="true", sort=names),
        tooltip=["label", "predicted", "images", alt.Tooltip("share", format=".1%")],
    )
    return (
        base.mark_rect().encode(alt.Color("wrong:Q", title=None, legend=None, scale=alt.Scale(scheme="blues")))
        + base.mark_text(fontSize=9).encode(
            text="images", color=alt.condition("datum.wrong > 0.05", alt.value("white"), alt.value("black"))
        )
    ).properties(width="container", height=340)


def reliability(table: pd.DataFrame) -> alt.LayerChart:
    """Accuracy against mean confidence with the images of each bin, and the line on which a calibrated model lies."""
    base = alt.Chart(table).encode(alt.X("confidence:Q", title="mean confidence of the bin"))
    ideal = base.mark_line(strokeDash=[4, 4], color="grey").encode(y="ideal:Q")
    bins = base.encode(alt.Y("accuracy:Q", title="accuracy of the bin"), tooltip=["confidence", "accuracy", "images"])
    size = alt.Size("images:Q", scale=alt.Scale(type="log", range=[10, 200]), legend=None)
    numbers = bins.mark_text(dx=8, align="left", fontSize=9).encode(alt.Text("images:Q", format=","))
    chart = ideal + bins.mark_point(filled=True).encode(size) + numbers
    return chart.interactive().properties(width="container", height=300)


def classes(table: pd.DataFrame) -> alt.Chart:
    """Precision, recall and F1 by class."""
    long = table.melt(["class", "images"], var_name="measure", value_name="value")
    return (
        alt.Chart(long)
        .mark_point(filled=True, size=60)
        .encode(
            alt.X("value:Q", scale=alt.Scale(zero=False), title=None),
            alt.Y("class:N", title=None, sort=None),
            alt.Color("measure:N", title=None, legend=alt.Legend(orient="bottom")),
            alt.Shape("measure:N", title=None),
            tooltip=["class", "measure", alt.Tooltip("value", format=".4f"), "images"],
        )
        .interactive(bind_y=False)
        .properties(width="container", height=300)
    )


# by title: how it is drawn, and the folder and columns of the table
CHARTS: dict[str, tuple[Callable[[pd.DataFrame], Any], str, tuple[str, ...]]] = {
    "Confusion matrix": (confusion, "predictions", ("label", "predicted")),
    "Reliability": (reliability, "reliability", ("confidence", "accuracy", "ideal", "images")),
    "Precision, recall and F1": (classes, "classes", ("class", "images", "precision", "recall", "f1")),
}


def content(here: Revision) -> dict[str, Any]:
    """What the template shows.

    Raises:
        InputError: there are no results, or a file of them is damaged.
    """
    results = {part: found for part in metric_files.PARTS if (found := here.json(f"metrics/{part}.json"))}
    if not results:
        raise InputError("metrics/ must have results (make repro); received none")
    charts = {
        "Training": {
            measure.capitalize(): curves(here, measure, unit).to_dict()
            for measure, unit in (("accuracy", "accuracy"), ("loss", "nats"))
            if here.content(f"{CURVES}/train/{measure}.tsv")
        }
    }
    for title, (draw, folder, columns) in CHARTS.items():
        charts[title] = {}
        for part in results:
            if (table := here.table(f"metrics/{folder}/{part}.csv", *columns)) is not None:
                charts[title][f"{title}, {part}"] = draw(table).to_dict()
    runs = seeds.noise(here)
    mistakes = sorted(Path("plots/mistakes").glob("*.png"))
    return {
        "chosen": params.load(),
        "bundle": pages.vega(VEGA_LITE),
        "results": metric_files.results_table(results, {} if runs is None else metric_files.summary(runs)),
        "charts": charts,
        "mistakes": {path.stem: base64.b64encode(path.read_bytes()).decode() for path in mistakes},
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")
    out = parser.parse_args().out
    with files.atomic_file(out) as part:
        part.write_text(pages.render("report.html.j2", content(revisions.HERE)), "utf-8")
    print(f"{out}: open it in a browser")


if __name__ == "__main__":
    main()
