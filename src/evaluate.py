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
    """Row numbers (N,) in the prepared arrays, images (N, H, W, C) and labels (N,) of val or test."""
    images, labels = arrays.load("train" if part == "val" else "test")
    rows = arrays.load_rows("val", len(images)) if part == "val" else np.arange(len(images))
    return rows, images[rows], labels[rows]


@locks.exclusive()
def main() -> None:
    chosen = params.load().evaluate
    names, source = arrays.load_class_names(), arrays.load_source()
    model = None
    with (
        keras.device("cpu"),
        files.atomic_folder(METRICS / "predictions") as predictions,
        files.atomic_folder(METRICS / "classes") as per_class,
        files.atomic_folder(METRICS / "reliability") as reliability,
        files.atomic_folder(Path("plots/mistakes")) as mistakes,
    ):
        # a part that is not asked for, or has no images, stays empty
        results: dict[str, dict] = {"val": {}, "test": {}}
        for part in chosen.parts:
            rows, images, labels = select(part)
            if not len(rows):
                print(f"{part}: no images")
                continue
            model = model or model_file.load(MODEL, images.shape[1:], len(names))[0]
            probabilities = model_file.predict(model, images)  # (N, classes)
            results[part] = source | statistics.summary(labels, probabilities)
            statistics.predictions(rows, labels, probabilities, names).to_csv(predictions / f"{part}.csv", index=False)
            statistics.per_class(labels, probabilities, names).to_csv(per_class / f"{part}.csv", index=False)
            statistics.reliability(labels, probabilities).to_csv(reliability / f"{part}.csv", index=False)
            figures.mistakes(images, labels, probabilities, names, mistakes / f"{part}.png")
            print(f"{part}: " + ", ".join(f"{key} {value}" for key, value in results[part].items()))
        if not any(results.values()):
            raise InputError(f"evaluate.parts must name a part that has images; received {', '.join(chosen.parts)}")
    for name, result in results.items():
        files.write_json(METRICS / f"{name}.json", result)


if __name__ == "__main__":
    inputs.declare(
        "data/prepared/classes.json",
        "data/prepared/source.json",
        "data/prepared/test",
        "data/prepared/train",
        "data/split",
        "models/model.keras",
    )
    main()
