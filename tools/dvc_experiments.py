"""Runs DVC experiments, each in a temporary copy of the files in git: the workspace stays as it is."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.errors import InputError

from ruamel.yaml import YAML

from analysis.git import git, names
from analysis.revisions import Revision

DIVERGED = "must stay finite"  # as train says it


class Diverged(Exception):
    """The loss of a training is not finite any more: a property of its parameters."""


def missing_files() -> list[str]:
    """The files of the workspace that a temporary copy would lack.

    These are the files that git neither tracks nor ignores, and ignored files that a stage reads, unless
    DVC tracks them.
    """
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    read = {dep for stage in stages for dep in stage["deps"]}
    written = {out for stage in stages for out in stage["outs"] if isinstance(out, str)}
    untracked = ("ls-files", "-z", "--others", "--exclude-standard")
    listed = git(*untracked) + git(*untracked, "--ignored", "--", *sorted(read - written))
    # but for those that DVC tracks
    return [n for n in names(listed) if not any(Path(f"{part}.dvc").exists() for part in (n, *Path(n).parents))]


def state(*excluded: str) -> str:
    """Identifies the content of a temporary copy: the commit, and the changes since.

    Args:
        excluded: files that do not count.
    """
    diff = git("diff", "HEAD", "--binary", "--", ".", *(f":(exclude){name}" for name in excluded))
    return git("rev-parse", "HEAD") + diff


def name(state: str, changes: dict[str, Any]) -> str:
    """A name of an experiment or a sweep, the same for the same state and changes: a hash of both."""
    return f"sweep-{hashlib.sha256(json.dumps([state, changes]).encode()).hexdigest()[:8]}"


def figures(experiment: str) -> dict[str, Any] | None:
    """metrics/val.json of an experiment on the present commit; None where there is no such experiment."""
    commit = git("rev-parse", "HEAD")
    found = git("for-each-ref", "--format=%(objectname)", f"refs/exps/{commit[:2]}/{commit[2:]}/{experiment}")  # fmt: skip
    return Revision(experiment, found).json("metrics/val.json") if found else None


def run(
    experiment: str, changes: dict[str, Any], label: str, starting: threading.Lock, check_state: Callable[[], None]
) -> dict[str, Any]:
    """Runs an experiment, unless there is one of that name, and gives its metrics/val.json.

    Args:
        label: prefix of each line of the output.
        starting: held until dvc has started the experiment: of two that are queued it starts any.
        check_state: raises InputError where the temporary copy would hold the wrong state.

    Raises:
        Diverged: the training did.
        InputError: the experiment failed for another reason, which its output says.
    """
    sets = [f"--set-param={key}={json.dumps(value)}" for key, value in changes.items()]
    command = ["dvc", "exp", "run", "--temp", "--name", experiment, *sets]
    status, diverged = 0, False
    # Only the experiment counts, not how dvc ends. A dvc that an interrupted sweep has left may finish
    # it first. And a dvc that ends may start what another one has just queued: the other one then
    # succeeds without an experiment.
    while (found := figures(experiment)) is None:
        if diverged:
            raise Diverged
        if status:
            raise InputError(f"{experiment} must succeed; dvc exp run ended with {status}")
        status, diverged = _run_dvc(command, label, starting, check_state)
    _remove_copies(experiment)
    return found


def _run_dvc(
    command: list[str], label: str, starting: threading.Lock, check_state: Callable[[], None]
) -> tuple[int, bool]:
    """Its exit status, and whether a training diverged."""
    environment = {
        # outside the copy, so that a training that was killed goes on
        "CHECKPOINT_DIR": str(Path(".cache/checkpoints").resolve()),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    diverged = False
    with ExitStack() as start:
        start.enter_context(starting)
        check_state()  # once dvc is at work, it may change files itself
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        assert process.stdout
        for line in process.stdout:
            print(f"{label} | {line.rstrip()}", file=sys.stderr, flush=True)
            diverged |= line.startswith("error:") and DIVERGED in line
            if line.startswith("Reproducing experiment"):
                start.close()
    return process.wait(), diverged


def _remove_copies(experiment: str) -> None:
    """Removes the copies that killed runs have left: dvc notes their folders, and removes only its own."""
    for note in Path(".dvc/tmp/exps/run").glob("*/*.run"):
        content = json.loads(note.read_text("utf-8"))
        if content["name"] == experiment:
            shutil.rmtree(content["root_dir"], ignore_errors=True)
