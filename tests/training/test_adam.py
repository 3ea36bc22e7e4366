from typing import Any

import keras
import numpy as np
import pytest
import torch

from training import adam
from training.adam import Adam

SHAPES = (3, 3, 8, 16), (70, 90), (90,), (1,)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(optimizer: keras.Optimizer) -> list[bytes]:
    """All that four steps change, of which the first has a rate of its own."""
    variables = [keras.Variable(numbers(*shape), name=f"kernel_{len(shape)}") for shape in SHAPES]
    for step in range(4):
        optimizer.apply([numbers(*shape, seed=1 + step) for shape in SHAPES], variables)
        optimizer.learning_rate = 0.01
    return [variable.value.detach().numpy().tobytes() for variable in (*variables, *optimizer.variables)]


@pytest.mark.parametrize("piece", [64, 1024, 1 << 16])
@pytest.mark.parametrize(
    "options", [{}, {"beta_1": 0.8, "epsilon": 0.01}, {"weight_decay": 0.01, "clipnorm": 0.5, "use_ema": True}]
)
def test_pieces_have_the_bytes_of_keras(monkeypatch: pytest.MonkeyPatch, piece: int, options: dict[str, Any]) -> None:
    expected = trained(keras.optimizers.Adam(**options))
    monkeypatch.setattr(adam, "PIECE", piece)
    monkeypatch.setattr(Adam.__base__, "_parallel_update_step", None)  # Keras' own is not asked
    counts = []

    def run(_: Adam, work: Any, pieces: list[tuple[torch.Tensor, ...]]) -> list[None]:
        counts.append(len(pieces))
        return [work(each) for each in reversed(pieces)]  # the order has no influence

    monkeypatch.setattr(Adam, "run", run)
    assert trained(Adam(**options)) == expected
    assert counts == [sum(-(-torch.Size(shape).numel() // piece) for shape in SHAPES)] * 4


def test_amsgrad_is_left_to_keras() -> None:
    assert trained(Adam(amsgrad=True)) == trained(keras.optimizers.Adam(amsgrad=True))


@pytest.mark.parametrize("exact", [True, False])
def test_a_gradient_in_another_order_gives_the_same(exact: bool) -> None:
    variables = [keras.Variable(numbers(4, 6)) for _ in range(2)]
    gradient = numbers(6, 4).t()
    for variable, each in zip(variables, (gradient, gradient.contiguous()), strict=True):
        Adam(exact_roots=exact).apply([each], [variable])
    assert torch.equal(variables[0].value, variables[1].value)


@pytest.mark.parametrize("exact", [True, False])
def test_roots_are_exact_or_those_of_mkl(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    """A step in NumPy, which rounds every operation as IEEE 754 demands; MKL's roots differ in a fifth."""
    monkeypatch.setattr(adam, "PIECE", 1000)
    variable, optimizer = keras.Variable(numbers(4096)), Adam(exact_roots=exact, learning_rate=0.01)
    root = np.sqrt if exact else lambda values: torch.from_numpy(np.asarray(values)).pow(0.5).numpy()
    one, rate, epsilon = (np.float32(value) for value in (1, 0.01, 1e-7))
    weights = variable.value.detach().numpy().copy()
    for step in range(1, 4):
        optimizer.apply([numbers(4096, seed=step)], [variable])
        momentum, velocity = (state[0].value.numpy() for state in (optimizer._momentums, optimizer._velocities))
        powers = [keras.ops.power(keras.ops.cast(beta, "float32"), float(step)).numpy() for beta in (0.9, 0.999)]
        factor = rate * root(one - powers[1]) / (one - powers[0])
        weights = weights - momentum * factor / (root(velocity) + epsilon)
        assert weights.dtype == np.float32
        assert np.array_equal(variable.value.detach().numpy(), weights)
