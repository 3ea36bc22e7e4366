"""Keras `fit` with training and validation steps close to what PyTorch can do by hand.

Five things make stock Keras layers slow on PyTorch, and this module goes round each:

- `BatchNormalization` is five element-wise operations in float32; PyTorch has it in one kernel.
- Between layers the channels_last layout is lost; here it is kept, kernels included.
- Every activation is kept until the last layer has run; here it goes after its last reader.
- Mixed precision casts at the border of every layer; autocast casts where an operation gains.
- Metrics are computed by Keras at every batch; two running sums are enough.

The weights stay those of the Keras layers, so callbacks, optimizers and saving know no difference.
"""

from collections.abc import Callable
from typing import Any

from common import backend

# isort: split
import keras
import torch
from keras import layers
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from training import processes
from training.batches import Batch

Layer = Any  # Keras' annotations cover all of its backends at once
Tensors = tuple[torch.Tensor, torch.Tensor]


def _conv2d(layer: Layer, x: torch.Tensor, training: bool) -> torch.Tensor:
    x = F.conv2d(
        x.permute(0, 3, 1, 2),  # (N, H, W, C) -> (N, C, H, W), in memory channels_last
        # (h, w, in, out) -> (out, in, h, w), in memory channels_last already (see `prepare`); where
        # images have one channel, the layout of the weight alone tells PyTorch to go on so
        layer.kernel.value.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last),
        layer.bias.value if layer.use_bias else None,
        padding=layer.kernel_size[0] // 2 if layer.padding == "same" else 0,
    ).permute(0, 2, 3, 1)
    return layer.activation(x)


def _max_pooling(layer: Layer, x: torch.Tensor, training: bool) -> torch.Tensor:
    x = F.max_pool2d(x.permute(0, 3, 1, 2), layer.pool_size, layer.strides)
    return x.permute(0, 2, 3, 1)


def _dense(layer: Layer, x: torch.Tensor, training: bool) -> torch.Tensor:
    x = F.linear(x, layer.kernel.value.t(), layer.bias.value if layer.use_bias else None)
    return layer.activation(x)


def _batch_normalization(layer: Layer, x: torch.Tensor, training: bool) -> torch.Tensor:
    count = x.numel() // x.shape[-1]  # values a channel
    if count == 1:  # which PyTorch refuses in training
        return layer.call(x, training=training)
    training = training and layer.trainable  # frozen, a layer uses its moving statistics
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    if training:  # copies, since the backward pass must find what the forward pass was given
        new_mean, new_variance = mean.clone(), variance.clone()
    else:
        new_mean, new_variance = mean, variance
    # PyTorch takes float32 statistics with bfloat16 values only beside a float32 scale and offset
    scale = layer.gamma.value if layer.scale else torch.ones_like(mean)
    offset = layer.beta.value if layer.center else torch.zeros_like(mean)
    x = F.batch_norm(
        x.movedim(-1, 1),
        new_mean,
        new_variance,
        scale,
        offset,
        training=training,
        momentum=1 - layer.momentum,  # Keras' momentum is one minus PyTorch's
        eps=layer.epsilon,
    ).movedim(1, -1)
    if training:
        with torch.no_grad():
            mean.copy_(new_mean)
            # PyTorch's batch variance is sum / (count - 1), Keras' sum / count
            batch_share = new_variance - layer.momentum * variance
            variance.mul_(layer.momentum).add_(batch_share, alpha=(count - 1) / count)
    return x


def _native(layer: layers.Layer) -> Callable[..., torch.Tensor] | None:
    """The function that computes `layer`, or None where the layer's own `call` must do it."""
    if getattr(layer, "activity_regularizer", None):
        return None
    if type(layer) is layers.Conv2D:
        odd_square = layer.kernel_size[0] == layer.kernel_size[1] and layer.kernel_size[0] % 2
        plain = layer.strides == (1, 1) == layer.dilation_rate and layer.groups == 1
        if (
            plain
            and layer.data_format == "channels_last"
            and (layer.padding == "valid" or odd_square)
        ):
            return _conv2d
    elif type(layer) is layers.MaxPooling2D:
        if layer.padding == "valid" and layer.data_format == "channels_last":
            return _max_pooling
    elif type(layer) is layers.Dense:
        return _dense
    elif type(layer) is layers.BatchNormalization:
        plain = layer.axis == -1 and not layer.renorm
        return _batch_normalization if plain else None
    return None


class NativeModel(keras.Model):
    """A functional Keras model whose `fit` and `evaluate` run as native PyTorch operations.

    Batches are (images, labels), normalised float32 (N, H, W, C) and int64 (N,), or in training also
    their weights (N,) and a function that is given their losses (N,), in nats. The model ends in logits.
    The logs hold the mean cross-entropy in nats, without label smoothing, and the accuracy; both weighted.
    """

    _loss_sum: torch.Tensor | float
    _correct: torch.Tensor | float
    _rows: torch.Tensor | int  # or the sum of their weights

    def prepare(self, optimizer: keras.Optimizer, label_smoothing: float, precision: str) -> None:
        """Compiles the model.

        Args:
            label_smoothing: in training; the logs are without.
            precision: float32, or bfloat16 by autocast, in training and in validation; the weights
                stay float32, and so does the saved model.
        """
        self.compile(optimizer=optimizer)
        optimizer.build(self.trainable_variables)
        self._label_smoothing = label_smoothing
        self._autocast = precision == "bfloat16"
        self._variables_to_train = list(self.trainable_variables)
        self._moving = [
            variable.value
            for variable in self.non_trainable_variables
            if variable.value.is_floating_point()
        ]
        with torch.no_grad():
            for layer in self.layers:
                if _native(layer) is _conv2d:  # in memory (out, h, w, in): else copied at each step
                    kernel = layer.kernel.value
                    kernel.data = kernel.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
        self._has_regularizers = any(v.regularizer for v in self._variables_to_train) or any(
            getattr(layer, "activity_regularizer", None) for layer in self.layers
        )
        self._nodes = [
            node
            for depth in sorted(self._nodes_by_depth, reverse=True)
            for node in self._nodes_by_depth[depth]
            if not node.is_input
        ]
        self._functions = [self._function(node.operation) for node in self._nodes]
        self._arguments = [self._arguments_of(node) for node in self._nodes]
        # the tensors that no later node needs, by node: kept alive, as Keras' own walk through the
        # graph does, they cost a page fault for every page of every activation
        last_reader = {
            id(x): place for place, node in enumerate(self._nodes) for x in node.input_tensors
        }
        last_reader.pop(id(self.outputs[0]), None)
        self._spent: list[list[int]] = [[] for _ in self._nodes]
        for tensor, place in last_reader.items():
            self._spent[place].append(tensor)
        self._logits_to_train: Callable[..., torch.Tensor] = self.logits
        if processes.started():
            weights = [variable.value for variable in self._variables_to_train]
            # with find_unused_parameters its buckets stay as they are: after the first step it would
            # sort them anew, and a training that goes on would add up in another order
            shared = DistributedDataParallel(
                processes.Shared(self.logits, weights), find_unused_parameters=True
            )
            self._logits_to_train = shared.__call__  # itself Keras would take for a layer

    @staticmethod
    def _function(layer: Layer) -> Callable[..., torch.Tensor]:
        """What computes a layer, given its inputs and `training`."""
        native = _native(layer)
        if native is not None:
            return lambda x, training, **_: native(layer, x, training)  # images have no mask
        # `call`, not the layer itself, which would cast its input to float32; but only the layer
        # itself adds the loss of its activity
        call = layer if getattr(layer, "activity_regularizer", None) else layer.call
        if getattr(layer, "_call_has_training_arg", False):
            return call

        def without_training(*args: Any, training: bool, **kwargs: Any) -> torch.Tensor:
            return call(*args, **kwargs)

        return without_training

    @staticmethod
    def _arguments_of(node: Any) -> Callable[[dict[int, torch.Tensor]], tuple[tuple, dict]]:
        """What fills in a layer's arguments; at once where they hold but one tensor, the first."""
        symbolic = node.arguments
        if len(symbolic.keras_tensors) == len(symbolic.args) == 1:
            (only,) = symbolic.keras_tensors
            if symbolic.args[0] is only:
                return lambda tensors: ((tensors[id(only)],), symbolic.kwargs)
        return symbolic.fill_in

    def logits(self, images: torch.Tensor, training: bool = True) -> torch.Tensor:
        """(N, H, W, C) -> (N, classes), float32."""
        tensors = {id(self.inputs[0]): images}
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._autocast):
            for node, arguments, function, spent in zip(
                self._nodes, self._arguments, self._functions, self._spent, strict=True
            ):
                args, kwargs = arguments(tensors)
                outputs = function(*args, **kwargs | {"training": training})
                del args, kwargs
                for tensor in spent:
                    del tensors[tensor]
                flat = [outputs] if torch.is_tensor(outputs) else keras.tree.flatten(outputs)
                for symbol, output in zip(node.outputs, flat, strict=True):
                    tensors[id(symbol)] = output
                del outputs, flat, output
        return tensors[id(self.outputs[0])].float()

    def takes(self, images: torch.Tensor) -> bool:
        """Whether the network can compute images of this size, whatever it was built for."""
        try:
            with torch.no_grad():
                self.logits(images, training=False)
        except (RuntimeError, ValueError):  # PyTorch and Keras on shapes that do not fit
            return False
        return True

    def train_step(self, data: Batch) -> dict[str, torch.Tensor]:
        images, labels, *pruning = data
        for variable in self._variables_to_train:
            variable.value.grad = None
        log_probabilities = self._logits_to_train(images).log_softmax(-1)  # (N, classes)
        if pruning:
            weights, keep = pruning
            losses = F.nll_loss(log_probabilities, labels, reduction="none")
            keep(losses.detach())
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
        if processes.started():  # a mean over processes follows, which have a row more or less
            rows = torch.tensor(len(labels), device=labels.device)
            loss = loss * (processes.count() * len(labels) / processes.total(rows))
        loss.backward()
        with torch.no_grad():
            gradients = [variable.value.grad for variable in self._variables_to_train]
            self.optimizer.apply(gradients, self._variables_to_train)
            processes.average_(self._moving)
        return self._tally(cross_entropy, log_probabilities, labels, weights)

    @torch.no_grad()
    def test_step(self, data: Tensors) -> dict[str, torch.Tensor]:
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
        self._rows = self._rows + (len(labels) if weights is None else weights.sum().double())
        self._loss_sum = self._loss_sum + cross_entropy.detach().double() * len(labels)
        self._correct = self._correct + correct_rows.sum().double()
        loss, correct, rows = self._loss_sum, self._correct, self._rows
        if processes.started():
            sums = [
                torch.as_tensor(x, device=labels.device).double() for x in (loss, correct, rows)
            ]
            loss, correct, rows = processes.total(torch.stack(sums))
        return {"loss": loss / rows, "accuracy": correct / rows}

    def reset_metrics(self) -> None:
        self._rows = 0
        self._loss_sum = self._correct = 0.0

    @property
    def metrics(self) -> list[keras.Metric]:
        return []  # the steps return their own logs
