"""Results of benchmarks/, read for the pages that show them."""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from common import files, params
from common.errors import InputError

from analysis import dvc_lock, metric_files

BENCHMARKS, PUBLISHED = Path("benchmarks"), Path("published")
PREDICTIONS = "metrics/predictions"


def training_key() -> str:
    """Identifies a training by its results: a hash of those that dvc.lock has of its model and its predictions.

    They stand for parameters, data and code: what leaves their bytes leaves the key too.

    Raises:
        InputError: dvc.lock lacks a stage.
    """
    stages = dvc_lock.read()
    if missing := {"train", "evaluate"} - stages.keys():
        raise InputError(f"dvc.lock must have every stage (make repro); received: no {', '.join(sorted(missing))}")
    results = stages["train"].outputs.get(dvc_lock.MODEL), stages["evaluate"].outputs.get(PREDICTIONS)
    return hashlib.sha256(json.dumps(results).encode()).hexdigest()[:16]


def key_to_train() -> str:
    """`training_key`, for a program that trains with params.yaml.

    Raises:
        InputError: dvc.lock has results of other parameters or code, which new ones would join; or as there.
    """
    inputs = {key: value for stage in dvc_lock.read().values() for key, value in stage.inputs.items()}
    there = {key or file: value for (file, key), value in inputs.items() if file.startswith(("params.yaml", "src/"))}
    here = dvc_lock.leaves(params.read_yaml(Path("params.yaml"), dict[str, Any]))
    here |= {file: files.md5(Path(file)) for file, _ in inputs if file.startswith("src/")}
    for key in there | here:
        known, found = (values.get(key, "nothing") for values in (there, here))
        if known != found:
            rule = "params.yaml and src/ must be as dvc.lock has them (make repro, or git restore)"
            raise InputError(f"{rule}; received {key} {found}, there {known}")
    return training_key()


def results(name: str, of_this_training: bool = False) -> dict[str, Any]:
    """The results of benchmarks/NAME.py, as that program writes them; {} where it was not run.

    Args:
        of_this_training: whether the training that they belong to must be the one in dvc.lock.

    Raises:
        InputError: the file is damaged, or of another training.
    """
    path = BENCHMARKS / f"{name}.json"
    if not path.exists():
        return {}
    found = metric_files.read(path)
    if of_this_training and found.get("training") != training_key():
        raise InputError(
            f"{path} must be of the training in dvc.lock (python benchmarks/{name}.py, or remove it); "
            "received results of another one"
        )
    return found


def earlier(path: Path, **key: Any) -> dict[str, Any]:
    """What a program has written to `path` with these values; {} where it has written nothing, or with others.

    Raises:
        InputError: the file is damaged.
    """
    found = metric_files.read(path) if path.exists() else {}
    return found if key.items() <= found.items() else {}


def is_measured(name: str, again: bool) -> bool:
    """Whether benchmarks/NAME.json is of the model in dvc.lock, which must be the one in models/; says so.

    Args:
        again: measure whatever is there.

    Raises:
        InputError: models/ has other files than dvc.lock says: their figures would be taken for those of its model.
    """
    if wrong := next(dvc_lock.differences(("models/",)), None):
        raise InputError(
            f"models/ must be as dvc.lock says (dvc checkout, or make repro); received {' which '.join(wrong)}"
        )
    path = BENCHMARKS / f"{name}.json"
    if again or not earlier(path, training=training_key()):
        return False
    print(f"{path} is of this model (--again measures once more)")
    return True


def models() -> dict[str, str]:
    """The MD5 of the committed models of the systems that resplits.py trains."""
    published = dvc_lock.parse((PUBLISHED / dvc_lock.LOCK).read_bytes(), f" of {PUBLISHED}")
    stages = {"default": dvc_lock.read()["train"], "deep": published["train@deep"]}
    return {name: stage.outputs[dvc_lock.MODEL] for name, stage in stages.items()}


def positive(text: str) -> int:
    """A number of rounds, pairs or seeds on the command line."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; received {text}")
    return value


def machine(found: dict[str, Any]) -> str:
    """The machine on which results were measured."""
    threads, name = found["machine"]["threads"], found["machine"]["processor"]
    return f"{threads} core{'s' * (threads > 1)}: {name}"
