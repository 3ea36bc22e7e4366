"""NativeModel against stock Keras and plain PyTorch: training, losses and logs, shards, precision, memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from common.errors import InputError

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.nn import functional as F
from torch.utils.data import DataLoader

from conftest import ROOT
from training.batches import Batch, Batches
from training.native_model import NativeModel
from training.shards import Adder
from twins import architecture, assert_same_weights, batches, everything, fit, pairs, prepare, sgd, twins

NAMES = sorted(path.stem for path in (ROOT / "src" / "architectures").glob("[!_]*.py"))
every_architecture = pytest.mark.parametrize("name", NAMES)

# --- the same network -----------------------------------------------------------------------------


@every_architecture
def test_logits_are_those_of_stock_keras(name: str) -> None:
    stock, native = twins(architecture(name))
    prepare(native, sgd(0.1))
    images, _ = everything(batches(8, 8))
    with torch.no_grad():
        logits = native.logits(images)
        assert logits.dtype == torch.float32
        np.testing.assert_allclose(logits, stock(images), rtol=1e-5, atol=1e-5)


@every_architecture
def test_fifty_steps_are_those_of_stock_keras(name: str) -> None:
    shape = (16, 16, 1)  # on 28 × 28, subset20k has a dense layer of 29 million weights
    # Max-pooling makes training chaotic: at larger rates stock Keras does not even agree with itself
    # when one weight is changed by a millionth. At these rounding has no time to grow. On its way heinit
    # differs from itself by up to 0.15 (six orders of images).
    rate, limit = {"deep": (1e-5, 0.1), "heinit": (1e-6, 0.2)}.get(name, (1e-4, 0.1))
    stock, native = twins(architecture(name, shape), fresh=True)
    for layer in [*stock.layers, *native.layers]:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0  # it draws in the order of memory, which is not the same
    start = {weight.path: weight.numpy() for weight in stock.weights}
    stock.compile(sgd(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    prepare(native, sgd(rate))
    expected, losses = fit(stock, batches(400, 8, shape)), fit(native, batches(400, 8, shape))
    assert len(losses) == 50
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert_same_weights(stock, native, 2e-4, "moving")
    # the weights have hardly moved, so what is compared is the way that they went
    end = {weight.path: weight.numpy() for weight in stock.trainable_weights}
    for weight in native.trainable_weights:
        way = np.linalg.norm(end[weight.path] - start[weight.path])
        error = np.linalg.norm(weight.numpy() - end[weight.path])
        assert error < limit * way, weight.path


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
    prepare(native, sgd(0.01))
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
    prepare(native, sgd(0.01))
    fit(stock, batches(12, 4))
    fit(native, batches(12, 4))
    assert_same_weights(stock, native, 1e-4)


def test_label_smoothing_is_that_of_keras_and_stays_out_of_the_log() -> None:
    stock, native = twins(architecture("plain"))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    stock.compile(sgd(0.05), loss)
    prepare(native, sgd(0.05), smoothing=0.3)
    first_images, first_labels = pairs(batches(40, 8))[0]
    with torch.no_grad():
        plain = float(F.cross_entropy(stock(first_images), first_labels))

    one_hot = [(x, F.one_hot(y, 10).float()) for x, y in pairs(batches(40, 8))]
    stock.fit(DataLoader(one_hot, batch_size=None), verbose=0)  # type: ignore[arg-type]
    losses = fit(native, batches(40, 8))
    assert_same_weights(stock, native, 1e-5)
    assert losses[0] == pytest.approx(plain, rel=1e-5)


def test_logs_are_the_figures_of_the_whole_set() -> None:
    stock, native = twins(architecture("plain"))
    prepare(native, sgd(0.0), smoothing=0.1)  # standing still, and the last batch is of 6
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
    prepare(native, sgd(0.0))
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


def gradients(model: NativeModel, batch: Batch) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Of one step, whose learning rate must be 1, by the path of the weight; and the logs."""
    before = {weight.path: weight.numpy() for weight in model.trainable_weights}
    model.reset_metrics()
    model.train_step(batch)
    logs = {name: float(value) for name, value in model.get_metrics_result().items()}
    return {weight.path: before[weight.path] - weight.numpy() for weight in model.trainable_weights}, logs


def test_a_row_of_weight_two_is_two_rows() -> None:
    (batch,) = batches(3, 3)
    images, labels = everything(batches(3, 3))
    twice = torch.tensor([0, 0, 1, 2])
    _, weighted = twins(architecture("plain"))
    _, repeated = twins(architecture("plain"))
    with torch.no_grad():
        expected = F.cross_entropy(prepare(weighted, sgd(1.0)).logits(images), labels, reduction="none")
    recorded: list[torch.Tensor] = []
    one, logs = gradients(
        prepare(weighted, sgd(1.0), smoothing=0.1),
        batch._replace(weights=torch.tensor([2.0, 1.0, 1.0]), record_losses=recorded.append),
    )
    batch = batch._replace(images=batch.images[twice], labels=labels[twice], shards=[slice(0, 4)])
    batch = batch._replace(record_losses=recorded.append)
    other, logs_of_rows = gradients(prepare(repeated, sgd(1.0), smoothing=0.1), batch)
    for path, gradient in one.items():  # a mean over 3 and a mean over 4
        np.testing.assert_allclose(gradient * 3, other[path] * 4, rtol=1e-4, atol=1e-6)
    assert logs == pytest.approx(logs_of_rows, rel=1e-5)
    np.testing.assert_allclose(recorded[0], expected, rtol=1e-5)


# --- shards ---------------------------------------------------------------------------------------

SHAPE = (6, 5, 2)


def regularised() -> keras.Model:
    inputs = layers.Input(SHAPE)
    x = layers.Conv2D(3, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(0.1),
                      activity_regularizer=keras.regularizers.L2(0.05), name="conv")(inputs)  # fmt: skip
    x = layers.BatchNormalization(momentum=0.6, name="norm")(x)
    dense = layers.Dense(10, bias_regularizer=keras.regularizers.L2(0.2), name="dense")
    return keras.Model(inputs, dense(layers.Flatten()(x)))


def reference(model: keras.Model, batch: Batch, smoothing: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gradients and new moving statistics by path, and the loss of each row; in float64 and plain PyTorch."""
    values = {v.path: v.value.detach().double() for v in model.variables}
    weights = {v.path: values[v.path].requires_grad_() for v in model.trainable_variables}
    moving = {path: torch.zeros_like(value) for path, value in values.items() if "moving" in path}
    loss, of_rows = torch.zeros(()), []
    for rows in batch.shards:
        images, labels = batch.normalised(batch.images[rows]).double(), batch.labels[rows]
        share = len(labels) / len(batch.labels)
        kernel = values["conv/kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(images.permute(0, 3, 1, 2), kernel, values["conv/bias"], padding=1).relu()
        penalty = 0.1 * kernel.square().sum() + 0.2 * values["dense/bias"].square().sum()
        penalty = penalty + 0.05 * x.square().sum() / len(labels)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        for name, statistic in (("mean", mean), ("variance", variance)):
            path = f"norm/moving_{name}"
            moving[path] += share * (0.6 * values[path] + 0.4 * statistic.detach())
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-3).sqrt()
        x = x * values["norm/gamma"][:, None, None] + values["norm/beta"][:, None, None]
        logits = x.permute(0, 2, 3, 1).flatten(1) @ values["dense/kernel"] + values["dense/bias"]
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        if batch.weights is not None:
            losses = losses * batch.weights[rows]
        loss = loss + losses.sum() / len(batch.labels) + share * penalty
        of_rows.append(F.cross_entropy(logits, labels, reduction="none").detach())
    found = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    return {path: value.numpy() for path, value in (found | moving).items()}, torch.cat(of_rows).numpy()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("rows", "batch_size", "shards"),
    [(10, 10, 1), (10, 10, 4), (10, 10, 3), (9, 10, 5), (3, 10, 4), (2, 10, 8), (1, 10, 5), (3, 3, 8)],
)
def test_a_step_is_the_mean_of_its_shards(rows: int, batch_size: int, shards: int, weighted: bool) -> None:
    """Each with its own batch statistics."""
    (batch,) = batches(rows, batch_size, SHAPE, shards)
    recorded: list[torch.Tensor] = []
    weights = torch.linspace(0, 2, rows + 1)[1:] if weighted else None
    batch = batch._replace(weights=weights, record_losses=recorded.append)
    _, native = twins(regularised)
    expected, losses = reference(native, batch, 0.1)
    found, logs = gradients(prepare(native, sgd(1.0), smoothing=0.1, shards=shards), batch)
    found |= {v.path: v.numpy() for v in native.non_trainable_variables}
    assert found.keys() == expected.keys()
    for path, value in found.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-4, atol=2e-6, err_msg=path)
    np.testing.assert_allclose(recorded[0], losses, rtol=1e-4, atol=1e-5)
    assert logs["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def test_shards_have_their_own_batch_statistics() -> None:
    (batch,) = batches(10, 10, SHAPE, 4)
    native = prepare(twins(regularised)[1], sgd(1.0), shards=4)
    whole = prepare(twins(regularised)[1], sgd(1.0))
    found, _ = gradients(native, batch)
    as_one, _ = gradients(whole, batch._replace(shards=[slice(0, 10)]))
    for path, gradient in found.items():
        assert np.abs(gradient - as_one[path]).max() > 1e-4, path


def ending(*kinds: Callable[[], Any]) -> Callable[[], keras.Model]:
    """A convolution, layers of these kinds, and a dense layer."""

    def build() -> keras.Model:
        inputs = layers.Input((8, 8, 1))
        x = layers.Conv2D(6, 3)(inputs)
        for kind in kinds:
            x = kind()(x)
        return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))

    return build


def submodel(*inner: Callable[[], Any]) -> Callable[[], keras.Model]:
    return lambda: keras.Sequential([layers.Input((6, 6, 6)), *(kind() for kind in inner)])


NETWORKS = {
    "batch norm": ending(layers.BatchNormalization),
    "dropout": ending(lambda: layers.Dropout(0.4), lambda: layers.Dropout(0.2)),
    "seeded dropout": ending(lambda: layers.Dropout(0.4, seed=3), lambda: layers.Dropout(0.4, seed=3)),
    "spatial dropout": ending(lambda: layers.SpatialDropout2D(0.4)),
    "noise": ending(lambda: layers.GaussianNoise(0.3)),
    "regularised": regularised,
    "nested": ending(submodel(lambda: layers.Conv2D(4, 3), layers.BatchNormalization,
                              lambda: layers.Dropout(0.3, seed=1),
                              lambda: layers.Activation("relu", activity_regularizer="l2"))),
}  # fmt: skip


def map_backwards(compute: Callable[[int], torch.Tensor], own: list[int]) -> list[torch.Tensor]:
    results = {shard: compute(shard) for shard in reversed(own)}
    return [results[shard] for shard in own]


def trained(build: Callable[[], keras.Model], adder: Adder, batch_size: int = 16) -> list[bytes]:
    """All variables, the losses of the rows, and the history; of one epoch of 50 rows and one of val."""
    _, native = twins(build)
    native.prepare(keras.optimizers.SGD(0.01, momentum=0.9), 0.1, "float32", adder, range(1, adder.shards))
    torch.manual_seed(0)
    shape = native.input_shape[1:]
    train, val = batches(50, batch_size, shape, adder.shards), batches(21, 20, shape, 8)
    history = native.fit(train.loader(), validation_data=val.loader(), verbose=0).history
    variables = [*native.variables, *native.optimizer.variables]
    found = [variable.numpy() for variable in variables] + [train.losses.numpy(), np.array(list(history.values()))]
    assert all(np.isfinite(value).all() for value in found)
    return [value.tobytes() for value in found]


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_who_computes_the_shards_changes_no_bit(build: Callable[[], keras.Model]) -> None:
    backwards = Adder(5, 1, "cpu")
    backwards.map = map_backwards
    adders = [Adder(5, threads, "cpu") for threads in (1, 2, 3, 4)]
    one, *others = (trained(build, adder) for adder in [*adders, backwards])
    for other in others:
        assert other == one


def test_the_state_of_an_optimizer_lies_in_memory_as_the_weights() -> None:
    _, native = twins(architecture("blocks"))
    prepare(native, keras.optimizers.SGD(0.1, momentum=0.9))
    for weight, momentum in zip(native._weights, native.optimizer.momentums, strict=True):
        assert momentum.value.stride() == weight.stride()
        assert not momentum.value.any()


@pytest.mark.parametrize("shards", [1, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [47, 12, 49, 2])  # the last batches have 3, 2, 1 and 2 rows
def test_batches_of_any_size(shards: int, batch_size: int) -> None:
    build = ending(layers.BatchNormalization, lambda: layers.Dropout(0.3))
    one = trained(build, Adder(shards, 1, "cpu"), batch_size)
    assert trained(build, Adder(shards, 3, "cpu"), batch_size) == one


@pytest.mark.parametrize("kind", [lambda: layers.Dropout(0.5), lambda: layers.Dropout(0.5, seed=7),
                                  lambda: layers.SpatialDropout2D(0.5, seed=7)])  # fmt: skip
def test_each_shard_and_each_step_draws_other_numbers(kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> keras.Model:
        inputs = layers.Input((2, 4, 1))
        x = kind()(layers.Dense(10, use_bias=False)(inputs))  # (N, 2, 4, 1) -> (N, 2, 4, 10)
        return keras.Model(inputs, layers.Reshape((80,))(x))

    def masks() -> list[list[bool]]:
        """What each shard of two steps leaves, in the order of the shards."""
        _, native = twins(build)
        found: list[list[bool]] = []
        logits = native.logits
        prepare(native, sgd(0.0), shards=4)
        torch.manual_seed(99)  # of the first shard; the others have 1 to 3

        def watched(*args: Any) -> torch.Tensor:
            outputs = logits(*args)
            found.append((outputs != 0).flatten().tolist())
            return outputs

        monkeypatch.setattr(native, "logits", watched)
        native.reset_metrics()
        (batch,) = batches(8, 8, (2, 4, 1), 4)
        for _ in range(2):
            native.train_step(batch)
        return found

    first = masks()
    assert len({tuple(mask) for mask in first}) == len(first) == 8
    assert masks() == first


def attention() -> Callable[[Any], Any]:
    layer = layers.MultiHeadAttention(2, 3, dropout=0.3)
    return lambda x: layer(x, x)


@pytest.mark.parametrize(
    "kind",
    [
        submodel(lambda: layers.Dropout(0.3)),
        attention,
        lambda: layers.Lambda(lambda x: x + keras.random.normal((6,))),
        lambda: layers.AugMix(value_range=(0, 1)),  # shuffles with Python's generator
        lambda: layers.Lambda(lambda x: x + np.random.rand()),
    ],
    ids=["submodel", "attention", "keras.random", "Python's random", "NumPy's random"],
)
def test_draws_from_a_generator_that_layers_share_are_refused(kind: Callable[[], Any]) -> None:
    shape = [layers.Conv2D(3, 1)] if kind().__class__ is layers.AugMix else []
    _, native = twins(ending(*(lambda layer=layer: layer for layer in shape), kind))
    rule = r"^each layer .* that draws random numbers must have a generator of its own \(.*seed\); received "
    with pytest.raises(InputError, match=rule + native.name) as refusal:
        prepare(native, sgd(0.1))
    assert "\n" not in str(refusal.value)


def test_prepare_changes_no_state() -> None:
    for build in NETWORKS.values():
        _, native = twins(build)
        before, generator = {v.path: v.numpy() for v in native.variables}, torch.get_rng_state()
        parameters = native.count_params()
        prepare(native, sgd(0.1), shards=3)
        for variable in native.variables:
            np.testing.assert_array_equal(variable, before.pop(variable.path))
        assert not before
        assert native.count_params() == parameters
        assert torch.equal(torch.get_rng_state(), generator)


# --- precision ------------------------------------------------------------------------------------


def test_bfloat16_keeps_weights_in_float32_and_the_loss_near() -> None:
    exact, rough = (twins(architecture("blocks"))[1] for _ in range(2))
    prepare(exact, sgd(0.002))
    prepare(rough, sgd(0.002), precision="bfloat16")
    expected, losses = fit(exact, batches(80, 16)), fit(rough, batches(80, 16))
    assert {variable.value.dtype for variable in rough.variables} == {torch.float32}
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    assert (losses != expected).all()  # it was bfloat16
    assert_same_weights(exact, rough, 0.05, "moving")


def test_validation_has_the_precision_of_training() -> None:
    stock, native = twins(architecture("blocks"))
    prepare(native, sgd(0.01), precision="bfloat16")
    images, _ = everything(batches(8, 8))
    with torch.no_grad():
        logits, exact = native.logits(images), stock(images)
    assert logits.dtype == torch.float32
    assert (logits != exact).any()
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(exact.abs().max()))


# --- memory ---------------------------------------------------------------------------------------


def test_kernels_are_laid_out_once_and_not_copied_at_each_step() -> None:
    _, native = twins(architecture("blocks"))
    prepare(native, sgd(0.01))
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
    prepare(model, sgd(0.01))
    before = [variable.value.clone() for variable in model.variables]
    one_size = any(isinstance(layer, layers.Flatten) for layer in model.layers)
    refused = pytest.raises((RuntimeError, ValueError))
    with torch.no_grad(), keras.device("cpu"):
        model.logits(torch.rand(2, 28, 28, 1))
        with refused if one_size else nullcontext():
            model.logits(torch.rand(2, 20, 20, 1))
    for variable, value in zip(model.variables, before, strict=True):
        assert torch.equal(variable.value, value)
