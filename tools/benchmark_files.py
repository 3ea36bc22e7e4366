"""Results of benchmarks/, read for the pages that show them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import InputError

from analysis import metric_files, rerun

BENCHMARKS = Path("benchmarks")


def read(name: str, *needed: str, of_this_training: bool = False) -> dict[str, Any] | None:
    """The results of benchmarks/NAME.py; None where it was not run.

    Args:
        needed: keys that the file must have.
        of_this_training: whether the training that they belong to must be the one in dvc.lock.

    Raises:
        InputError: the file is damaged, lacks a key, or is of another training.
    """
    path = BENCHMARKS / f"{name}.json"
    if not path.exists():
        return None
    found = metric_files.read(path, (*needed, "training") if of_this_training else needed)
    if of_this_training and found["training"] != rerun.key():
        raise InputError(
            f"{path} must be of the training in dvc.lock (python {_program(name)}, or remove it); "
            "received results of another one"
        )
    return found


def machine(found: dict[str, Any]) -> str:
    """The machine on which results were measured."""
    return "{threads} cores: {processor}".format_map(found["machine"])


@contextmanager
def as_written(name: str) -> Iterator[None]:
    """Within the block, a value that is not as benchmarks/NAME.py writes it is an InputError."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{BENCHMARKS / name}.json must be as {_program(name)} writes it; received: {error}"
        ) from None


def _program(name: str) -> str:
    """What writes benchmarks/NAME.json: benchmarks/train_step.py writes those below train_step/."""
    return f"benchmarks/{name.partition('/')[0]}.py"
