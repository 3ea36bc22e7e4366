"""Re-runs: the stages once more, in a folder of their own, with some parameters changed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import files, params
from common.errors import InputError

from ruamel.yaml import YAML

from analysis import dvc_lock

SOURCE = Path(__file__).resolve().parents[1]
MODEL = "models/model.keras"


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


def write_params(path: Path, changes: dict[str, Any]) -> None:
    """Writes the params.yaml of the working directory with `changes`, keyed as in `train.epochs`."""
    yaml = YAML()
    content = yaml.load(Path("params.yaml"))
    params.set_keys(content, changes)
    with files.atomic_file(path) as part:
        yaml.dump(content, part)


def key() -> str:
    """Identifies a training: a hash of the parameters of train and evaluate, the model and its figures in dvc.lock.

    The results stand for data and code: a change to code that leaves their bytes leaves the key too. A
    new parameter of train at its default leaves it as well: dvc.lock is the same training without it.

    Raises:
        InputError: dvc.lock lacks a stage.
    """
    stages = dvc_lock.read()
    if missing := {"train", "evaluate"} - stages.keys():
        raise InputError(f"dvc.lock must have every stage (make repro); received: no {', '.join(sorted(missing))}")
    entries = [stages[name].entry for name in ("train", "evaluate")]
    chosen = entries[0]["params"]["params.yaml"]["train"]
    for name, field in params.Train.model_fields.items():
        if not field.is_required() and chosen.get(name) == field.default:
            del chosen[name]
    model = [output for output in entries[0]["outs"] if output["path"] == MODEL]
    known = [(entries[0]["params"], model), (entries[1]["params"], entries[1]["outs"])]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
