"""NativeModel against stock Keras: training, losses and logs, precision, memory."""

import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn import functional as F
from torch.utils.data import DataLoader

from conftest import ROOT
from training.batches import Batch, Batches
from twins import architecture, assert_same_weights, batches, everything, fit, sgd, twins

NAMES = sorted(path.stem for path in (ROOT / "src" / "architectures").glob("[!_]*.py"))
every_architecture = pytest.mark.parametrize("name", NAMES)

# --- the same network -----------------------------------------------------------------------------


@every_architecture
def test_logits_are_those_of_stock_keras(name: str) -> None:
    stock, native = twins(architecture(name))
    native.prepare(sgd(0.1), 0, "float32")
    images, _ = everything(batches(8, 8))
    with torch.no_grad():
        logits = native.logits(images, training=False)
        assert logits.dtype == torch.float32
        np.testing.assert_allclose(logits, stock(images), rtol=1e-5, atol=1e-5)


@every_architecture
def test_fifty_steps_are_those_of_stock_keras(name: str) -> None:
    shape = (16, 16, 1)  # on 28 × 28, subset20k has a dense layer of 29 million weights
    # Max-pooling makes training chaotic: at larger rates stock Keras does not even agree with itself
    # when one weight is changed by a millionth. At this one rounding has no time to grow, or at a tenth
    # of it, where dense layers are wide.
    rate = 1e-5 if name in {"deep", "heinit"} else 1e-4
    stock, native = twins(architecture(name, shape), fresh=True)
    for layer in [*stock.layers, *native.layers]:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0  # it draws in the order of memory, which is not the same
    start = {weight.path: weight.numpy() for weight in stock.weights}
    stock.compile(sgd(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    native.prepare(sgd(rate), 0, "float32")
    expected, losses = fit(stock, batches(400, 8, shape)), fit(native, batches(400, 8, shape))
    assert len(losses) == 50
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert_same_weights(stock, native, 2e-4, "moving")
    # the weights have hardly moved, so what is compared is the way that they went
    end = {weight.path: weight.numpy() for weight in stock.trainable_weights}
    for weight in native.trainable_weights:
        way = np.linalg.norm(end[weight.path] - start[weight.path])
        error = np.linalg.norm(weight.numpy() - end[weight.path])
        assert error < 0.1 * way, weight.path


def test_the_default_architecture_never_waits_for_keras_own_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    _, native = twins(architecture("blocks"))

    def slow(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Keras' own call is several times slower")

    for kind in (
        layers.Conv2D,
        layers.BatchNormalization,
        layers.MaxPooling2D,
        layers.Dense,
        layers.Activation,
        layers.GlobalMaxPooling2D,
        layers.Rescaling,
    ):
        monkeypatch.setattr(kind, "call", slow)
    native.prepare(sgd(0.01), 0, "float32")
    native.fit(batches(8, 4).loader(), validation_data=batches(8, 4).loader(), verbose=0)


# --- loss and figures -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kernel_regularizer", "bias_regularizer", "activity_regularizer"])
def test_a_regulariser_adds_to_the_gradient(kind: str) -> None:
    def build() -> keras.Model:
        inputs = layers.Input((28, 28, 1))
        dense = layers.Dense(10, **{kind: keras.regularizers.L2(0.5)})
        return keras.Model(inputs, dense(layers.Flatten()(inputs)))

    stock, native = twins(build)
    stock.compile(sgd(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    native.prepare(sgd(0.01), 0, "float32")
    fit(stock, batches(12, 4))
    fit(native, batches(12, 4))
    assert_same_weights(stock, native, 1e-4)


def test_label_smoothing_is_that_of_keras_and_stays_out_of_the_log() -> None:
    stock, native = twins(architecture("plain"))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    stock.compile(sgd(0.05), loss)
    native.prepare(sgd(0.05), 0.3, "float32")
    first_images, first_labels = next(iter(batches(40, 8)))
    with torch.no_grad():
        plain = float(F.cross_entropy(stock(first_images), first_labels))

    one_hot = [(x, F.one_hot(y, 10).float()) for x, y in batches(40, 8)]
    stock.fit(DataLoader(one_hot, batch_size=None), verbose=0)  # type: ignore[arg-type]
    losses = fit(native, batches(40, 8))
    assert_same_weights(stock, native, 1e-5)
    assert losses[0] == pytest.approx(plain, rel=1e-5)


def test_logs_are_the_figures_of_the_whole_set() -> None:
    stock, native = twins(architecture("plain"))
    native.prepare(sgd(0.0), 0.1, "float32")  # standing still, and the last batch is of 6
    train, val = batches(70, 32), batches(45, 20)
    history = native.fit(train.loader(), validation_data=val.loader(), epochs=2, verbose=0).history
    evaluated = native.evaluate(val.loader(), verbose=0, return_dict=True)

    def figures(data: Batches) -> dict[str, float]:
        images, labels = (tensor.numpy() for tensor in everything(data))
        logits = stock.predict(images, verbose=0).astype(np.float64)
        log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return {
            "loss": -log_probabilities[np.arange(len(labels)), labels].mean(),
            "accuracy": (logits.argmax(1) == labels).mean(),
        }

    on_train, on_val = figures(train), figures(val)
    assert 0 < on_train["accuracy"] < 1
    for measure in ("loss", "accuracy"):
        assert history[measure] == pytest.approx([on_train[measure]] * 2, rel=1e-5)
        assert history[f"val_{measure}"] == pytest.approx([on_val[measure]] * 2, rel=1e-5)
        assert evaluated[measure] == pytest.approx(on_val[measure], rel=1e-5)


def test_no_other_thread_takes_turns_with_the_one_that_trains() -> None:
    _, native = twins(architecture("plain"))
    native.prepare(sgd(0.0), 0, "float32")
    threads = set()

    class Watched(Batches):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                yield batch
                threads.add(threading.active_count())  # when the batch has been reported

    data = batches(12, 4)
    data.__class__ = Watched
    before = threading.active_count()
    native.fit(data.loader(), validation_data=data.loader(), verbose=0)
    native.evaluate(data.loader(), verbose=0)
    assert threads == {before}


# --- weighted rows --------------------------------------------------------------------------------


def test_a_row_of_weight_two_is_two_rows() -> None:
    images, labels = everything(batches(3, 3))
    twice = torch.tensor([0, 0, 1, 2])
    _, weighted = twins(architecture("plain"))
    _, repeated = twins(architecture("plain"))
    recorded: list[torch.Tensor] = []
    logs = []
    for model, data in (
        (weighted, (images, labels, torch.tensor([2.0, 1.0, 1.0]), recorded.append)),
        (repeated, (images[twice], labels[twice])),
    ):
        model.prepare(sgd(0.0), 0.1, "float32")
        model.reset_metrics()
        logs.append({name: float(value) for name, value in model.train_step(data).items()})
    for one, other in zip(
        weighted.trainable_variables, repeated.trainable_variables, strict=True
    ):  # a mean over 3 and a mean over 4
        np.testing.assert_allclose(one.value.grad * 3, other.value.grad * 4, rtol=1e-4, atol=1e-6)
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    with torch.no_grad():
        expected = F.cross_entropy(weighted.logits(images), labels, reduction="none")
    np.testing.assert_allclose(recorded[0], expected, rtol=1e-5)


# --- precision ------------------------------------------------------------------------------------


def test_bfloat16_keeps_weights_in_float32_and_the_loss_near() -> None:
    exact, rough = (twins(architecture("blocks"))[1] for _ in range(2))
    exact.prepare(sgd(0.002), 0, "float32")
    rough.prepare(sgd(0.002), 0, "bfloat16")
    expected, losses = fit(exact, batches(80, 16)), fit(rough, batches(80, 16))
    assert {variable.value.dtype for variable in rough.variables} == {torch.float32}
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    assert (losses != expected).all()  # it was bfloat16
    assert_same_weights(exact, rough, 0.05, "moving")


def test_validation_has_the_precision_of_training() -> None:
    stock, native = twins(architecture("blocks"))
    native.prepare(sgd(0.01), 0, "bfloat16")
    images, _ = everything(batches(8, 8))
    with torch.no_grad():
        logits, exact = native.logits(images, training=False), stock(images)
    assert logits.dtype == torch.float32
    assert (logits != exact).any()
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(exact.abs().max()))


# --- memory ---------------------------------------------------------------------------------------


def test_kernels_are_laid_out_once_and_not_copied_at_each_step() -> None:
    _, native = twins(architecture("blocks"))
    native.prepare(sgd(0.01), 0, "float32")
    before = {variable.path: variable.numpy() for variable in native.variables}
    fit(native, batches(32, 16))
    kernels = [v.value for v in native.trainable_variables if v.value.ndim == 4]
    assert len(kernels) == 6
    for kernel in kernels:  # (h, w, in, out) -> (out, in, h, w)
        assert kernel.permute(3, 2, 0, 1).is_contiguous(memory_format=torch.channels_last)
    assert any((before[v.path] != v.numpy()).any() for v in native.trainable_variables)


@every_architecture
def test_which_networks_take_another_size(name: str) -> None:
    _, model = twins(architecture(name))
    model.prepare(sgd(0.01), 0, "float32")
    before = [variable.value.clone() for variable in model.variables]
    one_size = any(isinstance(layer, layers.Flatten) for layer in model.layers)
    assert model.accepts(torch.rand(2, 20, 20, 1)) != one_size
    assert model.accepts(torch.rand(2, 28, 28, 1))
    assert not model.accepts(torch.rand(2, 28, 28, 3))
    for variable, value in zip(model.variables, before, strict=True):
        assert torch.equal(variable.value, value)
