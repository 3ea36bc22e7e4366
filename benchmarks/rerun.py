"""Re-runs: the stages once more, in a folder of their own, with some parameters changed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import files, idx, params
from common.errors import InputError

import numpy as np
from ruamel.yaml import YAML

SOURCE = Path(__file__).resolve().parents[1] / "src"


def prepare(folder: Path, changes: dict[str, Any]) -> None:
    """Makes a folder for a re-run, which shares the prepared data of the working directory, and runs split in it.

    Args:
        folder: emptied first.
        changes: as for `write_params`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    (folder / "data/prepared").symlink_to(Path("data/prepared").resolve())
    write_params(folder / "params.yaml", changes)
    run_stage("split", folder)


def run_stage(name: str, folder: Path) -> float:
    """Runs one stage in `folder` and returns the seconds that it took, start-up included.

    Raises:
        InputError: it failed; its own line stands above.
    """
    start = time.perf_counter()
    # outside this folder, which each re-run empties
    environment = {"CHECKPOINT_DIR": str(Path(".cache/checkpoints").resolve()), **os.environ}
    environment.pop("DVC_STAGE", None)  # where a stage of DVC's starts the re-run, its outputs lie elsewhere
    done = subprocess.run([sys.executable, "-EB", SOURCE / f"{name}.py"], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise InputError(f"{name} must succeed in {folder}; it ended with {done.returncode}")
    return time.perf_counter() - start


def train_and_evaluate(folder: Path, part: str) -> tuple[float, dict[str, Any]]:
    """The seconds of train, and the metrics of `part`; errors are those of `run_stage`."""
    seconds = run_stage("train", folder)
    run_stage("evaluate", folder)
    return seconds, json.loads((folder / f"metrics/{part}.json").read_text("utf-8"))


def write_idx(folder: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes images (N, H, W) and labels (N,) of train and test, uint8, as IDX files into data/input of `folder`."""
    (folder / "data/input").mkdir(parents=True)
    for part, (images, labels) in parts.items():
        prefix = {"train": "train", "test": "t10k"}[part]
        (folder / f"data/input/{prefix}-images-idx3-ubyte").write_bytes(idx.encode(images))
        (folder / f"data/input/{prefix}-labels-idx1-ubyte").write_bytes(idx.encode(labels))


def write_params(path: Path, changes: dict[str, Any], base: Path = Path("params.yaml")) -> None:
    """Writes the parameters of `base` with `changes`, keyed as in `train.epochs`."""
    yaml = YAML()
    content = yaml.load(base)
    params.set_keys(content, changes)
    with files.atomic_file(path) as part:
        yaml.dump(content, part)
