"""What DVC tracks, held against the hashes in dvc.lock."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

from dvc.repo import Repo
from ruamel.yaml import YAML, YAMLError

LOCK = Path("dvc.lock")


def stages(*needed: str) -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        InputError: the file is missing or damaged, or lacks a stage that is `needed`.
    """
    try:
        content = YAML(typ="safe").load(LOCK)["stages"]
        return {name: content[name] for name in needed or content}
    except (OSError, KeyError, TypeError, YAMLError) as error:
        raise InputError(f"{LOCK} must have every stage (make repro); received: {error}") from None


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
    with Repo() as repo:
        listing = Path(repo.cache.local.oid_to_path(md5))
        if not listing.exists():
            return None
        entries = json.loads(listing.read_text())
        return {folder / entry["relpath"]: entry["md5"] for entry in entries}
