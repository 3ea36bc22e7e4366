"""Steps on a GPU: nothing in an epoch waits for it, and a replayed step is the step. All of it on the CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, get_args

from common import params

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import train
from on_gpu import cuda_graphs
from on_gpu.cuda_graphs import WARM_UP, NoWaiting, Replayed
from training.augmentation import Augmentation
from training.batches import Batches
from training.callbacks import LearningRate, Progress, ProgressiveResizing, Weights
from training.native_model import NativeModel
from twins import architecture, prepare, twins

OPTIMIZERS = get_args(params.Train.model_fields["optimizer"].annotation)


class Reads(TorchDispatchMode):
    """Counts numbers that are read from tensors, within operations too."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


class Copies(TorchFunctionMode):
    """Counts copies from and to the host, as they would be where tensors are on a GPU."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copy = torch.as_tensor, torch.tensor, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__array__
        self.count += func in copy
        return func(*args, **kwargs or {})


def waits(call: Callable[[], Any]) -> int:
    """How often `call` would wait for a GPU."""
    with Reads() as reads, Copies() as copies:
        call()
    return reads.count + copies.count


def data(batches: int, size: int = 6, rest: int = 0, pruning: float = 0.0) -> Batches:
    count = batches * size + rest
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 8, 8, 1), np.uint8)
    labels = generator.integers(0, 10, count).astype(np.uint8)
    augmentation = Augmentation("alternating", 1, 3, count, 0)
    mean, std = np.array([128.0]), np.array([64.0])
    return Batches(images, labels, mean, std, size, 2, "cpu", augmentation, 1, pruning)


def network(optimizer: keras.Optimizer) -> NativeModel:
    def build() -> keras.Model:
        inputs = layers.Input((8, 8, 1))
        x = layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs))
        x = layers.Dropout(0.2)(x)
        return keras.Model(inputs, layers.Dense(10)(layers.GlobalMaxPooling2D()(x)))

    _, model = twins(build)
    return prepare(model, optimizer, smoothing=0.1, shards=2)


def without_waiting(model: NativeModel) -> NativeModel:
    """As a GPU computes, but without graphs."""
    update = model.update

    def run(batch: Any) -> torch.Tensor:
        with NoWaiting():
            return update(batch)

    model.update = run
    return model


@pytest.mark.parametrize("pruning", [0.0, 0.4])
def test_the_batches_of_an_epoch_do_not_wait(pruning: float) -> None:
    counts = []
    for number in (3, 9):
        model, batches = without_waiting(network(keras.optimizers.Adam(0.01))), data(number, pruning=pruning)
        val = data(number)
        callbacks = [
            LearningRate(0.01, "linear", 0.2, 2 * number), Weights(0.5, "best"),
            Progress(2, number, ProgressiveResizing(1.0, 0, [])),
        ]  # fmt: skip
        fit = partial(
            model.fit, batches.loader(), validation_data=val.loader(), epochs=2, callbacks=callbacks, verbose=0
        )
        counts.append(waits(fit))
        history = model.history.history
        assert np.isfinite([*history.values()]).all()
        assert {*history} >= {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert counts[0] == counts[1] > 0  # the logs of an epoch are read


def test_batches_are_made_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[torch.Tensor] = []
    to = torch.Tensor.to

    def copy(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        copied.append(tensor)
        return to(tensor, *args, **options)

    for flip in ("random", "alternating"):
        batches = data(4, pruning=0.2)
        assert batches.augmentation
        batches.augmentation.flip = flip
        monkeypatch.setattr(torch.Tensor, "to", copy)
        assert sum(len(batch.labels) for batch in batches) == batches.rows_a_pass
        monkeypatch.undo()
    assert not copied


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "nadam"])
def test_no_optimizer_waits_and_each_does_what_it_does_otherwise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> NativeModel:
        return network(train.make_optimizer(name, 0.02, {"weight_decay": 0.01})[0])

    plain, other = make(), without_waiting(make())
    torch.manual_seed(0)
    for batch in data(3):
        plain.train_step(batch)
    if name == "muon":  # where the gradient is on a GPU, the rate is a tensor
        optimizer = other.optimizer
        update = optimizer._update_kernel
        monkeypatch.setattr(
            optimizer, "_update_kernel",
            lambda pair, rate: update(pair, optimizer.learning_rate.value * optimizer.kernel_rate),
        )  # fmt: skip
    batches = list(data(3))
    torch.manual_seed(0)
    count = waits(lambda: [other.train_step(batch) for batch in batches])
    assert count == (len(batches) if name == "muon" else 0)  # on the CPU, Muon reads the rate all the same
    for one, two in zip(plain.variables, other.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-5, atol=1e-6, err_msg=one.path)


# --- graphs -----------------------------------------------------------------------------------------


class Graph:
    """In place of a CUDA graph: what is recorded has no effect, and is computed by `replay`."""

    made: list["Graph"]

    def __init__(self) -> None:
        self.registered: list[torch.Generator] = []
        self.replays = 0
        self.made.append(self)

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.registered.append(generator)

    def replay(self) -> None:
        self.replays += 1
        self.compute()

    def compute(self) -> None:
        raise AssertionError("nothing was recorded")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs made, on a machine without a GPU."""
    Graph.made = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    @contextmanager
    def use(stream: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "stream", use)
    return Graph.made


def replayed(model: NativeModel, monkeypatch: pytest.MonkeyPatch) -> Replayed:
    """Makes `model` record its steps."""
    replay = Replayed(model._update, model.generators)
    tensors = [variable.value for variable in [*model.variables, *model.optimizer.variables]]

    @contextmanager
    def record(graph: Graph, stream: Any) -> Iterator[None]:
        everything = [*tensors, model._sums]
        before = [tensor.clone() for tensor in everything]
        states = [generator.get_state() for generator in model.generators]
        step = replay.step

        def remember(batch: Any) -> torch.Tensor:
            result = step(batch)

            def compute() -> None:
                with NoWaiting():
                    result.copy_(step(batch))

            monkeypatch.setattr(graph, "compute", compute)
            return result

        replay.step = remember
        yield
        replay.step = step
        with torch.no_grad():
            for tensor, value in zip(everything, before, strict=True):
                tensor.copy_(value)
        for generator, state in zip(model.generators, states, strict=True):
            generator.set_state(state)

    monkeypatch.setattr(torch.cuda, "graph", record)
    model.update = replay
    return replay


@pytest.mark.parametrize("pruning", [0.0, 0.4])
def test_replayed_steps_give_the_bytes_of_steps(
    graphs: list[Graph], monkeypatch: pytest.MonkeyPatch, pruning: float
) -> None:
    epochs, batches = 3, 4

    def trained(replay: bool) -> list[bytes]:
        model = without_waiting(network(train.make_optimizer("muon", 0.05, {})[0]))
        if replay:
            replayed(model, monkeypatch)
        torch.manual_seed(0)
        rows = data(batches, rest=2, pruning=pruning)
        history = model.fit(rows.loader(), epochs=epochs, verbose=0).history
        found = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
        states = [generator.get_state() for generator in model.generators]
        found += [rows.losses.numpy(), *(np.array(values) for values in history.values())]
        return [x.tobytes() for x in [*found, *(state.numpy() for state in states)]]

    assert trained(replay=True) == trained(replay=False)
    sizes = [len(batch.labels) for _ in range(epochs) for batch in data(batches, rest=2, pruning=pruning)]
    assert [graph.replays for graph in graphs] == [
        sizes.count(size) - WARM_UP for size in dict.fromkeys(sizes) if sizes.count(size) > WARM_UP
    ]
    assert {len(graph.registered) for graph in graphs} == {1}  # one of two shards; the other has the default


def test_images_of_each_size_have_a_graph_of_their_own(graphs: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = twins(architecture("blocks", (16, 16, 1)))
    replayed(prepare(model, keras.optimizers.Adam(0.01), shards=2), monkeypatch)
    rows = data(2, size=4)
    rows.images = rows.images.repeat(1, 2, 2, 1)  # (N, 16, 16, 1)
    for scale in (0.75, 1.0, 0.75):
        rows.scale = scale
        for _ in range(2):
            for batch in rows:
                assert torch.isfinite(model.update(batch)).all()
    assert [graph.replays for graph in graphs] == [2 + 4, 2]


@pytest.mark.parametrize(
    ("optimizer", "kind", "recorded"),
    [
        (keras.optimizers.Adam(), layers.Dropout(0.2), True),
        (keras.optimizers.Adam(), layers.Dropout(0.2, seed=1), False),
        (keras.optimizers.Adam(), layers.SpatialDropout2D(0.2), False),
        (keras.optimizers.Adam(gradient_accumulation_steps=2), layers.Dropout(0.2), False),
        (keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=2), layers.Dropout(0.2), False),
        (keras.optimizers.Nadam(), layers.Dropout(0.2), False),
    ],
)
def test_what_keras_computes_on_the_host_is_not_recorded(
    optimizer: keras.Optimizer, kind: layers.Layer, recorded: bool
) -> None:
    inputs = layers.Input((8, 8, 1))
    model = prepare(NativeModel(inputs, layers.Dense(10)(layers.Flatten()(kind(inputs)))), optimizer, shards=2)
    (batch,) = data(1)
    model.train_step(batch)
    count = waits(lambda: without_waiting(model).train_step(batch))
    assert cuda_graphs.waits(model) is (count > 0) is not recorded


@pytest.mark.parametrize("recorded", [True, False])
def test_a_cpu_records_nothing(recorded: bool) -> None:
    model = network(keras.optimizers.Adam(0.01))
    cuda_graphs.use(model, recorded)
    assert model.update == model._update
