"""Keras `fit` with training and validation steps close to what PyTorch can do by hand.

Seven things make stock Keras slow on PyTorch, and this module goes round each:

- `BatchNormalization` is five element-wise operations in float32; PyTorch has it in one kernel.
- Between layers the channels_last layout is lost; here it is kept, kernels included.
- Every activation is kept until the last layer has run; here it goes after its last reader.
- Mixed precision casts at the border of every layer; autocast casts where an operation gains.
- Metrics are computed by Keras at every batch; two running sums are enough.
- Batches are reported by another thread, which takes turns with the one that trains.
- On images of a few pixels PyTorch takes long for the gradient of a kernel; see `_FewPixels`.

The weights stay those of the Keras layers, so callbacks, optimizers and saving know no difference.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from common import backend

# isort: split
import keras
import torch
from keras import layers
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.nn.parallel import DistributedDataParallel

from training import processes
from training.batches import Batch

Layer = Any  # Keras' annotations cover all of its backends at once
Run = Callable[[torch.Tensor, bool], torch.Tensor]  # one layer: its input, and whether in training
Tensors = dict[int, torch.Tensor]  # by the id of the symbolic tensor that they stand for


def _activation(function: Callable) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same in PyTorch, without Keras' search for symbolic tensors, if it is a common one."""
    native = {
        keras.activations.linear: lambda x: x,
        keras.activations.relu: F.relu,
        keras.activations.silu: F.silu,
    }
    return native.get(function, function)


class _FewPixels(torch.autograd.Function):
    """A convolution with an odd square kernel, at stride 1, that keeps the size of its images.

    The gradient of the kernel is one product of two matrices. In bfloat16, oneDNN (PyTorch 2.13) takes
    more than half as long again for it on images of 3 × 3, and four times as long on those of 2 × 2.
    """

    MOST = 9  # pixels, from which on oneDNN is as fast

    @staticmethod
    def forward(context: Any, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """(N, in, H, W), (out, in, h, w) -> (N, out, H, W), all of one type."""
        context.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, kernel = context.saved_tensors
        outputs, inputs, size, _ = kernel.shape
        border = size // 2
        # what each place of the output has seen: (N, H + 2b, W + 2b, in) -> (N · H · W, h · w · in)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[border] * 4))
        seen = padded.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
        seen = seen.reshape(-1, size * size * inputs)
        of_places = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
        of_kernel = (of_places.t() @ seen).view(outputs, size, size, inputs).permute(0, 3, 1, 2)
        of_x = conv2d_input(x.shape, kernel, gradient, padding=border)
        return of_x, of_kernel


def _conv2d(layer: Layer) -> Run | None:
    plain = layer.strides == (1, 1) == layer.dilation_rate and layer.groups == 1
    odd_square = layer.kernel_size[0] == layer.kernel_size[1] and layer.kernel_size[0] % 2
    if not plain or (layer.padding == "same" and not odd_square):
        return None
    kernel, bias = layer.kernel.value, layer.bias.value if layer.use_bias else None
    padding = layer.kernel_size[0] // 2 if layer.padding == "same" else 0
    keeps_size = layer.padding == "same" and layer.kernel_size[0] > 1
    activation = _activation(layer.activation)
    with torch.no_grad():  # in memory (out, h, w, in): else it would be copied at each step
        kernel.data = kernel.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)

    def run(x: torch.Tensor, training: bool) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W), in memory channels_last
        # (h, w, in, out) -> (out, in, h, w), in memory channels_last already; where images have one
        # channel, the layout of the weight alone tells PyTorch to go on so
        weight = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        few_pixels = keeps_size and x.shape[2] * x.shape[3] <= _FewPixels.MOST
        if few_pixels and training and bias is None and torch.is_autocast_enabled("cpu"):
            x = _FewPixels.apply(x.to(torch.bfloat16), weight.to(torch.bfloat16))
        else:
            x = F.conv2d(x, weight, bias, padding=padding)
        return activation(x.permute(0, 2, 3, 1))

    return run


def _max_pooling(layer: Layer) -> Run | None:
    if layer.padding != "valid":
        return None
    size, strides = layer.pool_size, layer.strides

    def run(x: torch.Tensor, training: bool) -> torch.Tensor:
        return F.max_pool2d(x.permute(0, 3, 1, 2), size, strides).permute(0, 2, 3, 1)

    return run


def _global_max_pooling(layer: Layer) -> Run:
    return lambda x, training: x.amax((1, 2), keepdim=layer.keepdims)


def _global_average_pooling(layer: Layer) -> Run:
    return lambda x, training: x.mean((1, 2), keepdim=layer.keepdims)


def _rescaling(layer: Layer) -> Run | None:
    scale, offset = layer.scale, layer.offset
    if not isinstance(scale, float) or not isinstance(offset, float):  # one for each channel
        return None
    return lambda x, training: x.float() * scale + offset


def _activation_layer(layer: Layer) -> Run:
    activation = _activation(layer.activation)
    return lambda x, training: activation(x)


def _dense(layer: Layer) -> Run:
    kernel, bias = layer.kernel.value, layer.bias.value if layer.use_bias else None
    activation = _activation(layer.activation)

    def run(x: torch.Tensor, training: bool) -> torch.Tensor:
        return activation(F.linear(x, kernel.t(), bias))

    return run


def _batch_normalization(layer: Layer) -> Run | None:
    if layer.axis != -1 or layer.renorm:
        return None
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    # PyTorch takes float32 statistics with bfloat16 values only beside a float32 scale and offset
    scale = layer.gamma.value if layer.scale else torch.ones_like(mean)
    offset = layer.beta.value if layer.center else torch.zeros_like(mean)
    momentum, epsilon = layer.momentum, layer.epsilon

    def run(x: torch.Tensor, training: bool) -> torch.Tensor:
        count = x.numel() // x.shape[-1]  # values a channel
        if count == 1:  # which PyTorch refuses in training
            return layer.call(x, training=training)
        training = training and layer.trainable  # frozen, a layer uses its moving statistics
        if training:  # copies, since the backward pass must find what the forward pass was given
            new_mean, new_variance = mean.clone(), variance.clone()
        else:
            new_mean, new_variance = mean, variance
        x = F.batch_norm(
            x.movedim(-1, 1),
            new_mean,
            new_variance,
            scale,
            offset,
            training=training,
            momentum=1 - momentum,  # Keras' momentum is one minus PyTorch's
            eps=epsilon,
        ).movedim(1, -1)
        if training:
            with torch.no_grad():
                mean.copy_(new_mean)
                # PyTorch's batch variance is sum / (count - 1), Keras' sum / count
                batch_share = new_variance - momentum * variance
                variance.mul_(momentum).add_(batch_share, alpha=(count - 1) / count)
        return x

    return run


NATIVE: dict[type, Callable[[Layer], Run | None]] = {
    layers.Conv2D: _conv2d,
    layers.MaxPooling2D: _max_pooling,
    layers.GlobalMaxPooling2D: _global_max_pooling,
    layers.GlobalAveragePooling2D: _global_average_pooling,
    layers.Rescaling: _rescaling,
    layers.BatchNormalization: _batch_normalization,
    layers.Activation: _activation_layer,
    layers.Dense: _dense,
}


def _native(layer: layers.Layer) -> Run | None:
    """What computes `layer`, or None where the layer's own `call` must do it."""
    plain = getattr(layer, "data_format", "channels_last") == "channels_last"
    if type(layer) not in NATIVE or not plain or getattr(layer, "activity_regularizer", None):
        return None
    return NATIVE[type(layer)](layer)


def _keras(layer: Layer) -> Callable[..., Any]:
    """The layer's own computation; it may have several inputs and outputs."""
    # `call`, not the layer itself, which would cast its input to float32; but only the layer
    # itself adds the loss of its activity
    call = layer if getattr(layer, "activity_regularizer", None) else layer.call
    if getattr(layer, "_call_has_training_arg", False):
        return call

    def without_training(*args: Any, training: bool, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return without_training


def _compute(node: Any, native: Run | None, spent: list[int]) -> Callable[[Tensors, bool], None]:
    """What reads the inputs of a node of the graph, writes its outputs, and drops what is `spent`."""
    if native is not None:  # one tensor in, one out; images have no mask
        (source,), (target,) = map(id, node.input_tensors), map(id, node.outputs)
        take = dict.pop if spent else dict.__getitem__

        def run(tensors: Tensors, training: bool) -> None:
            tensors[target] = native(take(tensors, source), training)

        return run
    call = _keras(node.operation)

    def run_keras(tensors: Tensors, training: bool) -> None:
        args, kwargs = node.arguments.fill_in(tensors)
        outputs = keras.tree.flatten(call(*args, **kwargs | {"training": training}))
        for tensor in spent:
            del tensors[tensor]
        tensors.update(zip(map(id, node.outputs), outputs, strict=True))

    return run_keras


class _EveryBatch(keras.callbacks.Callback):
    """Does nothing at every batch, in this thread.

    With no callback that does something there, Keras lets another thread report the batches, and while
    that one runs Python this one cannot.
    """

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        pass

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        pass


class NativeModel(keras.Model):
    """A functional Keras model whose `fit` and `evaluate` run as native PyTorch operations.

    Batches are (images, labels), normalised float32 (N, H, W, C) and int64 (N,), or in training also
    their weights (N,) and a function that is given their losses (N,), in nats. The model ends in logits.
    The logs hold the mean cross-entropy in nats, without label smoothing, and the accuracy; both weighted.
    """

    _sums: SimpleNamespace  # to set an attribute of the model itself takes Keras 15 µs

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
        self._weights = [variable.value for variable in self._variables_to_train]
        self._moving = [
            variable.value
            for variable in self.non_trainable_variables
            if variable.value.is_floating_point()
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
        # the tensors that no later node needs, by node: kept alive, as Keras' own walk through the
        # graph does, they cost a page fault for every page of every activation
        last_reader = {id(x): place for place, node in enumerate(nodes) for x in node.input_tensors}
        last_reader.pop(id(self.outputs[0]), None)
        spent: list[list[int]] = [[] for _ in nodes]
        for tensor, place in last_reader.items():
            spent[place].append(tensor)
        native = {
            layer: _native(layer) for layer in self.layers
        }  # one, where it is in several nodes
        self._computations = [
            _compute(node, native.get(node.operation), spent[place])
            for place, node in enumerate(nodes)
        ]
        self._logits_to_train: Callable[..., torch.Tensor] = self.logits
        if processes.started():
            # with find_unused_parameters its buckets stay as they are: after the first step it would
            # sort them anew, and a training that goes on would add up in another order
            shared = DistributedDataParallel(
                processes.Shared(self.logits, self._weights), find_unused_parameters=True
            )
            self._logits_to_train = shared.__call__  # itself Keras would take for a layer

    def logits(self, images: torch.Tensor, training: bool = True) -> torch.Tensor:
        """(N, H, W, C) -> (N, classes), float32."""
        tensors = {id(self.inputs[0]): images}
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._autocast):
            for compute in self._computations:
                compute(tensors, training)
        return tensors[id(self.outputs[0])].float()

    def takes(self, images: torch.Tensor) -> bool:
        """Whether the network can compute images of this size, whatever it was built for."""
        try:
            with torch.no_grad():
                self.logits(images, training=False)
        except (RuntimeError, ValueError):  # PyTorch and Keras on shapes that do not fit
            return False
        return True

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        callbacks = [*keras.tree.flatten(callbacks or []), _EveryBatch()]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def evaluate(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        if not isinstance(callbacks, keras.callbacks.CallbackList):  # which is what `fit` made
            callbacks = [*keras.tree.flatten(callbacks or []), _EveryBatch()]
        return super().evaluate(*args, callbacks=callbacks, **kwargs)

    def train_step(self, data: Batch) -> dict[str, torch.Tensor]:
        images, labels, *pruning = data
        for weight in self._weights:
            weight.grad = None
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
            gradients = [weight.grad for weight in self._weights]
            self.optimizer.apply(gradients, self._variables_to_train)
            processes.average_(self._moving)
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
        if processes.started():
            own = [torch.as_tensor(x, device=labels.device).double() for x in (loss, correct, rows)]
            loss, correct, rows = processes.total(torch.stack(own))
        return {"loss": loss / rows, "accuracy": correct / rows}

    def reset_metrics(self) -> None:
        # of weighted rows, all three are sums of weights
        self._sums = SimpleNamespace(loss=0.0, correct=0.0, rows=0)

    @property
    def metrics(self) -> list[keras.Metric]:
        return []  # the steps return their own logs
