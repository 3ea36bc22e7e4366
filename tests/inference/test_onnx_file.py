"""The ONNX file against the Keras model that it was made from."""

from pathlib import Path

from common.errors import InputError

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

import architectures
from conftest import untrained
from inference import onnx_file
from training import model_file

GENERATOR = np.random.default_rng(0)


def run(model: onnx.ModelProto, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, classes) and energies (N,) from ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return tuple(session.run(["probabilities", "energy"], {"pixels": images}))


def made(name: str, shape: tuple[int, int, int], classes: int) -> keras.Model:
    """With moving statistics as after a training, so that batch normalisation does something."""
    keras.utils.set_random_seed(1)
    network = architectures.build(name, shape, classes, {"widths": [4, 8]})
    for variable in network.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(GENERATOR.uniform(0.5, 2, variable.shape))
    channels = np.ones(shape[-1])
    return model_file.with_preprocessing(network, 70 * channels, 30 * channels, temperature=0.5)


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("blocks", (28, 28, 1), 10), ("plain", (40, 24, 3), 2), ("plain", (28, 28, 1), 3)]
)
def test_it_says_what_keras_says(name: str, shape: tuple[int, int, int], classes: int) -> None:
    model = made(name, shape, classes)
    converted = onnx_file.convert(model)
    assert [(opset.domain, opset.version) for opset in converted.opset_import] == [("", 18)]
    for count in (1, 7):  # any number of images, other than the two that it was traced with
        images = GENERATOR.integers(0, 256, (count, *shape), np.uint8)
        probabilities, energy = run(converted, images)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert probabilities.dtype == energy.dtype == np.float32
        logits = keras.Model(model.input, model.layers[-2].input).predict(images, verbose=0)
        free_energy = -np.log(np.exp(logits.astype(np.float64)).sum(1))
        np.testing.assert_allclose(energy, free_energy, rtol=1e-4, atol=1e-4)


def test_large_logits_do_not_overflow() -> None:
    inputs = keras.layers.Input((2, 2, 1))
    flat = keras.layers.Flatten()(inputs)
    logits = keras.layers.Dense(2, kernel_initializer="ones")(flat)
    divided = keras.layers.Rescaling(1.0, name="temperature")(logits)
    model = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(divided))
    images = np.full((1, 2, 2, 1), 255, np.uint8)  # logits 1,020
    probabilities, energy = run(onnx_file.convert(model), images)
    np.testing.assert_allclose(probabilities, [[0.5, 0.5]])
    np.testing.assert_allclose(energy, [-1020 - np.log(2)], rtol=1e-6)


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
    assert onnx_file.convert(untrained()).SerializeToString() == earlier.SerializeToString()


def test_a_model_without_a_temperature_is_refused() -> None:
    inputs = keras.layers.Input((28, 28, 1))
    logits = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(logits))
    with pytest.raises(InputError, match=r"temperature and probabilities; received logits and probabilities$"):
        onnx_file.convert(model)
