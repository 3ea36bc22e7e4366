"""Writes the figures of metrics/ into README.md and MODEL_CARD.md; benchmarks/tables.py those of benchmarks/.

It also draws README's picture, where the images are there. With --check it says whether the pages have the figures.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import arrays, files, params
from common.errors import InputError

import numpy as np
import pandas as pd

from analysis import figures, marked_pages, metric_files, revisions, seeds
from analysis.marked_pages import markdown

README = Path("README.md")
CARD = Path("MODEL_CARD.md")
ANSWERS = Path("docs/answers.png")
METRICS = Path("metrics")
NOISE = ("noise.csv", "noise.json", "noise_classes.csv")
MISTAKES = 6  # kinds that the card lists
ROUNDING = 0.0002  # recalls and accuracies have four decimals


def noise() -> dict[str, dict[str, Any]]:
    """By part and measure: mean, standard deviation and n over seeds, where they were measured.

    Raises:
        InputError: metrics/noise.csv is of another training than the rest of metrics/, or it, noise.json and
            noise_classes.csv do not belong together.
    """
    if not any((METRICS / name).exists() for name in NOISE):
        return {}
    runs, seed = seeds.noise(revisions.HERE), revisions.HERE.seed()
    if runs is None:
        raise InputError(
            f"{METRICS}/noise.csv must have the figures of {METRICS}/ for seed {seed} (make noise, or remove noise*); received others"
        )
    summary = metric_files.summary(runs)
    if summary != metric_files.read(METRICS / "noise.json"):
        raise InputError(f"{METRICS}/noise.json must follow from noise.csv (make noise writes both); received others")
    columns = {"seed": int, "part": str, "class": str, "recall": float}
    classes = metric_files.table(METRICS / NOISE[2], tuple(columns), dtype=columns)
    own = classes[classes["seed"] == seed].to_dict("records")
    recorded = [table[["seed", "part"]].drop_duplicates().to_numpy().tolist() for table in (classes, runs)]
    if own != seeds.recalls(revisions.HERE) or recorded[0] != recorded[1]:
        raise InputError(f"{METRICS}/{NOISE[2]} must belong to noise.csv (make noise); received other recalls")
    for (part, one), recalls in classes.groupby(["part", "seed"]):
        images = metric_files.table(METRICS / f"classes/{part}.csv", ("class", "images")).set_index("class")["images"]
        accuracy = (recalls.set_index("class")["recall"] * images).sum() / images.sum()
        (known,) = runs.loc[(runs["part"] == part) & (runs["seed"] == one), "accuracy"]
        if not abs(known - accuracy) < ROUNDING:  # nan: other classes
            raise InputError(
                f"{METRICS}/{NOISE[2]} must give noise.csv's accuracies; received {accuracy:.4f} and {known} (seed {one}, {part})"
            )
    return summary


def results_table() -> str:
    """Markdown: one row for each part of metrics/ that has figures."""
    epochs = metric_files.read(METRICS / "train.json", ("epochs",))["epochs"]
    table = metric_files.results_table(metric_files.by_part(METRICS, metric_files.FIGURES), noise())
    return (
        f"`{params.load().model.architecture}`, {epochs} epochs. The interval is Wilson's, over images; mean and "
        f"standard deviation are over seeds.\n\n{markdown(table)}"
    )


def images_of(part: str, table: pd.DataFrame) -> np.ndarray:
    """The prepared images (N, H, W, C) uint8 that the ids of predictions on val or test count.

    Raises:
        InputError: they are missing, or not those of the predictions.
    """
    images, labels = arrays.load("train" if part == "val" else part)
    names = arrays.load_class_names()
    if table["id"].max() >= len(images) or [names[label] for label in labels[table["id"]]] != list(table["label"]):
        raise InputError(f"{arrays.PREPARED} must have the images of the predictions (make repro); received others")
    return images


def draw_answers(path: Path) -> None:
    """For the last part that was evaluated: the first right answer of each class, and the first four wrong ones."""
    *_, part = metric_files.by_part(METRICS)
    table = metric_files.table(METRICS / f"predictions/{part}.csv", ("id", "label", "predicted", "confidence"))
    right = table["label"] == table["predicted"]
    shown = pd.concat([table[right].groupby("label").head(1).sort_values("label"), table[~right].head(4)])
    titles = [
        f"{row.predicted}\n{row.confidence:.0%}" + (f", true: {row.label}" if row.predicted != row.label else "")
        for row in shown.itertuples()
    ]
    figures.titled(images_of(part, table)[shown["id"]], titles, path, columns=7, inches=1.2)


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


PAGES = {
    README: {"results": results_table},
    CARD: {"results": results_table, "classes": classes_table, "mistakes": mistakes_table, "calibration": calibration},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything differs")
    check = parser.parse_args().check
    there = [page for page in PAGES if page.exists() or page != CARD]
    marked_pages.update({page: {name: table() for name, table in PAGES[page].items()} for page in there}, check)
    if (arrays.PREPARED / "test/images.npy").exists():
        old = ANSWERS.read_bytes() if ANSWERS.exists() else b""
        with tempfile.TemporaryDirectory() as place, files.atomic_file(Path(place, "a") if check else ANSWERS) as new:
            draw_answers(new)
            if check and new.read_bytes() != old:
                raise InputError(f"{ANSWERS} must be of these predictions (make readme draws it); received another one")


if __name__ == "__main__":
    main()
