"""The tables of MODEL_CARD.md, as Markdown, from metrics/ and benchmarks/."""

from pathlib import Path

import pandas as pd

from analysis import seeds, trials
from common import params
from common.errors import InputError

METRICS = Path("metrics")
PICTURES = Path("benchmarks/pictures.json")
INFERENCE = Path("benchmarks/inference.json")
MISTAKES = 6


def classes_table() -> str:
    """Precision, recall and F1 of each class, part by part."""
    lines = []
    for part in _parts():
        table = seeds.table(
            METRICS / f"classes/{part}.csv", ("class", "images", "precision", "recall", "f1")
        )
        lines += [
            f"| class, {part} | images | precision | recall | F1 |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['class']} | {row['images']:,} | {row['precision']:.2%} | {row['recall']:.2%} | {row['f1']:.4f} |"
            for row in table.to_dict("records")
        ]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def calibration() -> str:
    """Mean confidence beside accuracy, and accuracy where the confidence is above and below 80 %."""
    lines = [
        "| part | mean confidence | accuracy | where confidence is 80 % or more | where it is less |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part in _parts():
        table = seeds.table(
            METRICS / f"predictions/{part}.csv", ("label", "predicted", "confidence")
        )
        right, sure = table["label"] == table["predicted"], table["confidence"] >= 0.8
        lines.append(
            f"| {part} | {table['confidence'].mean():.1%} | {right.mean():.1%} | "
            f"{_share(right[sure])} | {_share(right[~sure])} |"
        )
    return "\n".join(lines) + "\n"


def mistakes_table() -> str:
    """The most frequent mistakes of the last part that was evaluated, test where there is one."""
    part = _parts()[-1]
    table = seeds.table(METRICS / f"predictions/{part}.csv", ("label", "predicted"))
    images = table["label"].value_counts()
    wrong = table[table["label"] != table["predicted"]]
    pairs = wrong.value_counts(["label", "predicted"]).sort_index().sort_values(ascending=False, kind="stable")  # fmt: skip
    lines = [
        f"| is, on {part} | said to be | images | of its class |",
        "| --- | --- | --- | --- |",
        *(
            f"| {label} | {predicted} | {count} | {count / images[label]:.1%} |"
            for (label, predicted), count in pairs.head(MISTAKES).items()
        ),
    ]
    return "\n".join(lines) + "\n"


def unlike_table() -> str:
    """How often pictures are called unlike the training images.

    Raises:
        InputError: benchmarks/pictures.json is of another training than dvc.lock.
    """
    limit = seeds.read(METRICS / "unlikeness.json", ("energy_limit", "train_images"))
    lines = ["| pictures | called unlike |", "| --- | --- |"]
    lines.append(
        f"| training images, which the limit is taken from ({limit['train_images']:,}) | 1 in 100, by definition |"
    )
    if "val_unlike" in limit:
        lines.append(f"| val images ({limit['val_images']:,}) | {limit['val_unlike']:.1%} |")
    if not PICTURES.exists():
        lines += ["", "Others: not measured with this model (`python benchmarks/pictures.py`)."]
        return "\n".join(lines) + "\n"
    measured = seeds.read(PICTURES, ("of", "unlike", "val"))
    if measured["of"] != trials.key():
        raise InputError(
            f"{PICTURES} must be of the training in dvc.lock (python benchmarks/pictures.py, or remove "
            "it); received another's"
        )
    try:
        again = measured["val"]
        lines.append(
            f"| val images made photographs again ({again['images']:,}) | {again['unlike as photographs']:.1%} |"
        )
        lines += [
            f"| {kind} ({each['pictures']:,}) | {each['unlike']:.1%} |"
            for kind, each in measured["unlike"].items()
        ]
        lines += [
            "",
            f"Val images made photographs again (enlarged, on #fdfdfd, JPEG): "
            f"{again['accuracy as photographs']:.2%} are named rightly, {again['accuracy']:.2%} as they are.",
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{PICTURES} must be as benchmarks/pictures.py writes it; received: {error}"
        ) from None
    return "\n".join(lines) + "\n"


def speed_table() -> str:
    """Latency and throughput, from benchmarks/inference.json, if it is of the chosen architecture."""
    architecture = params.load().model.architecture
    measured = seeds.read(INFERENCE) if INFERENCE.exists() else {}
    if measured.get("architecture") != architecture:
        return f"Not measured with `{architecture}` (`python benchmarks/inference.py`).\n"
    try:
        one, many = (measured["milliseconds"][f"{count} at once"] for count in (1, 1000))
        start = measured["seconds from start to answer"]
        lines = [
            "| | one image | 1,000 images | start to answer |",
            "| --- | --- | --- | --- |",
            *(
                f"| {name} | {one[name]:.2g} ms | {many[name]:.0f} ms | "
                f"{f'{start[name]:.1f} s' if name in start else ''} |"
                for name in one
            ),
            "",
            "Measured on {threads} cores: {processor}.".format_map(measured["machine"]),
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{INFERENCE} must be as benchmarks/inference.py writes it; received: {error}"
        ) from None
    return "\n".join(lines) + "\n"


def _parts() -> list[str]:
    """Those of val and test that have figures."""
    results = {
        part: seeds.read(METRICS / f"{part}.json", seeds.MEASURES, or_nothing=True)
        for part in ("val", "test")
    }
    return [part for part, result in results.items() if result]


def _share(right: pd.Series) -> str:
    return f"{right.mean():.1%} of {len(right):,}" if len(right) else "none"
