from typing import Any

import keras
import numpy as np
import pytest
import torch

import twins
from training.muon import Muon, orthogonal

OPTIONS: dict[str, Any] = {"learning_rate": 0.5, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(5, 40), (64, 64), (70, 9), (1, 30)])
def test_an_orthogonal_matrix_has_the_same_singular_vectors_and_values_near_one(shape: tuple[int, int]) -> None:
    u, _, v = torch.linalg.svd(numbers(*shape).double(), full_matrices=False)
    values = torch.linspace(1.0, 0.2, len(v)).double()
    result = orthogonal((u * values @ v).float()).double()
    in_their_terms = u.T @ result @ v.T
    assert (in_their_terms.diagonal() - 1).abs().max() < 0.35  # the polynomial oscillates around 1
    assert (in_their_terms - in_their_terms.diagonal().diag()).abs().max() < 1e-4
    assert torch.dist(result, u @ in_their_terms @ v) < 1e-4  # nothing beside


def test_it_is_newton_and_schulz() -> None:
    matrix = numbers(6, 20)
    expected = matrix.double() / matrix.double().norm()
    for _ in range(3):
        gram = expected @ expected.T
        expected = 3.4445 * expected + (-4.775 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonal(matrix).double(), expected, rtol=1e-4, atol=1e-5)


def kernel_and_bias() -> list[keras.Variable]:
    return [keras.Variable(numbers(3, 3, 4, 8) * 5, name="kernel"), keras.Variable(numbers(8), name="bias")]


@pytest.mark.parametrize("nesterov", [True, False])
def test_two_steps_of_a_kernel(nesterov: bool) -> None:
    variables = kernel_and_bias()
    muon = Muon(kernel_rate=0.2, kernel_momentum=0.6, **OPTIONS | {"nesterov": nesterov})
    kernel, momentum = variables[0].value.detach().clone(), torch.zeros(8, 36)
    for step in range(2):
        gradients = [numbers(3, 3, 4, 8) * (step + 1), numbers(8)]
        muon.apply(gradients, variables)
        rows = gradients[0].reshape(36, 8).T
        momentum = 0.6 * momentum + rows
        direction = orthogonal(rows + 0.6 * momentum if nesterov else momentum).T.reshape(3, 3, 4, 8)
        kernel = kernel * 8**0.5 / kernel.norm() - 0.5 * 0.2 * direction
    torch.testing.assert_close(variables[0].value.detach(), kernel, rtol=1e-5, atol=1e-6)


def test_other_weights_have_the_steps_of_sgd() -> None:
    variables, others = kernel_and_bias(), kernel_and_bias()
    muon, sgd = Muon(**OPTIONS), keras.optimizers.SGD(**OPTIONS)
    for _ in range(3):
        gradients = [numbers(3, 3, 4, 8), numbers(8)]
        muon.apply(gradients, variables)
        sgd.apply(gradients, others)
    torch.testing.assert_close(variables[1].value, others[1].value)
    assert not torch.equal(variables[0].value, others[0].value)


def weights_after_an_epoch(threads: int) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    _, model = twins.twins(twins.architecture("blocks"))
    twins.prepare(model, Muon(**OPTIONS), shards=4, threads=threads)
    twins.fit(model, twins.batches(48, 16, shards=4))
    return [weight.numpy() for weight in model.weights]


def test_threads_leave_the_bytes() -> None:
    for one, two in zip(weights_after_an_epoch(1), weights_after_an_epoch(3), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("value", [0.0, -0.1, None])
@pytest.mark.parametrize("name", ["momentum", "kernel_momentum", "kernel_rate"])
def test_what_is_not_above_zero_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match="momentum, kernel_momentum and kernel_rate must be above 0"):
        Muon(learning_rate=0.1, **{name: value})
