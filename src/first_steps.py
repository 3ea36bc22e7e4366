"""The losses of the first 20 steps of a training, to tell later whether the code still computes the same.

A published system is not trained again after every edit of the training code; instead a test takes
these steps again.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
from pathlib import Path

import pandas as pd

from common import arrays, backend, files, locks
from common.errors import InputError

# isort: split
import keras

import train
from training.callbacks import Logs

STEPS = 20


class Losses(keras.callbacks.Callback):
    """Keeps the mean cross-entropy (nats) of each batch, and ends the training after `STEPS` of them."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        steps = len(self.losses) + 1
        mean = float((logs or {})["loss"])  # since the first step
        self.losses.append(mean * steps - sum(self.losses))
        self.model.stop_training = steps == STEPS


def first_losses() -> list[float]:
    """Trains as `train` does in the working directory, until the 20 steps are done.

    Raises:
        InputError: an epoch has fewer steps; or as from `train.set_up`.
    """
    training = train.set_up()
    if len(training.train) < STEPS:
        raise InputError(
            f"an epoch must have {STEPS} steps or more here; received {len(training.train)}"
        )
    kept = Losses()
    with keras.device(training.device):
        training.model.fit(
            training.train.loader(),
            callbacks=[training.learning_rate, kept],
            shuffle=False,
            verbose=0,
        )
    return kept.losses


@locks.alone()
def main() -> None:
    table = pd.DataFrame({"loss": first_losses()}).round(6)
    table.index = pd.RangeIndex(1, len(table) + 1, name="step")
    with files.whole_file(Path("metrics/first_steps.csv")) as part:
        table.to_csv(part)


if __name__ == "__main__":
    arrays.forbid_test_images()
    main()
