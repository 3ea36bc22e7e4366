"""One page on the model of the working directory, which opens from disk without a network: `make report`.

Results, curves, confusions, reliability, classes, mistakes, experiments, and how the model was made.
Zoom with the wheel or two fingers, drag to move, double-click to go back; point at a mark for its figures.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import base64
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from analysis import comparison, pages, revisions
from analysis.revisions import PARTS, Side
from common import files, params
from common.errors import InputError

CURVES = "metrics/curves/plots/metrics"
VEGA_LITE = "6.4"  # which this altair writes, and vl-convert has
RESULTS = (
    "The interval is Wilson's 95 %, over images; mean and standard deviation are over trainings that differ "
    "in seed alone."
)
TEXTS = {
    "Confusion matrix": "Images by true and predicted class; the colour is the share of a true class that "
    "was taken for another.",
    "Reliability": "The model is calibrated where accuracy lies on the dashed line.",
    "Precision, recall and F1": "",
}
VERSIONS = ("keras", "torch", "numpy", "scikit-learn", "dvc", "dvclive")


def results(here: Side) -> pd.DataFrame:
    """One row a part that was evaluated."""
    noise = here.json("metrics/noise.json")
    rows = []
    for part in PARTS:
        found = here.json(f"metrics/{part}.json")
        if found:
            spread = noise.get(part, {}).get("accuracy")
            rows.append(
                {
                    "part": part,
                    "images": f"{found['images']:,}",
                    "accuracy": f"{found['accuracy']:.2%}",
                    "95 % interval": f"{found['accuracy_low']:.2%} – {found['accuracy_high']:.2%}",
                    "over seeds": "{mean:.2%} ± {std:.2%} (n = {n})".format_map(spread)
                    if spread
                    else "not measured",
                    "loss (nats)": f"{found['loss']:.4f}",
                    "macro F1": f"{found['macro_f1']:.4f}",
                    "calibration error": f"{found['calibration_error']:.4f}",
                }
            )
    return pd.DataFrame(rows)


def curves(here: Side, measure: str, unit: str) -> alt.Chart:
    """Of train and val by epoch, to zoom into."""
    tables = [
        table.rename(columns={measure: "value"}).assign(part=part)
        for part in ("train", "val")
        if (table := here.table(f"{CURVES}/{part}/{measure}.tsv", "step", measure, sep="\t"))
        is not None
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
    names = list(dict.fromkeys(sorted(table["label"])))
    counted = table.groupby(["label", "predicted"]).size().rename("images").reset_index()
    counted["share"] = counted["images"] / counted.groupby("label")["images"].transform("sum")
    counted["wrong"] = counted["share"].where(counted["label"] != counted["predicted"], 0)
    base = alt.Chart(counted).encode(
        alt.X("predicted:N", title="predicted", sort=names, axis=alt.Axis(labelAngle=-60)),
        alt.Y("label:N", title="true", sort=names),
        tooltip=["label", "predicted", "images", alt.Tooltip("share", format=".1%")],
    )
    return (
        base.mark_rect().encode(
            alt.Color("wrong:Q", title=None, legend=None, scale=alt.Scale(scheme="blues"))
        )
        + base.mark_text(fontSize=9).encode(
            text="images",
            color=alt.condition("datum.wrong > 0.05", alt.value("white"), alt.value("black")),
        )
    ).properties(width="container", height=340)


def reliability(table: pd.DataFrame) -> alt.LayerChart:
    """Accuracy against mean confidence, with the line on which a calibrated model lies."""
    x = alt.X("confidence:Q", title="mean confidence of the bin")
    ideal = alt.Chart(table).mark_line(strokeDash=[4, 4], color="grey").encode(x, y="ideal:Q")
    points = (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x,
            alt.Y("accuracy:Q", title="accuracy of the bin"),
            tooltip=["confidence", "accuracy", "images"],
        )
    )
    return (ideal + points).interactive().properties(width="container", height=300)


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


def experiments() -> pd.DataFrame:
    """The commit and the experiments that start from it: what they changed, and their figures."""
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, check=True).stdout
    workspace, *commits = json.loads(shown)
    entries = [workspace]
    for commit in commits:
        entries += [commit, *(rev for each in commit["experiments"] or [] for rev in each["revs"])]
    rows = []
    base = flat(workspace["data"]["params"])
    for entry in entries:
        if not entry.get("data"):
            continue
        chosen = flat(entry["data"]["params"])
        values = {
            Path(file).stem: content.get("data", {})
            for file, content in entry["data"]["metrics"].items()
        }
        rows.append(
            {
                "name": entry["name"] or entry["rev"][:9],
                "differs from the workspace in": ", ".join(
                    f"{key} {value}" for key, value in chosen.items() if base.get(key) != value
                ),
            }
            | {
                f"{part} accuracy": f"{values[part]['accuracy']:.2%}" if values.get(part) else ""
                for part in PARTS
            }
        )
    return pd.DataFrame(rows)


def flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of DVC's parameters by file, the values of params.yaml by key, as in `train.seed`."""
    table = pd.json_normalize(parameters.get("params.yaml", {}).get("data", {}))
    return table.iloc[0].to_dict() if len(table) else {}


def as_data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def made(here: Side) -> str:
    """Parameters, hashes and versions, as text."""
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    known = {
        "commit": revisions.git("rev-parse", "HEAD"),
        "uncommitted changes": bool(revisions.git("status", "--porcelain")),
        "python": platform.python_version(),
        **versions,
        **here.outputs(),
    }
    width = max(map(len, known))
    lines = [f"{name:{width}}  {value}" for name, value in known.items()]
    return "\n".join([*lines, "", here.text("params.yaml") or ""])


def content(here: Side) -> dict[str, Any]:
    """What the template shows.

    Raises:
        InputError: there are no results, or a file of them is damaged.
    """
    parts = [part for part in PARTS if here.json(f"metrics/{part}.json")]
    if not parts:
        raise InputError("metrics/ must have results (make repro); received none")
    charts: dict[str, Any] = {
        measure.capitalize(): curves(here, measure, unit)
        for measure, unit in (("accuracy", "accuracy"), ("loss", "nats"))
        if here.text(f"{CURVES}/train/{measure}.tsv")
    }
    training = list(charts)
    kinds: dict[str, tuple[Any, str, tuple[str, ...]]] = {
        "Confusion matrix": (confusion, "predictions", ("label", "predicted")),
        "Reliability": (reliability, "reliability", ("confidence", "accuracy", "ideal", "images")),
        "Precision, recall and F1": (
            classes,
            "classes",
            ("class", "images", "precision", "recall", "f1"),
        ),
    }
    for title, (draw, folder, columns) in kinds.items():
        for part in parts:
            table = here.table(f"metrics/{folder}/{part}.csv", *columns, dtype=comparison.NAMES)
            if table is not None:
                charts[f"{title}, {part}"] = draw(table)
    of = {title: [name for name in charts if name.startswith(title)] for title in kinds}
    pictures = {path.stem: as_data(path) for path in sorted(Path("plots/mistakes").glob("*.png"))}
    chosen = params.load()
    return {
        "title": "Fashion-MNIST classifier"
        if chosen.data.source == "fashion-mnist"
        else "Classifier",
        "subtitle": f"{chosen.model.architecture}, {chosen.train.epochs} epochs. Zoom with the wheel, drag "
        "to move, double-click to go back; point at a mark for its figures.",
        "bundle": vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE).replace(
            "</script", "<\\/script"
        ),
        "charts": {name: chart.to_dict() for name, chart in charts.items()},
        "sections": [
            {"title": "Results", "text": RESULTS, "table": results(here)},
            {"title": "Training", "text": "", "charts": training},
            *(
                {"title": title, "text": TEXTS[title], "charts": names}
                for title, names in of.items()
            ),
            {
                "title": "Mistakes",
                "text": "Those that the model is surest of."
                if pictures
                else "The pictures are not here; make repro or dvc pull brings them.",
                "pictures": pictures,
            },
            {
                "title": "Experiments",
                "text": "The working directory, this commit, and the experiments that start from it.",
                "table": experiments(),
            },
            {"title": "How it was made", "text": "", "code": made(here)},
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")
    out = parser.parse_args().out
    page = pages.render("report.html.j2", content(revisions.side(revisions.WORKSPACE)))
    with files.whole_file(out) as part:
        part.write_text(page, "utf-8")
    print(f"{out}: open it in a browser")


if __name__ == "__main__":
    main()
