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
import torch

import export
from conftest import TINY, untrained, write_params
from inference import onnx_file
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
        arrays.PREPARED / "train/labels.npy": np.arange(250, dtype=np.uint8) % 3,
        arrays.SPLIT / "train.npy": np.arange(val, 250),
        arrays.SPLIT / "val.npy": np.arange(val),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, content)
    model_file.save(untrained(shape, 3), NAMES, folder / export.MODEL)


def features(rows: slice) -> np.ndarray:
    model = keras.saving.load_model(export.MODEL)
    return onnx_file.with_features(model).predict(np.load(arrays.PREPARED / "train/images.npy")[rows], verbose=0)[1]


def distances(rows: slice, train: slice) -> np.ndarray:
    """Of some rows from others, which are the training images."""
    labels = np.load(arrays.PREPARED / "train/labels.npy")
    return onnx_file.Distance(features(train), labels[train])(torch.from_numpy(features(rows))).numpy()


def result() -> dict[str, Any]:
    return json.loads(Path("metrics/unlikeness.json").read_text())


def test_a_model_of_other_images_or_with_other_names_is_refused(workspace: Path) -> None:
    prepare(workspace)
    for shape, names in (((32, 32, 1), NAMES), ((28, 28, 1), NAMES[:2])):
        model_file.save(untrained(shape, 3), names, export.MODEL)
        with pytest.raises(InputError, match=r"^models/model\.keras must map \(None, 28, 28, 1\) to \(None, "):
            export.main()
        assert not ONNX.exists()


def test_distances_are_taken_in_pieces(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would need memory for rows × classes × features."""
    sizes = []
    forward = onnx_file.Distance.forward

    def seen(self: onnx_file.Distance, features: torch.Tensor) -> torch.Tensor:
        sizes.append(len(features))
        return forward(self, features)

    prepare(workspace)
    export.main()
    whole = result()
    monkeypatch.setattr(onnx_file.Distance, "forward", seen)
    monkeypatch.setattr(export, "AT_ONCE", 60)
    export.main()
    assert sizes[:3] == [20, 20, 10]  # 50 val rows, 3 classes
    assert result() == whole | {"distance_limit": pytest.approx(whole["distance_limit"], abs=2e-4)}


def test_the_limit_is_of_val_rows(workspace: Path) -> None:
    prepare(workspace)
    export.main()
    limit = np.quantile(distances(slice(50), slice(50, 250)), 0.98)
    assert result() == {"distance_limit": pytest.approx(limit, rel=1e-4), "train_images": 200, "val_images": 50}
    classifier = Classifier(ONNX)
    assert classifier.distance_limit == result()["distance_limit"]
    assert classifier.class_names == NAMES
    assert (classifier.form, classifier.shape) == ("fashion-mnist", (28, 28, 1))
    images = np.load(arrays.PREPARED / "train/images.npy")
    (found,) = classifier._session.run(["distance"], {"pixels": images[:50]})
    assert np.quantile(found, 0.98) == pytest.approx(limit, rel=1e-3)


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
    limit = np.quantile(distances(slice(0, 250, 3), slice(0, 250, 3)), 0.98)
    assert result() == {"distance_limit": pytest.approx(limit, rel=1e-4), "train_images": 84, "val_images": 0}


@pytest.mark.parametrize(
    ("source", "shape", "form"),
    [("folder", (40, 30, 3), "fitted"), ("idx", (28, 28, 1), "fitted"), ("csv", (28, 28, 1), "fashion-mnist")],
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
