"""Trainings that differ in their seed alone, and so are one model: what was measured of one says something of all.

Nothing else does. A training belongs to a model where data, code and every parameter but train.seed are the same, or
where it stands in a metrics/noise.csv whose row for the model's own seed has the model's own figures. compare, review,
report, readme, check and the verdict of `make repro` all ask here.
"""

import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError

import pandas as pd

from analysis import metric_files
from analysis.revisions import Revision, experiments

NOISE = {"seed": int, "part": str} | dict.fromkeys(metric_files.MEASURES, float)
# what a seed or the choice of parts changes, and no other training
NOT_OF_THE_MODEL = {"models/model.keras", "train.seed", "evaluate.parts"}


@dataclass(frozen=True)
class Seeds:
    """The trainings of one model with several seeds, on the images of one part.

    Attributes:
        accuracy: of every seed, (n,).
        right: whether each image is right, by image id and seed, (images, k): of the seeds whose predictions are
            there, the model's own first.
        labels: the class of each image, by id.
        recalls: by class and seed, of seeds without predictions.
    """

    accuracy: pd.Series
    right: pd.DataFrame
    labels: pd.Series
    recalls: pd.DataFrame = field(default_factory=pd.DataFrame)

    def of_class(self, name: str) -> "Seeds":
        """The same on the images of one class, of which accuracy is the recall."""
        right = self.right[self.labels == name]
        more = self.recalls.loc[name] if name in self.recalls.index else pd.Series(dtype=float)
        return Seeds(right.mean().combine_first(more), right, self.labels[self.labels == name])


def figures(model: Revision) -> list[dict[str, Any]]:
    """The row of metrics/noise.csv of each part that `model` was evaluated on."""
    return [
        {"seed": model.seed(), "part": part} | {name: found.get(name) for name in metric_files.MEASURES}
        for part in metric_files.PARTS
        if (found := model.json(f"metrics/{part}.json"))
    ]


def recalls(model: Revision) -> list[dict[str, Any]]:
    """The rows of metrics/noise_classes.csv: the recall of each class on val and test, as far as evaluated."""
    return [
        {"seed": model.seed(), "part": part} | row
        for part in metric_files.PARTS
        if (table := model.table(f"metrics/classes/{part}.csv", "class", "recall")) is not None
        for row in table.to_dict("records")
    ]


def noise(model: Revision) -> pd.DataFrame | None:
    """The rows of metrics/noise.csv for the parts that `model` was evaluated on; None where it is not of `model`."""
    runs, own = model.table("metrics/noise.csv", *NOISE, dtype=NOISE), figures(model)
    if runs is None or not own:
        return None
    runs = runs[runs["part"].isin([row["part"] for row in own])].drop_duplicates(["seed", "part"])  # after a merge
    return runs if runs[runs["seed"] == model.seed()].to_dict("records") == own else None


def training(model: Revision) -> str | None:
    """Identifies data, code and parameters but the seed, by dvc.lock; None where nothing was trained."""
    stages = model.lock()
    if not {"train", "evaluate"} <= stages.keys():
        return None
    inputs = stages["train"].inputs | stages["evaluate"].inputs
    known = [(*key, value) for key, value in sorted(inputs.items()) if not {*key} & NOT_OF_THE_MODEL]
    return hashlib.sha256(json.dumps(known, default=str).encode()).hexdigest()[:16]


_training = functools.cache(training)  # of commits, which stay as they are


def replicates(model: Revision) -> dict[int, Revision]:
    """`model`, and the experiments of this clone that differ in the seed alone, by seed: with the most parts."""
    known = training(model)
    siblings = [other for other in experiments() if known and _training(other) == known]
    return {other.seed(): other for other in [*sorted(siblings, key=lambda other: len(other.predicted())), model]}


def trainings(model: Revision, part: str, own_only: bool = False) -> Seeds:
    """All that is known of a model on val or test; with `own_only` nothing of its other seeds.

    Raises:
        InputError: it has no predictions, or a file is damaged.
    """
    known = {} if own_only else replicates(model)
    evaluated = {seed: other for seed, other in sorted(known.items()) if part in other.predicted()}
    tables = {seed: predictions(one, part) for seed, one in ({model.seed(): model} | evaluated).items()}
    right = pd.DataFrame({seed: table["predicted"] == table["label"] for seed, table in tables.items()})
    labels, runs = tables[model.seed()]["label"], None if own_only else noise(model)
    if runs is None:
        return Seeds(right.mean(), right, labels)
    accuracy = right.mean().combine_first(runs[runs["part"] == part].set_index("seed")["accuracy"])
    types = metric_files.TYPES | {"seed": int, "recall": float}
    classes = model.table("metrics/noise_classes.csv", "seed", "part", "class", "recall", dtype=types)
    if classes is None:
        return Seeds(accuracy, right, labels)
    return Seeds(accuracy, right, labels, classes[classes["part"] == part].pivot_table("recall", "class", "seed"))


def predictions(model: Revision, part: str) -> pd.DataFrame:
    """The columns `label`, `predicted` and `confidence`, by image id.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    path = f"metrics/predictions/{part}.csv"
    table = model.table(path, "id", "label", "predicted", "confidence")
    if table is None:
        raise InputError(f"{model} must have predictions on {part} (or choose the other PART); received no {path}")
    return table.set_index("id")
