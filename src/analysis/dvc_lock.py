"""What DVC tracks, held against the hashes in dvc.lock."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import files
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
    """

    outputs: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], Any] = field(default_factory=dict)


def read(commit: str | None = None) -> dict[str, Stage]:
    """What dvc.lock says of each stage, here or in a commit; errors are those of `parse`."""
    return parse(git.content(commit, str(LOCK)), f" of commit {commit}" if commit else "")


@functools.cache  # a comparison asks for the same few again and again
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
    except (FileNotFoundError, AttributeError, KeyError, RecursionError, TypeError, ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        remedy = "" if place else " (make repro)"
        raise InputError(f"{LOCK}{place} must have every stage and md5{remedy}; received: {reason}") from None


def _stage(name: str, entry: dict[str, Any]) -> Stage:
    inputs = {(str(dep["path"]), ""): dep["md5"] for dep in entry.get("deps", [])}
    for file, values in entry.get("params", {}).items():
        inputs |= {(str(file), str(key)): value for key, value in leaves(values).items()}
    inputs["dvc.yaml", f"the command of {name}"] = entry.get("cmd")
    return Stage({out["path"]: out["md5"] for out in entry.get("outs", [])}, inputs)


def differences(folders: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each output under `folders` that is not what its stage wrote, by the content of its files; and what it is."""
    for stage in read().values():
        for path, md5 in stage.outputs.items():
            if path.startswith(folders) and (found := files.md5(Path(path))) != md5:
                yield path, "was changed" if found else "is missing"


def unwritten() -> list[str]:
    """The files of git in metrics/ that no stage writes, but for those of `make noise`: nothing holds them to a run."""
    outputs = {path for stage in read().values() for path in stage.outputs}
    every = [name for name in git.names(git.git("ls-files", "-z", "metrics")) if not name.startswith("metrics/noise")]
    return [name for name in every if not any(map(Path(name).is_relative_to, outputs))]


def damaged_objects(cache: Path) -> Iterator[Path]:
    """The objects of a cache of DVC whose content has another hash than their name: DVC would give them out."""
    for path in sorted(cache.glob("files/md5/??/*")):
        name = f"{path.parent.name}{path.name}"
        if path.is_file() and files.md5(path) != name.removesuffix(".dir"):
            yield path
