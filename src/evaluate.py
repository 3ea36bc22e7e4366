"""Stage 5: the finished model on the val rows and on the test images.

The one stage that holds a model against the test images. Figures are of one plain forward pass of
models/model.keras in float32, as Keras loads it.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
from pathlib import Path

import numpy as np

from common import arrays, backend, files, locks, params
from common.errors import InputError

# isort: split
import keras
import torch

from analysis import figures, statistics

METRICS = Path("metrics")
MODEL = Path("models/model.keras")
BATCH_SIZE = 1000


def load_model(path: Path, image_shape: tuple[int, ...], class_count: int) -> keras.Model:
    """The model, in safe mode: nothing but Keras' own layers is accepted.

    Raises:
        InputError: no such file, no such model, or one for other images or classes.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zip, HDF5, JSON and Keras each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} must be a model that plain Keras loads; received: {reason}"
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{path} must be a model; received a {type(model).__name__}")
    expected = ((None, *image_shape), (None, class_count))
    if (model.input_shape, model.output_shape) != expected:
        raise InputError(
            f"{path} must map {expected[0]} to {expected[1]}; received {model.input_shape} to {model.output_shape}"
        )
    return model


def select(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers (N,) in the prepared arrays, images (N, H, W, C) and labels (N,) of val or test."""
    if part == "test":
        images, labels = arrays.load("test")
        return np.arange(len(labels)), images, labels
    images, labels = arrays.load("train")
    rows = arrays.load_rows("val")
    return rows, images[rows], labels[rows]


@locks.alone()
def main() -> None:
    chosen = params.load()
    names = arrays.load_class_names()
    torch.set_num_threads(chosen.train.threads)
    model = None
    with (
        keras.device("cpu"),
        files.whole_folder(METRICS / "predictions") as predictions,
        files.whole_folder(METRICS / "classes") as per_class,
        files.whole_folder(METRICS / "reliability") as reliability,
        files.whole_folder(Path("plots/mistakes")) as mistakes,
    ):
        # a part that is not asked for stays empty
        results: dict[str, dict] = {"val": {}, "test": {}}
        for part in chosen.evaluate.parts:
            rows, images, labels = select(part)
            model = model or load_model(MODEL, images.shape[1:], len(names))
            probabilities = model.predict(images, batch_size=BATCH_SIZE, verbose=0)  # (N, classes)
            results[part] = {"source": chosen.data.source} | statistics.summary(
                labels, probabilities
            )
            statistics.predictions(rows, labels, probabilities, names).to_csv(
                predictions / f"{part}.csv", index=False
            )
            statistics.per_class(labels, probabilities, names).to_csv(
                per_class / f"{part}.csv", index=False
            )
            statistics.reliability(labels, probabilities).to_csv(
                reliability / f"{part}.csv", index=False
            )
            figures.mistakes(images, labels, probabilities, names, mistakes / f"{part}.png")
            print(f"{part}: " + ", ".join(f"{key} {value}" for key, value in results[part].items()))
    for name, result in results.items():
        files.write_json(METRICS / f"{name}.json", result)


if __name__ == "__main__":
    main()
