"""The losses of a training's first 20 steps, which tell later whether the code still computes the same.

A published system is not trained again after every edit of the training code; a test repeats these steps instead. They
are computed in float32, whatever the training itself has.
"""

from pathlib import Path

from common import files, inputs, locks
from common.backend import keras

import pandas as pd

import train

STEPS = 20


def first_losses() -> list[float]:
    """Trains as `train` does in the working directory, for 20 steps; the mean cross-entropy (nats) of each batch.

    Errors are those of `train.set_up`.
    """
    training = train.set_up("float32")
    with keras.device(training.device):
        history = training.model.fit(
            training.train.loader(),
            steps_per_epoch=1,  # so that Keras logs each step; the batches go on
            epochs=STEPS,
            callbacks=[training.learning_rate],
            shuffle=False,
            verbose=0,
        )
    return [float(loss) for loss in history.history["loss"]]


@locks.exclusive()
def main() -> None:
    table = pd.DataFrame({"loss": first_losses()}).round(6)
    table.index = pd.RangeIndex(1, len(table) + 1, name="step")
    with files.atomic_file(Path("metrics/first_steps.csv")) as part:
        table.to_csv(part)


if __name__ == "__main__":
    inputs.declare("data/prepared/classes.json", "data/prepared/train", "data/split")
    main()
