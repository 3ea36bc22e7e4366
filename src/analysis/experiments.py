"""Runs as DVC experiments, each in a temporary copy of what git has: the workspace stays as it is."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.revisions import Side, git
from common.errors import InputError

# isort: split
from ruamel.yaml import YAML

DIVERGED = "must stay finite"  # as train says it


class Diverged(Exception):
    """The loss of a training is no number any more: a property of its parameters."""


def missed() -> list[str]:
    """The files that are here and would not be in a temporary copy.

    Those are all that git neither has nor ignores, and among what it ignores that which a stage reads,
    unless DVC has it.
    """
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    read = {dep for stage in stages for dep in stage["deps"]}
    written = {out for stage in stages for out in stage["outs"] if isinstance(out, str)}
    others = ("ls-files", "-z", "--others", "--exclude-standard")
    listed = git(*others) + git(*others, "--ignored", "--", *sorted(read - written))
    return [name for name in listed.split("\0") if name and not _is_dvcs(Path(name))]


def _is_dvcs(path: Path) -> bool:
    return any(Path(f"{part}.dvc").exists() for part in (path, *path.parents))


def state(*but: str) -> str:
    """Stands for what a temporary copy holds: the commit, and what was changed since.

    Args:
        but: files that do not count.
    """
    diff = git("diff", "HEAD", "--binary", "--", ".", *(f":(exclude){name}" for name in but))
    return git("rev-parse", "HEAD") + diff


def name(of: str, changes: dict[str, Any]) -> str:
    """The experiment's name, the same for the same state and changes: a hash of both."""
    return f"sweep-{digest([of, changes])}"


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def figures(experiment: str) -> dict[str, Any] | None:
    """metrics/val.json of an experiment on the present commit; None where there is no such experiment."""
    commit = git("rev-parse", "HEAD")
    found = git("for-each-ref", "--format=%(objectname)", f"refs/exps/{commit[:2]}/{commit[2:]}/{experiment}")  # fmt: skip
    return Side(experiment, found).json("metrics/val.json") if found else None


def run(
    experiment: str,
    changes: dict[str, Any],
    label: str,
    starting: threading.Lock,
    unchanged: Callable[[], None],
) -> dict[str, Any]:
    """Runs an experiment, unless there is one of that name, and gives its metrics/val.json.

    Args:
        label: stands before each line of the output.
        starting: held while dvc takes up the experiment: of two that are queued it takes any.
        unchanged: raises InputError where the temporary copy would hold another state than it should.

    Raises:
        Diverged: the training did.
        InputError: the experiment failed otherwise; its lines stand above.
    """
    ended, diverged = 0, False
    # What counts is the experiment. A dvc that an interrupted sweep has left may be faster; and one
    # that ends takes up what another has just queued, which then ends well and has nothing.
    while (found := figures(experiment)) is None:
        if diverged:
            raise Diverged
        if ended:
            raise InputError(f"{experiment} must succeed; dvc exp run ended with {ended}")
        ended, diverged = _run_dvc(experiment, changes, label, starting, unchanged)
    _remove_copies(experiment)
    return found


def _run_dvc(
    experiment: str,
    changes: dict[str, Any],
    label: str,
    starting: threading.Lock,
    unchanged: Callable[[], None],
) -> tuple[int, bool]:
    """Its exit status, and whether a training diverged."""
    sets = [f"--set-param={key}={json.dumps(value)}" for key, value in changes.items()]
    # outside the copy, so that a training that was killed goes on
    checkpoints = {"CHECKPOINT_DIR": str(Path(".cache/checkpoints").resolve())}
    with starting:
        unchanged()  # meanwhile dvc itself may change files
        process = subprocess.Popen(
            ["dvc", "exp", "run", "--temp", "--name", experiment, *sets],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=checkpoints
            | os.environ
            | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert process.stdout
        for line in process.stdout:
            _show(label, line)
            if line.startswith("Reproducing experiment"):
                break
    diverged = False
    for line in process.stdout:
        _show(label, line)
        diverged |= line.startswith("error:") and DIVERGED in line
    return process.wait(), diverged


def _show(label: str, line: str) -> None:
    print(f"{label} | {line.rstrip()}", file=sys.stderr, flush=True)


def _remove_copies(experiment: str) -> None:
    """Those that killed runs have left: dvc notes their folders, and removes its own only."""
    for note in Path(".dvc/tmp/exps/run").glob("*/*.run"):
        content = json.loads(note.read_text("utf-8"))
        if content["name"] == experiment:
            shutil.rmtree(content["root_dir"], ignore_errors=True)
