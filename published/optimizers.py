"""Trains the system of the working directory with another optimizer for a few epochs.

`python published/optimizers.py NAME` writes metrics/optimizers/NAME.csv: loss and accuracy on train and
val after each epoch. The learning rate is Keras' default for the optimizer.
"""

import argparse
import shutil
from pathlib import Path

from common import files, locks
from common.backend import keras

import pandas as pd

import claims
from analysis import rerun

RERUNS = Path(".cache/optimizers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    choices = [name for name in claims.OPTIMIZERS if name != claims.CHOSEN]
    parser.add_argument("name", choices=choices)
    name = parser.parse_args().name
    changes = {
        "train.optimizer": name,
        "train.learning_rate": round(float(keras.optimizers.get(name).learning_rate), 6),
        "train.epochs": claims.EPOCHS,
    }
    folder = RERUNS / name
    rerun.prepare(folder, changes)
    rerun.run_stage("train", folder)
    curves = {
        f"{part}_{measure}": claims.curve(folder, part, measure)
        for part in ("train", "val")
        for measure in ("loss", "accuracy")
    }
    with locks.exclusive(), files.atomic_file(Path(f"metrics/optimizers/{name}.csv")) as unfinished:
        pd.DataFrame(curves).round(6).to_csv(unfinished, index_label="epoch")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
