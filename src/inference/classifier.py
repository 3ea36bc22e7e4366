"""The exported model in ONNX Runtime. Everything about it comes from its file: no Keras, no PyTorch."""

import json
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import onnxruntime

from common.errors import InputError
from inference import pictures


class Prediction(NamedTuple):
    image: np.ndarray  # (H, W, C) uint8, what the model saw
    likeliest: list[tuple[str, float]]  # class and probability, at most three, the likeliest first
    energy: float  # the free energy of the logits, see src/inference/onnx_file.py
    unlike: bool  # whether it is above that of 99 in 100 training images


class Classifier:
    """Reads the file that src/export.py writes.

    Raises:
        InputError: no such file, or not such a model.
    """

    def __init__(self, path: Path):
        rule = f"{path} must be a model as make export writes it"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # one image gains little from a second
        options.log_severity_level = 3  # errors alone
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            told = self._session.get_modelmeta().custom_metadata_map
            self.class_names: list[str] = json.loads(told["class_names"])
            self.form = told["form"]
            self.energy_limit = float(told["energy_limit"])
            pixels = self._session.get_inputs()[0]
            _, height, width, channels = pixels.shape
            probabilities, energy = self._session.get_outputs()
        except FileNotFoundError:
            raise InputError(
                f"{path} must exist (make export writes it, dvc pull or checkout brings it); received no file"
            ) from None
        except Exception as error:  # ONNX Runtime's own, and whatever a foreign model lacks
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{rule}; received: {reason}") from error
        self.shape = (height, width, channels)
        taken = (pixels.name, pixels.type, probabilities.name, probabilities.shape[1:], energy.name)
        wanted = ("pixels", "tensor(uint8)", "probabilities", [len(self.class_names)], "energy")
        if taken != wanted or self.form not in pictures.FORMS:
            raise InputError(f"{rule}; received {taken}, {self.form}")

    def predict(self, source: Path | BinaryIO, name: str = "") -> Prediction:
        """What the model sees and says of one picture.

        Raises:
            InputError: as from `pictures.read`, whose arguments these are.
        """
        image = pictures.read(source, self.form, self.shape, name)
        (probabilities,), (energy,) = self._session.run(None, {"pixels": image[None]})
        order = np.argsort(-probabilities, kind="stable")[:3]
        return Prediction(
            image,
            [(self.class_names[label], float(probabilities[label])) for label in order],
            float(energy),
            bool(energy > self.energy_limit),
        )
