"""Figures on hand-made cases, each worked out beside it."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import statistics


def confident(predicted: list[int], confidence: float, classes: int = 2) -> np.ndarray:
    """Probabilities (N, classes): `confidence` for the predicted class, the rest shared evenly."""
    probabilities = np.full((len(predicted), classes), (1 - confidence) / (classes - 1))
    probabilities[np.arange(len(predicted)), predicted] = confidence
    return probabilities


def wilson(correct: int, count: int) -> tuple[float, float]:
    """https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval"""
    z, p = 1.959963984540054, correct / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return centre - half, centre + half


@pytest.mark.parametrize(("correct", "count"), [(8, 10), (0, 10), (10, 10), (9470, 10000), (1, 1)])
def test_accuracy_and_its_interval(correct: int, count: int) -> None:
    labels = np.zeros(count, np.uint8)
    figures = statistics.summary(labels, confident([0] * correct + [1] * (count - correct), 0.9))
    low, high = wilson(correct, count)
    assert figures["images"] == count
    assert figures["accuracy"] == pytest.approx(correct / count, abs=1e-6)
    assert figures["accuracy_low"] == pytest.approx(low, abs=6e-5)
    assert figures["accuracy_high"] == pytest.approx(high, abs=6e-5)


def test_the_interval_is_the_published_one() -> None:
    # 81 of 263 in Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I
    labels = np.zeros(263, np.uint8)
    figures = statistics.summary(labels, confident([0] * 81 + [1] * 182, 0.9))
    assert (figures["accuracy_low"], figures["accuracy_high"]) == (0.2553, 0.3662)


def test_loss_is_the_mean_cross_entropy_in_nats() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    figures = statistics.summary(np.array([0, 0]), probabilities)
    assert figures["loss"] == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-4)


def test_a_probability_rounded_to_zero_keeps_the_loss_finite() -> None:
    figures = statistics.summary(np.array([0]), np.array([[0, 1]], np.float32))
    assert figures["loss"] == pytest.approx(-math.log(np.finfo(np.float32).tiny), abs=1e-4)


def test_the_loss_of_certain_and_right_answers_is_0_without_a_sign() -> None:
    assert str(statistics.summary(np.array([0]), np.array([[1, 0]], np.float32))["loss"]) == "0.0"


def test_means_over_unequal_classes_come_first() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    figures = statistics.summary(labels, confident([0, 0, 0, 1, 1, 1], 0.8))
    assert figures["macro_accuracy"] == 0.875  # of 3/4 and 1
    assert list(figures)[:3] == ["macro_accuracy", "macro_f1", "accuracy"]
    assert "macro_accuracy" not in statistics.summary(labels[1:], confident([0, 0, 0, 1, 1], 0.8))


@pytest.mark.filterwarnings("error")
def test_a_predicted_class_without_rows_has_no_share_in_the_mean() -> None:
    figures = statistics.summary(np.array([0, 0, 0, 0, 1, 1]), confident([0, 0, 0, 2, 1, 1], 0.8, classes=3))
    assert figures["macro_accuracy"] == 0.875


def test_macro_f1_weighs_classes_alike() -> None:
    # class 0: 3 found of 4, none wrongly: 6/7; class 1: its 1 found, 1 wrongly: 2/3
    figures = statistics.summary(np.array([0, 0, 0, 0, 1]), confident([0, 0, 0, 1, 1], 0.8))
    assert figures["macro_f1"] == pytest.approx((6 / 7 + 2 / 3) / 2, abs=1e-4)


@pytest.mark.parametrize(("predicted", "f1"), [([0, 0], 1.0), ([0, 1], 2 / 3)])
def test_a_class_without_images_is_left_out_of_macro_f1_even_where_it_is_predicted(
    predicted: list[int], f1: float
) -> None:
    figures = statistics.summary(np.array([0, 0]), confident(predicted, 0.8))
    assert figures["macro_f1"] == pytest.approx(f1, abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "predicted", "confidence", "error"),
    [
        ([0, 0, 0, 1], [0, 0, 0, 0], 0.75, 0),  # three quarters sure, three quarters right
        ([0, 0, 1, 1], [0, 0, 0, 0], 1.0, 0.5),  # always sure, half wrong
        ([1, 1, 1, 1], [0, 0, 0, 0], 1.0, 1),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.6, 0.4),  # too modest
    ],
)
def test_calibration_error(labels: list[int], predicted: list[int], confidence: float, error: float) -> None:
    figures = statistics.summary(np.array(labels), confident(predicted, confidence))
    assert figures["calibration_error"] == error


def test_calibration_error_weighs_bins_by_their_images() -> None:
    # 3 images at 0.95, all right: gap 0.05; 1 image at 0.55, wrong: gap 0.55
    probabilities = np.vstack([confident([0] * 3, 0.95), confident([0], 0.55)])
    figures = statistics.summary(np.array([0, 0, 0, 1]), probabilities)
    assert figures["calibration_error"] == pytest.approx((3 * 0.05 + 0.55) / 4, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_error_is_right_to_its_last_digit(seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(10, 0.3), 2000)
    labels = generator.integers(0, 10, 2000)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            error += abs(correct[inside].mean() - confidence[inside].mean()) * inside.mean()
    assert statistics.summary(labels, probabilities)["calibration_error"] == round(error, 4)


def test_reliability_leaves_out_empty_bins_and_names_what_it_holds() -> None:
    probabilities = np.vstack([confident([0, 0], 0.9), confident([1], 1.0), confident([1], 0.6)])
    table = statistics.reliability(np.array([0, 1, 1, 1]), probabilities)
    assert list(table.columns) == ["confidence", "accuracy", "ideal", "images"]
    assert table["confidence"].tolist() == table["ideal"].tolist() == [0.6, 0.9, 1.0]
    assert table["accuracy"].tolist() == [1.0, 0.5, 1.0]
    assert table["images"].tolist() == [1, 2, 1]


@pytest.mark.parametrize("border", range(8, 15))
def test_a_bin_holds_its_upper_border(border: int) -> None:
    def bins(*confidences: float) -> int:
        probabilities = np.vstack([confident([0], confidence) for confidence in confidences])
        return len(statistics.reliability(np.zeros(len(confidences), int), probabilities))

    assert bins(border / 15, border / 15 - 0.01) == 1
    assert bins(border / 15, border / 15 + 0.01) == 2


def test_full_confidence_belongs_to_the_last_bin() -> None:
    table = statistics.reliability(np.array([0, 1]), np.vstack([confident([0], 1.0), confident([0], 0.94)]))
    assert table.to_dict("list") == {"confidence": [0.97], "accuracy": [0.5], "ideal": [0.97], "images": [2]}


def test_per_class_figures() -> None:
    # label:     a a a b b
    # predicted: a a b b a
    table = statistics.per_class(
        np.array([0, 0, 0, 1, 1]), confident([0, 0, 1, 1, 0], 0.9, classes=3), ["a", "b", "never"]
    )
    expected = pd.DataFrame(
        {
            "class": ["a", "b", "never"],
            "images": [3, 2, 0],
            "precision": [0.6667, 0.5, 0],
            "recall": [0.6667, 0.5, 0],
            "f1": [0.6667, 0.5, 0],
        }
    )
    pd.testing.assert_frame_equal(table, expected)


def test_precision_is_of_the_predictions_and_recall_of_the_labels() -> None:
    # label:     a a a b b
    # predicted: a a b b b
    table = statistics.per_class(np.array([0, 0, 0, 1, 1]), confident([0, 0, 1, 1, 1], 0.9), ["a", "b"])
    assert table["precision"].tolist() == [1, 0.6667]
    assert table["recall"].tolist() == [0.6667, 1]


def test_predictions_name_classes_and_show_four_decimals() -> None:
    probabilities = np.array([[0.12344, 0.87656], [1.0, 0.0]], np.float32)
    table = statistics.predictions(np.array([7, 3]), np.array([0, 0]), probabilities, ["Coat", "T-shirt/top"])
    assert table.to_csv(index=False).splitlines() == [
        "id,label,predicted,confidence",
        "7,Coat,T-shirt/top,0.8766",
        "3,Coat,Coat,1.0000",
    ]
