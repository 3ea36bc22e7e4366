"""The claims of the published systems' authors, and the curves of the systems as trained here."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from common import params
from common.errors import InputError

import pandas as pd
from pydantic import Field

from analysis import metric_files

PUBLISHED = Path("published")
Optimizer = Literal["adam", "adamax", "adagrad", "adamw", "sgd"]  # heinit's author compared them
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
CHOSEN: Optimizer = "adam"  # by heinit's author
EPOCHS = 10  # in the comparison of optimizers


class Claim(params.Section):
    """The accuracies that an author reports.

    Attributes:
        optimizers: heinit's test accuracy by optimizer.
        why: explains a claim that was not reached; without figures, which would go stale.
    """

    train: params.Fraction | None
    test: params.Fraction
    chose_on_test: Literal["yes", "no", "not said"]
    optimizers: Annotated[dict[Optimizer, params.Fraction], Field(default_factory=dict)]
    why: Annotated[str, Field(pattern=r"^\D+$")] | None = None


def claims() -> dict[str, Claim]:
    """The claims in published/claims.yaml by system.

    Raises:
        InputError: the file is missing, is not YAML, or breaks a rule.
    """
    path = PUBLISHED / "claims.yaml"
    found: dict[str, Claim] = params.read_yaml(path, dict[str, Claim])
    if "heinit" not in found:
        raise InputError(f"{path} must have heinit, whose optimizers are compared; it is missing")
    return found


def optimizer_curves(name: Optimizer) -> pd.DataFrame:
    """train_accuracy and val_accuracy of heinit with this optimizer, a row for each epoch.

    For the chosen optimizer they are the first epochs of heinit's own training. Nothing in its parameters
    depends on the number of epochs, so a training of `EPOCHS` epochs would give the same bytes.

    Raises:
        InputError: a table is missing or damaged.
    """
    folder = PUBLISHED / "heinit"
    if name == CHOSEN:
        parts = {f"{part}_accuracy": curve(folder, part) for part in ("train", "val")}
        return pd.DataFrame(parts).loc[:EPOCHS]
    return _by_epoch(folder / f"metrics/optimizers/{name}.csv", ("epoch", "train_accuracy", "val_accuracy"))


def curve(folder: Path, part: str, measure: str = "accuracy") -> pd.Series:
    """Accuracy or loss on train or val by epoch, counted from 1, as dvclive logged it.

    Args:
        folder: has the metrics of the training.
        part: train or val.
        measure: accuracy or loss.

    Raises:
        InputError: the table is missing or damaged.
    """
    path = folder / f"metrics/curves/plots/metrics/{part}/{measure}.tsv"
    return _by_epoch(path, ("step", measure), sep="\t")[measure]


def _by_epoch(path: Path, columns: tuple[str, ...], **options: Any) -> pd.DataFrame:
    table = metric_files.table(path, columns, dtype=float, **options)
    if table.empty:
        raise InputError(f"{path} must have a row for each epoch; received none")
    return table.astype({columns[0]: int}).set_index(columns[0])
