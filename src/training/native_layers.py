"""Keras layers as native PyTorch functions that share the layers' weights.

They avoid three costs of stock Keras (3.15 on PyTorch 2.13):

- `BatchNormalization` is five element-wise operations in float32; PyTorch has one kernel for it.
- Between layers the channels_last layout is lost; here images and kernels keep it.
- Activations search for symbolic tensors at every call; here they are PyTorch's own.
"""

from collections.abc import Callable
from typing import Any

from common.backend import keras

import torch
from torch.nn import functional as F

from training.shards import Shard

Layer = Any  # Keras' annotations cover all of its backends at once
# (input, the shard that is trained or None in inference) -> output
LayerFunction = Callable[[torch.Tensor, Shard | None], torch.Tensor]


def _activation(function: Callable) -> Callable[[torch.Tensor], torch.Tensor]:
    """PyTorch's own version of a common activation, without Keras' search for symbolic tensors."""
    own = {keras.activations.linear: lambda x: x, keras.activations.relu: F.relu, keras.activations.silu: F.silu}
    return own.get(function, function)


def _conv2d(layer: Layer) -> LayerFunction | None:
    plain = layer.strides == (1, 1) == layer.dilation_rate and layer.groups == 1
    odd_square = layer.kernel_size[0] == layer.kernel_size[1] and layer.kernel_size[0] % 2
    if not plain or (layer.padding == "same" and not odd_square):
        return None
    kernel, bias = layer.kernel.value, layer.bias.value if layer.use_bias else None
    activation = _activation(layer.activation)
    with torch.no_grad():  # in memory (out, h, w, in): else it would be copied at each step
        kernel.data = kernel.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)

    def run(x: torch.Tensor, shard: Shard | None) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W), in memory channels_last
        # (h, w, in, out) -> (out, in, h, w), in memory channels_last already; where images have one
        # channel, the layout of the weight alone tells PyTorch to go on so
        weight = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, weight, bias, padding=layer.padding)
        return activation(x.permute(0, 2, 3, 1))

    return run


def _max_pooling(layer: Layer) -> LayerFunction | None:
    if layer.padding != "valid":
        return None
    size, strides = layer.pool_size, layer.strides
    return lambda x, shard: F.max_pool2d(x.permute(0, 3, 1, 2), size, strides).permute(0, 2, 3, 1)


def _rescaling(layer: Layer) -> LayerFunction | None:
    scale, offset = layer.scale, layer.offset
    if not isinstance(scale, float) or not isinstance(offset, float):  # one for each channel
        return None
    return lambda x, shard: x.float() * scale + offset


def _dense(layer: Layer) -> LayerFunction:
    kernel, bias = layer.kernel.value, layer.bias.value if layer.use_bias else None
    activation = _activation(layer.activation)
    return lambda x, shard: activation(F.linear(x, kernel.t(), bias))


def _dropout(layer: Layer) -> LayerFunction | None:
    if layer.seed is not None or layer.noise_shape is not None:
        return None  # Keras draws from the layer's own generator
    rate = layer.rate

    def run(x: torch.Tensor, shard: Shard | None) -> torch.Tensor:
        if not shard or rate == 0:
            return x
        if rate == 1:
            return torch.zeros_like(x)
        # F.dropout, with which Keras draws, cannot take a generator, and on Intel it draws with MKL.
        # These are the numbers that it draws elsewhere.
        draws = torch.rand(x.shape, dtype=torch.float64, generator=shard.generator, device=x.device)
        return x * (draws < 1 - rate).to(x.dtype).div_(1 - rate)

    return run


def _batch_normalization(layer: Layer) -> LayerFunction | None:
    if layer.axis != -1 or layer.renorm:
        return None
    # PyTorch takes float32 statistics with bfloat16 values only beside a float32 scale and offset
    scale = layer.gamma.value if layer.scale else torch.ones_like(layer.moving_mean.value)
    offset = layer.beta.value if layer.center else torch.zeros_like(layer.moving_mean.value)
    momentum, epsilon = layer.momentum, layer.epsilon

    def run(x: torch.Tensor, shard: Shard | None) -> torch.Tensor:
        count = x.numel() // x.shape[-1]  # values a channel
        if count == 1:  # which PyTorch refuses in training
            return layer.call(x, training=bool(shard))
        training = shard is not None and layer.trainable  # frozen, a layer uses its moving statistics
        mean, variance = layer.moving_mean.value, layer.moving_variance.value
        # copies, since they are updated in place
        new_mean, new_variance = (mean.clone(), variance.clone()) if training else (mean, variance)
        x, moves = x.movedim(-1, 1), 1 - momentum  # Keras' momentum is one minus PyTorch's
        x = F.batch_norm(x, new_mean, new_variance, scale, offset, training, moves, epsilon).movedim(1, -1)
        if shard and training:
            with torch.no_grad():
                # PyTorch's batch variance is sum / (count - 1), Keras' sum / count
                batch_share = new_variance - momentum * variance
                new_variance = momentum * variance + batch_share * ((count - 1) / count)
            shard.add_update((layer.moving_mean, new_mean))
            shard.add_update((layer.moving_variance, new_variance))
        return x

    return run


NATIVE: dict[type, Callable[[Layer], LayerFunction | None]] = {
    keras.layers.Conv2D: _conv2d,
    keras.layers.MaxPooling2D: _max_pooling,
    keras.layers.GlobalMaxPooling2D: lambda layer: lambda x, shard: x.amax((1, 2), keepdim=layer.keepdims),
    keras.layers.GlobalAveragePooling2D: lambda layer: lambda x, shard: x.mean((1, 2), keepdim=layer.keepdims),
    keras.layers.Rescaling: _rescaling,
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Activation: lambda layer: lambda x, shard: _activation(layer.activation)(x),
    keras.layers.Dropout: _dropout,
    keras.layers.Dense: _dense,
}


def native(layer: Layer) -> LayerFunction | None:
    """The function that computes `layer`, or None where only the layer's own `call` can."""
    plain = getattr(layer, "data_format", "channels_last") == "channels_last"
    if type(layer) not in NATIVE or not plain or getattr(layer, "activity_regularizer", None):
        return None
    return NATIVE[type(layer)](layer)
