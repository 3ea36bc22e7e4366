"""Keras layers as native PyTorch functions that share the layers' weights.

They avoid four costs of stock Keras (3.15 on PyTorch 2.13):

- `BatchNormalization` is five element-wise operations in float32; PyTorch has one kernel for it.
- Between layers the channels_last layout is lost; here images and kernels keep it.
- Activations search for symbolic tensors at every call; here they are PyTorch's own.
- On images of a few pixels the gradient of a kernel takes PyTorch long; see `SmallImageConv`.
"""

from collections.abc import Callable
from typing import Any

from common.backend import keras

import torch
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

Layer = Any  # Keras' annotations cover all of its backends at once
LayerFunction = Callable[[torch.Tensor, bool], torch.Tensor]  # (input, training) -> output


def _activation(function: Callable) -> Callable[[torch.Tensor], torch.Tensor]:
    """PyTorch's own version of a common activation, without Keras' search for symbolic tensors."""
    native = {
        keras.activations.linear: lambda x: x,
        keras.activations.relu: F.relu,
        keras.activations.silu: F.silu,
    }
    return native.get(function, function)


class SmallImageConv(torch.autograd.Function):
    """A convolution with an odd square kernel, stride 1 and "same" padding, for images of few pixels.

    It computes the gradient of the kernel as one product of two matrices. In bfloat16, oneDNN (PyTorch
    2.13) takes 1.5 times as long on images of 3 × 3 pixels, and four times as long on 2 × 2.
    """

    MAX_PIXELS = 9  # oneDNN is as fast on larger images

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
        # the patch below each output pixel: (N, H + 2b, W + 2b, in) -> (N · H · W, h · w · in)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[border] * 4))
        patches = padded.unfold(1, size, 1).unfold(2, size, 1).permute(0, 1, 2, 4, 5, 3)
        patches = patches.reshape(-1, size * size * inputs)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)  # (N · H · W, out)
        kernel_gradient = (rows.t() @ patches).view(outputs, size, size, inputs)
        x_gradient = conv2d_input(x.shape, kernel, gradient, padding=border)
        return x_gradient, kernel_gradient.permute(0, 3, 1, 2)  # (out, h, w, in) -> (out, in, h, w)


def _conv2d(layer: Layer) -> LayerFunction | None:
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
        few_pixels = keeps_size and x.shape[2] * x.shape[3] <= SmallImageConv.MAX_PIXELS
        if few_pixels and training and bias is None and torch.is_autocast_enabled("cpu"):
            x = SmallImageConv.apply(x.to(torch.bfloat16), weight.to(torch.bfloat16))
        else:
            x = F.conv2d(x, weight, bias, padding=padding)
        return activation(x.permute(0, 2, 3, 1))

    return run


def _max_pooling(layer: Layer) -> LayerFunction | None:
    if layer.padding != "valid":
        return None
    size, strides = layer.pool_size, layer.strides

    def run(x: torch.Tensor, training: bool) -> torch.Tensor:
        return F.max_pool2d(x.permute(0, 3, 1, 2), size, strides).permute(0, 2, 3, 1)

    return run


def _global_max_pooling(layer: Layer) -> LayerFunction:
    return lambda x, training: x.amax((1, 2), keepdim=layer.keepdims)


def _global_average_pooling(layer: Layer) -> LayerFunction:
    return lambda x, training: x.mean((1, 2), keepdim=layer.keepdims)


def _rescaling(layer: Layer) -> LayerFunction | None:
    scale, offset = layer.scale, layer.offset
    if not isinstance(scale, float) or not isinstance(offset, float):  # one for each channel
        return None
    return lambda x, training: x.float() * scale + offset


def _activation_layer(layer: Layer) -> LayerFunction:
    activation = _activation(layer.activation)
    return lambda x, training: activation(x)


def _dense(layer: Layer) -> LayerFunction:
    kernel, bias = layer.kernel.value, layer.bias.value if layer.use_bias else None
    activation = _activation(layer.activation)

    def run(x: torch.Tensor, training: bool) -> torch.Tensor:
        return activation(F.linear(x, kernel.t(), bias))

    return run


def _batch_normalization(layer: Layer) -> LayerFunction | None:
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


NATIVE: dict[type, Callable[[Layer], LayerFunction | None]] = {
    keras.layers.Conv2D: _conv2d,
    keras.layers.MaxPooling2D: _max_pooling,
    keras.layers.GlobalMaxPooling2D: _global_max_pooling,
    keras.layers.GlobalAveragePooling2D: _global_average_pooling,
    keras.layers.Rescaling: _rescaling,
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Activation: _activation_layer,
    keras.layers.Dense: _dense,
}


def native(layer: Layer) -> LayerFunction | None:
    """The function that computes `layer`, or None where only the layer's own `call` can."""
    plain = getattr(layer, "data_format", "channels_last") == "channels_last"
    if type(layer) not in NATIVE or not plain or getattr(layer, "activity_regularizer", None):
        return None
    return NATIVE[type(layer)](layer)
