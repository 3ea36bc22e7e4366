"""The tables of MODEL_CARD.md, as Markdown, from metrics/."""

from pathlib import Path

from common import params

import pandas as pd

from analysis import metric_files
from analysis.marked_pages import markdown

METRICS = Path("metrics")
MISTAKES = 6


def classes_table() -> str:
    """Precision, recall and F1 of each class, part by part."""
    formats = {"class": "{}", "images": "{:,}", "precision": "{:.2%}", "recall": "{:.2%}", "f1": "{:.4f}"}
    tables = []
    for part in metric_files.by_part(METRICS):
        table = metric_files.table(METRICS / f"classes/{part}.csv", tuple(formats))
        shown = table.transform({name: text.format for name, text in formats.items()})
        tables.append(markdown(shown.rename(columns={"class": f"class, {part}", "f1": "F1"}), names=True))
    return "\n\n".join(tables)


def calibration() -> str:
    """The temperature; mean confidence beside accuracy, and accuracy where it is above and below 80 %."""
    temperature = metric_files.read(METRICS / "train.json", ("temperature",))["temperature"]
    origin = "which suits val best" if params.load().split.val_size else "since there is no val to fit another one on"
    rows = []
    for part in metric_files.by_part(METRICS):
        table = metric_files.table(METRICS / f"predictions/{part}.csv", ("label", "predicted", "confidence"))
        right, sure = table["label"] == table["predicted"], table["confidence"] >= 0.8
        rows.append(
            {
                "part": part,
                "mean confidence": f"{table['confidence'].mean():.1%}",
                "accuracy": f"{right.mean():.1%}",
                "accuracy at confidence of 80 % or more": _share(right[sure]),
                "accuracy below": _share(right[~sure]),
            }
        )
    return f"The temperature is {temperature:g}, {origin}.\n\n{markdown(pd.DataFrame(rows))}"


def mistakes_table() -> str:
    """The most frequent mistakes of the last part that was evaluated, test where there is one."""
    *_, part = metric_files.by_part(METRICS)
    table = metric_files.table(METRICS / f"predictions/{part}.csv", ("label", "predicted"))
    images = table["label"].value_counts()
    wrong = table[table["label"] != table["predicted"]]
    pairs = wrong.value_counts(["label", "predicted"]).sort_index().sort_values(ascending=False, kind="stable")  # fmt: skip
    shown = pairs.head(MISTAKES).reset_index(name="images")
    shown["of its class"] = (shown["images"] / shown["label"].map(images)).map("{:.1%}".format)
    return markdown(shown.rename(columns={"label": f"true class, {part}"}), names=True)


def _share(right: pd.Series) -> str:
    return f"{right.mean():.1%} of {len(right):,}" if len(right) else "none"
