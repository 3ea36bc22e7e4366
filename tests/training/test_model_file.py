"""The model file: the same bytes from any process, and loaded where nothing of ours can be imported."""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import InputError

import keras
import numpy as np
import pytest
import torch

import architectures
from conftest import ROOT
from damage import cut_short, empty, missing, other_format
from training import machine, model_file

CLASSES = ["T-shirt/top", "Trouser", "Sac à main"]
MEAN, STD = np.array([70.0, 90.0, 200.0]), np.array([80.0, 50.0, 9.0])
SHAPE = (12, 12, 3)


def network() -> keras.Model:
    """With weights that depend on nothing but this function."""
    built = architectures.build("blocks", SHAPE, len(CLASSES), {"widths": [4, 6]})
    generator = np.random.default_rng(0)
    for weight in built.weights:
        weight.assign(generator.uniform(0.1, 1, weight.shape) * generator.choice([-1, 1]))
        if "variance" in weight.name:
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return built


def write(path: Path) -> None:
    model_file.save(model_file.with_preprocessing(network(), MEAN, STD), CLASSES, path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by this process, which has built other models before."""
    for name in ("plain", "blocks", "blocks"):
        architectures.build(name, (28, 28, 1), 10, {})
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    path = tmp_path_factory.mktemp("a-folder-of-its-own") / "model.keras"
    write(path)
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, *SHAPE), np.uint8)


FRESH = """
import importlib.util, os, sys
_, model_file, folders, os.environ["KERAS_BACKEND"] = *sys.argv, "torch"
import keras
import numpy as np

assert not any(map(importlib.util.find_spec, ("training", "architectures", "common")))
model = keras.saving.load_model(model_file, safe_mode=True)
images = np.load("images.npy")
np.save("bytes.npy", model.predict(images, verbose=0))
np.save("floats.npy", model.predict(images.astype("float32"), verbose=0))
np.save("called.npy", model(images).detach().numpy())

from pathlib import Path
sys.path[:0] = folders.split(os.pathsep)
import test_model_file
test_model_file.write(Path("written.keras"))
"""


@pytest.fixture(scope="module")
def fresh(saved: Path, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a fresh interpreter has used the file without, and written it with, our code."""
    folder = tmp_path_factory.mktemp("fresh")
    np.save(folder / "images.npy", images)
    ours = os.pathsep.join(map(str, (ROOT / "src", ROOT / "benchmarks", ROOT / "tests", Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-IBc", FRESH, saved, ours], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_fresh_process_writes_the_same_bytes(saved: Path, fresh: Path) -> None:
    assert (fresh / "written.keras").read_bytes() == saved.read_bytes()


def test_loads_where_nothing_of_this_repository_can_be_imported(images: np.ndarray, fresh: Path) -> None:
    from_bytes = np.load(fresh / "bytes.npy")
    assert from_bytes.shape == (len(images), len(CLASSES))
    np.testing.assert_array_equal(from_bytes, np.load(fresh / "floats.npy"))
    np.testing.assert_allclose(from_bytes, np.load(fresh / "called.npy"), atol=1e-6)
    np.testing.assert_allclose(from_bytes.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(from_bytes, expected(images), rtol=1e-5, atol=1e-5)


def expected(images: np.ndarray) -> np.ndarray:
    """Softmax of what the network says to images that are normalised by hand."""
    normalised = torch.from_numpy(((images - MEAN) / STD).astype(np.float32))
    with torch.no_grad():
        return network()(normalised, training=False).softmax(-1).numpy()


@pytest.mark.parametrize(
    ("mean", "std"),
    [([72.9], [90.0]), ([0.0], [255.0]), ([70.0, 90.0, 200.0], [80.0, 50.0, 9.0])],
    ids=["standard", "unit", "colour"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_probabilities_are_those_of_the_training_network(mean: list[float], std: list[float], dtype: Any) -> None:
    channels = len(mean)
    built = architectures.build("blocks", (12, 12, channels), 4, {"widths": [4, 6]})
    model = model_file.with_preprocessing(built, np.array(mean), np.array(std), temperature=2.5)
    images = np.random.default_rng(2).integers(0, 256, (6, 12, 12, channels), np.uint8)
    normalised = torch.from_numpy(((images - np.array(mean)) / std).astype(np.float32))
    with torch.no_grad():
        by_hand = (built(normalised, training=False) / 2.5).softmax(-1)
    probabilities = model.predict(images.astype(dtype), verbose=0)
    np.testing.assert_allclose(probabilities, by_hand, rtol=1e-5, atol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 1e-3  # images are told apart


def test_nothing_in_the_file_tells_when_or_where_it_was_written(saved: Path) -> None:
    with zipfile.ZipFile(saved) as file:
        assert {member.date_time for member in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        contents = {name: file.read(name) for name in file.namelist()}
    assert sorted(contents) == ["config.json", "metadata.json", "model.weights.h5"]
    places = {tempfile.gettempdir(), str(ROOT), str(saved.parent), saved.parent.name, "plain.keras"}
    for name, content in contents.items():
        for text in ("date_saved", *places):
            assert text.encode() not in content, f"{text} in {name}"
        assert not re.search(rb"0x[0-9a-f]{6}", content), f"an address in {name}"
    numbers = re.findall(rb'"shared_object_id": (\d+)', contents["config.json"])
    assert numbers
    assert max(map(int, numbers)) < len(numbers)


def test_metadata_names_the_classes(saved: Path) -> None:
    with zipfile.ZipFile(saved) as file:
        metadata = json.loads(file.read("metadata.json"))
    assert metadata == {"class_names": CLASSES, "keras_version": keras.__version__}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_predictions_are_those_of_keras_on_any_number_of_cores(
    monkeypatch: pytest.MonkeyPatch, saved: Path, dtype: Any
) -> None:
    monkeypatch.setattr(model_file, "BATCH_SIZE", 7)  # the last batch has 1 row
    images = np.random.default_rng(1).integers(0, 256, (50, *SHAPE), np.uint8).astype(dtype)
    model, _ = model_file.load(saved, SHAPE)
    found = {}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for cores in (1, 2, 5):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        found[cores] = model_file.predict(model, images)
        assert (found[cores].shape, found[cores].dtype) == ((50, 3), np.float32)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert found[1].tobytes() == found[2].tobytes() == found[5].tobytes()
    np.testing.assert_allclose(found[1], model.predict(images, verbose=0), rtol=1e-5, atol=1e-5)


def test_predictions_know_no_training_and_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.layers.Input(SHAPE)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(inputs))
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    images = np.ones((3, *SHAPE), np.float32)
    expected = model.predict(images, verbose=0)
    state = [weight.numpy() for weight in model.weights]
    # as on a machine with a GPU
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    found = model_file.predict(model, images)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with keras.device("cpu"):
        for weight, value in zip(model.weights, state, strict=True):
            np.testing.assert_array_equal(weight.numpy(), value)


class FullDisk:
    def save(self, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left")


def test_an_exception_while_saving_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "models" / "model.keras"
    path.parent.mkdir()
    path.write_bytes(b"the model before")
    with pytest.raises(OSError, match="no space left"):
        model_file.save(FullDisk(), CLASSES, path)
    inexpressible: list[Any] = [object()]
    with pytest.raises(TypeError):  # once the first members are written
        model_file.save(network(), inexpressible, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.keras"]
    assert path.read_bytes() == b"the model before"


# --- files that are refused -----------------------------------------------------------------------


def changed_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def rewrite(path: Path, changes: dict[str, bytes | None]) -> None:
    """Replaces members of the file, or leaves them out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()} | changes
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)


def without_config(path: Path) -> None:
    rewrite(path, {"config.json": None})


def without_weights(path: Path) -> None:
    rewrite(path, {"model.weights.h5": None})


def with_broken_config(path: Path) -> None:
    rewrite(path, {"config.json": b'{"module": '})


def with_other_config(path: Path) -> None:
    rewrite(path, {"config.json": b"[]"})


def with_broken_weights(path: Path) -> None:
    rewrite(path, {"model.weights.h5": b"\x89HDF\r\n\x1a\n and nothing more"})


def with_weights_of_another(path: Path) -> None:
    other = path.with_name("other.keras")
    built = architectures.build("plain", SHAPE, len(CLASSES), {"widths": [4]})
    model_file.save(built, CLASSES, other)
    with zipfile.ZipFile(other) as file:
        rewrite(path, {"model.weights.h5": file.read("model.weights.h5")})


def no_model(path: Path) -> None:
    """A layer alone."""
    layer = keras.layers.Dense(10)
    layer.build((None, 3))
    keras.saving.save_model(layer, path)
    rewrite(path, {"metadata.json": json.dumps({"class_names": CLASSES}).encode()})


def of_code(path: Path) -> None:
    inputs = keras.layers.Input((28, 28, 1))
    x = keras.layers.Lambda(lambda images: images / 255)(inputs)
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x))).save(path)


def without_class_names(path: Path) -> None:
    network().save(path)


def with_a_number_of_classes(path: Path) -> None:
    rewrite(path, {"metadata.json": json.dumps({"class_names": 10}).encode()})


def test_it_is_loaded_with_its_class_names(saved: Path, images: np.ndarray) -> None:
    model, class_names = model_file.load(saved, SHAPE)
    assert class_names == CLASSES
    np.testing.assert_allclose(model.predict(images, verbose=0), expected(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        empty,
        other_format,
        cut_short,
        changed_in_the_middle,
        without_config,
        without_weights,
        with_broken_config,
        with_other_config,
        with_broken_weights,
        with_weights_of_another,
        no_model,
        of_code,
        without_class_names,
        with_a_number_of_classes,
    ],
    ids=lambda damage: damage.__name__,
)
def test_other_files_are_refused_in_one_line(saved: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    damage(path)
    with pytest.raises(InputError, match=f"^{path} must .*; received") as refusal:
        model_file.load(path, SHAPE)
    message = str(refusal.value)
    assert not message.endswith(("received: ", "received"))
    assert "\n" not in message
