from typing import Any

import keras
import pytest
import torch

from training import adam
from training.adam import Adam

SHAPES = (3, 3, 8, 16), (70, 90), (90,), (1,)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(optimizer: keras.Optimizer) -> list[bytes]:
    """All that four steps change, the second of them with another rate."""
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


def test_what_pieces_cannot_do_is_left_to_keras() -> None:
    assert trained(Adam(amsgrad=True)) == trained(keras.optimizers.Adam(amsgrad=True))
    rows, columns = (keras.Variable(numbers(4, 6)) for _ in range(2))
    for variable, kind in ((rows, Adam), (columns, keras.optimizers.Adam)):
        kind().apply([numbers(6, 4).t()], [variable])  # a gradient in another order
    assert torch.equal(rows.value, columns.value)
