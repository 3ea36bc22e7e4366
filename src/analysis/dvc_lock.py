"""What DVC tracks, held against the hashes in dvc.lock."""

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import flatten_dict
from ruamel.yaml import YAML, YAMLError

from analysis import git

LOCK = Path("dvc.lock")
MODEL = "models/model.keras"
leaves = functools.partial(flatten_dict.flatten, reducer="dot")  # nested values by key, as in `train.epochs`


@dataclass(frozen=True)
class Stage:
    """What dvc.lock says of a stage.

    Attributes:
        outputs: the hash of each output, by path.
        inputs: by file and key, the hash of each file or folder (no key), the value of each parameter, and the command.
        entry: all of it, as DVC writes it.
    """

    outputs: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)


def read(commit: str | None = None) -> dict[str, Stage]:
    """What dvc.lock says of each stage, here or in a commit; errors are those of `parse`."""
    return parse(git.content(commit, str(LOCK)), f" of commit {commit}" if commit else "")


def parse(lock: bytes | None, place: str) -> dict[str, Stage]:
    """What the content of a dvc.lock says of each stage.

    Args:
        lock: None where there is no such file.
        place: where it is from, as `" of commit 1234567"`.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        if lock is None:
            raise FileNotFoundError("no such file")
        return {name: _stage(name, entry) for name, entry in YAML(typ="safe").load(lock)["stages"].items()}
    except (FileNotFoundError, AttributeError, KeyError, TypeError, ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{LOCK}{place} must have every stage (make repro); received: {reason}") from None


def _stage(name: str, entry: dict[str, Any]) -> Stage:
    inputs = {(dep["path"], ""): dep["md5"] for dep in entry.get("deps", [])}
    for file, values in entry.get("params", {}).items():
        inputs |= {(file, key): value for key, value in leaves(values).items()}
    inputs["dvc.yaml", f"the command of {name}"] = entry.get("cmd")
    return Stage({out["path"]: out["md5"] for out in entry.get("outs", [])}, inputs, entry)


def training_key() -> str:
    """Identifies a training: a hash of the parameters of train and evaluate, the model and its figures in dvc.lock.

    The results stand for data and code: a change to code that leaves their bytes leaves the key too. A
    new parameter of train at its default leaves it as well: dvc.lock is the same training without it.

    Raises:
        InputError: dvc.lock lacks a stage.
    """
    stages = read()
    if missing := {"train", "evaluate"} - stages.keys():
        raise InputError(f"dvc.lock must have every stage (make repro); received: no {', '.join(sorted(missing))}")
    entries = [stages[name].entry for name in ("train", "evaluate")]
    chosen = entries[0]["params"]["params.yaml"]["train"]
    for name, known in params.Train.model_fields.items():
        if not known.is_required() and chosen.get(name) == known.default:
            del chosen[name]
    model = [output for output in entries[0]["outs"] if output["path"] == MODEL]
    parts = [(entries[0]["params"], model), (entries[1]["params"], entries[1]["outs"])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def cached_outputs() -> list[str]:
    """The paths of all outputs in dvc.yaml that lie in DVC's cache, not in git."""
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    outs = [out for stage in stages for out in [*stage.get("outs", []), *stage.get("metrics", [])]]
    return [out for out in outs if isinstance(out, str)]  # the rest are mappings with cache: false


def differences(folders: tuple[str, ...]) -> Iterator[str]:
    """Names each output under `folders` that is not what its stage wrote, by the content of its files."""
    for stage in read().values():
        for path, md5 in stage.outputs.items():
            if path.startswith(folders) and (found := _md5(Path(path))) != md5:
                yield f"{path} {'was changed' if found else 'is missing'}"


def _md5(path: Path) -> str | None:
    """DVC's hash: of a file, or of the list of files in a folder as DVC writes it."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
        listing = [{"md5": _md5(file), "relpath": name} for name, file in sorted(files.items())]
        return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
