"""The exported model in ONNX Runtime, and the files that are no such model."""

import io
from collections.abc import Callable
from pathlib import Path

from common import synthetic
from common.errors import InputError

import numpy as np
import onnx
import pytest
from PIL import Image

from conftest import untrained
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
def test_out_of_distribution_is_an_energy_above_the_limit(
    exported: Path, tmp_path: Path, above: float, out_of_distribution: bool
) -> None:
    energy = Classifier(exported).predict(picture()).energy
    path = changed(exported, tmp_path, energy_limit=str(energy + above))
    prediction = Classifier(path).predict(picture())
    assert prediction.out_of_distribution is out_of_distribution


def changed(exported: Path, folder: Path, **metadata: str | None) -> Path:
    """The model with other metadata; None leaves a key out."""
    model = onnx.load(exported)
    before = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(
        model, {key: text for key, text in (before | metadata).items() if text is not None}
    )
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


# --- what is no such model ------------------------------------------------------------------------


def edit(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def without_metadata(path: Path) -> None:
    edit(path, lambda model: model.ClearField("metadata_props"))


def without_energy(path: Path) -> None:
    edit(path, lambda model: model.graph.output.pop())


def with_another_input(path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "image"

    edit(path, change)


def with_too_few_names(path: Path) -> None:
    changed(path, path.parent, class_names='["one", "two"]')


def with_names_that_are_no_json(path: Path) -> None:
    changed(path, path.parent, class_names="one, two")


def with_another_form(path: Path) -> None:
    changed(path, path.parent, form="photographs")


def with_a_limit_that_is_no_number(path: Path) -> None:
    changed(path, path.parent, energy_limit="high")


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        empty,
        other_format,
        cut_short,
        without_metadata,
        without_energy,
        with_another_input,
        with_too_few_names,
        with_names_that_are_no_json,
        with_another_form,
        with_a_limit_that_is_no_number,
    ],
    ids=lambda damage: damage.__name__,
)
def test_other_models_are_refused_in_one_line(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    damage(path)
    with pytest.raises(InputError, match=rf"^{path} must .*; received") as refusal:
        Classifier(path)
    assert len(str(refusal.value).splitlines()) == 1
