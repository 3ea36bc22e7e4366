"""Results of benchmarks/, read for the pages that show them."""

from pathlib import Path
from typing import Any

from common.errors import InputError

from analysis import dvc_lock, metric_files

BENCHMARKS = Path("benchmarks")


def results(name: str, of_this_training: bool = False) -> dict[str, Any] | None:
    """The results of benchmarks/NAME.py, as that program writes them; None where it was not run.

    Args:
        of_this_training: whether the training that they belong to must be the one in dvc.lock.

    Raises:
        InputError: the file is damaged, or of another training.
    """
    path = BENCHMARKS / f"{name}.json"
    if not path.exists():
        return None
    found = metric_files.read(path)
    if of_this_training and found.get("training") != dvc_lock.training_key():
        raise InputError(
            f"{path} must be of the training in dvc.lock (python benchmarks/{name}.py, or remove it); "
            "received results of another one"
        )
    return found


def machine(found: dict[str, Any]) -> str:
    """The machine on which results were measured."""
    return "{threads} cores: {processor}".format_map(found["machine"])
