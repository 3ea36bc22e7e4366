"""The ONNX file against the Keras model that it was made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import InputError

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import architectures
from conftest import converted, untrained
from inference import onnx_file
from training import model_file

GENERATOR = np.random.default_rng(0)
FEATURES = {"blocks": ["activation", "activation_2", "activation_4"], "plain": ["conv2d", "conv2d_1"]}


def run(model: onnx.ModelProto, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, classes) and distances (N,) from ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return tuple(session.run(["probabilities", "distance"], {"pixels": images}))


def made(name: str, shape: tuple[int, int, int], classes: int) -> keras.Model:
    """With moving statistics as after a training, so that batch normalisation does something."""
    keras.utils.set_random_seed(1)
    network = architectures.build(name, shape, classes, {"widths": [4, 8]})
    for variable in network.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(GENERATOR.uniform(0.5, 2, variable.shape))
    channels = np.ones(shape[-1])
    return model_file.with_preprocessing(network, 70 * channels, 30 * channels, temperature=0.5)


def mahalanobis(values: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) of values (N, F), as in the paper."""
    means = np.stack([features[labels == label].mean(0) for label in np.unique(labels)])
    centred = features - means[np.searchsorted(np.unique(labels), labels)]
    covariance = centred.T @ centred / len(features)
    inverse = np.linalg.inv(covariance + 0.01 * np.eye(len(covariance)) * covariance.diagonal().mean())
    difference = values[:, None] - means  # (N, classes, F)
    return np.sqrt(np.einsum("nci,ij,ncj->nc", difference, inverse, difference).min(1))


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("blocks", (28, 28, 1), 10), ("plain", (40, 24, 3), 2), ("plain", (28, 28, 1), 3)]
)
def test_it_says_what_keras_says(name: str, shape: tuple[int, int, int], classes: int) -> None:
    model = made(name, shape, classes)
    network = model.layers[2]
    ends = [layer.output for layer in network.layers if layer.name in FEATURES[name]]
    layers = keras.Model(model.input, keras.Model(network.input, ends)(model.layers[1].output))

    def means(images: np.ndarray) -> np.ndarray:
        return np.concatenate([each.mean((1, 2)) for each in layers.predict(images, verbose=0)], 1).astype(float)

    train, labels = GENERATOR.integers(0, 256, (50, *shape), np.uint8), np.arange(50) % 3
    converted = onnx_file.convert(model, onnx_file.Distance(means(train).astype(np.float32), labels))
    assert [(opset.domain, opset.version) for opset in converted.opset_import] == [("", 18)]
    for count in (1, 7):  # any number of images, other than the two that it was traced with
        images = GENERATOR.integers(0, 256, (count, *shape), np.uint8)
        probabilities, distance = run(converted, images)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert probabilities.dtype == distance.dtype == np.float32
        np.testing.assert_allclose(distance, mahalanobis(means(images), means(train), labels), rtol=1e-3)


def test_large_logits_do_not_overflow() -> None:
    inputs = keras.layers.Input((2, 2, 1))
    logits = keras.layers.Dense(2, kernel_initializer="ones")(keras.layers.Flatten()(inputs))
    model = model_file.with_preprocessing(keras.Model(inputs, logits), np.zeros(1), np.ones(1))
    images = np.full((1, 2, 2, 1), 255, np.uint8)  # logits 1,020
    probabilities, distance = run(converted(model), images)
    np.testing.assert_allclose(probabilities, [[0.5, 0.5]])
    assert np.isfinite(distance).all()  # of the pixels' mean, as there is no activation


def test_classes_without_images_and_features_without_variance_have_a_distance() -> None:
    features = np.array([[0, 5], [2, 5], [10, 5], [12, 5]], np.float32)
    distance = onnx_file.Distance(features, np.array([1, 1, 4, 4], np.uint8))
    found = distance(torch.tensor([[1.0, 5.0], [5.0, 5.0], [10.0, 5.0]])).numpy()
    np.testing.assert_allclose(found, np.array([0, 4, 1]) / np.sqrt(1.005), atol=1e-4)


def test_pixels_scaled_by_the_caller_are_refused(exported: Path) -> None:
    with pytest.raises(Exception, match="Unexpected input data type"):
        run(onnx.load(exported), np.zeros((1, 28, 28, 1), np.float32))


def test_nothing_of_code_paths_or_build_is_inside(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (b"File ", b".py", b"pkg.torch", b"site-packages", b"keras", b"forward", b"+cpu"):
        assert trace not in content


def test_the_same_weights_give_the_same_graph(exported: Path) -> None:
    """Whatever the process has converted before."""
    earlier = onnx.load(exported)
    del earlier.metadata_props[:]
    assert converted(untrained()).SerializeToString() == earlier.SerializeToString()


@pytest.mark.parametrize(
    "activation",
    [
        keras.layers.Activation("silu"),
        keras.layers.ReLU(),
        keras.layers.LeakyReLU(),
        keras.layers.PReLU(),
        keras.layers.ELU(),
        keras.ops.silu,
    ],
)
def test_features_come_after_activations_of_any_kind(activation: Callable[[Any], Any]) -> None:
    inputs = keras.layers.Input((8, 8, 1))
    linear = keras.layers.Conv2D(6, 3, padding="same")(inputs)
    active = activation(linear)
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.MaxPooling2D(8)(active))))
    model = model_file.with_preprocessing(network, np.zeros(1), np.ones(1))
    images = GENERATOR.integers(0, 256, (4, 8, 8, 1), np.uint8)
    features = onnx_file.with_features(model).predict(images, verbose=0)[1]
    # a function is no layer: without any that is active, the last layer of each size counts, here the pooling too
    outputs = [linear, keras.layers.MaxPooling2D(8)(active)] if activation is keras.ops.silu else [active]
    expected = [keras.Model(inputs, output).predict(images.astype(np.float32), verbose=0) for output in outputs]
    np.testing.assert_allclose(features, np.concatenate([each.mean((1, 2)) for each in expected], 1), rtol=1e-4)


def test_a_model_without_a_temperature_is_refused() -> None:
    inputs = keras.layers.Input((28, 28, 1))
    logits = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(logits))
    with pytest.raises(InputError, match=r"must have preprocessing, .*; received .*logits, probabilities$"):
        onnx_file.with_features(model)
