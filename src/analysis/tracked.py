"""What DVC tracks, held against the hashes in dvc.lock."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

# isort: split
from dvc.repo import Repo
from ruamel.yaml import YAML, YAMLError

LOCK = Path("dvc.lock")


def locked(*needed: str) -> dict[str, Any]:
    """The stages of dvc.lock.

    Raises:
        InputError: the file is missing or damaged, or has not every stage that is `needed`.
    """
    try:
        stages = YAML(typ="safe").load(LOCK)["stages"]
        return {name: stages[name] for name in needed or stages}
    except (OSError, KeyError, TypeError, YAMLError) as error:
        raise InputError(f"{LOCK} must have every stage (make repro); received: {error}") from None


def cached() -> list[str]:
    """The paths of all outputs that lie in DVC's cache, not in git.

    Raises:
        InputError: as from `locked`.
    """
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    outs = [out for stage in stages for out in [*stage.get("outs", []), *stage.get("metrics", [])]]
    return [out for out in outs if isinstance(out, str)]  # others are mappings with cache: false


def changed(folders: tuple[str, ...]) -> Iterator[str]:
    """Names each file under `folders` that is not what its stage wrote.

    Of a directory dvc.lock has one hash; that of each file is in DVC's cache. Where it is not there,
    the directory is named alone.
    """
    for stage in locked().values():
        for out in stage["outs"]:
            if out["path"].startswith(folders):
                yield from _differences(Path(out["path"]), out["md5"])


def _differences(path: Path, md5: str) -> Iterator[str]:
    if not path.exists():
        yield f"{path} is missing"
    elif not md5.endswith(".dir"):
        if _md5(path) != md5:
            yield f"{path} was changed"
    else:
        files = sorted(file for file in path.rglob("*") if file.is_file())
        found = {file.relative_to(path).as_posix(): _md5(file) for file in files}
        # as DVC writes the list that it hashes
        listing = json.dumps(
            [{"md5": hash_, "relpath": name} for name, hash_ in sorted(found.items())]
        )
        if hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir" == md5:
            return
        wanted = _listing(md5)
        if wanted is None:
            yield f"{path} was changed"
            return
        for name in sorted(found.keys() | wanted.keys()):
            if name not in found:
                yield f"{path / name} is missing"
            elif name not in wanted:
                yield f"{path / name} was added"
            elif found[name] != wanted[name]:
                yield f"{path / name} was changed"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _listing(md5: str) -> dict[str, str] | None:
    """The hash of each file of a directory, from DVC's cache."""
    with Repo() as repo:
        path = Path(repo.cache.local.oid_to_path(md5))
        if not path.exists():
            return None
        return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text())}
