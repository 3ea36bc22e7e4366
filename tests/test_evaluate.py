"""The model that evaluate accepts, and the figures that it writes."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, write_params

import architectures
import evaluate
from common import arrays
from common.errors import InputError
from training import model_file

SHAPE, NAMES = (28, 28, 1), [f"class {label}" for label in range(10)]
VAL_ROWS = np.arange(3, 120, 2)


def save_model(path: Path, shape: tuple[int, int, int] = SHAPE, classes: int = 10) -> None:
    keras.utils.set_random_seed(0)
    network = architectures.build("plain", shape, classes, {"widths": [4]})
    channels = np.ones(shape[-1])
    model = model_file.with_preprocessing(network, 70 * channels, 30 * channels)
    model_file.save(model, NAMES[:classes], path)


@pytest.fixture
def stage(workspace: Path) -> Path:
    """A working directory in which everything before evaluate is done."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 120), ("test", 40)):
        folder = workspace / arrays.PREPARED / part
        folder.mkdir(parents=True)
        images = generator.integers(0, 256, (count, *SHAPE), np.uint8)
        arrays.save(folder, images, generator.integers(0, 10, count).astype(np.uint8))
    (workspace / arrays.PREPARED / "classes.json").write_text(json.dumps(NAMES))
    (workspace / arrays.SPLIT).mkdir(parents=True)
    np.save(workspace / arrays.SPLIT / "val.npy", VAL_ROWS)
    save_model(workspace / evaluate.MODEL)
    return workspace


def read(part: str) -> dict:
    return json.loads((evaluate.METRICS / f"{part}.json").read_text())


def probabilities(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and what the model says, by its own `call`."""
    images, labels = arrays.load("test" if part == "test" else "train")
    if part == "val":
        images, labels = images[VAL_ROWS], labels[VAL_ROWS]
    model = keras.saving.load_model(evaluate.MODEL)
    return labels, model(images).detach().numpy().astype(np.float64)


@pytest.mark.parametrize("part", ["val", "test"])
def test_figures_are_what_numpy_computes(stage: Path, part: str) -> None:
    evaluate.main()
    labels, of_class = probabilities(part)
    predicted = of_class.argmax(1)
    f1 = [
        2 * ((predicted == c) & (labels == c)).sum() / max(1, (predicted == c).sum() + (labels == c).sum())
        for c in range(10)
    ]  # fmt: skip
    figures = read(part)
    assert figures["source"] == "synthetic"
    assert figures["images"] == len(labels)
    assert figures["accuracy"] == pytest.approx((predicted == labels).mean(), abs=1e-6)
    loss = -np.log(of_class[np.arange(len(labels)), labels]).mean()
    assert figures["loss"] == pytest.approx(loss, abs=1e-4)
    assert figures["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-4)
    assert figures["accuracy_low"] < figures["accuracy"] < figures["accuracy_high"]

    table = pd.read_csv(evaluate.METRICS / "predictions" / f"{part}.csv")
    assert table["label"].tolist() == [NAMES[label] for label in labels]
    assert table["predicted"].tolist() == [NAMES[label] for label in predicted]
    np.testing.assert_allclose(table["confidence"], of_class.max(1), atol=6e-5)
    assert table["id"].tolist() == (list(VAL_ROWS) if part == "val" else list(range(40)))

    classes = pd.read_csv(evaluate.METRICS / "classes" / f"{part}.csv")
    assert classes["class"].tolist() == NAMES
    assert classes["images"].tolist() == np.bincount(labels, minlength=10).tolist()
    np.testing.assert_allclose(classes["f1"], f1, atol=1e-4)
    reliability = pd.read_csv(evaluate.METRICS / "reliability" / f"{part}.csv")
    assert reliability["images"].sum() == len(labels)


def test_a_part_that_is_not_asked_for_leaves_nothing_of_a_run_before(stage: Path) -> None:
    evaluate.main()
    before = read("val")
    assert (evaluate.METRICS / "predictions" / "test.csv").exists()
    write_params(stage, TINY | {"evaluate.parts": ["val"]})
    evaluate.main()
    assert read("test") == {}
    assert read("val") == before
    assert list(evaluate.METRICS.rglob("test.csv")) == []
    assert len(list(evaluate.METRICS.rglob("val.csv"))) == 3


def test_runs_on_the_processor_whatever_keras_would_choose(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate.main()
    before = read("val")
    # as on a machine with a GPU
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    evaluate.main()
    assert read("val") == before


# --- models that are refused ----------------------------------------------------------------------


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_format(path: Path) -> None:
    path.write_bytes(b"a page of a web server that has no such file\n" * 100)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def changed_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def rewrite(path: Path, changes: dict[str, bytes | None]) -> None:
    """Replaces members of the file, or leaves them out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()} | changes
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)


def without_config(path: Path) -> None:
    rewrite(path, {"config.json": None})


def without_weights(path: Path) -> None:
    rewrite(path, {"model.weights.h5": None})


def with_broken_config(path: Path) -> None:
    rewrite(path, {"config.json": b'{"module": '})


def with_other_config(path: Path) -> None:
    rewrite(path, {"config.json": b"[]"})


def with_broken_weights(path: Path) -> None:
    rewrite(path, {"model.weights.h5": b"\x89HDF\r\n\x1a\n and nothing more"})


def with_weights_of_another(path: Path) -> None:
    other = path.with_name("other.keras")
    save_model(other, (28, 28, 3))
    with zipfile.ZipFile(other) as file:
        rewrite(path, {"model.weights.h5": file.read("model.weights.h5")})


def no_model(path: Path) -> None:
    """A layer alone."""
    layer = keras.layers.Dense(10)
    layer.build((None, 3))
    keras.saving.save_model(layer, path)


def for_other_images(path: Path) -> None:
    save_model(path, (32, 32, 1))


def for_other_classes(path: Path) -> None:
    save_model(path, SHAPE, 7)


def of_code(path: Path) -> None:
    inputs = keras.layers.Input(SHAPE)
    x = keras.layers.Lambda(lambda images: images / 255)(inputs)
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x))).save(path)


BROKEN: list[Callable[[Path], None]] = [
    missing,
    empty,
    other_format,
    cut_short,
    changed_in_the_middle,
    without_config,
    without_weights,
    with_broken_config,
    with_other_config,
    with_broken_weights,
    with_weights_of_another,
    no_model,
    for_other_images,
    for_other_classes,
    of_code,
]


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_other_models_are_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "model.keras"
    save_model(path)
    evaluate.load_model(path, SHAPE, 10)  # good so far
    damage(path)
    with pytest.raises(InputError) as refusal:
        evaluate.load_model(path, SHAPE, 10)
    message = str(refusal.value)
    assert message.startswith(f"{path} must ")
    assert "; received" in message
    assert not message.endswith(("received: ", "received"))
    assert "\n" not in message


def test_a_refused_model_leaves_the_metrics_as_they_were(stage: Path) -> None:
    evaluate.main()
    before = {path: path.read_bytes() for path in evaluate.METRICS.rglob("*") if path.is_file()}
    for_other_classes(evaluate.MODEL)
    with pytest.raises(InputError):
        evaluate.main()
    after = {path: path.read_bytes() for path in evaluate.METRICS.rglob("*") if path.is_file()}
    assert after == before
