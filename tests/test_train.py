"""The train stage: its parts, and whole runs on synthetic images."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from common import arrays, locks, params
from common.errors import InputError

import keras
import numpy as np
import pytest
import torch
from keras import layers

import edits
import train
from conftest import ROOT, TINY, with_forks, write_params
from training import checkpoint, machine
from training.native_model import NativeModel
from training.temperature import LIMITS, minimiser

MODEL = Path("models/model.keras")
CURVES = Path("metrics/curves/plots/metrics")


# --- normalisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_standard_normalisation_is_mean_and_deviation(channels: int) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (50, 9, 8, channels), np.uint8) // (1 + np.arange(channels))
    mean, std = train.normalisation(images.astype(np.uint8), "standard")
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(std, images.std((0, 1, 2)), rtol=0, atol=1e-9)


def test_unit_normalisation_divides_by_255() -> None:
    mean, std = train.normalisation(np.zeros((2, 4, 4, 3), np.uint8), "unit")
    assert (mean.tolist(), std.tolist()) == ([0, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_a_channel_of_one_value_is_only_moved(value: int) -> None:
    images = np.full((30, 7, 7, 2), value, np.uint8)
    images[..., 1] = np.arange(7)
    mean, std = train.normalisation(images, "standard")
    assert mean.tolist() == [value, 3]
    assert std.tolist() == [1, 2]


# --- optimizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", get_args(params.Train.model_fields["optimizer"].annotation))
def test_every_optimizer_of_the_schema_exists(name: str) -> None:
    optimizer, rate = train.make_optimizer(name, 0.25, {"clipnorm": 1.0})
    assert rate == 0.25
    assert type(optimizer).__name__.lower() == name
    assert float(optimizer.learning_rate.numpy()) == 0.25
    assert optimizer.clipnorm == 1


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [("muon", {}, 0.4), ("muon", {"learning_rate": 0.3}, 0.3), ("adam", {}, 0.001), ("sgd", {}, 0.01)],
)
def test_an_optimizer_has_its_own_learning_rate_unless_there_is_another(
    name: str, options: dict[str, Any], expected: float
) -> None:
    optimizer, rate = train.make_optimizer(name, None, options)
    assert rate == (options.get("learning_rate") or pytest.approx(expected))
    assert float(optimizer.learning_rate.numpy()) == pytest.approx(expected)
    assert train.make_optimizer(name, 0.2, options)[1] == 0.2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentun": 0.9}),
        ("sgd", {"momentum": "high"}),
        ("sgd", {"momentum": 2}),
        ("muon", {"kernel_rat": 0.2}),
        ("adam", {"momentum": 0.9}),
        ("adam", {"clipnorm": 1.0, "clipvalue": 1.0}),
    ],
)
def test_a_wrong_option_of_an_optimizer_is_refused_in_one_line(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refusal:
        train.make_optimizer(name, 0.1, options)
    message = str(refusal.value)
    assert message.startswith(f"train.optimizer_options.{name} must ")
    assert str(options) in message
    assert "\n" not in message


@pytest.mark.parametrize("name", get_args(params.Optimizer))
@pytest.mark.parametrize("value", ["1", "1.0"])
def test_numbers_of_either_kind_are_options_of_every_optimizer(tmp_path: Path, name: str, value: str) -> None:
    """As YAML and `-S` give them: Keras wants some as integers, and refuses others that are."""
    options = {
        "learning_rate": "0.05" if name in params.NORMALISING else value,
        "use_ema": "true",
        "ema_overwrite_frequency": "10",
        "gradient_accumulation_steps": "2",
    }
    if name in ("sgd", "muon"):
        options["momentum"] = value
    write_params(tmp_path, {"train.learning_rate": None, "train.optimizer": name, "train.optimizer_options": {name: 0}})
    text = "{" + ", ".join(f"{key}: {number}" for key, number in options.items()) + "}"
    edits.edit(tmp_path / "params.yaml", f"    {name}: 0\n", f"    {name}: {text}\n")
    loaded: Any = params.load(tmp_path / "params.yaml").train.optimizer_options
    optimizer, _ = train.make_optimizer(name, None, loaded[name])
    assert float(optimizer.learning_rate.numpy()) == pytest.approx(float(options["learning_rate"]))
    assert (optimizer.ema_overwrite_frequency, optimizer.gradient_accumulation_steps) == (10, 2)
    with pytest.raises(InputError, match=rf"^train.optimizer_options.{name} must fit .* integer"):
        train.make_optimizer(name, None, {"use_ema": True, "ema_overwrite_frequency": 10.5})


@pytest.mark.parametrize(("name", "option"), [("adam", "beta_1"), ("adam", "epsilon"), ("muon", "kernel_rate")])
def test_an_option_that_is_null_has_its_default(name: str, option: str) -> None:
    found, expected = (train.make_optimizer(name, 0.1, options)[0] for options in ({option: None}, {}))
    assert getattr(found, option) == getattr(expected, option) > 0


# --- whole runs -----------------------------------------------------------------------------------

SMALL = TINY | {
    "data.synthetic.train_images": 200,
    "data.synthetic.test_images": 50,
    "split.val_size": 50,
    "train.batch_size": 32,
}
STEPS = 5  # an epoch
Train = Callable[..., dict[str, Any]]


def run_script(stage: str, folder: Path) -> str:
    """Gives what it prints."""
    done = subprocess.run(
        ["python", ROOT / "src" / f"{stage}.py"],
        cwd=folder,
        env=with_forks(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{stage}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything before train is done."""
    folder = tmp_path_factory.mktemp("prepared")
    write_params(folder, SMALL)
    for stage in ("fetch", "prepare", "split"):
        run_script(stage, folder)
    return folder


@pytest.fixture
def run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None) -> Train:
    """Trains in this process, in a new working directory, and returns metrics/train.json."""
    (tmp_path / "data").symlink_to(prepared / "data")
    monkeypatch.chdir(tmp_path)

    def train_with(**changes: Any) -> dict[str, Any]:
        renamed = {f"train.{key}": value for key, value in changes.items()}
        write_params(tmp_path, SMALL | renamed)
        train.main()
        return json.loads(Path("metrics/train.json").read_text())

    return train_with


def written(folder: Path) -> dict[str, bytes]:
    """All that train writes."""
    paths = [path for name in ("models", "metrics") for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def val_curve(measure: str = "accuracy") -> list[float]:
    _, *rows = (CURVES / "val" / f"{measure}.tsv").read_text().splitlines()
    return [float(row.split("\t")[1]) for row in rows]


def val_accuracy() -> float:
    """Of the model file, on the val rows."""
    images, labels = arrays.load("train")
    rows = arrays.load_rows("val", len(images))
    predicted = keras.saving.load_model(MODEL).predict(images[rows], verbose=0).argmax(1)
    return float((predicted == labels[rows]).mean())


def test_a_training_imports_no_compiler_which_works_afterwards(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(prepared / "data")
    write_params(tmp_path, SMALL)
    code = (
        "import sys, train; train.main(); import torch\n"
        "print({'matplotlib', 'sklearn', 'sympy', 'torch._dynamo'} & {*sys.modules})\n"
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["set()", "2.0"]


@pytest.mark.parametrize("outputs", [3, 20])
def test_a_network_with_other_outputs_than_classes_is_refused_before_it_trains(
    run: Train, monkeypatch: pytest.MonkeyPatch, outputs: int
) -> None:
    build = train.architectures.build
    monkeypatch.setattr(
        train.architectures, "build", lambda name, shape, classes, *more: build(name, shape, outputs, *more)
    )
    rule = rf"^model\.architecture must give \(None, 10\); received \(None, {outputs}\)$"
    with pytest.raises(InputError, match=rule):
        run(epochs=1)
    assert not Path("models").exists()


# --- custom layers ---------------------------------------------------------------------------------


class OwnLayer(layers.Layer):
    """A layer that plain Keras does not have."""

    def call(self, inputs: Any) -> Any:
        return inputs


@pytest.mark.parametrize("is_registered", [False, True])
def test_a_network_that_plain_keras_cannot_load_is_refused_before_the_first_epoch(
    run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_registered: bool
) -> None:
    kind = keras.saving.register_keras_serializable()(OwnLayer) if is_registered else OwnLayer

    def build(name: str, shape: tuple[int, int, int], classes: int, *_: Any) -> keras.Model:
        inputs = layers.Input(shape)
        return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(kind()(inputs))))

    monkeypatch.setattr(train.architectures, "build", build)
    with pytest.raises(InputError, match=r"^model.architecture must make a network that Keras can save and load"):
        run()
    assert "epoch" not in capsys.readouterr().out
    assert bool(keras.saving.get_custom_objects()) == is_registered
    keras.saving.get_custom_objects().clear()


# --- one hash ---------------------------------------------------------------------------------------


def mixed(name: str, shape: tuple[int, int, int], classes: int, *_: Any) -> keras.Model:
    """Batch statistics, both ways to draw, and penalties, in place of an architecture."""
    keras.utils.clear_session(free_memory=False)
    inputs = layers.Input(shape)
    x = layers.Conv2D(6, 3, strides=2, kernel_regularizer="l2", activity_regularizer="l2")(inputs)
    x = layers.Dropout(0.2)(layers.BatchNormalization()(x))
    x = layers.SpatialDropout2D(0.2)(layers.Dropout(0.2, seed=1)(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.Flatten()(layers.Activation("silu")(x))))


@pytest.mark.parametrize(
    ("shards", "batch_size"),
    [(5, 32), (1, 119), (8, 59), (3, 39)],  # the last of 120 rows are 24, 1, 2, 3
)
def test_the_number_of_threads_changes_no_byte(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, batch_size: int
) -> None:
    monkeypatch.setattr(train.architectures, "build", mixed)
    settings = {"data_pruning": 0.2, "averaging": 0.5, "keep": "best", "epochs": 2, "shards": shards}
    settings |= {"augmentation.flip": "random", "augmentation.shift": 2, "augmentation.cutout": 3}
    found = []
    for threads in ("1", "2", "3", "4", "") if shards == 5 else ("1", "3"):
        monkeypatch.setenv("TRAIN_THREADS", threads)
        run(batch_size=batch_size, **settings)
        found.append(written(tmp_path))
        shutil.rmtree("models")
    assert len(found[0]) == 6
    for other in found[1:]:
        assert other == found[0]


def test_the_number_of_shards_is_part_of_the_result(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.architectures, "build", mixed)
    models = set()
    for shards in (1, 2, 4):
        run(epochs=1, shards=shards)
        models.add(MODEL.read_bytes())
    assert len(models) == 3


@pytest.mark.parametrize("text", ["0", "x"])
def test_a_wrong_number_of_threads_is_refused_in_one_line(
    run: Train, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TRAIN_THREADS", text)
    with pytest.raises(InputError, match=f"^TRAIN_THREADS must be a number from 1; received {text}$"):
        run()


def test_float32_that_is_not_portable_is_said_in_one_line(
    run: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "processor", lambda: "some processor")
    monkeypatch.setattr(machine, "is_portable", lambda: True)
    run(epochs=1)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(machine, "is_portable", lambda: False)
    run(epochs=1, precision="bfloat16")  # which nobody expects to be
    assert capfd.readouterr().err == ""
    for vectors, cause in [(["sse2"], "some processor"), (["avx2"], f"PyTorch {torch.__version__}")]:
        monkeypatch.setattr(machine, "vector_instructions", lambda vectors=vectors: vectors)
        run(epochs=1)
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"{cause} does not compute as PyTorch 2.13 does on x86-64 processors with AVX2")


def test_the_fingerprint_is_of_the_processor_where_arithmetic_is_not_portable(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None
) -> None:
    (tmp_path / "data").symlink_to(prepared / "data")
    monkeypatch.chdir(tmp_path)

    def fingerprints(precision: str, portable: bool) -> set[str]:
        write_params(tmp_path, SMALL | {"train.precision": precision})
        monkeypatch.setattr(machine, "is_portable", lambda: portable)
        found: set[str] = set()
        for processor in ("one", "another"):
            monkeypatch.setattr(machine, "processor", lambda processor=processor: processor)
            monkeypatch.setenv("TRAIN_THREADS", str(1 + len(found)))
            found.add(train.set_up().fingerprint)
        return found

    assert len(fingerprints("float32", True)) == 1
    assert len(fingerprints("float32", False)) == 2
    assert len(fingerprints("bfloat16", True)) == 2


def another_val_row(data: Path) -> None:
    rows = np.load(data / "split/val.npy")
    np.save(data / "split/val.npy", rows[1:])


def another_train_row(data: Path) -> None:
    rows = np.load(data / "split/train.npy")
    np.save(data / "split/train.npy", rows[1:])


def another_pixel(data: Path) -> None:
    images = np.load(data / "prepared/train/images.npy")
    images[np.load(data / "split/val.npy")[0], 5, 5] ^= 1
    np.save(data / "prepared/train/images.npy", images)


def another_label(data: Path) -> None:
    labels = np.load(data / "prepared/train/labels.npy")
    labels[np.load(data / "split/train.npy")[-1]] ^= 1
    np.save(data / "prepared/train/labels.npy", labels)


def another_class_name(data: Path) -> None:
    (file := data / "prepared/classes.json").write_text(file.read_text().replace("Sandal", "Shoe"))


def another_seed(data: Path) -> None:
    write_params(data.parent, SMALL | {"train.seed": 1})


def another_width(data: Path) -> None:
    write_params(data.parent, SMALL | {"model.options.blocks.widths": [8, 16]})


@pytest.mark.parametrize(
    "change",
    [
        another_val_row, another_train_row, another_pixel, another_label, another_class_name, another_seed,
        another_width,
    ],
)  # fmt: skip
def test_the_fingerprint_is_of_data_and_parameters(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings_of_torch: None,
    change: Callable[[Path], None],
) -> None:
    shutil.copytree(prepared / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, SMALL)
    before = train.set_up().fingerprint
    assert train.set_up().fingerprint == before
    change(tmp_path / "data")
    assert train.set_up().fingerprint != before


def test_what_the_parameters_say_is_what_trains(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None
) -> None:
    (tmp_path / "data").symlink_to(prepared / "data")
    monkeypatch.chdir(tmp_path)
    chosen = {
        "normalisation": "standard", "label_smoothing": 0.07, "data_pruning": 0.2, "warmup": 0.3, "schedule": "linear",
        "epochs": 4, "shards": 2, "learning_rate": 0.013, "optimizer": "sgd", "least_steps": 1,
    }  # fmt: skip
    write_params(tmp_path, SMALL | {f"train.{key}": value for key, value in chosen.items()})
    found = train.set_up()
    images, labels = arrays.load("train")
    for part, batches in (("train", found.train), ("val", found.val)):
        rows = arrays.load_rows(part, len(images))
        np.testing.assert_array_equal(batches.images.numpy(), images[rows])
        np.testing.assert_array_equal(batches.labels.numpy(), labels[rows])
        for mine, of_pixels in ((batches.mean, np.mean), (batches.std, np.std)):
            of_train = of_pixels(images[arrays.load_rows("train", len(images))], axis=(0, 1, 2))
            np.testing.assert_allclose(mine.numpy(), of_train, rtol=1e-6)
            assert abs(of_train - of_pixels(images, axis=(0, 1, 2))).min() > 1e-3  # val rows would show
    count = len(found.train.labels)
    assert found.train.left_out == round(0.2 * count) > 0
    steps = 4 * math.ceil((count - found.train.left_out) / 32)
    rate = found.learning_rate
    assert (rate.peak, rate.schedule, rate.steps, rate.warmup_steps) == (0.013, "linear", steps, round(0.3 * steps))
    assert rate.value(steps) == 0
    assert found.model._label_smoothing == 0.07
    assert found.train.shards == 2
    assert isinstance(found.model.optimizer, keras.optimizers.SGD)
    assert found.val.augmentation is None


def test_parameters_edited_while_it_waits_are_not_those_that_train(
    run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exclusive = locks.exclusive
    run(epochs=2)
    expected = written(tmp_path)
    (tmp_path / "models/model.keras").unlink()

    @contextmanager
    def awaited(*paths: Path) -> Iterator[None]:
        write_params(tmp_path, SMALL | {"train.epochs": 4, "train.averaging": 0.9, "train.keep": "best"})
        with exclusive(*paths):
            yield

    monkeypatch.setattr(locks, "exclusive", awaited)
    run(epochs=2)
    assert written(tmp_path) == expected


@pytest.mark.parametrize(
    ("optimizer", "options", "exact"),
    [
        ("muon", {}, True), ("adam", {}, True), ("adamw", {"amsgrad": True, "clipnorm": 1.0}, True),
        ("adam", {"exact_roots": False}, False),
    ],
)  # fmt: skip
def test_the_fingerprint_is_of_the_processor_s_roots_where_they_are_not_exact(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings_of_torch: None,
    optimizer: str,
    options: dict[str, Any],
    exact: bool,
) -> None:
    (tmp_path / "data").symlink_to(prepared / "data")
    monkeypatch.chdir(tmp_path)
    chosen = {
        "train.optimizer": optimizer,
        "train.learning_rate": 0.01,
        "train.optimizer_options": {optimizer: options},
    }
    write_params(tmp_path, SMALL | chosen)
    found = []
    for name in ("one's", "another's"):
        monkeypatch.setattr(machine, "arithmetic", lambda *known, name=name: name if known[2] is False else "portable")
        found.append(train.set_up().fingerprint)
    assert (found[0] == found[1]) == exact


def test_two_processes_write_the_same_bytes(
    prepared: Path, run: Train, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write_params(other, SMALL)
    (other / "data").symlink_to(prepared / "data")
    output = run_script("train", other)
    run()
    files = written(tmp_path)
    assert files == written(other)
    assert sorted(files) == [
        *(f"metrics/curves/plots/metrics/{part}/{measure}.tsv"
          for part in ("train", "val") for measure in ("accuracy", "loss")),
        "metrics/train.json",
        "models/model.keras",
    ]  # fmt: skip
    assert "150 training images, float32 on cpu" in output
    assert output.count("epoch ") == SMALL["train.epochs"]


def test_the_last_epoch_is_in_train_json_and_in_the_model(run: Train) -> None:
    last = run(epochs=3)
    assert last["epochs"] == 3
    # the accuracy on val is in metrics/val.json alone
    assert set(last) == {"epochs", "train_accuracy", "train_loss", "temperature", "precision", "device"}
    assert (last["precision"], last["device"]) == ("float32", "cpu")
    assert val_curve()[-1] == pytest.approx(val_accuracy(), abs=1e-6)
    assert val_curve("loss")[-1] < val_curve("loss")[0]  # it has learned


def test_the_temperature_is_in_the_model(run: Train) -> None:
    temperature = run(epochs=3, label_smoothing=0.3)["temperature"]
    images, labels = arrays.load("train")
    rows = arrays.load_rows("val", len(images))
    model = keras.saving.load_model(MODEL)
    logits = keras.Model(model.input, model.layers[-1].input).predict(images[rows], verbose=0)
    assert temperature not in (1, *LIMITS)
    assert minimiser(logits, labels[rows]) == pytest.approx(1, abs=0.002)  # nothing is left to divide by


def test_the_model_names_the_classes(run: Train, prepared: Path) -> None:
    run(epochs=1)
    with zipfile.ZipFile(MODEL) as file:
        names = json.loads(file.read("metadata.json"))["class_names"]
    assert names == json.loads((prepared / arrays.PREPARED / "classes.json").read_text())


def test_few_rows_make_several_passes_of_small_batches_and_it_is_said(
    run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run(epochs=2, batch_size=64, least_steps=7, data_pruning=0.1)  # 150 rows, 135 of them a pass
    assert "\nfew rows: passes an epoch 2, rows a batch 32 (train.least_steps)\n" in capsys.readouterr().out
    few, few_loss = MODEL.read_bytes(), val_curve("loss")[-1]
    run(epochs=2, batch_size=64, data_pruning=0.1)
    assert "few rows" not in capsys.readouterr().out
    assert MODEL.read_bytes() != few
    assert few_loss < val_curve("loss")[-1]


@pytest.mark.parametrize(("height", "width", "cutout"), [(28, 28, 8), (64, 40, 8), (30, 14, 4), (8, 8, 2)])
def test_cutout_is_smaller_on_small_images(workspace: Path, height: int, width: int, cutout: int) -> None:
    write_params(workspace, TINY | {"train.augmentation.cutout": 8})
    for folder in (arrays.PREPARED / "train", arrays.SPLIT):
        folder.mkdir(parents=True)
    arrays.save(arrays.PREPARED / "train", np.zeros((4, height, width, 1), np.uint8), np.arange(4, dtype=np.uint8))
    for name, rows in (("train", [0, 1, 2]), ("val", [3])):
        arrays.save_array(arrays.SPLIT / f"{name}.npy", np.array(rows))
    train_part, *_ = train.load_batches(params.load().train, "cpu", 0, 0)
    assert train_part.augmentation
    assert train_part.augmentation.cutout == cutout


def test_flips_of_other_images_than_garments_are_said(
    run: Train, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "mirror images count as their class; letters and digits need -S "
    run(epochs=1, **{"augmentation.flip": "random"})
    assert line not in capsys.readouterr().out
    (tmp_path / "data").unlink()
    shutil.copytree(prepared / "data", tmp_path / "data")
    names = tmp_path / arrays.PREPARED / "classes.json"
    names.unlink()  # it may be a link
    names.write_text(json.dumps([str(digit) for digit in range(10)]))
    run(epochs=1, **{"augmentation.flip": "random"})
    assert line + "train.augmentation.flip=none\n" in capsys.readouterr().out
    run(epochs=1, **{"augmentation.flip": "none"})
    assert "mirror" not in capsys.readouterr().out


def test_the_seed_decides(run: Train) -> None:
    run(epochs=1)
    first = MODEL.read_bytes()
    run(epochs=1, seed=1)
    assert MODEL.read_bytes() != first
    run(epochs=1)
    assert MODEL.read_bytes() == first


def test_early_stopping_stops(run: Train) -> None:
    # a rate so small that no weight changes, so no epoch is better than the first
    assert run(epochs=6, optimizer="sgd", learning_rate=1e-12, early_stopping=1)["epochs"] == 2
    assert len(val_curve()) == 2


def test_early_stopping_waits_for_full_images(run: Train) -> None:
    first_half = {"progressive_resizing.scale": 0.99, "progressive_resizing.share": 0.5}
    last = run(epochs=6, optimizer="sgd", learning_rate=1e-12, early_stopping=1, **first_half)
    assert last["epochs"] == 3 + 2


@pytest.mark.parametrize("small", [0, 5])  # epochs with small images, which are no candidates
def test_best_keeps_the_best_epoch(run: Train, small: int) -> None:
    # a rate that grows until it undoes what was learned; steps are cut, or the loss would be infinite
    options = {"sgd": {"clipnorm": 1.0}}
    run(
        epochs=6,
        keep="best",
        learning_rate=2.0,
        warmup=1.0,
        optimizer="sgd",
        optimizer_options=options,
        **{"progressive_resizing.scale": 0.99, "progressive_resizing.share": small / 6},
    )
    accuracies = val_curve()
    assert max(accuracies) > accuracies[-1]  # otherwise this would prove nothing
    assert val_accuracy() == pytest.approx(max(accuracies[small:]), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"reduce_on_plateau": 1}, 1 / 8),
        ({"reduce_on_plateau": 1, "plateau_factor": 0.2}, 1 / 125),
        ({"reduce_on_plateau": 1, "plateau_floor": 4e-13}, 0.4),
        ({"rate_falls": [2, 3]}, 1 / 4),
        ({"rate_falls": [1, 4], "plateau_factor": 0.2}, 1 / 5),  # after the last epoch nothing is trained
        ({"rate_falls": [1, 2, 3], "plateau_floor": 4e-13}, 0.4),
        ({"rate_falls": [1, 2, 3], "plateau_floor": 1e-9}, 1),  # the floor never lifts it
        ({"reduce_on_plateau": 1, "plateau_floor": 1e-9}, 1),
    ],
)
def test_the_rate_falls_on_a_plateau_or_after_given_epochs(
    run: Train, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], factor: float
) -> None:
    made = []
    make = train.make_optimizer

    def make_and_remember(*args: Any) -> tuple[keras.Optimizer, float]:
        made.append(make(*args))
        return made[0]

    monkeypatch.setattr(train, "make_optimizer", make_and_remember)
    run(epochs=4, learning_rate=1e-12, schedule="constant", warmup=0.0, **changes)
    assert float(made[0][0].learning_rate.numpy()) == pytest.approx(1e-12 * factor, rel=1e-6, abs=0)


def test_a_plateau_is_one_of_full_images(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller images have the better val loss here, and it says nothing of what full ones can reach."""
    bests = []

    class Plateau(keras.callbacks.ReduceLROnPlateau):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, {"val_loss": 0.1 if epoch < 2 else 0.5 - epoch / 100})
            bests.append((self.best, self.wait))

    monkeypatch.setattr(keras.callbacks, "ReduceLROnPlateau", Plateau)
    small = {"progressive_resizing.scale": 0.99, "progressive_resizing.share": 0.5}
    run(epochs=4, schedule="constant", warmup=0.0, reduce_on_plateau=3, **small)
    assert bests == [(0.1, 0), (0.1, 1), (0.48, 0), (0.47, 0)]


def test_averaging_is_in_the_model(run: Train) -> None:
    last = run(epochs=3, averaging=0.8)
    assert val_curve()[-1] == pytest.approx(val_accuracy(), abs=1e-6)
    averaged, loss = MODEL.read_bytes(), val_curve("loss")
    plain = run(epochs=3)
    assert last["train_loss"] == plain["train_loss"]  # training itself is the same
    assert loss != val_curve("loss")
    assert MODEL.read_bytes() != averaged


def test_small_images_come_first_where_the_network_takes_them(
    run: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, list[tuple[int, ...]]] = {"train_step": [], "test_step": []}

    def watch(name: str) -> None:
        step = getattr(NativeModel, name)

        def seen_step(self: NativeModel, data: Any) -> Any:
            seen[name].append(tuple(data.normalised(data.images).shape[1:]))
            return step(self, data)

        monkeypatch.setattr(NativeModel, name, seen_step)

    for name in seen:
        watch(name)
    small, full = (14, 14, 1), (28, 28, 1)
    resizing = {"progressive_resizing.scale": 0.5, "progressive_resizing.share": 0.6}
    monkeypatch.setitem(SMALL, "model.architecture", "blocks")
    run(epochs=4, **resizing)
    assert seen["train_step"] == [small] * 2 * STEPS + [full] * 2 * STEPS
    assert seen["test_step"] == [small] * 2 + [full] * 2  # the 50 val rows are one batch
    assert capfd.readouterr().err == ""

    monkeypatch.setitem(SMALL, "model.architecture", "plain")
    run(epochs=4, **resizing)
    assert seen["train_step"][4 * STEPS :] == [full] * 4 * STEPS
    resized = MODEL.read_bytes()
    said = capfd.readouterr().err
    assert said == ("plain cannot take images of 14 × 14: trained without train.progressive_resizing\n")
    run(epochs=4)
    assert MODEL.read_bytes() == resized


def test_bfloat16_gives_a_float32_model_that_is_near(run: Train) -> None:
    exact = run(epochs=2)
    rough = run(epochs=2, precision="bfloat16")
    assert rough["precision"] == "bfloat16"
    assert rough["train_loss"] != exact["train_loss"]
    assert rough["train_loss"] == pytest.approx(exact["train_loss"], rel=0.05)
    weights = keras.saving.load_model(MODEL).weights
    assert {weight.dtype for weight in weights} == {"float32"}


def test_without_val_rows(run: Train, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "data").unlink()
    shutil.copytree(prepared / "data", tmp_path / "data")
    np.save(tmp_path / arrays.SPLIT / "val.npy", np.arange(0))
    write_params(tmp_path, SMALL | {"split.val_size": 0, "evaluate.parts": ["test"]})
    train.main()
    figures = json.loads(Path("metrics/train.json").read_text())
    assert not [name for name in figures if "val" in name]
    assert figures["temperature"] == 1


def test_a_diverging_run_ends_in_one_line_and_leaves_what_was_there(run: Train, tmp_path: Path) -> None:
    run(epochs=1)
    before = written(tmp_path)
    with pytest.raises(InputError, match=r"learning_rate") as refusal:
        run(learning_rate=1e30, warmup=0.0)
    assert "\n" not in str(refusal.value)
    assert written(tmp_path) == before


def test_the_seconds_are_logged_by_the_hash_of_the_model(run: Train) -> None:
    run(epochs=1)
    md5, seconds = Path(".cache/checkpoints/seconds.csv").read_text().strip().split(",")
    assert md5 == hashlib.md5(MODEL.read_bytes(), usedforsecurity=False).hexdigest()
    assert 0 <= int(seconds) < 600


def test_the_seconds_of_a_part_of_a_training_are_not_logged(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_and_stop(saved: Any, epoch: int, logs: Any = None) -> None:
        save(saved, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        save = checkpoint.Checkpoint.on_epoch_end
        patch.setattr(checkpoint.Checkpoint, "on_epoch_end", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(epochs=2)
    run(epochs=2)
    assert not Path(".cache/checkpoints/seconds.csv").exists()
