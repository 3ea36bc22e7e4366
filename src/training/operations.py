"""The floating-point operations of a training."""

from common import params

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import architectures
from training.batches import Batches, resized


def of_training(chosen: params.Params, classes: int, images: int, epochs: int) -> tuple[int, int]:
    """How many parameters the network has, and operations all images of a training take, each in the size it then has.

    Those of convolutions and matrix products, both ways; a multiply-add is two (torch.utils.flop_counter).

    Args:
        images: for training; how often an epoch visits them follows from data_pruning and least_steps.
        epochs: as many as were trained.
    """
    data, train, name = chosen.data, chosen.train, chosen.model.architecture

    def of_image(scale: float) -> tuple[int, int]:
        pixels = resized(torch.zeros(1, data.height, data.width, data.channels), scale)
        network = architectures.build(name, tuple(pixels.shape[1:]), classes, chosen.model.options.get(name, {}))
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(network(pixels, training=False), torch.zeros(1, dtype=torch.int64)).backward()
        return network.count_params(), counter.get_total_flops()

    small = min(params.small_epochs(train.progressive_resizing, train.epochs), epochs)
    parameters, whole = of_image(1.0)
    weights, reduced = of_image(train.progressive_resizing.scale) if small else (parameters, whole)
    reduced = reduced if weights == parameters else whole  # it takes one size only, so train leaves resizing out
    rows, ignored = np.zeros((images, 1, 1, 1), np.uint8), np.zeros(1)
    order = (train.batch_size, 1, "cpu", None, 0, train.data_pruning, train.least_steps)
    batches = Batches(rows, rows[:, 0, 0, 0], ignored, ignored, *order)
    return parameters, (small * reduced + (epochs - small) * whole) * batches.passes * batches.rows_a_pass
