"""Figures of a classifier from its labels (N,) and class probabilities (N, classes).

Everything is rounded to what the number of images supports, so that a diff shows no noise digits.
"""

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_recall_fscore_support, recall_score

CALIBRATION_BINS = 15


def summary(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | int]:
    """The few figures of metrics/val.json and metrics/test.json.

    `accuracy_low` and `accuracy_high` are Wilson's 95 % interval, loss is the mean cross-entropy in
    nats, `calibration_error` the expected calibration error over 15 bins of equal width
    (https://arxiv.org/abs/1706.04599, section 3). Where classes are unequal, the means over classes come first.
    """
    predicted = probabilities.argmax(1)
    # float32 rounds a hopeless probability to 0; its smallest normal number keeps the mean finite
    of_label = probabilities[np.arange(len(labels)), labels].clip(np.finfo(np.float32).tiny)
    bins = _bins(labels, probabilities)
    gap = (bins["accuracy"] - bins["confidence"]).abs()
    counted = counts(labels, predicted)
    macro = ("macro_accuracy", "macro_f1") if "macro_accuracy" in counted else ()
    return {
        **{name: counted[name] for name in (*macro, "accuracy", "accuracy_low", "accuracy_high")},
        "loss": round(float(-np.log(of_label.astype(np.float64)).mean()), 4) + 0.0,  # never -0.0
        "macro_f1": counted["macro_f1"],
        "calibration_error": round(float((gap * bins["images"]).sum() / len(labels)), 4),
        "images": counted["images"],
    }


def counts(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float | int]:
    """Those figures of `summary` that follow from the predicted classes (N,) alone; macro: of classes that have images."""
    correct = int((predicted == labels).sum())
    interval = binomtest(correct, len(labels)).proportion_ci(method="wilson")
    scores, classes = (f1_score, recall_score), np.unique(labels)
    f1, recall = (score(labels, predicted, labels=classes, average="macro") for score in scores)
    return ({"macro_accuracy": round(float(recall), 4)} if unequal(labels) else {}) | {
        "accuracy": round(correct / len(labels), 6),
        "accuracy_low": round(float(interval.low), 4),
        "accuracy_high": round(float(interval.high), 4),
        "macro_f1": round(float(f1), 4),
        "images": len(labels),
    }


def unequal(labels: np.ndarray) -> bool:
    """Whether one class has at least twice as many images as another one that has any."""
    _, sizes = np.unique(labels, return_counts=True)
    return len(labels) > 0 and sizes.max() >= 2 * sizes.min()


def predictions(rows: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> pd.DataFrame:
    """One row an image: its row number in the prepared arrays, true and predicted class, confidence."""
    return pd.DataFrame(
        {
            "id": rows,
            "label": np.array(names)[labels],
            "predicted": np.array(names)[probabilities.argmax(1)],
            "confidence": [f"{confidence:.4f}" for confidence in probabilities.max(1)],
        }
    )


def per_class(labels: np.ndarray, probabilities: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Precision, recall and F1 of each class, and how many images have it, one row a class."""
    precision, recall, f1, images = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=np.arange(len(names)), zero_division=0
    )
    return pd.DataFrame({"class": names, "images": images, "precision": precision, "recall": recall, "f1": f1}).round(4)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Mean confidence and accuracy of each bin of confidence that holds an image.

    Bins are (0, 1/15], (1/15, 2/15] …; `ideal` is what a calibrated model's accuracy would be.
    """
    bins = _bins(labels, probabilities)
    return bins.assign(ideal=bins["confidence"])[["confidence", "accuracy", "ideal", "images"]].round(4)


def _bins(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    confidence = probabilities.max(1).astype(np.float64)
    bins = np.ceil(confidence * CALIBRATION_BINS).clip(1, CALIBRATION_BINS).astype(int)
    correct = probabilities.argmax(1) == labels
    return (
        pd.DataFrame({"bin": bins, "confidence": confidence, "accuracy": correct})
        .groupby("bin")
        .agg(confidence=("confidence", "mean"), accuracy=("accuracy", "mean"), images=("accuracy", "size"))
    )
