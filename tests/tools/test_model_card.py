"""The tables of the model card, from results that are easy to count."""

import json
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd
import pytest

import readme
from conftest import squeezed, write_params

FIGURES = {"accuracy": 0.6, "loss": 0.3, "macro_f1": 0.9, "calibration_error": 0.01}
PREDICTIONS = [  # label, predicted, confidence
    *[("coat", "coat", 0.9)] * 5,
    *[("coat", "hat", 0.8)] * 2,
    *[("hat", "coat", 0.4)] * 2,
    ("hat", "None", 0.4),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {})
    for name in ("predictions", "classes"):
        (tmp_path / "metrics" / name).mkdir(parents=True)
    for part, figures in {"val": FIGURES, "test": FIGURES}.items():
        write(f"metrics/{part}.json", figures)
        pd.DataFrame(PREDICTIONS, columns=["label", "predicted", "confidence"]).to_csv(
            f"metrics/predictions/{part}.csv", index=False
        )
        Path(f"metrics/classes/{part}.csv").write_text(
            "class,images,precision,recall,f1\ncoat,1000,0.9165,0.5,0.1234\n"
        )
    write("metrics/train.json", {"temperature": 0.625})
    return tmp_path


def write(path: str, content: Any) -> None:
    Path(path).write_text(json.dumps(content))


def test_each_class_has_a_row_in_each_part(folder: Path) -> None:
    text = squeezed(readme.classes_table())
    assert text.count("| coat | 1,000 | 91.65% | 50.00% | 0.1234 |") == 2
    assert [line for line in text.splitlines() if "class" in line] == [
        f"| class, {part} | images | precision | recall | F1 |" for part in ("val", "test")
    ]


def test_mistakes_are_counted_and_those_of_test_shown(folder: Path) -> None:
    rows = squeezed(readme.mistakes_table()).splitlines()
    assert rows[0].startswith("| true class, test |")
    assert rows[2:] == ["| coat | hat | 2 | 28.6% |", "| hat | coat | 2 | 66.7% |", "| hat | None | 1 | 33.3% |"]
    write("metrics/test.json", {})
    assert readme.mistakes_table().startswith("| true class, val ")
    assert "test" not in readme.classes_table() + readme.calibration()


def test_confidence_stands_beside_accuracy(folder: Path) -> None:
    # (5 · 0.9 + 2 · 0.8 + 3 · 0.4) / 10; five of ten are right, five of seven of the sure ones
    assert "| test | 73.0% | 50.0% | 71.4% of 7 | 0.0% of 3 |" in squeezed(readme.calibration())


def test_the_temperature_is_said_with_its_origin(folder: Path) -> None:
    assert readme.calibration().startswith("The temperature is 0.625, which suits val best.\n\n|")
    write_params(folder, {"split.val_size": 0, "evaluate.parts": ["test"]})
    write("metrics/train.json", {"temperature": 1.0})
    assert readme.calibration().startswith("The temperature is 1, since there is no val to fit another one on.\n")


@pytest.mark.parametrize(
    ("path", "content", "table"),
    [
        ("metrics/predictions/test.csv", "label", readme.mistakes_table),
        ("metrics/predictions/test.csv", "label", readme.calibration),
        ("metrics/classes/val.csv", "", readme.classes_table),
        ("metrics/classes/val.csv", "class,images,precision,recall,f1\ncoat,x,0.9,0.5,0.1\n", readme.classes_table),
        ("metrics/classes/val.csv", "class,images,precision,recall,f1\ncoat,9,0.9,,0.1\n", readme.classes_table),
        ("metrics/val.json", [], readme.classes_table),
        ("metrics/train.json", '{"temperature": "x"}', readme.calibration),
    ],
)
def test_what_others_have_written_is_refused(folder: Path, path: str, content: Any, table: Any) -> None:
    write(path, content) if isinstance(content, list) else Path(path).write_text(content)
    with pytest.raises(InputError, match=rf"^{path} must "):
        table()
