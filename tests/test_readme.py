import json
import sys
from pathlib import Path

import pytest
from conftest import write_params

import readme
from common.errors import InputError

EMPTY = "Before.\n<!-- results: written by make readme -->\n<!-- end of results -->\nAfter.\n"
FIGURES = {
    "source": "fashion-mnist",
    "accuracy": 0.91234,
    "accuracy_low": 0.9,
    "accuracy_high": 0.92,
    "loss": 0.3,
    "macro_f1": 0.9,
    "calibration_error": 0.01,
    "images": 5000,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {})
    (tmp_path / "README.md").write_text(EMPTY)
    (tmp_path / "metrics").mkdir()
    for name, content in {"val": FIGURES, "test": {}, "train": {"epochs": 3}}.items():
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps(content))
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["readme.py", *words])
    readme.main()


def test_writes_the_figures_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch)
    text = (folder / "README.md").read_text()
    assert "| val | 5,000 | 91.23% | 90.00% – 92.00% |" in text
    assert "| test" not in text  # it was not evaluated
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    call(monkeypatch, "--check")
    call(monkeypatch)
    assert (folder / "README.md").read_text() == text


@pytest.mark.parametrize("file", ["README.md", "metrics/val.json"])
def test_an_edited_figure_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    call(monkeypatch)
    path = folder / file
    text = path.read_text()
    path.write_text(text.replace("91.23", "99.23").replace("0.91234", "0.99234"))
    assert path.read_text() != text
    with pytest.raises(InputError, match="must show the figures"):
        call(monkeypatch, "--check")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", "no marks"),
        ("README.md", None),
        ("metrics/val.json", None),
        ("metrics/val.json", "{"),
        ("metrics/val.json", '{"accuracy": 1}'),
        ("metrics/train.json", "{}"),
    ],
)
def test_what_is_missing_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str | None
) -> None:
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(InputError, match=file.split("/", maxsplit=1)[0]):
        call(monkeypatch)
