"""The stage that writes the ONNX file, and what it puts into it."""

import json
from pathlib import Path
from typing import Any

from common import arrays
from common.errors import InputError

import keras
import numpy as np
import onnx
import pytest

import export
from conftest import TINY, untrained, write_params
from inference.classifier import Classifier
from training import machine, model_file

ONNX = Path("models/model.onnx")
NAMES = ["Müller's hat", "€ bag", "coat"]


def prepare(folder: Path, shape: tuple[int, int, int] = (28, 28, 1), val: int = 50) -> None:
    """A working directory in which everything before export is done."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (250, *shape), np.uint8)
    images[val:] //= np.arange(1, 251 - val)[:, None, None, None].astype(np.uint8)  # of any contrast
    for name, content in {
        arrays.PREPARED / "train/images.npy": images,
        arrays.PREPARED / "train/labels.npy": np.zeros(250, np.uint8),
        arrays.SPLIT / "train.npy": np.arange(val, 250),
        arrays.SPLIT / "val.npy": np.arange(val),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, content)
    model_file.save(untrained(shape, 3), NAMES, folder / export.MODEL)


def energies(rows: slice) -> np.ndarray:
    model = keras.saving.load_model(export.MODEL)
    logits = keras.Model(model.input, model.layers[-2].input)
    images = np.load(arrays.PREPARED / "train/images.npy")[rows]
    return -np.log(np.exp(logits.predict(images, verbose=0).astype(np.float64)).sum(1))


def result() -> dict[str, Any]:
    return json.loads(Path("metrics/unlikeness.json").read_text())


def test_a_model_of_other_images_or_with_other_names_is_refused(workspace: Path) -> None:
    prepare(workspace)
    for shape, names in (((32, 32, 1), NAMES), ((28, 28, 1), NAMES[:2])):
        model_file.save(untrained(shape, 3), names, export.MODEL)
        with pytest.raises(InputError, match=r"^models/model\.keras must map \(None, 28, 28, 1\) to \(None, "):
            export.main()
        assert not ONNX.exists()


def test_the_limit_is_of_train_rows_and_counted_on_val(workspace: Path) -> None:
    prepare(workspace)
    export.main()
    limit = np.quantile(energies(slice(50, 250)), 0.99)
    assert result()["energy_limit"] == pytest.approx(limit, abs=1e-4)
    assert result()["train_images"] == 200
    assert result()["val_images"] == 50
    assert result()["val_unlike"] == (energies(slice(50)) > result()["energy_limit"]).mean()
    classifier = Classifier(ONNX)
    assert classifier.energy_limit == result()["energy_limit"]
    assert classifier.class_names == NAMES
    assert (classifier.form, classifier.shape) == ("fashion-mnist", (28, 28, 1))


def test_the_limit_is_that_of_onnx_runtime(workspace: Path) -> None:
    prepare(workspace)
    export.main()
    images = np.load(arrays.PREPARED / "train/images.npy")
    session = Classifier(ONNX)._session
    (found,) = session.run(["energy"], {"pixels": images})
    ours = export.energies(keras.saving.load_model(export.MODEL), images)
    assert (ours.shape, ours.dtype) == ((250,), np.float32)
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-4)
    assert result()["energy_limit"] == pytest.approx(np.quantile(found[50:], 0.99), abs=1e-4)
    assert result()["val_unlike"] == pytest.approx((found[:50] > result()["energy_limit"]).mean(), abs=0.02)


def test_the_number_of_cores_changes_no_byte(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(workspace)
    monkeypatch.setattr(model_file, "BATCH_SIZE", 16)
    written = []
    for cores in (1, 2):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        export.main()
        written.append((ONNX.read_bytes(), result()))
    assert written[0] == written[1]


def test_many_rows_are_sampled_evenly_and_val_may_be_empty(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(workspace, val=0)
    monkeypatch.setattr(export, "SAMPLE", 90)
    export.main()
    limit = np.quantile(energies(slice(0, 250, 3)), 0.99)
    assert result() == {"energy_limit": pytest.approx(limit, abs=1e-3), "train_images": 84}


@pytest.mark.parametrize(
    ("source", "shape", "form"), [("folder", (40, 30, 3), "fitted"), ("idx", (28, 28, 1), "fitted")]
)
def test_pictures_are_brought_to_the_form_of_their_source(
    workspace: Path, source: str, shape: tuple[int, int, int], form: str
) -> None:
    height, width, channels = shape
    size = {"data.height": height, "data.width": width, "data.channels": channels}
    write_params(workspace, TINY | size | {"data.source": source})
    prepare(workspace, shape)
    export.main()
    classifier = Classifier(ONNX)
    assert (classifier.form, classifier.shape) == (form, shape)


@pytest.mark.parametrize("damage", ["missing", "cut", "no names"])
def test_a_model_that_train_has_not_written_is_refused_and_leaves_nothing(workspace: Path, damage: str) -> None:
    prepare(workspace)
    if damage == "missing":
        export.MODEL.unlink()
    elif damage == "cut":
        export.MODEL.write_bytes(export.MODEL.read_bytes()[:-1000])
    else:
        untrained().save(export.MODEL)
    with pytest.raises(InputError, match=rf"^{export.MODEL} must be a model as train writes it; "):
        export.main()
    assert not [*Path("models").glob("*onnx*"), *Path().glob("metrics")]


def test_a_trained_model_says_what_keras_says_of_every_test_image(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    images, _ = arrays.load("test")
    expected = keras.saving.load_model(export.MODEL).predict(images, batch_size=1000, verbose=0)
    # as predict.py asks, one at a time, and in batches
    session = Classifier(ONNX)._session
    batches = [session.run(None, {"pixels": batch})[0] for batch in np.split(images, 10)]
    difference = np.abs(np.concatenate(batches) - expected).max()
    single = [session.run(None, {"pixels": image[None]})[0][0] for image in images]
    difference_alone = np.abs(np.array(single) - expected).max()
    print(f"largest difference {difference:.1e}, one at a time {difference_alone:.1e}")
    assert max(difference, difference_alone) < 1e-5
    assert onnx.load(ONNX).opset_import[0].version == 18
