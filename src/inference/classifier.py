"""The exported model in ONNX Runtime. Everything about it comes from its file: no Keras, no PyTorch."""

import json
from pathlib import Path
from typing import NamedTuple

from common import image_folder
from common.errors import InputError

import numpy as np
import onnxruntime

from inference import pictures


class Prediction(NamedTuple):
    image: np.ndarray  # (H, W, C) uint8, the input of the model
    likeliest: list[tuple[str, float]]  # class and probability, the likeliest first
    distance: float  # from the training images, see src/inference/onnx_file.py
    out_of_distribution: bool  # the distance is higher than that of 98 in 100 val images


class Classifier:
    """Reads the file that src/export.py writes.

    Raises:
        InputError: no such file, or not such a model.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        rule = f"{path} must be a model as make export writes it"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # one image gains little from a second
        options.log_severity_level = 4  # an error is raised too
        try:
            content = image_folder.regular(path).read_bytes()
            if b"\n\x08location" in content:  # the key that leads the name of another file in ONNX's protobuf
                raise InputError(f"{path} must hold its weights itself; received the name of another file for them")
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.class_names = [str(name) for name in json.loads(metadata["class_names"])]
            self.form = metadata["form"]
            self.distance_limit = float(metadata["distance_limit"])
            pixels = self._session.get_inputs()[0]
            _, height, width, channels = pixels.shape
            probabilities, distance = self._session.get_outputs()
        except FileNotFoundError:
            raise InputError(f"{path} must exist (make export, dvc pull or dvc checkout); received no file") from None
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's own, and whatever a foreign model lacks
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{rule}; received: {reason}") from error
        self.shape = (height, width, channels)
        received = (pixels.name, pixels.type, probabilities.name, probabilities.shape[1:], distance.name)
        expected = ("pixels", "tensor(uint8)", "probabilities", [len(self.class_names)], "distance")
        is_known = self.form == "fitted" or (self.form, *self.shape) == ("fashion-mnist", 28, 28, 1)
        if received != expected or not is_known:
            raise InputError(f"{rule}; received {received}, {self.form}, {self.shape}")

    def predict(self, source: pictures.Source, name: str = "", count: int = 3) -> Prediction:
        """The model's input and answer for one picture, with at most so many classes.

        Other args and raises: as `pictures.read`.
        """
        image = pictures.read(source, self.form, self.shape, name)
        (probabilities,), (distance,) = self._session.run(None, {"pixels": image[None]})
        order = np.argsort(-probabilities, kind="stable")[:count]
        return Prediction(
            image,
            [(self.class_names[label], float(probabilities[label])) for label in order],
            float(distance),
            bool(distance > self.distance_limit),
        )
