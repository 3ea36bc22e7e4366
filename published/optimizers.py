"""Trains the system of the working directory with another optimizer for a few epochs.

`python published/optimizers.py NAME` writes metrics/optimizers/NAME.csv: loss and accuracy on train and
val after each epoch. The learning rate is Keras' default for the optimizer.
"""

import argparse
import shutil
from pathlib import Path
from typing import Literal, get_args

from common import files, locks
from common.backend import keras

import pandas as pd

from analysis import metric_files, rerun

Optimizer = Literal["adam", "adamax", "adagrad", "adamw", "sgd"]  # heinit's author compared them
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
CHOSEN: Optimizer = "adam"  # by heinit's author
EPOCHS = 10  # in the comparison


def compared_curves(name: Optimizer) -> pd.DataFrame:
    """train_accuracy and val_accuracy of heinit with this optimizer, a row for each epoch.

    For the chosen optimizer they are the first epochs of heinit's own training. Nothing in its parameters
    depends on the number of epochs, so a training of `EPOCHS` epochs would give the same bytes. Errors are those
    of `metric_files.table`.
    """
    folder = Path("published/heinit")
    if name == CHOSEN:
        parts = {f"{part}_accuracy": curve(folder, part) for part in ("train", "val")}
        return pd.DataFrame(parts).loc[:EPOCHS]
    return _by_epoch(folder / f"metrics/optimizers/{name}.csv", ("epoch", "train_accuracy", "val_accuracy"))


def curve(folder: Path, part: str, measure: str = "accuracy") -> pd.Series:
    """Accuracy or loss on train or val by epoch, counted from 1, as dvclive logged it.

    Args:
        folder: has the metrics of the training.

    Raises:
        InputError: the table is missing or damaged.
    """
    path = folder / f"metrics/curves/plots/metrics/{part}/{measure}.tsv"
    return _by_epoch(path, ("step", measure), sep="\t")[measure]


def _by_epoch(path: Path, columns: tuple[str, ...], **options: str) -> pd.DataFrame:
    dtypes = dict.fromkeys(columns, float) | {columns[0]: int}
    return metric_files.table(path, columns, dtype=dtypes, **options).set_index(columns[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[name for name in OPTIMIZERS if name != CHOSEN])
    name = parser.parse_args().name
    changes = {
        "train.optimizer": name,
        "train.learning_rate": round(float(keras.optimizers.get(name).learning_rate), 6),
        "train.epochs": EPOCHS,
    }
    folder = Path(".cache/optimizers") / name
    rerun.prepare(folder, changes)
    rerun.run_stage("train", folder)
    curves = {
        f"{part}_{measure}": curve(folder, part, measure)
        for part in ("train", "val")
        for measure in ("loss", "accuracy")
    }
    with locks.exclusive(), files.atomic_file(Path(f"metrics/optimizers/{name}.csv")) as unfinished:
        pd.DataFrame(curves).round(6).to_csv(unfinished, index_label="epoch")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
