"""The tables of the published systems on both pages, from results that are easy to check."""

from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest

import optimizers
import summary
from analysis import marked_pages
from conftest import squeezed

SYSTEMS: dict[str, dict[str, Any]] = {
    "small": {
        "claimed_train_accuracy": None,
        "claimed_test_accuracy": 0.93,
        "chose_on_test": "yes",
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
        "parameters": 1234,
        "training_images": 55_000,
        "epochs": 7,
        "training_flops": 1_230_000,
        "train_accuracy": 0.95,
    },
}


PAGES = {"README.md": ["published"], "published/README.md": ["systems", "optimizers"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    heinit = tmp_path / "published/heinit/metrics"
    (heinit / "optimizers").mkdir(parents=True)
    for page, names in PAGES.items():
        marks = [f"<!-- {name}: written by make readme -->\n<!-- end of {name} -->\n" for name in names]
        (tmp_path / page).write_text("\n".join(["Before.\n", *marks, "After.\n"]))
    for name in set(optimizers.OPTIMIZERS) - {optimizers.CHOSEN}:
        (heinit / f"optimizers/{name}.csv").write_text(
            "epoch,train_accuracy,val_accuracy\n1,0.5,0.72\n2,0.6,0.71\n"
        )
    for part, accuracies in {"train": (0.5, 0.6), "val": (0.72, 0.71)}.items():
        curve = heinit / f"curves/plots/metrics/{part}/accuracy.tsv"
        curve.parent.mkdir(parents=True)
        curve.write_text("step\taccuracy\n1\t{}\n2\t{}\n".format(*accuracies))
    claim = "{train: null, test: 0.93, chose_on_test: 'yes', optimizers: {adamw: 0.95}}"
    (tmp_path / "published/claims.yaml").write_text(f"heinit: {claim}")
    return tmp_path


def test_published_systems_are_shown_on_both_pages(folder: Path) -> None:
    marked_pages.update(summary.pages(SYSTEMS), check=False)
    short, whole = [squeezed((folder / name).read_text()) for name in PAGES]
    assert "| small | 93.00% | 92.00% (91.00% – 92.90%) | not reached |\n" in short
    assert "| ours | | | |\n" in short  # neither claims nor was tested
    assert (
        "| small | 1,234 | 55,000 | 7 | 1.2 × 10<sup>6</sup> | | 93.00% | yes | 95.00% | 92.10% | "
        "92.00% (91.00% – 92.90%) | not reached |\n"
    ) in whole
    assert ("| ours | 1,234 | 55,000 | 7 | 1.2 × 10<sup>6</sup> | | | no | 95.00% | | | |\n") in whole
    assert "`small` was not reached: It is small.\n" in whole
    assert "| adamw | 95.00% | 2 | 60.00% | 71.00% | 72.00% |\n" in whole
    assert "| sgd | | 2 | 60.00% | 71.00% | 72.00% |\n" in whole
    assert "| sgd" not in short
    marked_pages.update(summary.pages(SYSTEMS), check=True)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("published/README.md", "no marks"),
        ("published/claims.yaml", "heinit: 1"),
        ("published/heinit/metrics/optimizers/sgd.csv", "epoch\n1\n"),
    ],
)
def test_what_is_damaged_is_named(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=file):
        marked_pages.update(summary.pages(SYSTEMS), check=False)
