"""Keras `fit` with training and validation steps close to the speed of hand-written PyTorch.

Layers run as native functions (native_layers.py). `NativeModel` avoids four more costs of stock Keras:

- Keras keeps every activation until the last layer has run; here each is freed after its last use.
- Keras' mixed precision casts before and after every layer; autocast casts where an operation gains.
- Keras computes its metrics at every batch and reads them from the device; here are sums that stay there.
- Keras reports batches in another thread, which takes turns with the training thread.

Each batch is computed in shards (shards.py). The weights remain the variables of the Keras layers, so callbacks, optimizers and saving work as usual.
"""

import pickle
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from common.backend import keras
from common.errors import InputError

import numpy as np
import torch
from torch.nn import functional as F

from training import native_layers
from training.adam import Adam
from training.batches import Batch
from training.muon import Muon
from training.native_layers import LayerFunction
from training.shards import Adder, Shard, views

Tensors = dict[int, torch.Tensor]  # by the id of their symbolic tensor
LOGS = {"loss": None, "accuracy": None}  # of a batch; the keys are those of the epoch, else Keras logs these
# else Keras (3.15) reports batches in another thread, and while that runs Python code this one cannot
keras.src.backend.IS_THREAD_SAFE = False
SEED_STEP = torch.tensor([1 << 22, 0])  # between the seeds of two shards; a generator draws once a step


def _compute(node: Any, native: LayerFunction | None, last_use: list[int]) -> Callable[[Tensors, Shard | None], None]:
    """A function that reads a node's inputs, writes its outputs, and drops the tensors in `last_use`."""
    if native is not None:  # one tensor in, one out; images have no mask
        (source,), (target,) = map(id, node.input_tensors), map(id, node.outputs)
        take = dict.pop if last_use else dict.__getitem__

        def run(tensors: Tensors, shard: Shard | None) -> None:
            tensors[target] = native(take(tensors, source), shard)

        return run
    layer = node.operation  # may have several inputs and outputs
    # `call`, since calling the layer would cast its input to float32; but only calling the layer adds
    # the loss of an activity regulariser
    call = layer if getattr(layer, "activity_regularizer", None) else layer.call

    def run_keras(tensors: Tensors, shard: Shard | None) -> None:
        args, kwargs = node.arguments.fill_in(tensors)
        training = {"training": bool(shard)} if getattr(layer, "_call_has_training_arg", False) else {}
        outputs = keras.tree.flatten(call(*args, **kwargs | training))
        for tensor in last_use:
            del tensors[tensor]
        tensors.update(zip(map(id, node.outputs), outputs, strict=True))

    return run_keras


class NativeModel(keras.Model):
    """A functional Keras model whose `fit` and `evaluate` run as native PyTorch operations.

    Its data are `Batch`es. The model outputs logits. The logs of an epoch hold the mean cross-entropy in nats,
    without label smoothing, and the accuracy; both weighted. Those of a batch are None, since a number would
    have to wait for the device.
    """

    _state: list[keras.Variable]

    def prepare(
        self,
        optimizer: keras.Optimizer,
        label_smoothing: float,
        precision: str,
        adder: Adder,
        shard_seeds: Sequence[int],
    ) -> None:
        """Compiles the model.

        Args:
            label_smoothing: for the training loss; the logs leave it out.
            precision: float32, or bfloat16 by autocast, in training and in validation; the weights
                and the saved model stay float32.
            adder: computes the shards of batches.
            shard_seeds: for the draws of each shard but the first one, which draws from PyTorch's default generator.

        Raises:
            InputError: a layer draws random numbers from a generator that all layers share.
        """
        self.compile(optimizer=optimizer)
        self._label_smoothing = label_smoothing
        self._autocast = precision == "bfloat16"
        self._variables_to_train = list(self.trainable_variables)
        self._weights = [variable.value for variable in self._variables_to_train]
        self._regularized = [v for v in self._variables_to_train if v.regularizer]
        by_depth = self._nodes_by_depth
        nodes = [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth] if not n.is_input]
        # for each node, the tensors that no later node needs; kept alive, as in Keras' own walk through
        # the graph, they would cost a page fault for every page of every activation
        last_reader = {id(x): place for place, node in enumerate(nodes) for x in node.input_tensors}
        last_reader.pop(id(self.outputs[0]), None)
        # by layer, since a layer can be in several nodes
        native = {layer: native_layers.native(layer) for layer in self.layers}
        self._computations = [
            _compute(node, native.get(node.operation), [x for x, last in last_reader.items() if last == place])
            for place, node in enumerate(nodes)
        ]
        if isinstance(optimizer, Adam | Muon):
            optimizer.run = adder.map
        optimizer.build(self.trainable_variables)
        by_shape = {weight.shape: weight for weight in self._weights}
        for variable in optimizer.variables:  # in memory as the weights are, else each step would reorder
            if (weight := by_shape.get(variable.value.shape)) is not None:
                variable.value.data = torch.empty_like(weight).copy_(variable.value)
        self.adder = adder
        device = self._weights[0].device
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # weights, losses and correct rows
        default = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index]
        self.generators = [default, *(torch.Generator(device).manual_seed(seed) for seed in shard_seeds)]
        # not by Keras, which would count them among the weights of this model
        object.__setattr__(self, "_state", self._find_state())
        self._changed = [*self._weights, *(v.value for v in self._state)]  # by a training step
        self.update: Callable[[Batch], torch.Tensor] = self._update  # benchmarks/on_gpu/ tries others

    def _find_state(self) -> list[keras.Variable]:
        """The variables that a training step changes beside the weights, in a step that changes none."""
        keras_generator = keras.src.random.seed_generator.global_seed_generator()

        def shared() -> bytes:
            return pickle.dumps([self.generators[0].get_state().numpy(), random.getstate(), np.random.get_state()])

        before, device = shared(), self.generators[0].device
        shard = Shard(torch.Generator(device))
        self.logits(torch.zeros(2, *self.inputs[0].shape[1:], device=device), shard)
        if id(keras_generator.state) in shard.state_mapping or shared() != before:
            raise InputError(
                "each layer of an architecture that draws random numbers must have a generator of its own "
                f"(the argument seed); received {self.name}, with a layer that draws from one that all share"
            )
        return [v for v in self.non_trainable_variables if id(v) in shard.state_mapping]

    def logits(self, images: torch.Tensor, shard: Shard | None = None) -> torch.Tensor:
        """(N, H, W, C) -> (N, classes), float32.

        Args:
            shard: takes all that a step changes beside the weights, and so may run beside others; None in inference.
        """
        tensors = {id(self.inputs[0]): images}
        with (
            shard or nullcontext(),
            # the cache would be shared with threads that compute other shards
            torch.autocast(images.device.type, torch.bfloat16, enabled=self._autocast, cache_enabled=False),
        ):
            for compute in self._computations:
                compute(tensors, shard)
        return tensors[id(self.outputs[0])].float()

    def train_step(self, data: Batch) -> dict[str, None]:
        data.record_losses(self.update(data))
        return LOGS

    def _update(self, batch: Batch) -> torch.Tensor:
        """One step of the optimizer; returns the losses of the rows (B,)."""
        length = sum(tensor.numel() for tensor in self._changed) + 2 * len(batch.labels)
        total = self.adder(lambda number: self._train_shard(batch, number, length), len(batch.shards), length)
        *changes, of_rows = views(total, self._changed)
        gradients, state = changes[: len(self._weights)], changes[len(self._weights) :]
        losses, correct = of_rows.view(2, -1)
        with torch.no_grad():
            self.optimizer.apply(gradients, self._variables_to_train)
            for variable, change in zip(self._state, state, strict=True):
                variable.value.add_(change.to(variable.value.dtype))
        self._tally(losses, correct, batch.weights)
        return losses

    def _train_shard(self, batch: Batch, number: int, length: int) -> torch.Tensor:
        """Gradients, changes of the state, losses of rows, and whether they are correct, in one vector (length,)."""
        rows = batch.shards[number]
        labels, share = batch.labels[rows], (rows.stop - rows.start) / len(batch.labels)
        # integers are the states of Keras' generators, which draw from the sum of seed and counter
        start = [
            v.value if v.value.is_floating_point() else v.value + number * SEED_STEP.to(v.value.device)
            for v in self._state
        ]
        shard = Shard(self.generators[number], zip(self._state, start, strict=True))
        logits = self.logits(batch.normalised(batch.images[rows]), shard)  # (n, classes)
        log_probabilities = logits.log_softmax(-1)
        losses = F.nll_loss(log_probabilities, labels, reduction="none")
        smooth = self._label_smoothing
        to_minimise = (1 - smooth) * losses - smooth * log_probabilities.mean(-1)
        if batch.weights is not None:
            to_minimise = to_minimise * batch.weights[rows]
        loss = to_minimise.sum() / len(batch.labels)
        penalties = [*shard.losses, *(v.regularizer(v) for v in self._regularized)]
        if penalties:  # Keras divides the penalty of an activity by the number of rows
            loss = loss + share * sum(penalties)
        gradients = torch.autograd.grad(loss, self._weights, materialize_grads=True)
        with torch.no_grad():
            changes = [shard.get_current_value(v) - before for v, before in zip(self._state, start, strict=True)]
            # the mean over rows; of the counters one, since all shards draw as often
            changes = [x * share if x.is_floating_point() else x.float() * (number == 0) for x in changes]
            vector = losses.new_empty(length)
            parts = [*gradients, *changes, self._of_rows(batch, rows, losses, log_probabilities)]
            for view, part in zip(views(vector, self._changed), parts, strict=True):
                view.copy_(part)
            return vector

    @staticmethod
    def _of_rows(batch: Batch, rows: slice, losses: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
        """(2 · B,): the losses of a batch, then 1 for each correct row; 0 outside `rows`."""
        of_rows = torch.zeros(2, len(batch.labels), device=losses.device)
        of_rows[0, rows] = losses
        of_rows[1, rows] = (log_probabilities.argmax(-1) == batch.labels[rows]).float()
        return of_rows.flatten()

    @torch.no_grad()
    def test_step(self, data: Batch) -> dict[str, None]:
        total = self.adder(lambda number: self._val_shard(data, number), len(data.shards), 2 * len(data.labels))
        losses, correct = total.view(2, -1)
        self._tally(losses, correct, weights=None)
        return LOGS

    @torch.no_grad()  # a setting of each thread
    def _val_shard(self, batch: Batch, number: int) -> torch.Tensor:
        rows = batch.shards[number]
        log_probabilities = self.logits(batch.normalised(batch.images[rows])).log_softmax(-1)
        losses = F.nll_loss(log_probabilities, batch.labels[rows], reduction="none")
        return self._of_rows(batch, rows, losses, log_probabilities)

    def _tally(self, losses: torch.Tensor, correct: torch.Tensor, weights: torch.Tensor | None) -> None:
        if weights is None:
            weights = torch.ones_like(losses)
        self._sums.add_(torch.stack([weights.sum(), (weights * losses).sum(), (weights * correct).sum()]))

    def reset_metrics(self) -> None:
        self._sums.zero_()

    def get_metrics_result(self) -> dict[str, torch.Tensor]:
        """Means since the last `reset_metrics`, for Keras to log when an epoch ends."""
        weights, losses, correct = self._sums
        return {"loss": losses / weights, "accuracy": correct / weights}
