"""Every file in src/architectures, on two images."""

import sys
from pathlib import Path
from typing import Any

from common.errors import InputError

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import architectures
from conftest import ROOT
from inference import onnx_file
from training import model_file

NAMES = sorted(path.stem for path in (ROOT / "src" / "architectures").glob("[!_]*.py"))
every_architecture = pytest.mark.parametrize("name", NAMES)
every_task = pytest.mark.parametrize(
    ("shape", "classes"), [((28, 28, 1), 10), ((30, 30, 3), 7)], ids=["grey", "colour"]
)


def two_images(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


@every_task
@every_architecture
def test_gives_finite_float32_logits_and_a_gradient_on_every_weight(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    keras.utils.set_random_seed(0)
    network = architectures.build(name, shape, classes, {})
    logits = network(two_images(shape), training=True)
    assert logits.shape == (2, classes)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    F.cross_entropy(logits, torch.tensor([0, classes - 1])).backward()
    gradients = {weight.path: weight.value.grad for weight in network.trainable_weights}
    assert gradients
    dead = [path for path, grad in gradients.items() if grad is None or not grad.any()]
    assert dead == []


@every_task
@every_architecture
def test_saves_and_loads_with_plain_keras(name: str, shape: tuple[int, int, int], classes: int, tmp_path: Path) -> None:
    network = architectures.build(name, shape, classes, {})
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    images = two_images(shape)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(images), network(images))


SEQUENTIAL = """
import keras
from keras import layers

def build(input_shape, classes, has_input=True):
    return keras.Sequential([
        *([layers.Input(input_shape)] if has_input else []),
        keras.Sequential([layers.Conv2D(4, 3), layers.ReLU(), layers.MaxPooling2D(2)]),
        layers.Conv2D(8, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(classes),
    ])
"""


@pytest.fixture
def sequential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sequential.py").write_text(SEQUENTIAL)
    monkeypatch.setattr(architectures, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(architectures, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "architectures.sequential", raising=False)


@pytest.mark.parametrize("has_input", [True, False])
def test_a_sequential_is_saved_and_exported_as_any(sequential: None, tmp_path: Path, has_input: bool) -> None:
    network = architectures.build("sequential", (28, 28, 1), 3, {"has_input": has_input})
    assert network.output_shape == (None, 3)
    model = model_file.with_preprocessing(network, np.zeros(1), np.ones(1))
    model_file.save(model, ["a", "b", "c"], tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    features = onnx_file.with_features(loaded).predict(np.zeros((2, 28, 28, 1), np.uint8), verbose=0)[1]
    assert features.shape == (2, 1 + 8)  # the image, and the one activation outside the block


def test_layer_names_do_not_depend_on_what_was_built_before() -> None:
    def names(name: str) -> list[str]:
        network = architectures.build(name, (28, 28, 1), 10, {})
        keras.layers.Conv2D(1, 3)
        return [network.name, *(layer.name for layer in network.layers)]

    first = [names(name) for name in NAMES]
    assert [names(name) for name in reversed(NAMES)] == first[::-1]


@every_architecture
def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=rf"model\.options\.{name} must fit .*'nosuch'"):
        architectures.build(name, (28, 28, 1), 10, {"nosuch": 1})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("plain", "widths", [0]),
        ("plain", "widths", 32),
        ("blocks", "widths", [0]),
        ("blocks", "widths", None),
        ("blocks", "activation", "nosuch"),
        ("blocks", "activation", "glu"),  # which halves the channels, but Keras believes otherwise
        ("plain", "widths", [10**40]),
        *(("blocks", "logit_scale", value) for value in ("high", None, [1, 2], 10**400)),
        ("plain", "widths", [10**9]),  # more than any memory
    ],
)
def test_an_impossible_option_is_refused_in_one_line(name: str, option: str, value: Any) -> None:
    with pytest.raises(InputError) as refusal:
        architectures.build(name, (28, 28, 1), 10, {option: value})
    message = str(refusal.value)
    assert f"model.options.{name}" in message
    assert str({option: value}) in message
    assert "\n" not in message
    assert "frame #" not in message  # a stack of PyTorch


@pytest.mark.parametrize("name", ["nosuch", "", "blocks.py", "__init__", "../train"])
def test_an_unknown_architecture_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"^model\.architecture must be one of .*blocks.*plain"):
        architectures.build(name, (28, 28, 1), 10, {})


def test_weights_are_on_the_device_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # as on a machine with a GPU, where Keras' default is not what train.device: cpu asks for
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    network = architectures.build("plain", (28, 28, 1), 10, {}, "cpu")
    with keras.device("cpu"):
        assert {weight.value.device.type for weight in network.weights} == {"cpu"}


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        return architectures.build("plain", (28, 28, 1), 10, {}).get_weights()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
