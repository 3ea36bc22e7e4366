"""The model as an ONNX file: the graph, its weights, and the metadata that its users need.

From raw pixels `pixels` (images, H, W, C) uint8, any number of images, to

- `probabilities` (images, classes) float32;
- `energy` (images,) float32: the free energy of the logits before the temperature, −log Σ exp(logit). The higher it is,
  the less the image looks like the training images (https://arxiv.org/abs/2010.03759, section 3, T = 1).

The same weights give the same bytes: the exporter's notes on code, paths and build are left out.
"""

import logging
import warnings
from pathlib import Path

from common import files
from common.backend import keras
from common.errors import InputError

import onnx
import torch

OPSET = 18


class _Outputs(torch.nn.Module):
    def __init__(self, model: keras.Model):
        super().__init__()
        outputs = [model.output, before_temperature(model).output]
        self.network = keras.Model(model.input, outputs)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probabilities, logits = self.network(pixels.float())
        return probabilities, -logits.logsumexp(-1)


def before_temperature(model: keras.Model) -> keras.Model:
    """From pixels (N, H, W, C) to logits (N, classes), as the network was trained.

    Args:
        model: from pixels to probabilities, by last layers named temperature and probabilities.

    Raises:
        InputError: it ends in other layers.
    """
    names = [layer.name for layer in model.layers[-2:]]
    if names != ["temperature", "probabilities"]:
        raise InputError(
            f"the model must end in the layers temperature and probabilities; received {' and '.join(names)}"
        )
    return keras.Model(model.input, model.layers[-2].input)


def convert(model: keras.Model) -> onnx.ModelProto:
    """The graph without metadata, of a model that `before_temperature` takes; errors are those of it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # without its warning about torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own code
        program = torch.onnx.export(
            _Outputs(model).eval(),
            (torch.zeros(2, *model.input_shape[1:], dtype=torch.uint8),),
            input_names=["pixels"],
            output_names=["probabilities", "energy"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    converted = program.model_proto
    graph = converted.graph
    del graph.value_info[:], converted.metadata_props[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    converted.producer_version = converted.producer_version.partition("+")[0]  # not the build
    onnx.checker.check_model(converted, full_check=True)
    return converted


def save(model: onnx.ModelProto, metadata: dict[str, str], path: Path) -> None:
    """Writes `model` with `metadata` to `path`."""
    onnx.helper.set_model_props(model, metadata)
    with files.atomic_file(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
