"""benchmarks/train_step.py: what it compares is the same network, trained alike."""

import importlib
from types import ModuleType

import keras
import numpy as np
import pytest
import torch
from torch import nn

from training.batches import Batches

ROWS = 32  # of the batch


@pytest.fixture
def train_step(settings_of_torch: None) -> ModuleType:
    """The program as a module; the environment that it changes is put back."""
    return importlib.import_module("train_step")


@pytest.fixture
def batches() -> Batches:
    """One batch of noise, in as many shards as the program has."""
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28, 1), np.uint8)
    labels = (np.arange(ROWS) % 10).astype(np.uint8)
    return Batches(images, labels, np.array([73.0]), np.array([90.0]), ROWS, 4, "cpu")


def pairs(model: keras.Model, network: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Each variable of the Keras model in PyTorch's order of axes, and the tensor of `network` in its place."""
    layers = [layer for layer in model.layers if layer.weights]
    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]
    found = {}
    for layer, module in zip(layers, modules, strict=True):
        names = ("bias", "running_mean", "running_var") if isinstance(module, nn.BatchNorm2d) else ("weight", "bias")
        tensors = [getattr(module, name) for name in names if getattr(module, name) is not None]
        for variable, tensor in zip(layer.weights, tensors, strict=True):
            value = variable.value.detach()
            if variable.name == "kernel":  # (h, w, in, out) -> (out, in, h, w), or (in, out) -> (out, in)
                value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.t()
            assert tensor.shape == value.shape
            found[variable.path] = value, tensor
    return found


def test_the_network_by_hand_is_blocks_and_learns_the_same(
    train_step: ModuleType, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train_step.OPTIONS, "learning_rate", 1.0)  # so that rounding hides no change
    keras.utils.set_random_seed(0)
    ours, by_hand = train_step.Ours("float32"), train_step.ByHand("float32")
    network = by_hand.networks[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for variable in ours.model.variables:  # away from the zeros and ones of their start
            variable.value.add_(0.1 * torch.rand(variable.shape, generator=generator) - 0.05)
        for copy in by_hand.networks:
            for value, tensor in pairs(ours.model, copy).values():
                tensor.copy_(value)
        (batch,) = batches
        images = batch.normalised(batch.images)  # (N, H, W, C)
        logits = network.eval()(images.permute(0, 3, 1, 2))
        torch.testing.assert_close(logits, ours.model.logits(images), rtol=1e-4, atol=1e-4)
        before = {name: value.clone() for name, (value, _) in pairs(ours.model, network).items()}

    assert sum(x.numel() for x in by_hand.weights) == sum(x.value.numel() for x in ours.model.trainable_variables)
    for variant in (ours, by_hand):
        variant.train(batches)
        variant.evaluate(batches)  # only this joins the statistics of the shards by hand
    still = []
    for name, (value, tensor) in pairs(ours.model, network).items():
        # PyTorch divides a variance by one less than the number of values, of which the last layers have few
        limit = 0.1 if name.endswith("moving_variance") else 1e-3
        change = (value - before[name]).norm()
        assert (tensor - value).norm() <= limit * change, name
        still += [] if change else [name]
    assert still == list(before)[:1]  # whitening
