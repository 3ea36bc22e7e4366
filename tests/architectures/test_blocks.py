"""How the default network starts, and what of it stays."""

import keras
import numpy as np
import pytest
import torch
from keras import layers

import architectures
from architectures import blocks
from training.native_model import NativeModel
from twins import batches, fit, prepare

WIDTHS = [12, 8, 16]  # one that is wider than what comes in, one that is narrower


def convolutions(channels: int) -> tuple[keras.Model, list[layers.Conv2D]]:
    keras.utils.set_random_seed(0)
    network = architectures.build("blocks", (16, 16, channels), 3, {"widths": WIDTHS})
    return network, [layer for layer in network.layers if isinstance(layer, layers.Conv2D)]


def test_images_of_8_pixels_are_halved_as_often_as_they_can_be() -> None:
    network = architectures.build("blocks", (8, 8, 1), 3, {"widths": WIDTHS})
    pools = [layer for layer in network.layers if isinstance(layer, layers.MaxPooling2D)]
    assert [tuple(pool.output.shape[1:3]) for pool in pools] == [(3, 3), (1, 1)]
    assert network(torch.zeros(2, 8, 8, 1)).shape == (2, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitening_gives_each_component_the_same_variance(channels: int) -> None:
    _, (whitening, *_) = convolutions(channels)
    kernel = keras.ops.convert_to_numpy(whitening.kernel)
    assert kernel.shape == (2, 2, channels, 8 * channels)
    components = blocks.COMPONENTS.reshape(4, 4)
    weights = np.random.default_rng(0).standard_normal((100_000, channels, 4))
    patches = weights * np.sqrt(blocks.VARIANCES) @ components  # (N, C, 2·2)
    out = np.einsum("ncp,pcf->nf", patches, kernel.reshape(4, channels, -1))  # (N, 8C)
    covariance = np.cov(out.reshape(len(out), channels, 2, 4)[:, :, 0].reshape(len(out), -1).T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=0.02)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.17)  # of the smallest least
    halves = out.reshape(len(out), channels, 2, 4)
    np.testing.assert_array_equal(halves[:, :, 0], -halves[:, :, 1])


def test_a_convolution_starts_by_passing_on_its_channels() -> None:
    _, (_, *others) = convolutions(1)
    for convolution in others:
        inputs, width = convolution.kernel.shape[2:]
        images = torch.randn(2, 5, 5, inputs, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            passed = convolution(images)
        same = min(inputs, width)
        torch.testing.assert_close(passed[..., :same], images[..., :same])
        if width > inputs:  # the others are random, each in its own way
            new = keras.ops.convert_to_numpy(convolution.kernel)[..., inputs:].reshape(-1, width - inputs)
            bound = (9 * inputs) ** -0.5
            assert abs(new).max() <= bound
            assert (new.std(0) > 0.3 * bound).all()
            assert len(np.unique(new[0])) == width - inputs


def test_training_leaves_whitening_alone() -> None:
    network, (whitening, first, *_) = convolutions(1)
    before = [keras.ops.convert_to_numpy(layer.kernel).copy() for layer in (whitening, first)]
    model = NativeModel(network.inputs, network.outputs[0])
    data = batches(4, 4, (16, 16, 1))
    data.labels %= 3
    fit(prepare(model, keras.optimizers.SGD(0.1, weight_decay=0.1)), data)
    after = [keras.ops.convert_to_numpy(layer.kernel) for layer in (whitening, first)]
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).any()


def test_a_deeper_block_has_a_shortcut_around_all_but_its_first_convolution() -> None:
    keras.utils.set_random_seed(0)
    network = architectures.build("blocks", (16, 16, 1), 3, {"widths": WIDTHS, "depth": 3})
    shortcuts = [layer for layer in network.layers if isinstance(layer, layers.Add)]
    assert len(shortcuts) == len(WIDTHS)
    assert sum(isinstance(layer, layers.Conv2D) for layer in network.layers) == 1 + 3 * len(WIDTHS)
    parts = keras.Model(network.inputs, [*shortcuts[0].input, shortcuts[0].output])
    last, first, both = parts(torch.rand(2, 16, 16, 1))
    torch.testing.assert_close(both, last + first)
    assert first.shape == (2, 7, 7, WIDTHS[0])  # it comes after the pooling
    data = batches(4, 4, (16, 16, 1))
    data.labels %= 3
    model = NativeModel(network.inputs, network.outputs[0])
    assert np.isfinite(fit(prepare(model, keras.optimizers.SGD(0.1)), data)).all()
