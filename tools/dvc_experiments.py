"""Runs DVC experiments, each in a copy of the repository of its own: the workspace stays as it is."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import inputs, locks
from common.errors import InputError

import psutil
from dvc.config import Config
from dvc.repo import Repo

from analysis.git import git, names
from analysis.revisions import Revision

COPIES = Path(".cache/experiments")


class Diverged(InputError):
    """The loss of a training is not finite any more: a property of its parameters."""


def refuse_missing_files() -> None:
    """Raises InputError where a copy would lack files of the workspace.

    These are the files that git neither tracks nor ignores, and the ignored ones in data/input, unless DVC tracks
    them. Without another file that a stage reads, DVC refuses to run the stage.
    """
    untracked = ("ls-files", "-z", "--others", "--exclude-standard")
    listed = names(git(*untracked) + git(*untracked, "--ignored", "--", "data/input"))
    missing = [n for n in listed if not any(Path(f"{part}.dvc").exists() for part in (n, *Path(n).parents))]
    if missing:
        raise InputError(
            "all files must be in git, DVC or .gitignore, or experiments would run without them "
            f"(git add, dvc add); received {len(missing):,}: {', '.join(missing[:8])}"
        )


def snapshot() -> str:
    """A commit, of no branch, that has the files of the workspace that git tracks."""
    # asked first, since `git stash` takes a copied file for a changed one, and then fails
    is_changed = git("status", "--porcelain", "--untracked-files=no")
    return (is_changed and git("stash", "create")) or git("rev-parse", "HEAD")  # a changed submodule is no content


async def run(name: str, content: str, baseline: str, changes: dict[str, Any], label: str) -> Revision:
    """Runs an experiment, unless there is one of that name. A training that was interrupted goes on.

    Where the task is cancelled, all that it has started ends with it.

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
            for left in COPIES.glob(f"{name}-{'?' * 8}"):  # by a run that was killed; so long is what tempfile adds
                shutil.rmtree(left, ignore_errors=True)
            prefix, place = f"{name}-", COPIES.resolve()
            with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as folder:
                await _run_dvc(name, changes, _copy(content, folder), label)
                made = git("-C", folder, "rev-parse", f"refs/exps/{content[:2]}/{content[2:]}/{name}")
                git("fetch", "--quiet", "--no-write-fetch-head", folder, made)
            # there it is an experiment of `content`
            commit = git("commit-tree", f"{made}^{{tree}}", "-p", baseline, "-m", f"experiment {name}")
            git("update-ref", reference, commit)
    return Revision(name, git("rev-parse", reference))


def _copy(content: str, folder: str) -> Path:
    """The project in a repository of its own, with the objects of git and the cache of DVC that this one has."""
    identity = []
    for key in ("user.name", "user.email"):
        if not (value := git("config", "--default", "", "--get", key)):
            raise InputError(f"git must know your {key}, since an experiment is a commit (git config); received none")
        identity.append(f"--config={key}={value}")
    git("clone", "--quiet", "--shared", "--no-checkout", *identity, git("rev-parse", "--show-toplevel"), folder)
    git("-C", folder, "checkout", "--quiet", "--detach", content)
    project = Path(folder, git("rev-parse", "--show-prefix"))
    with Repo() as repo, Config(str(project / ".dvc")).edit("local") as settings:
        settings["cache"] = {"dir": repo.cache.local_cache_dir}
    return project


async def _run_dvc(name: str, changes: dict[str, Any], project: Path, label: str) -> None:
    # checkpoints lie outside the copy, so that a training that was killed goes on
    given = {name: os.environ[name] for name in inputs.FOLDER_VARIABLES if os.environ.get(name)}
    folders = {"CHECKPOINT_DIR": ".cache/checkpoints"} | given
    environment = os.environ | {name: str(Path(folder).resolve()) for name, folder in folders.items()}
    sets = [f"--set-param={key}={json.dumps(value)}" for key, value in changes.items()]
    diverged = False
    # not asyncio's: a task that is cancelled while that starts a process never learns its number
    with subprocess.Popen(
        ["dvc", "exp", "run", "--name", name, *sets],
        cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        lines = asyncio.StreamReader(limit=2**20)
        try:
            protocol = asyncio.StreamReaderProtocol(lines)
            await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, process.stdout)
            async for line in lines:
                text = line.decode(errors="replace").rstrip()
                print(f"{label} | {text}", file=sys.stderr, flush=True)
                diverged |= text.startswith("error:") and "must stay finite" in text  # as train says it
        except BaseException:  # the task is cancelled
            _kill(process.pid)
            raise
    if process.returncode:
        kind = Diverged if diverged else InputError
        raise kind(f"{name} must succeed; dvc exp run ended with {process.returncode}")


def _kill(pid: int) -> None:
    """Ends a process and all that it has started; found without psutil's comparison of clocks, which may be set."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.suspend()  # from here on it starts no other
        for child in [other.pid for other in psutil.process_iter(["ppid"]) if other.info["ppid"] == pid]:
            _kill(child)
        process.kill()
