"""The training of the working directory with another optimizer: a few epochs, watched on val.

`python src/optimizers.py NAME` writes metrics/optimizers/NAME.csv: loss and accuracy on train and val
after each epoch. The learning rate is the one that Keras gives the optimizer.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import os
import shutil
from pathlib import Path

import pandas as pd

from analysis import systems, trials
from common import backend, files, locks

# isort: split
import keras

TRIALS = Path(".cache/optimizers")


def curves(folder: Path) -> pd.DataFrame:
    """One row an epoch, counted from 1: loss and accuracy on train and val, as dvclive logged them."""
    columns = {}
    for part in ("train", "val"):
        for measure in ("loss", "accuracy"):
            logged = pd.read_csv(folder / f"plots/metrics/{part}/{measure}.tsv", sep="\t")
            columns[f"{part}_{measure}"] = logged.set_index("step")[measure].round(6)
    return pd.DataFrame(columns).rename_axis("epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    others = [name for name in systems.OPTIMIZERS if name != systems.KEPT]
    parser.add_argument("name", choices=others)
    name = parser.parse_args().name
    changes = {
        "train.optimizer": name,
        "train.learning_rate": round(float(keras.optimizers.get(name).learning_rate), 6),
        "train.epochs": systems.EPOCHS,
    }
    # outside the trial's folder, which each run empties
    os.environ.setdefault("CHECKPOINT_DIR", str(Path(".cache/checkpoints").resolve()))
    trial = TRIALS / name
    trials.prepare(trial, changes)
    trials.run_stage("train", trial)
    with locks.alone(), files.whole_file(Path(f"metrics/optimizers/{name}.csv")) as part:
        curves(trial / "metrics/curves").to_csv(part)
    shutil.rmtree(trial)


if __name__ == "__main__":
    main()
