"""The claims of the published systems' authors, and the curves of the systems as trained here."""

from pathlib import Path
from typing import Annotated, Literal, get_args

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
        parts = {f"{part}_accuracy": accuracies(folder, part) for part in ("train", "val")}
        return pd.DataFrame(parts).loc[:EPOCHS]
    path = folder / f"metrics/optimizers/{name}.csv"
    return _by_epoch(path, metric_files.table(path, ("epoch", "train_accuracy", "val_accuracy"), dtype=float))


def accuracies(folder: Path, part: str) -> pd.Series:
    """Accuracy on train or val by epoch, counted from 1.

    Args:
        folder: has the metrics of the training.
        part: train or val.

    Raises:
        InputError: the table is missing or damaged.
    """
    path = folder / f"metrics/curves/plots/metrics/{part}/accuracy.tsv"
    table = metric_files.table(path, ("step", "accuracy"), sep="\t", dtype=float)
    return _by_epoch(path, table)["accuracy"]


def _by_epoch(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        raise InputError(f"{path} must have a row for each epoch; received none")
    epoch = table.columns[0]
    return table.astype({epoch: int}).set_index(epoch)
