"""Muon for convolutions: momentum whose step is equally long in every direction.

Keras' own Muon leaves all but matrices to AdamW, and a convolution's kernel has four axes.
"""

from typing import Any

from common import backend

# isort: split
import keras
import torch


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix` with its singular vectors, and singular values near 1 (0.7 to 1.2) instead of its own.

    Five Newton-Schulz steps with the quintic of https://kellerjordan.github.io/posts/muon.
    """
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:  # the square that each step makes should be the small one
        x = x.T
    for _ in range(5):
        square = x @ x.T
        polynomial = torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, polynomial, x, beta=3.4445)
    return x.T if tall else x


class Muon(keras.optimizers.Optimizer):
    """Convolution kernels by Muon, every other variable by SGD, both with Nesterov's momentum.

    A kernel (h, w, in, out) is a matrix (out, h·w·in) here, and a step is longer by
    √(out / (h·w·in)) where that is above 1 (https://github.com/KellerJordan/Muon). Weight decay is
    decoupled, as in all of Keras' optimizers, and in the same proportion for all variables.

    Args:
        learning_rate: of the kernels; a step moves each of a kernel's directions by about so much.
        momentum: of the kernels.
        sgd_momentum: of the other variables.
        sgd_rate: the learning rate of the other variables, in units of `learning_rate`.
        kwargs: as of every optimizer of Keras; `weight_decay` is of all variables.

    Raises:
        ValueError: a momentum is not between 0 and 1, or `sgd_rate` not above 0.
    """

    def __init__(
        self,
        learning_rate: float = 0.02,
        momentum: float = 0.8,
        sgd_momentum: float = 0.85,
        sgd_rate: float = 5.0,
        name: str = "muon",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        for rule, value in {"momentum": momentum, "sgd_momentum": sgd_momentum}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{rule} must be between 0 and 1; received {value}")
        if not sgd_rate > 0:
            raise ValueError(f"sgd_rate must be above 0; received {sgd_rate}")
        self.momentum, self.sgd_momentum, self.sgd_rate = momentum, sgd_momentum, sgd_rate

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "momentum": self.momentum,
            "sgd_momentum": self.sgd_momentum,
            "sgd_rate": self.sgd_rate,
        }

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            super().build(variables)
            self.momentums = self.add_optimizer_variables(variables, "momentum")

    @torch.no_grad()
    def update_step(
        self, gradient: torch.Tensor, variable: keras.Variable, learning_rate: keras.Variable
    ) -> None:
        weight, rate = variable.value, learning_rate.value
        velocity = self.momentums[self._get_variable_index(variable)].value
        if weight.ndim != 4:
            velocity.mul_(self.sgd_momentum).add_(gradient)
            step = gradient.add(velocity, alpha=self.sgd_momentum)
            weight.sub_(step * (rate * self.sgd_rate))
            return
        velocity.mul_(self.momentum).add_(gradient)
        step = gradient.add(velocity, alpha=self.momentum)  # (h, w, in, out)
        step = step.movedim(-1, 0)  # (h, w, in, out) -> (out, h, w, in)
        matrix = step.reshape(len(step), -1)  # (out, h·w·in)
        longer = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
        step = orthogonalised(matrix).view_as(step).movedim(0, -1)
        weight.sub_(step * (rate * longer))
