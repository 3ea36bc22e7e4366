"""How predict.py takes pictures that are not images of the dataset.

- How often it calls them out of distribution: things that are not garments, and garments that are upside
  down or on their side.
- How well several scores tell things that are not garments from val images turned into photographs: the area under the ROC
  curve. src/inference/onnx_file.py has the best one that fits into the model's file.
- Its accuracy on val images turned back into photographs: enlarged, on the shop's light grey, as JPEG. That
  measures what the conversion to 28 × 28 costs; it says nothing about real photographs.
- The same with specks, shadows and other backgrounds, in two ways: with the authors' background, which is what is
  within 5 % of the corners' colour, and with that of src/inference/pictures.py.

All pictures are drawn by benchmarks/drawn_pictures.py, or come with scikit-learn and Matplotlib. No test image is among
them.

`python benchmarks/pictures.py` (after `make repro`) prints and writes benchmarks/pictures.json.
"""

import argparse
import functools
import io
import itertools
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from common import arrays, files
from common.backend import keras
from common.errors import InputError

import numpy as np
import torch
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

import benchmark_files
import drawn_pictures
import export
from inference import onnx_file, pictures
from inference.classifier import Classifier, Prediction
from training import machine, model_file

MODEL = Path("models/model.onnx")
RESULTS = Path("benchmarks/pictures.json")
PHOTOGRAPHS, ALTERED = 2000, 300  # val images, as they are and in each variant


def as_file(picture: Image.Image, form: str = "PNG") -> bytes:
    content = io.BytesIO()
    picture.save(content, form, quality=90)
    return content.getvalue()


def as_jpeg(picture: Image.Image) -> bytes:
    return as_file(picture, "JPEG")


def area(garments: np.ndarray, no_garments: np.ndarray) -> float:
    """Under the ROC curve."""
    truth = np.repeat([0, 1], [len(garments), len(no_garments)])
    return round(float(roc_auc_score(truth, np.concatenate([garments, no_garments]))), 4)


def authors_contrast(colours: np.ndarray) -> np.ndarray:
    """As `pictures._contrast`, where the background is the corners' colour."""
    corners = np.median(colours[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
    return np.linalg.norm(colours - corners, axis=-1) / pictures.TOLERANCE


AUTHORS: dict[str, Any] = {"_contrast": authors_contrast, "_without_dust": lambda shown: shown, "CONTRAST": 1}


def prediction(content: bytes, by_authors: bool) -> Prediction | None:
    """None for a picture with too little contrast.

    Args:
        by_authors: whether background is what it was for the dataset's authors.
    """
    with mock.patch.multiple(pictures, **AUTHORS) if by_authors else nullcontext():
        try:
            return classifier().predict(io.BytesIO(content), "the picture")
        except InputError as error:
            if "too little contrast" not in str(error):
                raise
            return None


@functools.cache
def classifier() -> Classifier:
    """One for each process."""
    return Classifier(MODEL)


class Features(NamedTuple):
    """Of images (N, H, W, C)."""

    logits: np.ndarray  # (N, classes)
    penultimate: np.ndarray  # (N, width), what the last layer is given
    means: np.ndarray  # (N, F), of src/inference/onnx_file.py


def features(model: keras.Model, images: np.ndarray) -> Features:
    _, rescaling, network, *_ = model.layers
    (*_, last) = (layer for layer in network.layers if isinstance(layer, keras.layers.Dense))
    both = keras.Model(network.input, [network.output, last.input])(rescaling.output)
    outputs = (*both, onnx_file.with_features(model).outputs[1])
    return Features(*(model_file.predict(keras.Model(model.input, output), images) for output in outputs))


def scores(train: Features, labels: np.ndarray) -> dict[str, Callable[[Features], np.ndarray]]:
    """(N,) of features, the higher the less the images are like the training images.

    Args:
        labels: (N,) of the training images.
    """

    def tenth_of(bank: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        nearest = NearestNeighbors(n_neighbors=10).fit(normalize(bank))
        return lambda values: nearest.kneighbors(normalize(values))[0][:, -1]

    def distance_from(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        distance = onnx_file.Distance(values, labels)
        return lambda values: distance(torch.from_numpy(values)).numpy()

    of_all, of_few = tenth_of(train.penultimate), tenth_of(train.penultimate[::10])
    in_penultimate, in_means = distance_from(train.penultimate), distance_from(train.means)
    return {
        "maximum of the softmax": lambda given: -softmax(given.logits, 1).max(1),
        "energy, T = 1": lambda given: -logsumexp(given.logits, 1),
        "energy, T = 10": lambda given: -logsumexp(given.logits / 10, 1),
        "10th nearest neighbour, penultimate layer": lambda given: of_all(given.penultimate),
        "the same among a tenth of these": lambda given: of_few(given.penultimate),
        "Mahalanobis distance, penultimate layer": lambda given: in_penultimate(given.penultimate),
        "Mahalanobis distance, three layers": lambda given: in_means(given.means),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure this model once more")
    if benchmark_files.is_measured("pictures", parser.parse_args().again):
        return
    class_names = Classifier(MODEL).class_names
    images, labels = arrays.load("train")
    rows = arrays.load_rows("val", len(images))
    if not len(rows):
        raise InputError("split.val_size must leave val images, which are made pictures of; received none")
    val, val_labels = images[rows][..., 0], labels[rows]  # (N, 28, 28), (N,)
    few, fewer, many = val[: drawn_pictures.COUNT], val[:ALTERED], val[:PHOTOGRAPHS]

    pool = ProcessPoolExecutor(machine.cores(), multiprocessing.get_context("spawn"))

    def predictions(given: Iterable[bytes], by_authors: bool = False) -> list[Prediction | None]:
        return list(pool.map(prediction, given, itertools.repeat(by_authors), chunksize=20))

    def right(found: list[Prediction | None]) -> list[Prediction | None]:
        pairs = zip(found, val_labels, strict=False)
        return [each for each, label in pairs if each and each.likeliest[0][0] == class_names[label]]

    def accuracy(found: list[Prediction | None]) -> float:
        return round(len(right(found)) / len(found), 4)

    def inputs(found: list[Prediction | None]) -> np.ndarray:
        return np.stack([each.image for each in found if each])

    def out_of_distribution(found: list[Prediction | None]) -> float:
        return round(sum(not each or each.out_of_distribution for each in found) / len(found), 4)

    no_garments = {kind: predictions(map(as_file, given)) for kind, given in drawn_pictures.no_garments().items()}
    rare = {
        f"val images on their {place}": predictions(as_file(Image.fromarray(np.rot90(image, turns))) for image in few)
        for turns, place in ((1, "side"), (2, "head"))
    }
    rare["val images white on white"] = predictions(map(as_jpeg, drawn_pictures.white_on_white(few)))
    direct = predictions(as_file(Image.fromarray(image)) for image in many)
    again = predictions(map(as_jpeg, drawn_pictures.photographs(many)))
    altered = {}
    for variant in drawn_pictures.VARIANTS:
        given = [*map(as_jpeg, drawn_pictures.altered(fewer, variant))]
        authors, found = accuracy(predictions(given, by_authors=True)), predictions(given)
        altered[variant] = {
            "background by the authors' rule": authors,
            "here": accuracy(found),
            "right answers called out of distribution": out_of_distribution(right(found)),
        }
        print(f"{variant}: {altered[variant]}")

    rows = arrays.load_rows("train", len(images))
    rows = rows[:: -(-len(rows) // export.SAMPLE)]
    model, _ = model_file.load(export.MODEL, images.shape[1:])
    of_photographs, areas = features(model, inputs(again)), {}
    of_kinds = {kind: features(model, inputs(found)) for kind, found in no_garments.items()}
    for name, score in scores(features(model, images[rows]), labels[rows]).items():
        areas[name] = {kind: area(score(of_photographs), score(of_kind)) for kind, of_kind in of_kinds.items()}
        print(f"{name}: {areas[name]}")
    results: dict[str, Any] = {
        "training": benchmark_files.training_key(),
        "out of distribution": {
            kind: {
                "pictures": len(found),
                "out of distribution": out_of_distribution(found),
                "too little contrast": sum(each is None for each in found),
            }
            for kind, found in (no_garments | rare).items()
        },
        "val": {
            "images": len(many),
            "accuracy": accuracy(direct),
            "accuracy as photographs": accuracy(again),
            "out of distribution": out_of_distribution(direct),
            "out of distribution as photographs": out_of_distribution(again),
        },
        "altered": {"images": len(fewer), "shares": altered},
        "areas": areas,
    }
    print(json.dumps(results["out of distribution"] | results["val"], indent=2))
    files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
