"""What DVC tracks, held against the hashes in dvc.lock; dvc.lock here and in a commit."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError

from ruamel.yaml import YAML, YAMLError

from analysis.git import git

LOCK = Path("dvc.lock")


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


def stages(*needed: str, commit: str | None = None) -> dict[str, Any]:
    """The stages of dvc.lock, here or in a commit.

    Raises:
        InputError: the file is missing or damaged, or lacks a stage that is `needed`.
    """
    try:
        content = YAML(typ="safe").load(git("show", f"{commit}:./{LOCK}") if commit else LOCK)["stages"]
        return {name: content[name] for name in needed or content}
    except (OSError, KeyError, TypeError, YAMLError) as error:
        raise _not_as_written(error, commit) from None


def read(commit: str | None = None) -> dict[str, Stage]:
    """What dvc.lock says of each stage, here or in a commit.

    Raises:
        InputError: as from `stages`.
    """
    found = {}
    try:
        for name, stage in stages(commit=commit).items():
            inputs = {(dep["path"], ""): dep["md5"] for dep in stage.get("deps", [])}
            for file, values in stage.get("params", {}).items():
                inputs |= {(file, key): value for key, value in _leaves(values)}
            inputs["dvc.yaml", f"the command of {name}"] = stage["cmd"]
            found[name] = Stage({out["path"]: out["md5"] for out in stage.get("outs", [])}, inputs)
    except (AttributeError, KeyError, TypeError) as error:
        raise _not_as_written(error, commit) from None
    return found


def _not_as_written(error: Exception, commit: str | None) -> InputError:
    place = f" of commit {commit}" if commit else ""
    return InputError(f"{LOCK}{place} must have every stage (make repro); received: {error}")


def _leaves(values: dict[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """The keys, as in `train.epochs`, and values of nested mappings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{section}{key}.")
        else:
            yield f"{section}{key}", value


def cached_outputs() -> list[str]:
    """The paths of all outputs in dvc.yaml that lie in DVC's cache, not in git."""
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    outs = [out for stage in stages for out in [*stage.get("outs", []), *stage.get("metrics", [])]]
    return [out for out in outs if isinstance(out, str)]  # the rest are mappings with cache: false


def differences(folders: tuple[str, ...]) -> Iterator[str]:
    """Names each file under `folders` that is not what its stage wrote.

    dvc.lock has one hash for a directory; the hash of each file is in DVC's cache. Where that lacks the
    directory, it is named as a whole.

    Raises:
        InputError: as from `stages`.
    """
    for stage in stages().values():
        for out in stage["outs"]:
            if out["path"].startswith(folders):
                yield from _differences(Path(out["path"]), out["md5"])


def _differences(path: Path, md5: str) -> Iterator[str]:
    if not path.exists():
        yield f"{path} is missing"
        return
    found = {file: _md5(file) for file in sorted(path.rglob("*")) if file.is_file()}
    if (_md5_of_listing(path, found) if path.is_dir() else _md5(path)) == md5:
        return
    expected = _cached_listing(path, md5) if md5.endswith(".dir") else None
    if expected is None:
        yield f"{path} was changed"
        return
    for file in sorted(found.keys() | expected.keys()):
        if file not in found:
            yield f"{file} is missing"
        elif file not in expected:
            yield f"{file} was added"
        elif found[file] != expected[file]:
            yield f"{file} was changed"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _md5_of_listing(folder: Path, files: dict[Path, str]) -> str:
    """DVC's hash for a directory: of the list of its files, as DVC writes it."""
    names = {path.relative_to(folder).as_posix(): md5 for path, md5 in files.items()}
    listing = [{"md5": md5, "relpath": name} for name, md5 in sorted(names.items())]
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _cached_listing(folder: Path, md5: str) -> dict[Path, str] | None:
    """The hash of each file of a directory; None where DVC's cache lacks it."""
    from dvc.repo import Repo  # 0.2 s, for this alone

    with Repo() as repo:
        listing = Path(repo.cache.local.oid_to_path(md5))
        if not listing.exists():
            return None
        entries = json.loads(listing.read_text())
        return {folder / entry["relpath"]: entry["md5"] for entry in entries}
