"""Each kind of layer against stock Keras: the same outputs, gradients and moving statistics."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn import functional as F

from training import machine, native_layers
from training.shards import Shard
from twins import Build, assert_same_weights, batches, everything, fit, prepare, sgd, twins

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


def twice(x: Any) -> Any:
    norm = layers.BatchNormalization(momentum=0.6)
    return norm(layers.Activation("silu")(norm(x)))


BLOCKS = {name: one_layer(*layer) for name, layer in LAYERS.items()} | {
    "skip": added,
    "skip by +": added_by_an_operator,
    "concatenated": concatenated,
    "nested": nested,
    "one batch norm in two places": twice,
}


def around(block: Block) -> Build:
    def build() -> keras.Model:
        inputs = layers.Input((12, 10, 3))
        return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(block(inputs))))

    return build


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_every_layer_agrees_with_stock_keras(block: Block) -> None:
    stock, native = twins(around(block))
    prepare(native, sgd(0.1))
    images, labels = everything(batches(6, 6, (12, 10, 3)))
    before = [variable.numpy() for variable in native.variables]
    shard = Shard(torch.Generator())
    for of_step in (None, shard):
        expected, logits = stock(images, training=bool(of_step)), native.logits(images, of_step)
        np.testing.assert_allclose(logits.detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    # what changes is the shard's
    for variable, value in zip(native.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    for variable in native.non_trainable_variables:
        if (value := shard.get_current_value(variable)) is not None:
            variable.assign(value)
    assert_same_weights(stock, native, 1e-5)  # moving statistics
    F.cross_entropy(expected, labels).backward()
    F.cross_entropy(logits, labels).backward()
    gradients = {weight.path: weight.value.grad for weight in stock.trainable_weights}
    for weight in native.trainable_weights:
        np.testing.assert_allclose(weight.value.grad, gradients[weight.path], rtol=1e-3, atol=1e-4, err_msg=weight.path)


def dense_norm() -> keras.Model:
    inputs = layers.Input((28, 28, 1))
    x = layers.Dense(8)(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(10)(layers.BatchNormalization()(x)))


def test_a_batch_of_one_image_is_like_any_other_in_batch_normalisation() -> None:
    # the last of every epoch may be one: a variance of 0, which Keras takes as it is
    stock, native = twins(dense_norm)
    stock.compile(sgd(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    prepare(native, sgd(0.01))
    fit(stock, batches(5, 2))
    fit(native, batches(5, 2))
    assert_same_weights(stock, native, 1e-4)


def test_shards_of_one_image_have_no_variance() -> None:
    _, native = twins(dense_norm)
    prepare(native, sgd(0.0), shards=8)
    (before,) = (v.numpy() for v in native.variables if "moving_variance" in v.path)
    fit(native, batches(2, 2, shards=8))
    (after,) = (v.numpy() for v in native.variables if "moving_variance" in v.path)
    np.testing.assert_allclose(after, 0.99 * before, rtol=1e-6)


# --- dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_draws_from_its_shard_s_generator_what_pytorch_draws(rate: float) -> None:
    run = native_layers.native(layers.Dropout(rate))
    assert run
    x = torch.randn(500, 30, generator=torch.Generator().manual_seed(1))
    assert run(x, None) is x
    state = torch.get_rng_state()
    found = run(x, Shard(torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), state)
    draws = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = torch.where(draws < 1 - rate, x / (1 - rate), 0) if rate < 1 else torch.zeros_like(x)
    torch.testing.assert_close(found, expected)
    assert (found == 0).float().mean() == pytest.approx(rate, abs=0.02)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if "Intel" not in machine.processor():  # where PyTorch draws with MKL
            assert torch.equal(found, F.dropout(x, rate))
