"""Adam, its weights in pieces that stay in the cache."""

from collections.abc import Callable
from typing import Any

from common.backend import keras

import torch
from keras.src.backend.torch.optimizers import torch_adam

PIECE = 1 << 16  # weights: with gradients, both moments and two results they take 1.5 MiB


class Adam(torch_adam.Adam):
    """`keras.optimizers.Adam` in less time where the weights are larger than the cache.

    Keras (3.15) runs each of a dozen operations over all weights; here all run over one piece of them, then the next.
    With `exact_roots=False` its square roots are those of MKL, not those of common/backend.py, but for `amsgrad`.
    """

    run: Callable[..., Any] = map  # may be one that computes several pieces at a time

    def __init__(self, exact_roots: bool = True, **options: Any):
        super().__init__(**options)
        self.exact_roots = exact_roots

    def _parallel_update_step(self, grads: list[torch.Tensor], variables: list, learning_rate: Any) -> Any:
        if self.amsgrad or grads[0].is_cuda:
            return super()._parallel_update_step(grads, variables, learning_rate)
        root = torch.sqrt if self.exact_roots else lambda squares: squares.pow(0.5)  # PyTorch leaves that to MKL
        places = [self._get_variable_index(variable) for variable in variables]
        moments = [(self._momentums[place].value.data, self._velocities[place].value.data) for place in places]
        tensors = [(g, v.value.data, *both) for g, v, both in zip(grads, variables, moments, strict=True)]
        step, rate = (keras.ops.cast(value, "float32") for value in (self.iterations + 1, learning_rate))
        powers = [keras.ops.power(keras.ops.cast(beta, "float32"), step) for beta in (self.beta_1, self.beta_2)]
        rate = rate * root(1 - powers[1]) / (1 - powers[0])

        @torch.no_grad()  # a setting of each thread
        def update(piece: tuple[torch.Tensor, ...]) -> None:
            gradient, weights, momentum, velocity = piece
            momentum.mul_(self.beta_1).add_(gradient, alpha=1 - self.beta_1)
            velocity.mul_(self.beta_2).add_(gradient * gradient, alpha=1 - self.beta_2)
            weights.add_((momentum * rate).div_(root(velocity).add_(self.epsilon)), alpha=-1)

        pieces: list[tuple[torch.Tensor, ...]] = []
        for same in tensors:
            one_order = len({each.stride() for each in same}) == 1  # in memory, in which pieces are cut
            flat = [each.as_strided((each.numel(),), (1,)).split(PIECE) if one_order else (each,) for each in same]
            pieces += zip(*flat, strict=True)
        return list(self.run(update, pieces))
