"""The model as an ONNX file: the graph, its weights, and the metadata that its users need.

From raw pixels `pixels` (images, H, W, C) uint8, any number of images, to

- `probabilities` (images, classes) float32;
- `energy` (images,) float32: the free energy of the logits, −log Σ exp(logit). The higher it is, the
  less the image looks like the training images (https://arxiv.org/abs/2010.03759, section 3, T = 1).

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
        self.network = keras.Model(model.input, model.layers[-1].input)  # pixels to logits

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(pixels.float())
        return logits.softmax(-1), -logits.logsumexp(-1)


def convert(model: keras.Model) -> onnx.ModelProto:
    """The graph without metadata.

    Args:
        model: from pixels (N, H, W, C) to probabilities (N, classes), by a last layer Softmax.

    Raises:
        InputError: the model ends in another layer.
    """
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Softmax):
        raise InputError(f"the model must end in a Softmax layer; received one of type {type(last).__name__}")
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
