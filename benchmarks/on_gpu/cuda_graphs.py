"""Training steps on a GPU, each recorded once as a CUDA graph and then replayed: not a part of training until measured.

Started one by one, the many small operations of a step take the processor longer than the GPU
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from common.backend import keras

import torch
from torch.overrides import TorchFunctionMode

from training.batches import Batch

WARM_UP = 2  # batches of a form that are computed as usual, so that libraries are ready


class NoWaiting(TorchFunctionMode):
    """Keras' optimizers (3.15) without two things that wait for a GPU, and so cannot be recorded."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.as_tensor and isinstance(args[0], int | float):  # copies the number from the host
            return torch.full((), args[0], **kwargs)
        if isinstance(kwargs.get("alpha"), torch.Tensor):  # reads this factor of the second argument as a number
            product = torch._foreach_mul if isinstance(args[1], list | tuple) else torch.mul
            return func(args[0], product(args[1], kwargs["alpha"]))
        return func(*args, **kwargs)


class Replayed:
    """`step` of a batch, recorded for each number and size of images.

    Args:
        step: returns a tensor, and changes others in place.
        generators: of its random draws; the first is PyTorch's default.

    Attributes:
        seconds: in which steps were recorded, so far.
    """

    def __init__(self, step: Callable[[Batch], torch.Tensor], generators: Sequence[torch.Generator]):
        self.step, self.generators, self.seconds = step, generators, 0.0
        self.stream = torch.cuda.Stream()  # to warm up and to record, since libraries prepare each stream
        self.seen: Counter[torch.Size] = Counter()
        self.recorded: dict[torch.Size, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]] = {}

    def __call__(self, batch: Batch) -> torch.Tensor:
        """What `step` returns; the next call overwrites it."""
        weights = torch.ones_like(batch.labels, dtype=torch.float32) if batch.weights is None else batch.weights
        given = [batch.normalised(batch.images), batch.labels, weights]
        form = given[0].shape
        self.seen[form] += 1
        if self.seen[form] <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream), NoWaiting():
                result = self._compute(batch, *given)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if form not in self.recorded:
            torch.cuda.synchronize()  # else steps that are still computed would count as recording
            start = time.perf_counter()
            graph, own = torch.cuda.CUDAGraph(), [tensor.clone() for tensor in given]
            for generator in self.generators[1:]:
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=self.stream), NoWaiting():
                self.recorded[form] = graph, own, self._compute(batch, *own)
            torch.cuda.synchronize()
            self.seconds += time.perf_counter() - start
        graph, own, result = self.recorded[form]
        torch._foreach_copy_(own, given)
        graph.replay()
        return result

    def _compute(self, batch: Batch, images: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> Any:
        return self.step(batch._replace(images=images, labels=labels, weights=weights, normalised=lambda x: x))


def waits(model: Any) -> bool:
    """Whether Keras computes on the host in a step: Nadam's factors, conditions, seeds of its generators."""
    on_host = isinstance(model.optimizer, keras.optimizers.Nadam) or model.optimizer.gradient_accumulation_steps
    return bool(on_host or model.optimizer.use_ema or not all(v.value.is_floating_point() for v in model._state))


def use(model: Any, graphs: bool) -> None:
    """Makes the steps of a model on a GPU not wait for it; with `graphs` records them, where nothing else waits."""
    if model.generators[0].device.type != "cuda" or waits(model):
        return

    def update(batch: Batch) -> torch.Tensor:
        with NoWaiting():
            return model._update(batch)

    model.update = Replayed(model._update, model.generators) if graphs else update
