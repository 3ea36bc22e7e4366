"""What many tests start from: the committed parameters with a few keys changed, never a copy of them."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from common import backend, params  # noqa: F401 (backend: before any test imports keras)

ROOT = Path(__file__).resolve().parents[1]

# As small as a pipeline can be and still use every stage.
TINY = {
    "data.source": "synthetic",
    "data.synthetic.train_images": 400,
    "data.synthetic.test_images": 100,
    "split.val_size": 100,
    "model.architecture": "plain",
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.learning_rate": 0.05,
}


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """Writes params.yaml into `folder`: the committed one with `changes`, keyed like `train.epochs`."""
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[name] = value
    path = folder / "params.yaml"
    yaml.dump(content, path)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the TINY parameters."""
    write_params(tmp_path, TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path
