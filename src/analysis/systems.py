"""The published systems: what their authors claim, and tables of it beside what was measured."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import pandas as pd
from pydantic import Field

from analysis import checked, seeds
from common import params
from common.errors import InputError

PUBLISHED = Path("published")
Optimizer = Literal["adam", "adamax", "adagrad", "adamw", "sgd"]  # those that heinit's author tried
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
KEPT: Optimizer = "adam"  # by heinit's author
EPOCHS = 10  # with each


class Claim(params.Section):
    """Accuracies that an author reports, and what is to be known of them."""

    train: params.Fraction | None
    test: params.Fraction
    chose_on_test: Literal["yes", "no", "not said"]
    optimizers: Annotated[
        dict[Optimizer, params.Fraction], Field(default_factory=dict)
    ]  # on the test images
    why: Annotated[str, Field(pattern=r"^\D+$")] | None = (
        None  # it was not reached; without figures
    )


def claims() -> dict[str, Claim]:
    """What published/claims.yaml says of each system.

    Raises:
        InputError: the file is missing, is not YAML, or breaks a rule.
    """
    path = PUBLISHED / "claims.yaml"
    found: dict[str, Claim] = checked.read(path, dict[str, Claim])
    if "heinit" not in found:
        raise InputError(f"{path} must have heinit, whose optimizers are shown; it is missing")
    return found


def percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


def short_table() -> str:
    """Markdown: claimed beside measured test accuracy of each published system, and the default.

    Raises:
        InputError: published/results.json is missing or damaged.
    """
    lines = [
        "| system | claimed test | test (95 % interval) | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in _results().items():
        claimed = percent(found.get("claimed_test_accuracy"))
        lines.append(f"| {name} | {claimed} | {_test(found)} | {found.get('verdict', '')} |")
    return "\n".join(lines) + "\n"


def whole_table() -> str:
    """Markdown: all that is known of each published system, and of the default; with reasons.

    Raises:
        InputError: published/results.json is missing or damaged.
    """
    lines = [
        "| system | parameters | training images | epochs | training FLOPs | claimed train | "
        "claimed test | chosen on test images | train | val | test (95 % interval) | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    why = []
    for name, found in _results().items():
        digits, exponent = f"{found['training_flops']:.1e}".split("e")
        cells = [
            name,
            f"{found['parameters']:,}",
            f"{found['training_images']:,}",
            str(found["epochs"]),
            f"{digits} × 10<sup>{int(exponent)}</sup>",
            *(percent(found.get(f"claimed_{part}_accuracy")) for part in ("train", "test")),
            found.get("chose_on_test", "no"),
            *(percent(found.get(f"{part}_accuracy")) for part in ("train", "val")),
            _test(found),
            found.get("verdict", ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if "why" in found:
            why += ["", f"`{name}` was not reached: {found['why']}"]
    return "\n".join([*lines, *why]) + "\n"


def optimizers_table() -> str:
    """Markdown: what heinit reaches on val with each optimizer, beside its author's figures.

    Raises:
        InputError: a table of published/heinit/ is missing or damaged.
    """
    lines = [
        "| optimizer | claimed test | epochs | train | val | best val |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    claimed = claims()["heinit"].optimizers
    for name in OPTIMIZERS:
        table = optimizer_curves(name)
        last = table.iloc[-1]
        lines.append(
            f"| {name} | {percent(claimed.get(name))} | {table.index[-1]} | "
            f"{last['train_accuracy']:.2%} | {last['val_accuracy']:.2%} | "
            f"{table['val_accuracy'].max():.2%} |"
        )
    return "\n".join(lines) + "\n"


def optimizer_curves(name: Optimizer) -> pd.DataFrame:
    """heinit with this optimizer: one row an epoch, with train_accuracy and val_accuracy.

    With the one that was kept these are the first epochs of heinit itself: nothing in its parameters
    looks ahead to their number, so a training of `EPOCHS` would be the same again, byte for byte.

    Raises:
        InputError: a table is missing or damaged.
    """
    folder = PUBLISHED / "heinit"
    if name == KEPT:
        parts = {f"{part}_accuracy": accuracies(folder, part) for part in ("train", "val")}
        return pd.DataFrame(parts).loc[:EPOCHS]
    path = folder / f"metrics/optimizers/{name}.csv"
    return _by_epoch(
        path, seeds.table(path, ("epoch", "train_accuracy", "val_accuracy"), dtype=float)
    )


def accuracies(folder: Path, part: str) -> pd.Series:
    """Accuracy on train or val by epoch, counted from 1, in the training whose metrics lie in `folder`.

    Raises:
        InputError: the table is missing or damaged.
    """
    path = folder / f"metrics/curves/plots/metrics/{part}/accuracy.tsv"
    table = seeds.table(path, ("step", "accuracy"), sep="\t", dtype=float)
    return _by_epoch(path, table)["accuracy"]


def _by_epoch(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        raise InputError(f"{path} must have a row for each epoch; received none")
    epoch = table.columns[0]
    return table.astype({epoch: int}).set_index(epoch)


def _results() -> dict[str, dict]:
    """published/results.json, in which every system has what both tables show."""
    path = PUBLISHED / "results.json"
    results = seeds.read(path)
    needed = ("parameters", "training_images", "epochs", "training_flops", "train_accuracy")
    for name, found in results.items():
        missing = [key for key in needed if not isinstance(found, dict) or found.get(key) is None]
        if missing:
            raise InputError(
                f"{path} must be as src/published.py writes it; {', '.join(missing)} of {name} is missing"
            )
    return results


def _test(found: dict) -> str:
    """Test accuracy and its interval, where the test images were evaluated."""
    accuracy, low, high = (
        percent(found.get(f"test_accuracy{end}")) for end in ("", "_low", "_high")
    )
    return accuracy and f"{accuracy} ({low} – {high})"
