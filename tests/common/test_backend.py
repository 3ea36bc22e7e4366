"""How Keras is imported, and the square roots of PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any, get_args

from common.backend import UNUSED, slow_imports_hidden
from common.params import Train

import keras
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from train import make_optimizer
from training.adam import Adam

SQUARES = torch.linspace(0, 9, 70 * 90).view(70, 90)
# begin with an approximation of the processor's
MKL = {("pow", 0.5), *((name, None) for name in ("tan", "asin", "acos", "atan", "log2", "log10"))}


def rooted(values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(np.sqrt(values.numpy())))


def test_what_is_imported_already_stays_and_stand_ins_go_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    real = object()
    monkeypatch.setitem(sys.modules, "sklearn", real)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    with suppress(KeyboardInterrupt), slow_imports_hidden():
        assert sys.modules["sklearn"] is real
        assert sys.modules["torch._dynamo"] is UNUSED["torch._dynamo"]
        raise KeyboardInterrupt
    assert sys.modules["sklearn"] is real
    assert "torch._dynamo" not in sys.modules


@pytest.mark.parametrize(
    "root",
    [
        torch.sqrt,
        lambda x: x.clone().sqrt_(),
        lambda x: torch.sqrt(x, out=torch.empty(0, dtype=x.dtype)),
        lambda x: torch._foreach_sqrt([x])[0],
        keras.ops.sqrt,
    ],
)
@pytest.mark.parametrize(
    "values", [SQUARES, SQUARES.t(), SQUARES[:, ::7], SQUARES[3, 3], SQUARES[:0], SQUARES.double(), -SQUARES[:1, :1]]
)
def test_every_square_root_is_exact(root: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> None:
    """As IEEE 754 rounds it, which NumPy does; MKL's would differ in a fifth."""
    assert torch.equal(root(values), rooted(values))


def test_roots_of_other_numbers_are_those_of_pytorch() -> None:
    assert torch.sqrt(torch.tensor([0, 4, 9])).tolist() == [0.0, 2.0, 3.0]
    assert torch.tensor([2.0, 9.0], dtype=torch.bfloat16).sqrt().tolist() == [1.4140625, 3.0]
    assert torch.tensor([-1.0]).sqrt().isnan().all()
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.tensor([4]).sqrt_()
    values = torch.tensor([0.25, 4.0], requires_grad=True)
    (values * 1).sqrt_().sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.25]


def test_a_power_of_one_half_is_the_root_of_mkl() -> None:
    """Which the published systems were trained with; PyTorch alone, without common/backend.py, takes no other."""
    code = "import torch, sys; sys.stdout.buffer.write(torch.linspace(0, 9, 6300).sqrt().numpy().tobytes())"
    alone = torch.frombuffer(bytearray(subprocess.check_output([sys.executable, "-c", code])), dtype=torch.float32)
    assert torch.equal(SQUARES.flatten().pow(0.5), alone)


class Operations(TorchDispatchMode):
    """Those of PyTorch that run, by name, with the exponent of a power."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, float | None]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::").removeprefix("_foreach_").removesuffix("_")
        self.seen.add((name, float(args[1]) if name == "pow" else None))
        return func(*args, **kwargs or {})


def operations_of(optimizer: keras.Optimizer) -> set[tuple[str, float | None]]:
    """Those of two steps."""
    variables = [keras.Variable(SQUARES.clone()), keras.Variable(SQUARES[0].clone())]
    with Operations() as operations:
        for _ in range(2):
            optimizer.apply([-variable.value.detach() for variable in variables], variables)
    return operations.seen


OPTIMIZERS = get_args(Train.model_fields["optimizer"].annotation)
OPTIONS: list[dict[str, Any]] = [{}, {"clipnorm": 0.1, "weight_decay": 0.1}, {"global_clipnorm": 0.1}]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *product(OPTIMIZERS, OPTIONS),
        ("adam", {"amsgrad": True}),
        ("adamw", {"amsgrad": True}),
        ("rmsprop", {"centered": True}),
    ],
)
def test_no_optimizer_takes_what_processors_compute_otherwise(name: str, options: dict[str, Any]) -> None:
    operations = operations_of(make_optimizer(name, 0.01, options)[0])
    assert operations
    assert not operations & MKL


def test_the_roots_of_mkl_are_seen() -> None:
    assert operations_of(Adam(exact_roots=False)) & MKL == {("pow", 0.5)}
