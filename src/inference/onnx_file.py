"""The model as an ONNX file: the graph, its weights, and the metadata that its users need.

From raw pixels `pixels` (images, H, W, C) uint8, any number of images, to

- `probabilities` (images, classes) float32;
- `distance` (images,) float32: the Mahalanobis distance to the nearest class in the network's features. The higher it
  is, the less the image looks like the training images (https://arxiv.org/abs/1807.03888, section 2). Deviations: one
  distance in the features of several layers, not a weighted sum over layers, and no change of the input.

The same weights give the same bytes: the exporter's notes on code, paths and build are left out.
"""

import logging
import warnings
from pathlib import Path

from common import files
from common.backend import keras
from common.errors import InputError

import numpy as np
import onnx
import torch

OPSET = 18
SIZES = 3  # of the network's images, the smallest ones, from which features are taken
SHRINKAGE = 0.01  # of the features' covariance, in units of their mean variance
LINEAR = keras.activations.linear  # no activation, by which a layer has one
ACTIVE = keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ELU  # that are layers


class Distance(torch.nn.Module):
    """From features (N, F) to their Mahalanobis distances (N,) from the nearest class of those that it is made of."""

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        super().__init__()
        values, classes = torch.from_numpy(features).double(), np.unique(labels, return_inverse=True)[1]
        means = torch.stack([values[classes == number].mean(0) for number in range(classes.max() + 1)])
        centred = values - means[classes]
        covariance = centred.T @ centred / len(values)  # (F, F), of all classes alike
        covariance.diagonal().add_(SHRINKAGE * covariance.diagonal().mean() + 1e-12)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        self.whitening, self.means = map(torch.nn.Buffer, (whitening.float(), (means @ whitening).float()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return ((features @ self.whitening)[:, None] - self.means).square().sum(-1).amin(-1).sqrt()


class _Outputs(torch.nn.Module):
    def __init__(self, model: keras.Model, distance: Distance):
        super().__init__()
        self.network, self.distance = with_features(model), distance

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probabilities, features = self.network(pixels.float())
        return probabilities, self.distance(features)


def with_features(model: keras.Model) -> keras.Model:
    """From pixels (N, H, W, C) to probabilities (N, classes) and features (N, F), of a model with preprocessing.

    The features are each channel's mean over the image, after the last activation (where there is none, the last layer)
    of each of the smallest image sizes.

    Raises:
        InputError: the model has other layers than `model_file.with_preprocessing` gives it.
    """
    names = [layer.name for layer in model.layers]
    if names[:2] + names[3:] != ["pixels", "rescaling", "temperature", "probabilities"]:
        raise InputError(f"the model must have preprocessing, a network and probabilities; received {', '.join(names)}")
    _, rescaling, network, temperature, probabilities = model.layers
    maps = [n for n in network.layers if not isinstance(n, keras.Model) and len(getattr(n.output, "shape", ())) == 4]
    own = [layer for layer in maps if isinstance(layer, ACTIVE) or getattr(layer, "activation", LINEAR) is not LINEAR]
    last = {out.shape[1:3]: out for out in (network.input, *(layer.output for layer in own or maps))}
    means = keras.ops.concatenate([keras.ops.mean(output, (1, 2)) for output in [*last.values()][-SIZES:]], -1)
    logits, features = keras.Model(network.input, [network.output, means])(rescaling.output)
    return keras.Model(model.input, [probabilities(temperature(logits)), features])


def convert(model: keras.Model, distance: Distance) -> onnx.ModelProto:
    """The graph without metadata, of a model that `with_features` takes; errors are those of it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # without its warning about torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own code
        program = torch.onnx.export(
            _Outputs(model, distance).eval(),
            (torch.zeros(2, *model.input_shape[1:], dtype=torch.uint8),),
            input_names=["pixels"],
            output_names=["probabilities", "distance"],
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
