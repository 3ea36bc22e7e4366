"""Results of benchmarks/, read for the pages that show them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import InputError

from analysis import metric_files, rerun

BENCHMARKS = Path("benchmarks")


@contextmanager
def results(name: str, *needed: str, of_this_training: bool = False) -> Iterator[dict[str, Any] | None]:
    """Gives the results of benchmarks/NAME.py; None where it was not run.

    Args:
        needed: keys that the file must have.
        of_this_training: whether the training that they belong to must be the one in dvc.lock.

    Raises:
        InputError: the file is damaged, lacks a key, or is of another training; or, from the block, a value
            is not as benchmarks/NAME.py writes it.
    """
    path = BENCHMARKS / f"{name}.json"
    if not path.exists():
        yield None
        return
    program = f"benchmarks/{name.partition('/')[0]}.py"  # train_step.py writes the files below train_step/
    found = metric_files.read(path, (*needed, "training") if of_this_training else needed)
    if of_this_training and found["training"] != rerun.key():
        raise InputError(
            f"{path} must be of the training in dvc.lock (python {program}, or remove it); "
            "received results of another one"
        )
    try:
        yield found
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} must be as {program} writes it; received: {error}") from None


def machine(found: dict[str, Any]) -> str:
    """The machine on which results were measured."""
    return "{threads} cores: {processor}".format_map(found["machine"])
