"""The tables of the published systems on both pages, from results that are easy to check."""

from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest

import summary
from analysis import marked_pages
from conftest import squeezed

SYSTEMS: dict[str, dict[str, Any]] = {
    "small": {
        "claimed_train_accuracy": None,
        "claimed_test_accuracy": 0.93,
        "chose_on_test": "yes",
        "claimed_on_release": "26 August 2017",
        "logged": {"train": 0.94, "val": 0.925},
        "precision": "bfloat16",
        "parameters": 1234,
        "training_images": 55_000,
        "epochs": 7,
        "training_flops": 1_230_000,
        "train_accuracy": 0.95,
        "val_accuracy": 0.921,
        "test_accuracy": 0.92,
        "test_accuracy_low": 0.91,
        "test_accuracy_high": 0.929,
        "verdict": "not reached",
        "why": "It is small.",
    },
    "ours": {
        "precision": "float32",
        "parameters": 1234,
        "training_images": 55_000,
        "epochs": 7,
        "training_flops": 1_230_000,
        "train_accuracy": 0.95,
    },
}


PAGES = {"README.md": ["published"], "published/README.md": ["systems"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "published").mkdir()
    for page, names in PAGES.items():
        marks = [f"<!-- {name}: written by make readme -->\n<!-- end of {name} -->\n" for name in names]
        (tmp_path / page).write_text("\n".join(["Before.\n", *marks, "After.\n"]))
    return tmp_path


def test_published_systems_are_shown_on_both_pages(folder: Path) -> None:
    marked_pages.update(summary.pages(SYSTEMS), check=False)
    short, whole = [squeezed((folder / name).read_text()) for name in PAGES]
    assert "| small | 93.00% | 26 August 2017 | 92.00% (91.00% – 92.90%) | not reached |\n" in short
    assert "| ours | | | | |\n" in short  # neither claims nor was tested
    assert (
        "| small | 1,234 | 55,000 | 7 | 1.2 × 10<sup>6</sup> | bfloat16 | | 93.00% | train 94.00%, val 92.50% | "
        "26 August 2017 | yes | 95.00% | 92.10% | "
        "92.00% (91.00% – 92.90%) | not reached |\n"
    ) in whole
    assert "| ours | 1,234 | 55,000 | 7 | 1.2 × 10<sup>6</sup> | float32 | | | | | no | 95.00% | | | |\n" in whole
    assert "`small` was not reached: It is small.\n" in whole
    marked_pages.update(summary.pages(SYSTEMS), check=True)


def test_a_page_without_marks_is_named(folder: Path) -> None:
    (folder / "published/README.md").write_text("no marks")
    with pytest.raises(InputError, match=r"published/README\.md"):
        marked_pages.update(summary.pages(SYSTEMS), check=False)
