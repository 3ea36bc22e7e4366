"""Adam as Keras has it, with the weights in pieces that stay in the processor's cache."""

from collections.abc import Callable
from typing import Any

from common.backend import keras

import torch
from keras.src.backend.torch.optimizers import torch_adam

PIECE = 1 << 16  # weights: with gradients, both moments and two results they take 1.5 MiB


class Adam(torch_adam.Adam):
    """`keras.optimizers.Adam`, with the same bytes in less time where the weights are larger than the cache.

    Keras (3.15) runs each of a dozen operations over all weights, and so reads and writes the memory a dozen times.
    Here all of them run over one piece of the weights, then over the next.
    """

    run: Callable[..., Any] = map  # may be one that computes several pieces at a time

    def _parallel_update_step(self, grads: list[torch.Tensor], variables: list, learning_rate: Any) -> None:
        places = [self._get_variable_index(variable) for variable in variables]
        moments = [(self._momentums[place].value.data, self._velocities[place].value.data) for place in places]
        tensors = [(g, v.value.data, *both) for g, v, both in zip(grads, variables, moments, strict=True)]
        if self.amsgrad or grads[0].is_cuda or any(len({each.stride() for each in same}) > 1 for same in tensors):
            return super()._parallel_update_step(grads, variables, learning_rate)
        step, rate = (keras.ops.cast(value, "float32") for value in (self.iterations + 1, learning_rate))
        powers = [keras.ops.power(keras.ops.cast(beta, "float32"), step) for beta in (self.beta_1, self.beta_2)]
        rate = rate * keras.ops.sqrt(1 - powers[1]) / (1 - powers[0])

        @torch.no_grad()  # a setting of each thread
        def update(piece: tuple[torch.Tensor, ...]) -> None:
            gradient, weights, momentum, velocity = piece
            momentum.mul_(self.beta_1).add_(gradient, alpha=1 - self.beta_1)
            velocity.mul_(self.beta_2).add_(gradient * gradient, alpha=1 - self.beta_2)
            weights.add_((momentum * rate).div_(velocity.sqrt().add_(self.epsilon)), alpha=-1)

        in_memory_order = ([each.as_strided((each.numel(),), (1,)).split(PIECE) for each in same] for same in tensors)
        list(self.run(update, [piece for pieces in in_memory_order for piece in zip(*pieces, strict=True)]))
        return None
