"""croissant.json: the dataset as the pipeline reads it."""

import json

from common import classes

import fetch
from conftest import ROOT

PATH = ROOT / "croissant.json"


def test_it_has_the_files_of_fetch() -> None:
    files = json.loads(PATH.read_text("utf-8"))["distribution"]
    assert {file["contentUrl"]: (file["sha256"], file["contentSize"]) for file in files} == {
        f"{fetch.RAW}/{name}": (digest, f"{size} B") for name, (digest, size) in fetch.FILES.items()
    }


def test_it_has_the_classes_in_the_order_of_the_labels() -> None:
    names, *_ = json.loads(PATH.read_text("utf-8"))["recordSet"]
    assert names["data"] == [
        {"classes/label": label, "classes/name": name} for label, name in enumerate(classes.FASHION_MNIST)
    ]


def test_the_shapes_are_those_of_the_files() -> None:
    _, *arrays = json.loads(PATH.read_text("utf-8"))["recordSet"]
    found = {}
    for array in arrays:
        (field,) = array["field"]
        pixels = 1
        for length in field["arrayShape"].split(","):
            pixels *= int(length)
        dimensions = field["arrayShape"].count(",") + 1
        found[field["source"]["fileObject"]["@id"]] = pixels + 4 + 4 * dimensions  # the header of IDX
    assert found == {name: size for name, (_, size) in fetch.FILES.items()}
