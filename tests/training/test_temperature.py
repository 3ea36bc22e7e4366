import numpy as np
import pytest
from scipy.special import log_softmax

import twins
from training import temperature

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 500)
LOGITS = (GENERATOR.normal(0, 1, (500, 4)) + 2 * np.eye(4)[LABELS]).astype(np.float32)


def cross_entropy(value: float) -> float:
    return -log_softmax(LOGITS / value, axis=1)[np.arange(500), LABELS].mean()


def test_it_has_the_lowest_cross_entropy() -> None:
    value = temperature.minimiser(LOGITS, LABELS)
    assert value not in temperature.LIMITS
    assert cross_entropy(value) < min(cross_entropy(value - 0.01), cross_entropy(value + 0.01))


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_logits_of_another_scale_get_the_same_confidences(scale: float) -> None:
    once = temperature.minimiser(LOGITS, LABELS)
    assert temperature.minimiser(scale * LOGITS, LABELS) == pytest.approx(scale * once, abs=0.002)


def test_without_mistakes_it_is_1_and_without_sense_at_the_limit() -> None:
    right = np.eye(4, dtype=np.float32)
    assert temperature.minimiser(right, np.arange(4)) == 1.0  # the lower, the better: a limit would be no fit
    assert temperature.minimiser(-right, np.arange(4)) == temperature.LIMITS[1]
    for low, margin in GENERATOR.uniform((5, 3.6), (12, 3.72), (300, 2)):  # the slope at the limit is 0 but for noise
        assert temperature.minimiser(np.float32(low) + np.float32(margin) * np.eye(10)[:1], np.array([0])) == 1.0
    faint = np.repeat(right / 100, 25, axis=0)  # with one mistake in a hundred, the minimum lies below the limit
    assert temperature.minimiser(faint, np.repeat(np.arange(4), 25) ^ (np.arange(100) == 0)) == temperature.LIMITS[0]


def test_it_is_that_of_the_logits_of_all_rows() -> None:
    _, model = twins.twins(twins.architecture("plain"))
    twins.prepare(model, twins.sgd(0.1), shards=2)
    val = twins.batches(50, 20, shards=2)
    images, labels = twins.everything(val)
    logits = model.logits(images).numpy(force=True)
    assert temperature.fit(model, val) == temperature.minimiser(logits, labels.numpy())


def test_without_rows_it_is_one() -> None:
    _, model = twins.twins(twins.architecture("plain"))
    twins.prepare(model, twins.sgd(0.1))
    assert temperature.fit(model, twins.batches(0, 20)) == 1
