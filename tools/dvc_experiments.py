"""Runs DVC experiments, each in a copy of the repository of its own: the workspace stays as it is."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import locks
from common.errors import InputError

import psutil
from dvc.repo import Repo
from ruamel.yaml import YAML

from analysis.git import git, names
from analysis.revisions import Revision

COPIES = Path(".cache/experiments")
DIVERGED = "must stay finite"  # as train says it
starting, stopped = threading.Lock(), threading.Event()
running: set[subprocess.Popen] = set()


class Diverged(InputError):
    """The loss of a training is not finite any more: a property of its parameters."""


def refuse_missing_files() -> None:
    """Raises InputError where a copy would lack files of the workspace.

    These are the files that git neither tracks nor ignores, and ignored files that a stage reads, unless
    DVC tracks them.
    """
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"].values()
    read = {dep for stage in stages for dep in stage["deps"]}
    written = {out for stage in stages for out in stage["outs"] if isinstance(out, str)}
    untracked = ("ls-files", "-z", "--others", "--exclude-standard")
    listed = names(git(*untracked) + git(*untracked, "--ignored", "--", *sorted(read - written)))
    missing = [n for n in listed if not any(Path(f"{part}.dvc").exists() for part in (n, *Path(n).parents))]
    if missing:
        raise InputError(
            "all files must be in git, DVC or .gitignore, or experiments would run without them "
            f"(git add, dvc add); received {', '.join(missing)}"
        )


def snapshot() -> str:
    """A commit, of no branch, that has the files of the workspace that git tracks."""
    return git("stash", "create") or git("rev-parse", "HEAD")


def run(name: str, content: str, baseline: str, changes: dict[str, Any], label: str) -> Revision:
    """Runs an experiment, unless there is one of that name. A training that was interrupted goes on.

    Args:
        content: the commit that has its files.
        baseline: the commit that it is an experiment of, for `dvc exp show`.
        changes: to params.yaml, by key.
        label: prefix of each line of the output.

    Raises:
        Diverged: the training did.
        InputError: the experiment failed for another reason, which its output says.
    """
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    with locks.exclusive(COPIES / f"{name}.lock"):
        if not git("for-each-ref", reference):
            with _copy(name, content) as project:
                _run_dvc(name, changes, project, label)
                there = ("-C", str(project), "rev-parse")
                made = git(*there, f"refs/exps/{content[:2]}/{content[2:]}/{name}")
                git("fetch", "--quiet", "--no-write-fetch-head", git(*there, "--show-toplevel"), made)
            # there it is an experiment of `content`
            commit = git("commit-tree", f"{made}^{{tree}}", "-p", baseline, "-m", f"experiment {name}")
            git("update-ref", reference, commit)
    return Revision(name, git("rev-parse", reference))


@contextmanager
def all_or_none() -> Iterator[None]:
    """Within the block, an exception ends the experiments that other threads run, with all that these started."""
    stopped.clear()
    try:
        yield
    except BaseException:
        with starting:
            stopped.set()
            for process in running:
                _kill(psutil.Process(process.pid))
        raise


def _kill(process: psutil.Process) -> None:
    """Ends a process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        process.suspend()  # from here on it starts no other
        for child in process.children():
            _kill(child)
        process.kill()


@contextmanager
def _copy(name: str, content: str) -> Iterator[Path]:
    """The project in a repository of its own, with the objects of git and the cache of DVC that this one has."""
    for left in COPIES.glob(f"{name}-*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=COPIES, ignore_cleanup_errors=True) as folder:
        there = ("-C", folder)
        git("init", "--quiet", folder)
        objects = Path(git("rev-parse", "--git-path", "objects")).resolve()
        Path(folder, ".git/objects/info/alternates").write_text(f"{objects}\n")
        git(*there, "checkout", "--quiet", "--detach", content)
        for key in ("user.name", "user.email"):  # which an experiment needs
            git(*there, "config", key, git("config", key))
        project = Path(folder).resolve() / git("rev-parse", "--show-prefix")
        with Repo() as repo:
            (project / ".dvc/config.local").write_text(f"[cache]\n    dir = {repo.cache.local_cache_dir}\n")
        yield project


def _run_dvc(name: str, changes: dict[str, Any], project: Path, label: str) -> None:
    environment = {
        # outside the copy, so that a training that was killed goes on
        "CHECKPOINT_DIR": str(Path(".cache/checkpoints").resolve()),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    sets = [f"--set-param={key}={json.dumps(value)}" for key, value in changes.items()]
    with starting:
        if stopped.is_set():
            raise InputError(f"{name} must have a sweep that goes on; received one that ends")
        process = subprocess.Popen(
            ["dvc", "exp", "run", "--name", name, *sets],
            cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        running.add(process)
    diverged = False
    assert process.stdout
    for line in process.stdout:
        print(f"{label} | {line.rstrip()}", file=sys.stderr, flush=True)
        diverged |= line.startswith("error:") and DIVERGED in line
    with starting:
        running.remove(process)
    if process.wait():
        kind = Diverged if diverged else InputError
        raise kind(f"{name} must succeed; dvc exp run ended with {process.returncode}")
