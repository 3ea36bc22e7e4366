"""Trainings that differ in their seed alone, and so are one model: what was measured of one says something of all.

Nothing else does. A training belongs to a model where data, code and every parameter but train.seed are the
same, or where it stands in a metrics/noise.csv whose row for the model's own seed has the model's own figures.
`make compare`, `review`, `report`, `readme` and `check`, and the verdict of `make repro`, all ask here.
"""

import functools
import hashlib
import json
from dataclasses import dataclass, field

from common.errors import InputError

import pandas as pd

from analysis import metric_files
from analysis.git import git
from analysis.revisions import Revision

NAMES = dict.fromkeys(("label", "predicted", "class"), str)  # a class may be called 1
NOISE = {"seed": int, "part": str} | dict.fromkeys(metric_files.MEASURES, float)
# what a seed or the choice of parts changes, and no other training
NOT_OF_THE_MODEL = ("models/model.keras", "train.seed", "evaluate.parts")


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
        others = self.recalls.loc[name] if name in self.recalls.index else pd.Series(dtype=float)
        return Seeds(right.mean().combine_first(others), right, self.labels[self.labels == name])


def noise(model: Revision) -> pd.DataFrame | None:
    """The rows of metrics/noise.csv for the parts that `model` was evaluated on; None where it is not of `model`.

    Raises:
        InputError: a file is damaged.
    """
    runs = model.table("metrics/noise.csv", *NOISE, dtype=NOISE)
    if runs is None:
        return None
    figures = {part: found for part in metric_files.PARTS if (found := model.json(f"metrics/{part}.json"))}
    runs = runs[runs["part"].isin(figures)]
    known = [
        {"part": part} | {name: found.get(name) for name in metric_files.MEASURES}
        for part, found in figures.items()
    ]
    own = runs[runs["seed"] == model.seed()].drop(columns="seed")
    return runs if known and own.to_dict("records") == known else None


def training(model: Revision) -> str | None:
    """Identifies data, code and parameters but the seed, by dvc.lock; None where nothing was trained."""
    stages = model.lock()
    if not {"train", "evaluate"} <= stages.keys():
        return None
    inputs = stages["train"].inputs | stages["evaluate"].inputs
    known = [(*key, value) for key, value in sorted(inputs.items()) if not {*key} & {*NOT_OF_THE_MODEL}]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def replicates(model: Revision) -> dict[int, Revision]:
    """`model` and the experiments of this clone that differ from it in the seed alone, by seed."""
    known, own = training(model), model.seed()
    if known is None:
        return {own: model}
    listed = git("for-each-ref", "--format=%(objectname) %(refname:lstrip=4)", "refs/exps/??/*/*").splitlines()
    others = [Revision(name, commit) for commit, _, name in (line.partition(" ") for line in listed)]
    return {other.seed(): other for other in others if _training(other) == known} | {own: model}


_training = functools.cache(training)  # of commits, which stay as they are


def trainings(model: Revision, part: str, alone: bool = False) -> Seeds:
    """All that is known of a model on val or test.

    Args:
        alone: leave out its other seeds.

    Raises:
        InputError: it has no predictions, or a file is damaged.
    """
    own = predictions(model, part)
    known = {} if alone else replicates(model)
    others = {seed: other for seed, other in sorted(known.items()) if part in other.predicted()}
    tables = {model.seed(): own} | {seed: predictions(other, part) for seed, other in others.items()}
    right = pd.DataFrame({seed: table["predicted"] == table["label"] for seed, table in tables.items()})
    accuracy, recalls, runs = right.mean(), pd.DataFrame(), None if alone else noise(model)
    if runs is not None:
        measured = runs[runs["part"] == part].set_index("seed")["accuracy"]
        accuracy = accuracy.combine_first(measured)
        classes = model.table("metrics/noise_classes.csv", "seed", "part", "class", "recall", dtype=NAMES)
        if classes is not None:
            recalls = classes[classes["part"] == part].pivot_table(index="class", columns="seed", values="recall")
    return Seeds(accuracy, right, own["label"], recalls)


def predictions(model: Revision, part: str) -> pd.DataFrame:
    """The columns `label`, `predicted` and `confidence`, by image id.

    Raises:
        InputError: there are none, or the file is damaged.
    """
    path = f"metrics/predictions/{part}.csv"
    table = model.table(path, "id", "label", "predicted", "confidence", dtype=NAMES)
    if table is None:
        raise InputError(
            f"{model} must have predictions on {part} (or choose the other part with PART=); received no {path}"
        )
    return table.set_index("id")
