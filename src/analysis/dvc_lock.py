"""What DVC tracks, held against the hashes in dvc.lock."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError

from ruamel.yaml import YAML, YAMLError

from analysis import git

LOCK = Path("dvc.lock")
UNREADABLE = (OSError, AttributeError, KeyError, TypeError, YAMLError)


@dataclass(frozen=True)
class Stage:
    """What dvc.lock says of a stage.

    Attributes:
        outputs: the hash of each output, by path.
        inputs: by file and key, the hash of each file or folder (no key), the value of each parameter, and
            the command.
    """

    outputs: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], Any] = field(default_factory=dict)


def stages(*needed: str) -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        InputError: the file is missing or damaged, or lacks a stage that is `needed`.
    """
    try:
        return _stages(LOCK.read_bytes(), *needed)
    except UNREADABLE as error:
        raise _not_as_written(error, "") from None


def read(commit: str | None = None) -> dict[str, Stage]:
    """What dvc.lock says of each stage, here or in a commit; errors are those of `stages`."""
    place = f" of commit {commit}" if commit else ""
    lock = git.content(commit, str(LOCK)) if commit else LOCK.read_bytes() if LOCK.exists() else None
    if lock is None:
        raise _not_as_written("no such file", place)
    return parse(lock, place)


def parse(lock: bytes, place: str) -> dict[str, Stage]:
    """What the content of a dvc.lock says of each stage.

    Args:
        place: where it is from, as `" of commit 1234567"`.

    Raises:
        InputError: it is damaged.
    """
    found = {}
    try:
        for name, stage in _stages(lock).items():
            inputs = {(dep["path"], ""): dep["md5"] for dep in stage.get("deps", [])}
            for file, values in stage.get("params", {}).items():
                inputs |= {(file, key): value for key, value in leaves(values).items()}
            inputs["dvc.yaml", f"the command of {name}"] = stage.get("cmd")
            found[name] = Stage({out["path"]: out["md5"] for out in stage.get("outs", [])}, inputs)
    except UNREADABLE as error:
        raise _not_as_written(error, place) from None
    return found


def _stages(lock: bytes, *needed: str) -> dict[str, Any]:
    content = YAML(typ="safe").load(lock)["stages"]
    return {name: content[name] for name in needed or {**content}}


def _not_as_written(error: Exception | str, place: str) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{LOCK}{place} must have every stage (make repro); received: {reason}")


def leaves(values: dict[str, Any], section: str = "") -> dict[str, Any]:
    """The values of nested mappings by key, as in `train.epochs`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{section}{name}"
        found |= leaves(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def cached_outputs() -> list[str]:
    """The paths of all outputs in dvc.yaml that lie in DVC's cache, not in git."""
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    outs = [out for stage in stages for out in [*stage.get("outs", []), *stage.get("metrics", [])]]
    return [out for out in outs if isinstance(out, str)]  # the rest are mappings with cache: false


def differences(folders: tuple[str, ...]) -> Iterator[str]:
    """Names each output under `folders` that is not what its stage wrote, by the content of its files.

    Raises:
        InputError: as from `stages`.
    """
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
