"""What a process may read: a stage what it declares, an architecture its own file.

A guard rail against mistakes: an audit hook sees the files and programs that Python opens. It sees no file that
a library opens in C (`torch.from_file`) and no listing of a folder, follows no hard link, and lets DVC's cache be
read. What means to pass it does.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import cache_from_source
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from common import files
from common.errors import InputError
from common.seal import SOURCE

# beside the inputs: checkpoints, settings of DVC and git, and the folders that variables name
# anywhere in the project, since a stage may run in a subfolder
COMMON_PATHS = re.compile(r".*/(\.(dvc|git)(/.+)?|params\.yaml|dvc\.(yaml|lock)|\.(git|dvc)[a-z]+|[^/]+\.(dvc|pyc?))")
FOLDER_VARIABLES = ("CHECKPOINT_DIR", "FASHION_MNIST_DIR", "TMPDIR")
FOREIGN = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
# Called with each path that Python opens, as it is named and without links, and the flags of `os.open`;
# with the name of an event of `FOREIGN` instead of a path.
checks: list[Callable[[str, int], None]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not checks:
        return
    seen: set[tuple[str, int]] = set()
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        seen = {(path, arguments[2]) for path in _names(os.fsdecode(arguments[0]))}
    elif event in FOREIGN:
        seen = {(event, 0)}
    for path, flags in seen:
        for check in tuple(checks):
            check(path, flags)


sys.addaudithook(_audit)


def _names(path: str) -> set[str]:
    return {os.path.abspath(path), os.path.realpath(path)}


def _inside(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(os.path.join(place, "")) for place in places)


def _libraries() -> set[str]:
    """The folders of the search path without those in which src/ or the working directory lies."""
    folders = map(_names, sys.path)
    return {n for names in folders for n in names if not any(_inside(p, names) for p in (SOURCE, os.getcwd()))}


def refuse_shadows() -> None:
    """Checks that no module of src/ has the name of another module, which would take its place.

    Raises:
        InputError: one has.
    """
    beside = {os.path.dirname(SOURCE)}  # tools/ and others, whose scripts have modules of their own
    libraries = [n for n in _libraries() if not _inside(n, beside) or _inside(n, _names(sys.prefix))]
    for _, name, _ in iter_modules([SOURCE]):
        installed = PathFinder.find_spec(name, libraries)
        if name in sys.stdlib_module_names or (installed and installed.origin):
            raise InputError(f"a module in src/ must not have the name of a standard or installed one; received {name}")


def declare(*paths: str) -> None:
    """From here on, this process reads no file of its project but `paths` and what it has written itself.

    The project is this repository and the working directory, without the libraries that lie in them.

    Raises:
        InputError: DVC gives it other bytes than dvc.lock or a .dvc says; or later, from the call that opens another file.
        SystemExit: --help, or an option, which no stage has.
    """
    argparse.ArgumentParser(description=sys.modules["__main__"].__doc__).parse_args()
    _refuse_other_bytes(paths)
    project = (_names(os.path.dirname(SOURCE)) | _names(".")) - {os.sep}
    variables = [os.environ[name] for name in FOLDER_VARIABLES if os.environ.get(name)]
    own = os.path.dirname(SOURCE)  # where paths under src/ begin
    declared = (os.path.join(own, path) if path.startswith("src/") else path for path in paths)
    allowed = _libraries().union(*(_names(path) for path in (*declared, ".cache", *variables)))
    written: set[str] = set()

    def check(path: str, flags: int) -> None:
        if flags & (os.O_WRONLY | os.O_RDWR) and (flags & os.O_TRUNC or not os.path.lexists(path)):
            written.add(path)
            return
        if not _inside(path, project) or path in written or _inside(path, allowed):
            return
        known = any(_inside(path, [place]) and COMMON_PATHS.fullmatch(path[len(place) :]) for place in project)
        if not known and os.path.isfile(path):
            raise InputError(f"a stage must read only what it declares; received {path}")

    checks.append(check)


def _refuse_other_bytes(paths: Iterable[str]) -> None:
    """Holds what DVC gives to this stage, outputs of others and what a .dvc below `paths` tracks, against its hashes.

    DVC itself takes an object of its cache for what its name says, damaged or not.
    """
    if "DVC_STAGE" not in os.environ:
        return
    from ruamel.yaml import YAML

    read, lock = YAML(typ="safe").load, Path(SOURCE).parent / "dvc.lock"
    stages = read(lock).get("stages", {}).values() if lock.exists() else ()
    outs = {os.path.realpath(lock.parent / out["path"]): out.get("md5") for s in stages for out in s.get("outs", [])}
    held = [(Path(path), lock.name, outs.get(os.path.realpath(path))) for path in paths]
    for pointer in (found for path in paths for found in Path(path).glob("*.dvc") if found.is_file()):
        tracked = [out for out in read(pointer).get("outs", []) if out.get("hash")]  # DVC 2 hashed text otherwise
        held += [(pointer.parent / out["path"], str(pointer), out.get("md5")) for out in tracked]
    for path, source, expected in held:
        if expected and (found := files.md5(path)) not in (expected, None):
            start, end = ("", "repro") if source == lock.name else ("dvc add it, if they are meant; else ", "pull")
            raise InputError(
                f"{path} must have the bytes that {source} says (MD5 {expected}); received others ({found}), as from a "
                f"damaged object in DVC's cache: {start}remove {path} and what python tools/check.py --data names, then dvc {end}"
            )


@contextmanager
def reading_only(source: str) -> Iterator[None]:
    """Within the block, this process reads no file but `source` and libraries, and starts no program.

    Raises:
        InputError: within the block, from the call that does.
    """
    allowed = _libraries() | _names(source) | _names(cache_from_source(source))

    def check(path: str, flags: int) -> None:
        if path in FOREIGN or (os.path.isfile(path) and not _inside(path, allowed)):
            raise InputError(
                f"{os.path.basename(source)} must need no other file, module of src/ or program; received {path}"
            )

    checks.append(check)
    try:
        yield
    finally:
        checks.remove(check)
