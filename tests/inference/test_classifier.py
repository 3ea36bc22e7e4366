"""The exported model in ONNX Runtime, and the files that are no such model."""

import io
import os
from collections.abc import Callable
from pathlib import Path

from common import synthetic
from common.errors import InputError

import numpy as np
import onnx
import pytest
from PIL import Image

from conftest import changed, untrained
from damage import cut_short, empty, missing, other_format
from inference.classifier import Classifier

IMAGE = synthetic.draw(np.array([8]), np.random.default_rng(0))[0]  # (28, 28)


def picture() -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "PNG")
    return file


def test_it_says_what_keras_says(exported: Path) -> None:
    classifier = Classifier(exported)
    prediction = classifier.predict(picture(), "a bag")
    np.testing.assert_array_equal(prediction.image, IMAGE[..., None])
    (probabilities,) = untrained().predict(IMAGE[None, ..., None], verbose=0)
    order = np.argsort(-probabilities)[:3]
    assert [name for name, _ in prediction.likeliest] == [f"class {label}" for label in order]
    said = [probability for _, probability in prediction.likeliest]
    np.testing.assert_allclose(said, probabilities[order], atol=1e-5)


@pytest.mark.parametrize(("above", "out_of_distribution"), [(-0.01, True), (0.01, False)])
def test_out_of_distribution_is_a_distance_above_the_limit(
    exported: Path, tmp_path: Path, above: float, out_of_distribution: bool
) -> None:
    distance = Classifier(exported).predict(picture()).distance
    path = changed(exported, tmp_path, distance_limit=str(distance + above))
    prediction = Classifier(path).predict(picture())
    assert prediction.out_of_distribution is out_of_distribution


def test_it_takes_what_holds_a_picture(exported: Path, tmp_path: Path) -> None:
    classifier = Classifier(str(exported))
    path = tmp_path / "a.png"
    path.write_bytes(picture().getvalue())
    for source in (path, str(path), picture(), Image.open(path), Image.fromarray(IMAGE)):
        prediction = classifier.predict(source)
        np.testing.assert_array_equal(prediction.image, IMAGE[..., None])


# --- what is no such model ------------------------------------------------------------------------


def edit(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def without_metadata(path: Path) -> None:
    edit(path, lambda model: model.ClearField("metadata_props"))


def without_distance(path: Path) -> None:
    edit(path, lambda model: model.graph.output.pop())


def with_another_input(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "image"

    edit(path, change)


def with_too_few_names(path: Path) -> None:
    changed(path, path.parent, class_names='["one", "two"]')


def with_names_by_number(path: Path) -> None:
    changed(path, path.parent, class_names='{"0": "one"}')


def with_names_that_are_no_json(path: Path) -> None:
    changed(path, path.parent, class_names="one, two")


def with_another_form(path: Path) -> None:
    changed(path, path.parent, form="photographs")


def of_another_size(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"

    edit(path, change)


def with_a_limit_that_is_no_number(path: Path) -> None:
    changed(path, path.parent, distance_limit="high")


def with_weights_in_another_file(path: Path) -> None:
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=1000)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "damage",
    [
        with_weights_in_another_file,
        a_pipe,
        a_device,
        missing,
        empty,
        other_format,
        cut_short,
        without_metadata,
        without_distance,
        with_another_input,
        with_too_few_names,
        with_names_by_number,
        with_names_that_are_no_json,
        with_another_form,
        of_another_size,
        with_a_limit_that_is_no_number,
    ],
    ids=lambda damage: damage.__name__,
)
def test_other_models_are_refused_in_one_line(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look for another file
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    damage(path)
    with pytest.raises(InputError, match=rf"^{path} must .*; received") as refusal:
        Classifier(path)
    assert len(str(refusal.value).splitlines()) == 1
