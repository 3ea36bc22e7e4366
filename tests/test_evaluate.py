"""The model that evaluate accepts, and the figures that it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

from common import arrays
from common.errors import InputError

import keras
import numpy as np
import pandas as pd
import pytest

import architectures
import evaluate
from analysis import figures
from conftest import TINY, write_params
from training import machine, model_file

SHAPE, NAMES = (28, 28, 1), [f"class {label}" for label in range(10)]
VAL_ROWS = np.arange(3, 120, 2)
SOURCE = {"source": "idx", "release": "unknown"}


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
    (workspace / arrays.PREPARED / "source.json").write_text(json.dumps(SOURCE))
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
    assert {key: figures[key] for key in SOURCE} == SOURCE
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
    right = (reliability["accuracy"] * reliability["images"]).sum()
    assert right == pytest.approx((predicted == labels).sum(), abs=0.1)


def test_the_mistakes_are_drawn_with_their_own_images(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "mistakes", drawn := Mock())
    evaluate.main()
    rows = {"val": arrays.load("train")[0][VAL_ROWS], "test": arrays.load("test")[0]}
    for (part, images), call in zip(rows.items(), drawn.call_args_list, strict=True):
        np.testing.assert_array_equal(call.args[0], images)
        np.testing.assert_array_equal(call.args[1], probabilities(part)[0])
        assert call.args[-1].name == f"{part}.png"


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


def test_without_test_images_val_alone_is_evaluated(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images", "labels"):
        path = stage / f"data/prepared/test/{name}.npy"
        content = np.load(path)[:0]
        path.unlink()  # it may be a link to what other tests read
        np.save(path, content)
    evaluate.main()
    assert read("test") == {}
    assert read("val")["images"] == len(VAL_ROWS)
    assert "test: no images\n" in capsys.readouterr().out
    write_params(stage, TINY | {"evaluate.parts": ["test"]})
    with pytest.raises(InputError, match=r"^evaluate.parts must name a part that has images; received test$"):
        evaluate.main()
    assert read("val")["images"] == len(VAL_ROWS)


def test_runs_on_the_processor_whatever_keras_would_choose(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate.main()
    before = read("val")
    # as on a machine with a GPU
    monkeypatch.setattr("keras.src.backend.torch.core.DEFAULT_DEVICE", "meta")
    evaluate.main()
    assert read("val") == before


def test_the_number_of_cores_changes_no_byte(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "BATCH_SIZE", 16)

    def written(cores: int) -> dict[Path, bytes]:
        monkeypatch.setattr(machine, "cores", lambda: cores)
        evaluate.main()
        paths = [path for name in ("metrics", "plots") for path in Path(name).rglob("*")]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    one = written(1)
    assert len(one) == 10
    assert written(2) == written(3) == one


# --- models that are refused ----------------------------------------------------------------------


def for_other_images(path: Path) -> None:
    save_model(path, (32, 32, 1))


def for_other_classes(path: Path) -> None:
    save_model(path, SHAPE, 7)


def missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (missing, "be a model as train writes it"),
        (for_other_images, r"map \(None, 28, 28, 1\) to \(None, 10\)"),
        (for_other_classes, r"map \(None, 28, 28, 1\) to \(None, 10\)"),
    ],
)
def test_other_models_are_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], rule: str) -> None:
    path = tmp_path / "model.keras"
    save_model(path)
    model_file.load(path, SHAPE, 10)  # good so far
    damage(path)
    with pytest.raises(InputError, match=f"^{path} must {rule}; received") as refusal:
        model_file.load(path, SHAPE, 10)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_refused_model_leaves_the_metrics_as_they_were(stage: Path) -> None:
    evaluate.main()
    before = {path: path.read_bytes() for path in evaluate.METRICS.rglob("*") if path.is_file()}
    for_other_classes(evaluate.MODEL)
    with pytest.raises(InputError):
        evaluate.main()
    after = {path: path.read_bytes() for path in evaluate.METRICS.rglob("*") if path.is_file()}
    assert after == before
