"""Muon for the kernels of convolutions, SGD for all other weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

from common.backend import keras

import torch
from torch.nn import functional as F

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic polynomial; it brings singular values near 1
STEPS = 3


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a · bᵀ (m, n), of matrices (m, k) and (n, k)."""
    if a.device.type == "cpu" and torch.backends.mkldnn.is_available():
        # oneDNN, since MKL with the same bytes on every processor takes three times as long
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return F.linear(a, b)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """U · Vᵀ (m, n), roughly, where `matrix` (m, n) is U · S · Vᵀ: all its singular values become about 1.

    Newton-Schulz iterations, computed with the small Gram matrix X · Xᵀ: all iterations together are
    one polynomial of it, and only the last product has the size of `matrix`.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.t()).t()
    matrix = matrix / (matrix.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    gram = _product(matrix, matrix)  # symmetric, as all that is made of it
    factors = torch.eye(len(matrix), device=matrix.device)
    for step in range(STEPS):
        factor = b * gram + c * _product(gram, gram)
        factor.diagonal().add_(a)
        factors = _product(factor, factors)
        if step < STEPS - 1:
            gram = _product(_product(factor, gram), factor)
    return _product(factors, matrix.t())


class Muon(keras.optimizers.SGD):
    """SGD, except for the kernels of convolutions, whose steps are orthogonal matrices.

    A kernel is a matrix with one row for each filter. Before every step it is scaled so that the root mean square of
    the rows' norms is 1: `kernel_rate` times the learning rate is then its change relative to its size. Suits kernels
    that batch normalisation follows. (Muon, https://kellerjordan.github.io/posts/muon/, as in airbench94_muon,
    https://github.com/KellerJordan/cifar10-airbench.)

    Args:
        momentum: of the other weights, as `options`.
        kernel_momentum: of kernels; `nesterov` is for both.
        kernel_rate: the learning rate of kernels, in units of the learning rate.
        options: of `keras.optimizers.SGD`.

    Raises:
        ValueError: a momentum or `kernel_rate` is not above 0.
    """

    run: Callable[..., Any] = map  # may be one that computes several kernels at a time

    def __init__(self, momentum: float = 0.85, kernel_momentum: float = 0.6, kernel_rate: float = 0.2, **options: Any):
        if not all(value and value > 0 for value in (momentum, kernel_momentum, kernel_rate)):
            raise ValueError("momentum, kernel_momentum and kernel_rate must be above 0")
        super().__init__(momentum=momentum, **{"learning_rate": 0.4} | options)
        self.kernel_rate, self.kernel_momentum = kernel_rate, kernel_momentum

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        pairs = list(zip(grads, trainable_variables, strict=True))
        kernels = [(gradient, variable) for gradient, variable in pairs if len(variable.shape) == 4]
        for gradient, variable in pairs:
            if len(variable.shape) != 4:
                self.update_step(gradient, variable, learning_rate)
        kernels.sort(key=lambda pair: pair[0].numel(), reverse=True)  # the longest work first
        # as a number, unless to read it would wait for a GPU
        rate = learning_rate.value if grads[0].is_cuda else float(learning_rate)
        step = partial(self._update_kernel, rate=rate * self.kernel_rate)
        list(self.run(step, kernels))

    @torch.no_grad()  # a setting of each thread
    def _update_kernel(self, pair: tuple[torch.Tensor, keras.Variable], rate: Any) -> None:
        gradient, variable = pair
        momentum = self.momentums[self._get_variable_index(variable)].value
        momentum.mul_(self.kernel_momentum).add_(gradient)
        direction = gradient.add(momentum, alpha=self.kernel_momentum) if self.nesterov else momentum
        height, width, channels, filters = variable.shape
        rows = direction.permute(3, 0, 1, 2).reshape(filters, -1)
        update = orthogonal(rows).view(filters, height, width, channels).permute(1, 2, 3, 0)
        kernel = variable.value
        kernel.mul_(filters**0.5 / (kernel.norm() + 1e-7)).add_(update, alpha=-rate)
