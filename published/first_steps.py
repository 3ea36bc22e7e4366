"""The losses of a training's first 20 steps, which tell later whether the code still computes the same.

A published system is not trained again after every edit of the training code; a test repeats these steps instead. They
are computed in float32, which gives the same losses on any x86-64 processor, whatever the training itself has.
"""

from pathlib import Path

from common import files, inputs, locks
from common.backend import keras
from common.errors import InputError

import pandas as pd

import train
from training.callbacks import Logs

STEPS = 20


class Losses(keras.callbacks.Callback):
    """Records the mean cross-entropy (nats) of each batch, and ends the training after `STEPS` batches."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        steps = len(self.losses) + 1
        mean = float(self.model.get_metrics_result()["loss"])  # over all steps so far
        self.losses.append(mean * steps - sum(self.losses))
        self.model.stop_training = steps == STEPS


def first_losses() -> list[float]:
    """Trains as `train` does in the working directory, for 20 steps.

    Raises:
        InputError: an epoch has fewer steps; or as from `train.set_up`.
    """
    training = train.set_up("float32")
    if len(training.train) < STEPS:
        raise InputError(f"an epoch must have {STEPS} steps or more here; received {len(training.train)}")
    recorder = Losses()
    with keras.device(training.device):
        training.model.fit(
            training.train.loader(), callbacks=[training.learning_rate, recorder], shuffle=False, verbose=0
        )
    return recorder.losses


@locks.exclusive()
def main() -> None:
    table = pd.DataFrame({"loss": first_losses()}).round(6)
    table.index = pd.RangeIndex(1, len(table) + 1, name="step")
    with files.atomic_file(Path("metrics/first_steps.csv")) as part:
        table.to_csv(part)


if __name__ == "__main__":
    inputs.declare("data/prepared/classes.json", "data/prepared/train", "data/split")
    main()
