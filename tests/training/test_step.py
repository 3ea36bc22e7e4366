"""NativeModel against stock Keras: the same figures, the same gradients, the same moving statistics."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import torch
from conftest import ROOT
from keras import layers
from torch.nn import functional as F
from torch.utils.data import DataLoader

import architectures
from training.batches import Batch, Batches
from training.step import NativeModel, _FewPixels

NAMES = sorted(path.stem for path in (ROOT / "src" / "architectures").glob("[!_]*.py"))
every_architecture = pytest.mark.parametrize("name", NAMES)

Build = Callable[[], keras.Model]
Block = Callable[[Any], Any]


def architecture(name: str) -> Build:
    return lambda: architectures.build(name, (28, 28, 1), 10, {})


def twins(build: Build, fresh: bool = False) -> tuple[keras.Model, NativeModel]:
    """The same network twice, with the same weights: as it is, and native (not yet prepared).

    Unless `fresh`, biases and batch normalisation are away from the zeros and ones of their start,
    with which much would agree by chance.
    """
    networks = []
    for _ in range(2):
        keras.utils.clear_session(free_memory=False)  # so that both have the same names
        keras.utils.set_random_seed(0)
        networks.append(build())
    stock, other = networks
    generator = np.random.default_rng(0)
    for one, two in zip(stock.weights, other.weights, strict=True):
        if len(one.shape) == 1 and not fresh:
            one.assign(generator.uniform(0.5, 1.5, one.shape))
        two.assign(one)
    return stock, NativeModel(other.inputs, other.outputs[0])


def batches(count: int, batch_size: int, shape: tuple[int, ...] = (28, 28, 1)) -> Batches:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, *shape), np.uint8)
    labels = generator.integers(0, 10, count).astype(np.uint8)
    channels = np.ones(shape[-1])
    return Batches(images, labels, 127.5 * channels, 73.9 * channels, batch_size, "cpu")


def everything(data: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*data, strict=True)
    return torch.cat(images), torch.cat(labels)


def sgd(learning_rate: float) -> keras.Optimizer:
    return keras.optimizers.SGD(learning_rate)


class Losses(keras.callbacks.Callback):
    """The loss of each step of an epoch, from the means up to it that the logs hold."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.means: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.means.append(float(logs["loss"]))

    def by_step(self) -> np.ndarray:
        sums = np.array(self.means) * np.arange(1, len(self.means) + 1)
        return np.diff(sums, prepend=0)


def fit(model: keras.Model, data: Batches) -> np.ndarray:
    """One epoch; returns the loss of each step."""
    losses = Losses()
    model.fit(data.loader(), callbacks=[losses], verbose=0)
    return losses.by_step()


def assert_same_weights(
    stock: keras.Model, native: keras.Model, tolerance: float, kind: str = ""
) -> None:
    """All weights, or those with `kind` in their name."""
    expected = {weight.path: weight for weight in stock.weights if kind in weight.name}
    assert expected or kind
    for weight in native.weights:
        if kind in weight.name:
            np.testing.assert_allclose(
                weight.numpy(),
                expected.pop(weight.path).numpy(),
                rtol=tolerance,
                atol=tolerance,
                err_msg=weight.path,
            )
    assert not expected


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
    # Max-pooling makes training chaotic: at larger rates stock Keras does not even agree with itself
    # when one weight is changed by a millionth. At this one rounding has no time to grow, or at a tenth
    # of it, where dense layers are wide.
    rate = 1e-5 if name in {"deep", "heinit"} else 1e-4
    stock, native = twins(architecture(name), fresh=True)
    for layer in [*stock.layers, *native.layers]:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0  # it draws in the order of memory, which is not the same
    start = {weight.path: weight.numpy() for weight in stock.weights}
    stock.compile(sgd(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    native.prepare(sgd(rate), 0, "float32")
    expected, losses = fit(stock, batches(800, 16)), fit(native, batches(800, 16))
    assert len(losses) == 50
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert_same_weights(stock, native, 2e-4, "moving")
    # the weights have hardly moved, so what is compared is the way that they went
    end = {weight.path: weight.numpy() for weight in stock.trainable_weights}
    for weight in native.trainable_weights:
        way = np.linalg.norm(end[weight.path] - start[weight.path])
        error = np.linalg.norm(weight.numpy() - end[weight.path])
        assert error < 0.1 * way, weight.path


def test_the_default_architecture_never_waits_for_keras_own_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


# --- every kind of layer --------------------------------------------------------------------------


LAYERS: dict[str, tuple[type, dict[str, Any]]] = {
    # computed natively
    "convolution": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"}),
    "5 x 5, no bias": (layers.Conv2D, {"filters": 4, "kernel_size": 5, "padding": "same", "use_bias": False}),
    "valid, oblong": (layers.Conv2D, {"filters": 4, "kernel_size": (2, 3), "padding": "valid"}),
    "pooling": (layers.MaxPooling2D, {"pool_size": 3, "strides": 2}),
    "dense on pixels": (layers.Dense, {"units": 4, "activation": "gelu", "use_bias": False}),
    "batch norm": (layers.BatchNormalization, {"momentum": 0.6, "epsilon": 0.1}),
    "global max": (layers.GlobalMaxPooling2D, {}),
    "global max, two axes kept": (layers.GlobalMaxPooling2D, {"keepdims": True}),
    "global mean": (layers.GlobalAveragePooling2D, {}),
    "global mean, two axes kept": (layers.GlobalAveragePooling2D, {"keepdims": True}),
    "rescaling": (layers.Rescaling, {"scale": 0.3, "offset": -0.2}),
    "silu": (layers.Activation, {"activation": "silu"}),
    "another activation": (layers.Activation, {"activation": "leaky_relu"}),
    # computed by Keras
    "strided": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}),
    "even kernel": (layers.Conv2D, {"filters": 4, "kernel_size": 2, "padding": "same"}),
    "oblong kernel": (layers.Conv2D, {"filters": 4, "kernel_size": (3, 5), "padding": "same"}),
    "dilated": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "dilation_rate": 2, "padding": "same"}),
    "grouped": (layers.Conv2D, {"filters": 6, "kernel_size": 3, "groups": 3}),
    "channels first": (layers.Conv2D, {"filters": 4, "kernel_size": 3, "data_format": "channels_first"}),
    "depthwise": (layers.DepthwiseConv2D, {"kernel_size": 3, "padding": "same"}),
    "separable": (layers.SeparableConv2D, {"filters": 4, "kernel_size": 3, "padding": "same"}),
    "padded pooling": (layers.MaxPooling2D, {"pool_size": 3, "strides": 2, "padding": "same"}),
    "channels first pooling": (layers.MaxPooling2D, {"pool_size": 2, "data_format": "channels_first"}),
    "mean pooling": (layers.AveragePooling2D, {"pool_size": 2}),
    "dropout": (layers.Dropout, {"rate": 0.5, "seed": 1}),
    "dropout, regularised": (layers.Dropout, {"rate": 0.5, "seed": 1, "activity_regularizer": "l2"}),
    "layer norm": (layers.LayerNormalization, {}),
    "rescaling by channel": (layers.Rescaling, {"scale": [0.3, 2.0, 1.0]}),
    "batch norm without scale": (layers.BatchNormalization, {"scale": False}),
    "batch norm without centre": (layers.BatchNormalization, {"center": False}),
    "batch norm of rows": (layers.BatchNormalization, {"axis": 1}),
    "batch renorm": (layers.BatchNormalization, {"renorm": True}),
    # for Keras: use the moving statistics, and leave them alone
    "frozen batch norm": (layers.BatchNormalization, {"trainable": False}),
}  # fmt: skip


def one_layer(kind: type, options: dict[str, Any]) -> Block:
    def block(x: Any) -> Any:
        return kind(**options)(x)  # a new one for each of the twins

    return block


def added(x: Any) -> Any:
    return layers.Add()([x, layers.Conv2D(3, 3, padding="same")(x)])


def added_by_an_operator(x: Any) -> Any:
    return x + layers.Conv2D(3, 3, padding="same")(x)


def concatenated(x: Any) -> Any:
    return layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(x)])


def nested(x: Any) -> Any:
    return keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization()])(x)


BLOCKS = {name: one_layer(*layer) for name, layer in LAYERS.items()} | {
    "skip": added,
    "skip by +": added_by_an_operator,
    "concatenated": concatenated,
    "nested": nested,
}


def around(block: Block) -> Build:
    def build() -> keras.Model:
        inputs = layers.Input((12, 10, 3))
        return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(block(inputs))))

    return build


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_every_layer_agrees_with_stock_keras(block: Block) -> None:
    stock, native = twins(around(block))
    native.prepare(sgd(0.1), 0, "float32")
    images, labels = everything(batches(6, 6, (12, 10, 3)))
    for training in (False, True):
        expected, logits = stock(images, training=training), native.logits(images, training)
        np.testing.assert_allclose(logits.detach(), expected.detach(), rtol=1e-4, atol=1e-4)
    assert_same_weights(stock, native, 1e-5)  # moving statistics
    F.cross_entropy(expected, labels).backward()
    F.cross_entropy(logits, labels).backward()
    gradients = {weight.path: weight.value.grad for weight in stock.trainable_weights}
    for weight in native.trainable_weights:
        np.testing.assert_allclose(
            weight.value.grad, gradients[weight.path], rtol=1e-3, atol=1e-4, err_msg=weight.path
        )


def dense_norm() -> keras.Model:
    inputs = layers.Input((28, 28, 1))
    x = layers.Dense(8)(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(10)(layers.BatchNormalization()(x)))


def test_a_batch_of_one_image_is_like_any_other_in_batch_normalisation() -> None:
    # the last of every epoch may be one: a variance of 0, which Keras takes as it is
    stock, native = twins(dense_norm)
    stock.compile(sgd(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    native.prepare(sgd(0.01), 0, "float32")
    fit(stock, batches(5, 2))
    fit(native, batches(5, 2))
    assert_same_weights(stock, native, 1e-4)


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


# --- loss and figures -----------------------------------------------------------------------------


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
    kept: list[torch.Tensor] = []
    logs = []
    for model, data in (
        (weighted, (images, labels, torch.tensor([2.0, 1.0, 1.0]), kept.append)),
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
    np.testing.assert_allclose(kept[0], expected, rtol=1e-5)


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


@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (1, 1), (4, 2)], ids=str)
@pytest.mark.parametrize("size", [3, 5])
def test_gradients_on_few_pixels_are_those_of_the_convolution(
    shape: tuple[int, int], size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, *shape, generator=generator, dtype=torch.float64)
    kernel = torch.randn(6, 3, size, size, generator=generator, dtype=torch.float64)
    upstream = torch.randn(4, 6, *shape, generator=generator, dtype=torch.float64)

    def run(convolution: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = [x.clone().requires_grad_() for x in (images, kernel)]
        output = convolution(*inputs)
        return output, *torch.autograd.grad(output, inputs, upstream)

    expected = run(lambda x, k: F.conv2d(x, k, padding=size // 2))
    for ours, theirs in zip(run(_FewPixels.apply), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_training_in_bfloat16_takes_another_way_on_few_pixels_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    apply = _FewPixels.apply

    def watched(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[2:])
        return apply(x, kernel)

    monkeypatch.setattr(_FewPixels, "apply", watched)
    for precision in ("float32", "bfloat16"):
        _, native = twins(architecture("blocks"))
        native.prepare(sgd(0.01), 0, precision)
        fit(native, batches(16, 16))  # 28 × 28 pixels become 27, 13, 6 and 3
        assert seen == ([(3, 3)] if precision == "bfloat16" else [])


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
    assert model.takes(torch.rand(2, 20, 20, 1)) != one_size
    assert model.takes(torch.rand(2, 28, 28, 1))
    assert not model.takes(torch.rand(2, 28, 28, 3))
    for variable, value in zip(model.variables, before, strict=True):
        assert torch.equal(variable.value, value)
