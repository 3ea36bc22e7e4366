"""Stage 5: evaluates the finished model on the val rows and on the test images.

No other stage runs a model on the test images. The figures come from one plain forward pass of
models/model.keras in float32, as Keras loads it.
"""

from pathlib import Path

from common import arrays, files, inputs, locks, params
from common.backend import keras
from common.errors import InputError

import numpy as np

from analysis import figures, statistics
from training import model_file

METRICS = Path("metrics")
MODEL = Path("models/model.keras")


def select(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers (N,) in the prepared arrays, images (N, H, W, C) and labels (N,) of val or test.

    Raises:
        InputError: there are no such images.
    """
    images, labels = arrays.load("train" if part == "val" else "test")
    if not len(images):
        raise InputError(f"evaluate.parts must leave out {part} where there are no {part} images; received {part}")
    rows = arrays.load_rows("val", len(images)) if part == "val" else np.arange(len(images))
    return rows, images[rows], labels[rows]


@locks.exclusive()
def main() -> None:
    chosen = params.load()
    names = arrays.load_class_names()
    model = None
    with (
        keras.device("cpu"),
        files.atomic_folder(METRICS / "predictions") as predictions,
        files.atomic_folder(METRICS / "classes") as per_class,
        files.atomic_folder(METRICS / "reliability") as reliability,
        files.atomic_folder(Path("plots/mistakes")) as mistakes,
    ):
        # a part that is not asked for stays empty
        results: dict[str, dict] = {"val": {}, "test": {}}
        for part in chosen.evaluate.parts:
            rows, images, labels = select(part)
            model = model or model_file.load(MODEL, images.shape[1:], len(names))[0]
            probabilities = model_file.predict(model, images)  # (N, classes)
            results[part] = {"source": chosen.data.source} | statistics.summary(labels, probabilities)
            statistics.predictions(rows, labels, probabilities, names).to_csv(predictions / f"{part}.csv", index=False)
            statistics.per_class(labels, probabilities, names).to_csv(per_class / f"{part}.csv", index=False)
            statistics.reliability(labels, probabilities).to_csv(reliability / f"{part}.csv", index=False)
            figures.mistakes(images, labels, probabilities, names, mistakes / f"{part}.png")
            print(f"{part}: " + ", ".join(f"{key} {value}" for key, value in results[part].items()))
    for name, result in results.items():
        files.write_json(METRICS / f"{name}.json", result)


if __name__ == "__main__":
    inputs.declare(
        "data/prepared/classes.json", "data/prepared/test", "data/prepared/train", "data/split", "models/model.keras"
    )
    main()
