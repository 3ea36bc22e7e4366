"""Keras `fit` with training and validation steps close to the speed of hand-written PyTorch.

Layers run as native functions (native_layers.py). `NativeModel` avoids four more costs of stock Keras:

- Keras keeps every activation until the last layer has run; here each is freed after its last use.
- Keras' mixed precision casts before and after every layer; autocast casts where an operation gains.
- Keras computes its metrics at every batch; here are running sums.
- Keras reports batches in another thread, which takes turns with the training thread.

The weights remain the variables of the Keras layers, so callbacks, optimizers and saving work as usual.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from common.backend import keras

import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from training import native_layers, processes
from training.batches import Batch
from training.native_layers import Layer, LayerFunction

Tensors = dict[int, torch.Tensor]  # by the id of their symbolic tensor


def _keras(layer: Layer) -> Callable[..., Any]:
    """The layer's own computation; it may have several inputs and outputs."""
    # `call`, since calling the layer would cast its input to float32; but only calling the layer adds
    # the loss of an activity regulariser
    call = layer if getattr(layer, "activity_regularizer", None) else layer.call
    if getattr(layer, "_call_has_training_arg", False):
        return call

    def without_training(*args: Any, training: bool, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return without_training


def _compute(node: Any, native: LayerFunction | None, last_use: list[int]) -> Callable[[Tensors, bool], None]:
    """A function that reads a node's inputs, writes its outputs, and drops the tensors in `last_use`."""
    if native is not None:  # one tensor in, one out; images have no mask
        (source,), (target,) = map(id, node.input_tensors), map(id, node.outputs)
        take = dict.pop if last_use else dict.__getitem__

        def run(tensors: Tensors, training: bool) -> None:
            tensors[target] = native(take(tensors, source), training)

        return run
    call = _keras(node.operation)

    def run_keras(tensors: Tensors, training: bool) -> None:
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = keras.tree.flatten(call(*args, **kwargs | {"training": training}))
        for tensor in last_use:
            del tensors[tensor]
        tensors.update(zip(map(id, node.outputs), outputs, strict=True))

    return run_keras


class _EveryBatch(keras.callbacks.Callback):
    """Makes Keras report batches in the training thread.

    Without a callback that has these methods, Keras reports batches in another thread, and while that
    thread runs Python code the training thread cannot.
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        pass

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        pass


class NativeModel(keras.Model):
    """A functional Keras model whose `fit` and `evaluate` run as native PyTorch operations.

    Batches are (images, labels), normalised float32 (N, H, W, C) and int64 (N,). In training they may
    also have weights (N,) and a function to call with the losses (N,), in nats. The model outputs logits.
    The logs hold the mean cross-entropy in nats, without label smoothing, and the accuracy; both weighted.
    """

    _sums: SimpleNamespace  # since setting an attribute of a Keras model takes 15 µs

    def prepare(self, optimizer: keras.Optimizer, label_smoothing: float, precision: str) -> None:
        """Compiles the model.

        Args:
            label_smoothing: for the training loss; the logs leave it out.
            precision: float32, or bfloat16 by autocast, in training and in validation; the weights
                and the saved model stay float32.
        """
        self.compile(optimizer=optimizer)
        optimizer.build(self.trainable_variables)
        self._label_smoothing = label_smoothing
        self._autocast = precision == "bfloat16"
        self._variables_to_train = list(self.trainable_variables)
        self._weights = [variable.value for variable in self._variables_to_train]
        self._moving = [
            variable.value for variable in self.non_trainable_variables if variable.value.is_floating_point()
        ]
        self._has_regularizers = any(v.regularizer for v in self._variables_to_train) or any(
            getattr(layer, "activity_regularizer", None) for layer in self.layers
        )
        nodes = [
            node
            for depth in sorted(self._nodes_by_depth, reverse=True)
            for node in self._nodes_by_depth[depth]
            if not node.is_input
        ]
        # for each node, the tensors that no later node needs; kept alive, as in Keras' own walk through
        # the graph, they would cost a page fault for every page of every activation
        last_reader = {id(x): place for place, node in enumerate(nodes) for x in node.input_tensors}
        last_reader.pop(id(self.outputs[0]), None)
        last_use: list[list[int]] = [[] for _ in nodes]
        for tensor, place in last_reader.items():
            last_use[place].append(tensor)
        # by layer, since a layer can be in several nodes
        native = {layer: native_layers.native(layer) for layer in self.layers}
        self._computations = [
            _compute(node, native.get(node.operation), last_use[place]) for place, node in enumerate(nodes)
        ]
        self._logits_to_train: Callable[..., torch.Tensor] = self.logits
        if processes.is_distributed():
            # find_unused_parameters keeps the buckets of gradients as they are. Otherwise they are sorted
            # anew after the first step, and a resumed training would add up in another order.
            parallel = DistributedDataParallel(
                processes.DataParallelFunction(self.logits, self._weights), find_unused_parameters=True
            )
            self._logits_to_train = parallel.__call__  # Keras would make a layer of the module itself

    def logits(self, images: torch.Tensor, training: bool = True) -> torch.Tensor:
        """(N, H, W, C) -> (N, classes), float32."""
        tensors = {id(self.inputs[0]): images}
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._autocast):
            for compute in self._computations:
                compute(tensors, training)
        return tensors[id(self.outputs[0])].float()

    def accepts(self, images: torch.Tensor) -> bool:
        """Whether the network can process images of this size, whatever size it was built for."""
        try:
            with torch.no_grad():
                self.logits(images, training=False)
        except (RuntimeError, ValueError):  # PyTorch's and Keras' errors for shapes that do not fit
            return False
        return True

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        callbacks = [*keras.tree.flatten(callbacks or []), _EveryBatch()]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def evaluate(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        if not isinstance(callbacks, keras.callbacks.CallbackList):  # made by `fit`
            callbacks = [*keras.tree.flatten(callbacks or []), _EveryBatch()]
        return super().evaluate(*args, callbacks=callbacks, **kwargs)

    def train_step(self, data: Batch) -> dict[str, torch.Tensor]:
        images, labels, *pruning = data
        for weight in self._weights:
            weight.grad = None
        log_probabilities = self._logits_to_train(images).log_softmax(-1)  # (N, classes)
        if pruning:
            weights, record_losses = pruning
            losses = F.nll_loss(log_probabilities, labels, reduction="none")
            record_losses(losses.detach())
            cross_entropy = (weights * losses).mean()
            uniform = -(weights * log_probabilities.mean(-1)).mean()
        else:
            weights = None
            cross_entropy = F.nll_loss(log_probabilities, labels)
            uniform = -log_probabilities.mean()
        smooth = self._label_smoothing
        loss = (1 - smooth) * cross_entropy + smooth * uniform
        if self._has_regularizers:
            loss = loss + sum(self.losses)
        if processes.is_distributed():
            # the gradients' mean over the processes counts shards alike; they differ by a row
            rows = torch.tensor(len(labels), device=labels.device)
            loss = loss * (processes.count() * len(labels) / processes.all_reduce(rows))
        loss.backward()
        with torch.no_grad():
            gradients = [weight.grad for weight in self._weights]
            self.optimizer.apply(gradients, self._variables_to_train)
            processes.all_reduce_mean(self._moving)
        return self._tally(cross_entropy, log_probabilities, labels, weights)

    @torch.no_grad()
    def test_step(self, data: Batch) -> dict[str, torch.Tensor]:
        images, labels = data
        log_probabilities = self.logits(images, training=False).log_softmax(-1)
        return self._tally(F.nll_loss(log_probabilities, labels), log_probabilities, labels)

    @torch.no_grad()
    def _tally(
        self,
        cross_entropy: torch.Tensor,
        log_probabilities: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Means since the last `reset_metrics`; tensors, so that nothing waits for the device."""
        correct_rows = log_probabilities.argmax(-1) == labels
        if weights is not None:
            correct_rows = correct_rows * weights
        sums = self._sums
        sums.rows = sums.rows + (len(labels) if weights is None else weights.sum().double())
        sums.loss = sums.loss + cross_entropy.detach().double() * len(labels)
        sums.correct = sums.correct + correct_rows.sum().double()
        loss, correct, rows = sums.loss, sums.correct, sums.rows
        if processes.is_distributed():
            own = [torch.as_tensor(x, device=labels.device).double() for x in (loss, correct, rows)]
            loss, correct, rows = processes.all_reduce(torch.stack(own))
        return {"loss": loss / rows, "accuracy": correct / rows}

    def reset_metrics(self) -> None:
        # with weighted rows, all three are weighted sums
        self._sums = SimpleNamespace(loss=0.0, correct=0.0, rows=0)

    @property
    def metrics(self) -> list[keras.Metric]:
        return []  # the steps return their own logs
