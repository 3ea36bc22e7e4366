"""Muon against the same steps by singular value decomposition, in float64."""

from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers

from training.batches import Batches
from training.muon import Muon, orthogonalised
from training.step import NativeModel

SHAPES = [(24, 60), (60, 24), (32, 32), (1, 9), (9, 1), (1, 1)]
KERNELS = {
    "wide": (3, 3, 2, 5),  # out < h·w·in
    "tall": (3, 3, 1, 16),  # out > h·w·in: a longer step
    "1 x 1, tall": (1, 1, 2, 7),
    "oblong": (2, 3, 1, 6),  # out = h·w·in
}


# --- orthogonalised -------------------------------------------------------------------------------


def of_known_vectors(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix with singular values from 0.2 to 1, and its singular vectors: u, v and u @ s @ v.T."""
    generator = np.random.default_rng(rows * 1000 + columns)
    rank = min(rows, columns)
    u, _ = np.linalg.qr(generator.normal(size=(rows, rank)))
    v, _ = np.linalg.qr(generator.normal(size=(columns, rank)))
    return u, v, u * generator.uniform(0.2, 1, rank) @ v.T


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e6])
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay_and_singular_values_come_near_one(
    shape: tuple[int, int], scale: float
) -> None:
    u, v, matrix = of_known_vectors(*shape)
    result = orthogonalised(torch.tensor(scale * matrix, dtype=torch.float32))
    assert result.shape == shape
    in_their_place = u.T @ result.double().numpy() @ v  # diagonal, if these are its vectors
    values = np.diag(in_their_place)
    np.testing.assert_allclose(in_their_place, np.diag(values), atol=1e-3)
    assert values.min() > 0.6
    assert values.max() < 1.25


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_zeros_stays_one(shape: tuple[int, int]) -> None:
    assert (orthogonalised(torch.zeros(shape)) == 0).all()


@pytest.mark.parametrize("size", [1e-30, 1e-44, 1e30])
def test_no_size_of_a_matrix_makes_its_step_infinite(size: float) -> None:
    matrix = size * torch.ones(5, 8)
    assert (matrix > 0).all()
    assert orthogonalised(matrix).isfinite().all()


# --- steps ----------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "momentum": 0.7,
    "sgd_momentum": 0.9,
    "sgd_rate": 3.0,
    "weight_decay": 0.2,
}
RATES = [0.1, 0.1, 0.3, 0.02, 0.05]


def direction(matrix: np.ndarray) -> np.ndarray:
    """What Newton and Schulz's five steps do to each singular value, done to the values alone."""
    u, values, vt = np.linalg.svd(matrix / np.linalg.norm(matrix), full_matrices=False)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u * values @ vt


def by_hand(
    weight: np.ndarray,
    gradients: list[np.ndarray],
    rates: list[float],
    momentum: float,
    sgd_momentum: float,
    sgd_rate: float,
    weight_decay: float,
) -> list[np.ndarray]:
    """The weight after each step, in float64."""
    weight = weight.astype(np.float64)
    velocity = np.zeros_like(weight)
    after = []
    for gradient, rate in zip(gradients, rates, strict=True):
        mu = momentum if weight.ndim == 4 else sgd_momentum
        velocity = mu * velocity + gradient
        step = gradient + mu * velocity  # Nesterov's
        if weight.ndim == 4:
            *inputs, out = weight.shape
            matrix = step.reshape(-1, out)  # transposed, which exchanges u and v
            longer = np.sqrt(max(1.0, out / np.prod(inputs)))
            step = longer * direction(matrix).reshape(weight.shape)
        else:
            step = sgd_rate * step
        weight = (1 - rate * weight_decay) * weight - rate * step
        after.append(weight)
    return after


def variable_and_gradients(
    shape: tuple[int, ...], seed: int = 0
) -> tuple[keras.Variable, list[np.ndarray]]:
    """A variable of weights of size 1, and a gradient for each of RATES."""
    generator = np.random.default_rng(seed)
    weight, *gradients = generator.normal(size=(1 + len(RATES), *shape)).astype(np.float32)
    return keras.Variable(weight), gradients


def apply(
    optimizer: Muon, variables: list[keras.Variable], gradients: list[list[torch.Tensor]]
) -> list[list[np.ndarray]]:
    """Sets the rate and makes a step, for each of RATES; gives the variables after each step."""
    optimizer.build(variables)
    after = []
    for rate, of_step in zip(RATES, gradients, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply(of_step, variables)
        after.append([variable.numpy().copy() for variable in variables])
    return after


@pytest.mark.parametrize("shape", [*KERNELS.values(), (6, 4), (5,), (2, 3, 4), ()], ids=str)
def test_steps_are_those_by_hand(shape: tuple[int, ...]) -> None:
    variable, gradients = variable_and_gradients(shape)
    expected = by_hand(variable.numpy(), gradients, RATES, **OPTIONS)
    steps = apply(Muon(**OPTIONS), [variable], [[torch.tensor(g)] for g in gradients])
    for (weight,), wanted in zip(steps, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=0, atol=2e-4)


def test_every_variable_has_its_own_momentum() -> None:
    variables, gradients = zip(
        *(variable_and_gradients(shape, seed)
          for seed, shape in enumerate([(3, 3, 2, 5), (5,), (3, 3, 2, 5), (5, 4), (5,)])),
        strict=True,
    )  # fmt: skip
    expected = [
        by_hand(variable.numpy(), own, RATES, **OPTIONS)[-1]
        for variable, own in zip(variables, gradients, strict=True)
    ]
    of_steps = [[torch.tensor(g) for g in of_step] for of_step in zip(*gradients, strict=True)]
    last = apply(Muon(**OPTIONS), list(variables), of_steps)[-1]
    for weight, wanted in zip(last, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (6, 4)])
def test_without_weight_decay_and_gradient_nothing_moves(shape: tuple[int, ...]) -> None:
    variable, gradients = variable_and_gradients(shape)
    before = variable.numpy().copy()
    apply(Muon(), [variable], [[torch.zeros(shape)] for _ in gradients])
    np.testing.assert_array_equal(variable.numpy(), before)


def out_first(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, in memory (out, h, w, in), as NativeModel keeps a kernel and its gradient."""
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def every_other(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, with others between them in memory."""
    return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]


@pytest.mark.parametrize("layout", [out_first, every_other], ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("shape", [*KERNELS.values(), (6, 4)], ids=str)
def test_the_order_in_memory_does_not_matter(shape: tuple[int, ...], layout: Any) -> None:
    plain, gradients = variable_and_gradients(shape)
    other, _ = variable_and_gradients(shape)
    with torch.no_grad():
        other.value.data = layout(other.value)
    strided = [layout(torch.tensor(gradient)) for gradient in gradients]
    assert not any(gradient.is_contiguous() for gradient in strided)
    expected = apply(Muon(**OPTIONS), [plain], [[torch.tensor(g)] for g in gradients])
    steps = apply(Muon(**OPTIONS), [other], [[gradient] for gradient in strided])
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)
    for gradient, before in zip(strided, gradients, strict=True):
        np.testing.assert_array_equal(gradient, before)  # a step leaves it as it was


# --- a network ------------------------------------------------------------------------------------


def fit() -> tuple[list[float], list[bytes]]:
    """The loss of each epoch, and the weights, of a convolutional network trained by Muon."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(3)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60).astype(np.uint8)
    images = generator.integers(0, 80, (60, 6, 6, 1), np.uint8)
    images += 80 * labels[:, None, None, None]
    inputs = layers.Input((6, 6, 1))
    x = layers.Conv2D(12, 3, activation="relu", use_bias=False)(inputs)
    x = layers.Conv2D(4, 3)(layers.BatchNormalization()(x))
    model = NativeModel(inputs, layers.Dense(3)(layers.Flatten()(x)))
    model.prepare(Muon(0.02, weight_decay=0.01), 0.1, "float32")
    data = Batches(images, labels, np.array([120.0]), np.array([70.0]), 20, "cpu")
    losses = model.fit(data.loader(), epochs=5, verbose=0).history["loss"]
    return losses, [weight.numpy().tobytes() for weight in model.weights]


def test_a_network_learns_and_the_same_seed_gives_the_same_bytes() -> None:
    losses, weights = fit()
    assert losses[-1] < losses[0] / 2
    assert fit() == (losses, weights)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("momentum", "sgd_momentum")
        for value in (-0.1, 1.1, float("nan"), float("inf"))
    ]
    + [("sgd_rate", value) for value in (0.0, -1.0, float("nan"))],
)
def test_an_option_outside_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be .*; received {value}$"):
        Muon(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_the_range_of_a_momentum_are_in_it(value: float) -> None:
    optimizer = Muon(momentum=value, sgd_momentum=value)
    assert (optimizer.momentum, optimizer.sgd_momentum) == (value, value)
