"""Each kind of layer against stock Keras: the same outputs, gradients and moving statistics."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn import functional as F

from training.native_layers import SmallImageConv
from twins import Build, architecture, assert_same_weights, batches, everything, fit, sgd, twins

Block = Callable[[Any], Any]

LAYERS: dict[str, tuple[type, dict[str, Any]]] = {
    # computed natively
    "convolution": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"}),
    "5 x 5, no bias": (layers.Conv2D, {"filters": 4, "kernel_size": 5, "padding": "same", "use_bias": False}),
    "valid, oblong": (layers.Conv2D, {"filters": 4, "kernel_size": (2, 3), "padding": "valid"}),
    "pooling": (layers.MaxPooling2D, {"pool_size": 3, "strides": 2}),
    "dense on pixels": (layers.Dense, {"units": 4, "activation": "gelu", "use_bias": False}),
    "batch norm": (layers.BatchNormalization, {"momentum": 0.6, "epsilon": 0.1}),
    "global max": (layers.GlobalMaxPooling2D, {}),
    "global max, two axes kept": (layers.GlobalMaxPooling2D, {"keepdims": True}),
    "global mean": (layers.GlobalAveragePooling2D, {}),
    "global mean, two axes kept": (layers.GlobalAveragePooling2D, {"keepdims": True}),
    "rescaling": (layers.Rescaling, {"scale": 0.3, "offset": -0.2}),
    "silu": (layers.Activation, {"activation": "silu"}),
    "another activation": (layers.Activation, {"activation": "leaky_relu"}),
    # computed by Keras
    "strided": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}),
    "even kernel": (layers.Conv2D, {"filters": 4, "kernel_size": 2, "padding": "same"}),
    "oblong kernel": (layers.Conv2D, {"filters": 4, "kernel_size": (3, 5), "padding": "same"}),
    "dilated": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "dilation_rate": 2, "padding": "same"}),
    "grouped": (layers.Conv2D, {"filters": 6, "kernel_size": 3, "groups": 3}),
    "channels first": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "data_format": "channels_first"}),
    "depthwise": (layers.DepthwiseConv2D, {"kernel_size": 3, "padding": "same"}),
    "separable": (layers.SeparableConv2D, {"filters": 4, "kernel_size": 3, "padding": "same"}),
    "padded pooling": (layers.MaxPooling2D, {"pool_size": 3, "strides": 2, "padding": "same"}),
    "channels first pooling": (layers.MaxPooling2D, {"pool_size": 2, "data_format": "channels_first"}),
    "mean pooling": (layers.AveragePooling2D, {"pool_size": 2}),
    "dropout": (layers.Dropout, {"rate": 0.5, "seed": 1}),
    "dropout, regularised": (layers.Dropout, {"rate": 0.5, "seed": 1, "activity_regularizer": "l2"}),
    "layer norm": (layers.LayerNormalization, {}),
    "rescaling by channel": (layers.Rescaling, {"scale": [0.3, 2.0, 1.0]}),
    "batch norm without scale": (layers.BatchNormalization, {"scale": False}),
    "batch norm without centre": (layers.BatchNormalization, {"center": False}),
    "batch norm of rows": (layers.BatchNormalization, {"axis": 1}),
    "batch renorm": (layers.BatchNormalization, {"renorm": True}),
    # for Keras: use the moving statistics, and leave them alone
    "frozen batch norm": (layers.BatchNormalization, {"trainable": False}),
}  # fmt: skip


def one_layer(kind: type, options: dict[str, Any]) -> Block:
    def block(x: Any) -> Any:
        return kind(**options)(x)  # a new one for each of the twins

    return block


def added(x: Any) -> Any:
    return layers.Add()([x, layers.Conv2D(3, 3, padding="same")(x)])


def added_by_an_operator(x: Any) -> Any:
    return x + layers.Conv2D(3, 3, padding="same")(x)


def concatenated(x: Any) -> Any:
    return layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(x)])


def nested(x: Any) -> Any:
    return keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()])(x)


BLOCKS = {name: one_layer(*layer) for name, layer in LAYERS.items()} | {
    "skip": added,
    "skip by +": added_by_an_operator,
    "concatenated": concatenated,
    "nested": nested,
}


def around(block: Block) -> Build:
    def build() -> keras.Model:
        inputs = layers.Input((12, 10, 3))
        return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(block(inputs))))

    return build


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_every_layer_agrees_with_stock_keras(block: Block) -> None:
    stock, native = twins(around(block))
    native.prepare(sgd(0.1), 0, "float32")
    images, labels = everything(batches(6, 6, (12, 10, 3)))
    for training in (False, True):
        expected, logits = stock(images, training=training), native.logits(images, training)
        np.testing.assert_allclose(logits.detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    assert_same_weights(stock, native, 1e-5)  # moving statistics
    F.cross_entropy(expected, labels).backward()
    F.cross_entropy(logits, labels).backward()
    gradients = {weight.path: weight.value.grad for weight in stock.trainable_weights}
    for weight in native.trainable_weights:
        np.testing.assert_allclose(
            weight.value.grad, gradients[weight.path], rtol=1e-3, atol=1e-4, err_msg=weight.path
        )


def dense_norm() -> keras.Model:
    inputs = layers.Input((28, 28, 1))
    x = layers.Dense(8)(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(10)(layers.BatchNormalization()(x)))


def test_a_batch_of_one_image_is_like_any_other_in_batch_normalisation() -> None:
    # the last of every epoch may be one: a variance of 0, which Keras takes as it is
    stock, native = twins(dense_norm)
    stock.compile(sgd(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    native.prepare(sgd(0.01), 0, "float32")
    fit(stock, batches(5, 2))
    fit(native, batches(5, 2))
    assert_same_weights(stock, native, 1e-4)


# --- images of few pixels ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (1, 1), (4, 2)], ids=str)
@pytest.mark.parametrize("size", [3, 5])
def test_gradients_on_few_pixels_are_those_of_the_convolution(shape: tuple[int, int], size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, *shape, generator=generator, dtype=torch.float64)
    kernel = torch.randn(6, 3, size, size, generator=generator, dtype=torch.float64)
    upstream = torch.randn(4, 6, *shape, generator=generator, dtype=torch.float64)

    def run(convolution: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = [x.clone().requires_grad_() for x in (images, kernel)]
        output = convolution(*inputs)
        return output, *torch.autograd.grad(output, inputs, upstream)

    expected = run(lambda x, k: F.conv2d(x, k, padding=size // 2))
    for ours, theirs in zip(run(SmallImageConv.apply), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_training_in_bfloat16_takes_another_way_on_few_pixels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    apply = SmallImageConv.apply

    def watched(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[2:])
        return apply(x, kernel)

    monkeypatch.setattr(SmallImageConv, "apply", watched)
    for precision in ("float32", "bfloat16"):
        _, native = twins(architecture("blocks"))
        native.prepare(sgd(0.01), 0, precision)
        fit(native, batches(16, 16))  # 28 × 28 pixels become 27, 13, 6 and 3
        assert seen == ([(3, 3)] if precision == "bfloat16" else [])
