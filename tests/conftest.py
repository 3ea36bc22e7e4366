"""What many tests start from: the committed parameters with a few keys changed, never a copy of them."""

import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from analysis import trials
from common import backend, params  # noqa: F401 (backend: before any test imports keras)

# isort: split
import keras

import architectures
from inference import onnx_file
from training import model_file

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
    "train.data_pruning": 0.0,
    "train.progressive_resizing.share": 0.0,  # plain takes one size only
    "train.precision": "float32",
    "train.threads": 1,  # other tests have the other cores
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that the cores end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """Writes params.yaml into `folder`: the committed one with `changes`, keyed like `train.epochs`."""
    path = (folder / "params.yaml").absolute()
    with chdir(ROOT):
        trials.write_params(path, changes)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the TINY parameters."""
    write_params(tmp_path, TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    """What training sets for its process is put back, but for glibc's memory."""
    threads, memory = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    deterministic = torch.are_deterministic_algorithms_enabled()
    workspace_of_cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = memory  # type: ignore[attr-defined]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace_of_cublas is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace_of_cublas


def png(width: int, height: int, depth: int, kind: int, *rows: bytes, key: bytes = b"") -> bytes:
    """A PNG file by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


@dataclass(frozen=True)
class Clone:
    """A scratch git repository."""

    folder: Path

    @classmethod
    def new(cls, folder: Path) -> "Clone":
        """One with this project's files as they are here, and no results."""
        clone = cls(folder)
        listed = clone._git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in listed.split("\0"):
            source = ROOT / name
            if source.is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        clone.git("init", "--quiet", "--initial-branch=main")
        clone.git("config", "user.name", "Test")
        clone.git("config", "user.email", "test@example.invalid")
        return clone

    def copied(self, folder: Path) -> "Clone":
        """The same with all that it holds, git's history and DVC's cache too, in a new folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Clone(folder)

    def _git(self, cwd: Path, *words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=cwd, check=True, capture_output=True, text=True
        ).stdout

    def git(self, *words: str) -> str:
        return self._git(self.folder, *words)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def dvc(self, *words: str) -> str:
        return self.run("dvc", *words)

    def run(self, *words: str) -> str:
        """Standard output and error of a command that must succeed."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DVC_NO_ANALYTICS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}"
        return done.stdout

    def experiments(self) -> dict[str, dict]:
        """Parameters and metrics of the workspace, the commits and the experiments, by name."""
        found = {}
        for baseline in json.loads(self.dvc("exp", "show", "--json")):
            for entry in [baseline, *(r for e in baseline["experiments"] or [] for r in e["revs"])]:
                found[entry["name"] or entry["rev"]] = entry["data"]
        return found


def untrained(
    shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, name: str = "plain"
) -> keras.Model:
    """From pixels to probabilities, with random weights, the same each time."""
    keras.utils.set_random_seed(0)
    network = architectures.build(name, shape, classes, {"widths": [8, 16]})
    channels = np.ones(shape[-1])
    return model_file.with_preprocessing(network, 70 * channels, 90 * channels)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What export writes, of an untrained model for Fashion-MNIST's form."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    names = [f"class {label}" for label in range(10)]
    metadata = {"class_names": json.dumps(names), "form": "fashion-mnist", "energy_limit": "-2.5"}
    onnx_file.save(onnx_file.convert(untrained()), metadata, path)
    return path


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the whole pipeline has run with the TINY parameters; tests leave it as it is.

    Processes that run tests side by side make it once, and have a copy each.
    """
    here = tmp_path_factory.getbasetemp()
    first = Clone((here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "reproduced")
    with FileLock(f"{first.folder}.lock"):
        if not first.folder.exists():
            clone = Clone.new(tmp_path_factory.mktemp("clone"))
            write_params(clone.folder, TINY)
            clone.commit("start")
            clone.dvc("repro")
            clone.commit("reproduce")
            clone.folder.rename(first.folder)
    return first.copied(here / "copy of reproduced")
