"""The default recipe on small sets of other images, beside gradient boosting and logistic regression.

The sets are such as one might bring: five classes of drawn shapes in colour, 200 to 25 images each; scikit-learn's
digits as pictures and as IDX files; tiles of three photographs; and 500 rows of Fashion-MNIST. The stages read them from
data/input as anyone's, with `SETS` as the only changes to params.yaml. scikit-learn's models get the same pixels of the
same rows. Five seeds each, which choose the rows for val, too.

The test images decide nothing: the recipe's rule for few rows was chosen on val. Accuracy is the mean of the recalls of
the classes; for the recipe it is plain accuracy where classes are equal enough (src/analysis/statistics.py). Seconds are
those of the train stage.

`python benchmarks/own_images.py` (after `make repro`) writes benchmarks/own_images.json after each run, and continues
where it was stopped. About 40 minutes on two cores.
"""

import argparse
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from common import files, params

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import benchmark_files
import rerun
from conditions import machine

RESULTS = Path("benchmarks/own_images.json")
FOLDER = Path(".cache/own_images")
SEEDS = 5
PENALTIES = 0.0001, 0.001, 0.01, 0.1  # of logistic regression (C), of which val chooses
SHAPES = {"circle": 200, "square": 120, "triangle": 70, "cross": 40, "ring": 25}  # images of train, and as many of test
TILE, STRIP = 32, 64
Pictures = Iterator[tuple[str, str, Image.Image]]  # of train or test, class, picture


def draw_shape(name: str, generator: np.random.Generator) -> Image.Image:
    """One shape of any colour, size, place and angle on any other colour, 64 × 64, with noise."""
    ground, colour = generator.integers(0, 256, (2, 3))
    while np.abs(ground - colour).sum() < 150:
        colour = generator.integers(0, 256, 3)
    image = Image.new("RGB", (64, 64), tuple(ground.tolist()))
    draw, fill = ImageDraw.Draw(image), tuple(colour.tolist())
    radius, turn = generator.uniform(9, 20), generator.uniform(0, 2 * math.pi)
    x, y = generator.uniform(radius + 1, 63 - radius, 2)

    def corners(angles: list[float], lengths: list[float]) -> list[tuple[float, float]]:
        pairs = zip(angles, lengths, strict=True)
        return [(x + radius * r * math.cos(turn + a), y + radius * r * math.sin(turn + a)) for a, r in pairs]

    if name in ("circle", "ring"):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)
        if name == "ring":
            inner = 0.55 * radius
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), tuple(ground.tolist()))
    elif name == "cross":  # two bars
        for side in (0.0, math.pi / 2):
            angles = [side + a for a in (0.3, -0.3, math.pi + 0.3, math.pi - 0.3)]
            draw.polygon(corners(angles, 4 * [1.0]), fill)
    else:
        count = {"square": 4, "triangle": 3}[name]
        draw.polygon(corners([2 * math.pi * k / count for k in range(count)], count * [1.0]), fill)
    noisy = np.asarray(image) + generator.normal(0, 20, (64, 64, 3))
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def shapes() -> Pictures:
    generator = np.random.default_rng(0)
    for part, (name, count) in product(("train", "test"), SHAPES.items()):
        for _ in range(count):
            yield part, name, draw_shape(name, generator)


def tiles() -> Pictures:
    """Of photographs in upright strips, the first for train, the next for test, and so on."""
    china, flower = load_sample_images().images
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg") as portrait:
        photographs = {"temple": china, "flower": flower, "portrait": np.asarray(portrait)}
    for name, pixels in photographs.items():
        for strip, left in enumerate(range(0, pixels.shape[1] - STRIP + 1, STRIP)):
            for x, top in product(range(left, left + STRIP, TILE), range(0, pixels.shape[0] - TILE + 1, TILE)):
                yield ("train", "test")[strip % 2], name, Image.fromarray(pixels[top : top + TILE, x : x + TILE])


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 8, 8) and labels (N,) of train and test, both uint8."""
    found = load_digits()
    images, labels = (found.images * 255 / 16).round().astype(np.uint8), found.target.astype(np.uint8)
    rows = train_test_split(np.arange(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    return {part: (images[chosen], labels[chosen]) for part, chosen in zip(("train", "test"), rows, strict=True)}


def digit_pictures() -> Pictures:
    for part, (images, labels) in digits().items():
        for image, label in zip(images, labels, strict=True):
            yield part, str(label), Image.fromarray(image)


def write_pictures(pictures: Pictures) -> None:
    for number, (part, name, picture) in enumerate(pictures):
        path = FOLDER / "data/input" / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def shaped(side: int, channels: int) -> dict[str, Any]:
    return {"data.height": side, "data.width": side, "data.channels": channels}


PICTURES: dict[str, Any] = {"data.source": "folder"}
NO_FLIP: dict[str, Any] = {"train.augmentation.flip": "none"}
# what puts the images into data/input, none for those of the working directory; and changes to params.yaml
SETS: dict[str, tuple[Callable[[], None] | None, dict[str, Any]]] = {
    "shapes, 64 × 64": (lambda: write_pictures(shapes()), PICTURES | shaped(64, 3)),
    "digits, PNG": (lambda: write_pictures(digit_pictures()), PICTURES | NO_FLIP),
    "digits, IDX, 8 × 8": (lambda: rerun.write_idx(FOLDER, digits()), {"data.source": "idx", **shaped(8, 1)} | NO_FLIP),
    "photographs, tiles": (lambda: write_pictures(tiles()), PICTURES | shaped(TILE, 3)),
    "Fashion-MNIST, 500 rows": (None, {"split.train_size": 500, "split.val_size": 500}),
}


def lay_out(write: Callable[[], None] | None, changes: dict[str, Any]) -> None:
    """Makes the folder of a run, with its data prepared and split."""
    if write is None:
        rerun.prepare(FOLDER, changes)
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "data/raw").mkdir(parents=True)
    write()
    rerun.write_params(FOLDER / "params.yaml", changes)
    for stage in ("prepare", "split"):
        rerun.run_stage(stage, FOLDER)


def ours() -> dict[str, float]:
    """Accuracy on test of the stages, and the seconds of train."""
    seconds, found = rerun.train_and_evaluate(FOLDER, "test")
    return {"ours": found.get("macro_accuracy", found["accuracy"]), "seconds": round(seconds, 1)}


def theirs(seed: int) -> dict[str, float | int]:
    """Accuracy on test of scikit-learn's models, from the same rows; and how many these are."""
    pixels, labels = {}, {}
    for part in ("train", "val", "test"):
        folder = FOLDER / "data/prepared" / ("test" if part == "test" else "train")
        images, known = (np.load(folder / f"{name}.npy") for name in ("images", "labels"))
        rows = np.arange(len(known)) if part == "test" else np.load(FOLDER / f"data/split/{part}.npy")
        pixels[part], labels[part] = images[rows].reshape(len(rows), -1), known[rows]

    def accuracy(model: Any, part: str) -> float:
        return round(float(balanced_accuracy_score(labels[part], model.predict(pixels[part]))), 4)

    def logistic(penalty: float) -> Any:
        regression = LogisticRegression(C=penalty, max_iter=300, class_weight="balanced")
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            return make_pipeline(StandardScaler(), regression).fit(pixels["train"], labels["train"])

    # a tenth of the pixels at each split is faster than all
    boosting = HistGradientBoostingClassifier(max_features=0.1, class_weight="balanced", random_state=seed)
    best = max(map(logistic, PENALTIES), key=lambda model: accuracy(model, "val"))
    return {
        "train rows": len(labels["train"]),
        "boosting": accuracy(boosting.fit(pixels["train"], labels["train"]), "test"),
        "logistic": accuracy(best, "test"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=benchmark_files.positive, default=SEEDS, help="of each set (default: %(default)s)"
    )
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS), help="(default: all)")
    chosen = parser.parse_args()
    os.environ["CHECKPOINT_DIR"] = ".cache/checkpoints"  # in the run's own folder: none goes on from an earlier one
    key = {"training": benchmark_files.key_to_train(), "recipe": params.load().train.model_dump(mode="json")}
    results: dict[str, Any] = benchmark_files.earlier(RESULTS, **key) or key | {"runs": []}
    for seed, name in product(range(chosen.seeds), chosen.sets):
        write, changes = SETS[name]
        run = {"set": name, "seed": seed, "changes": changes}
        if any(run == {key: done[key] for key in run} for done in results["runs"]):
            continue
        print(f"{name}, seed {seed}", flush=True)
        lay_out(write, changes | {"split.seed": seed, "train.seed": seed})
        results["runs"].append(run | ours() | theirs(seed) | {"machine": machine()})
        files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
