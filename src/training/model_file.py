"""The canonical model file: plain Keras, and the same weights give the same bytes in any process.

`model.save` alone writes three things that differ each time: the date in metadata.json, the time
of the zip members, and memory addresses as `shared_object_id` in config.json.
"""

import hashlib
import json
import re
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import files
from common.backend import keras
from common.errors import InputError, first_line

import numpy as np
import torch
from keras import layers

from training import machine

BATCH_SIZE, MAX_THREADS = 100, 8  # of `predict`, whose memory grows with both
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def with_preprocessing(model: keras.Model, mean: np.ndarray, std: np.ndarray, temperature: float = 1.0) -> keras.Model:
    """From pixel values 0–255 (N, H, W, C) to class probabilities (N, classes), sharing `model`'s weights.

    Args:
        model: from normalised images to logits.
        mean, std: (C,) of the pixel values that the model was trained with.
        temperature: what the logits are divided by.
    """
    inputs = layers.Input(model.input_shape[1:], name="pixels")
    scale, offset = (1 / std).tolist(), (-mean / std).tolist()
    if len(scale) == 1:
        (scale,), (offset,) = scale, offset
    x = layers.Rescaling(scale, offset, name="rescaling")(inputs)
    logits = layers.Rescaling(1 / temperature, name="temperature")(model(x))
    return keras.Model(inputs, layers.Softmax(name="probabilities")(logits), name="classifier")


def save(model: keras.Model, class_names: list[str], path: Path) -> str:
    """Writes `model` to `path`, a .keras file with the class names in its metadata.json. Returns its MD5 hash."""
    with tempfile.TemporaryDirectory() as folder, files.atomic_file(path) as part:
        plain = Path(folder) / "plain.keras"
        model.save(plain)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(part, "w") as target:
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "config.json":
                    content = _renumbered(_dump(json.loads(content)))
                elif name == "metadata.json":
                    metadata = json.loads(content)
                    del metadata["date_saved"]
                    content = _dump(metadata | {"class_names": class_names})
                target.writestr(zipfile.ZipInfo(name, EPOCH), content)
        return hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()


def load(path: Path, image_shape: tuple[int, ...], classes: int | None = None) -> tuple[keras.Model, list[str]]:
    """A model that `save` wrote, and its class names. Safe mode refuses layers that are not Keras' own.

    Args:
        image_shape: (H, W, C) of the images that it must take.
        classes: how many it must have; by default as many as names.

    Raises:
        InputError: there is no such file, it holds something else, or a model for other images or classes.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        with zipfile.ZipFile(path) as file:
            class_names = [str(name) for name in json.loads(file.read("metadata.json"))["class_names"]]
        shapes = model.input_shape, model.output_shape
    except Exception as error:  # zip, HDF5, JSON and Keras each raise their own
        raise InputError(f"{path} must be a model as train writes it; received: {first_line(error)}") from error
    expected = (None, *image_shape), (None, classes or len(class_names))
    if shapes != expected:
        raise InputError(f"{path} must map {expected[0]} to {expected[1]}; received {shapes[0]} to {shapes[1]}")
    return model, class_names


def refuse_custom_layers(network: keras.Model) -> None:
    """Saves a network and loads it, with nothing but what Keras itself has. Draws random numbers.

    Raises:
        InputError: that cannot be done, as with a layer that is not Keras' own.
    """
    known = keras.saving.get_custom_objects()
    registered = dict(known)
    known.clear()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "untrained.keras"
            network.save(path)
            keras.saving.load_model(path, compile=False, safe_mode=True)
    except OSError:  # of the machine, as a full disk
        raise
    except Exception as error:  # Keras raises many
        rule = "model.architecture must make a network that Keras can save and load, of layers of its own"
        raise InputError(f"{rule}; received: {first_line(error)}") from error
    finally:
        known.update(registered)


def predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The output of `model` for images (N, H, W, C).

    As from `model.predict`, whose operations have several threads; here each batch has one.
    """

    @torch.no_grad()
    def batch(start: int) -> np.ndarray:
        return model(torch.from_numpy(images[start : start + BATCH_SIZE])).numpy()

    threads = min(machine.cores(), MAX_THREADS)
    with ThreadPoolExecutor(threads, initializer=machine.prepare_thread, initargs=("cpu",)) as pool:
        return np.concatenate(list(pool.map(batch, range(0, len(images), BATCH_SIZE))))


def _dump(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _renumbered(config: bytes) -> bytes:
    """Replaces each `shared_object_id` by the order of its first appearance."""
    known: dict[bytes, int] = {}
    return re.sub(rb'(?<="shared_object_id": )\d+', lambda old: b"%d" % known.setdefault(old[0], len(known)), config)
