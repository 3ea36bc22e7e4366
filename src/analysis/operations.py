"""The floating-point operations of a training."""

from common import params

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import architectures
from training.batches import resized
from training.callbacks import ProgressiveResizing


def of_training(chosen: params.Params, classes: int, images: int, epochs: int) -> tuple[int, int]:
    """The network's parameters, and the operations for all images that a training sees, in their size.

    Counted are convolutions and matrix products, forward and backward; a multiply-add counts as two
    (torch.utils.flop_counter).

    Args:
        images: of which an epoch leaves out train.data_pruning.
        epochs: as many as were trained.
    """
    data, train, name = chosen.data, chosen.train, chosen.model.architecture

    def of_image(scale: float) -> tuple[int, int]:
        pixels = resized(torch.zeros(1, data.height, data.width, data.channels), scale)
        network = architectures.build(name, tuple(pixels.shape[1:]), classes, chosen.model.options.get(name, {}))
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(network(pixels, training=False), torch.zeros(1, dtype=torch.int64)).backward()
        return network.count_params(), counter.get_total_flops()

    resizing = ProgressiveResizing(**dict(train.progressive_resizing), epochs=train.epochs, parts=())
    small = min(resizing.epochs, epochs)
    parameters, whole = of_image(1.0)
    weights, reduced = of_image(resizing.scale) if small else (parameters, whole)
    if weights != parameters:  # it takes one size only, so train leaves resizing out
        reduced = whole
    return parameters, (small * reduced + (epochs - small) * whole) * (images - round(train.data_pruning * images))
