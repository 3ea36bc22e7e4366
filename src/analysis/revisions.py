"""A revision to compare: a commit, an experiment, or the working directory."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from common.errors import InputError, first_line, one_line

import pandas as pd
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import resolve_rev

from analysis import dvc_lock, metric_files
from analysis.git import content, git, shallow
from analysis.marked_pages import escaped

WORKSPACE = "workspace"
EXPERIMENTS = "refs/exps/??/*/*"


@dataclass(frozen=True)
class Revision:
    """What git has at a revision. Nothing is checked out, and no data is needed.

    Attributes:
        name: as the user wrote it.
        commit: None for the working directory.
    """

    name: str
    commit: str | None

    def __str__(self) -> str:
        known = not self.commit or self.commit.startswith(self.name)
        name = escaped(one_line(self.name))  # a branch may be called <b>, or @somebody
        return name if known else f"{name} ({(self.commit or '')[:7]})"

    @property
    def is_experiment(self) -> bool:
        """Whether it is one of DVC's experiments, which no branch holds."""
        if self.commit is None or not git("for-each-ref", f"--points-at={self.commit}", EXPERIMENTS):
            return False
        return not git("for-each-ref", f"--contains={self.commit}", "refs/heads", "refs/remotes")

    def content(self, path: str) -> bytes | None:
        """The bytes of a file; None where the revision does not have it; errors are those of `git.content`."""
        return content(self.commit, path)

    def json(self, path: str, *needed: str) -> dict[str, Any]:
        """The figures of a file; none where it has none or is not there; errors are those of `metric_files.parse`."""
        found, name = self.content(path) or b"{}", f"{path} in {self}"
        return metric_files.parse(found, name) and metric_files.parse(found, name, needed)

    def table(self, path: str, *columns: str, **options: Any) -> pd.DataFrame | None:
        """The rows of a CSV file, with the columns that are named; None where it is not there.

        Errors are those of `metric_files.table`.
        """
        found = self.content(path)
        if found is None:
            return None
        return metric_files.table(io.BytesIO(found), columns, f"{path} in {self}", **options)

    def predicted(self) -> list[str]:
        """The parts that have predictions."""
        return [part for part in metric_files.PARTS if self.content(f"metrics/predictions/{part}.csv")]

    def lock(self) -> dict[str, dvc_lock.Stage]:
        """What dvc.lock says of each stage, as `dvc_lock.parse`; nothing where the revision has none."""
        lock = self.content("dvc.lock")
        return {} if lock is None else dvc_lock.parse(lock, f" in {self}")

    def seed(self) -> int:
        """train.seed, as dvc.lock has it; -1 where it has no training."""
        return self.lock().get("train", dvc_lock.Stage()).inputs.get(("params.yaml", "train.seed"), -1)

    def outputs(self) -> dict[str, str]:
        """The hash of every output of the pipeline by path, as `lock` has it."""
        return {path: md5 for stage in self.lock().values() for path, md5 in stage.outputs.items()}

    def data(self) -> dict[str, str]:
        """The start of the hash of every output before training, as `outputs`."""
        return {path: md5[:7] for path, md5 in self.outputs().items() if path.startswith("data/")}

    def code(self) -> dict[str, str]:
        """The start of the hash of every file that no stage writes, every command, and the version of every library."""
        outs = {"params.yaml", *self.outputs()}
        found = {key or path: value if key else value[:7] for (path, key), value in self._inputs() if path not in outs}
        locked = (self.content("requirements.txt") or b"").decode(errors="replace")
        return found | dict(re.findall(r"^([\w.-]+)==([^\s;]+)", locked, re.M))

    def parameters(self) -> dict[str, Any]:
        """Every parameter that a stage depends on by its key, as `outputs`."""
        return {key: value for (path, key), value in self._inputs() if path == "params.yaml"}

    def _inputs(self) -> Iterator[tuple[tuple[str, str], Any]]:
        return (item for stage in self.lock().values() for item in stage.inputs.items())


HERE = Revision(WORKSPACE, None)


def experiments(pattern: str = EXPERIMENTS) -> list[Revision]:
    """The experiments of this clone whose reference matches `pattern`, in the order in which they were made."""
    listed = git("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname:lstrip=4)", pattern)
    return [Revision(name, commit) for commit, _, name in (line.partition(" ") for line in listed.splitlines())]


def resolve(name: str) -> Revision:
    """The revision that a name stands for: as git names it, an experiment, or `workspace`.

    Raises:
        InputError: there is none, or git has no commit here.
    """
    git("log", "-1", "--format=%H")  # DVC's libraries end in a traceback where git says why it cannot
    if name == WORKSPACE:
        return HERE
    rule = f"a revision must be a commit, an experiment or {WORKSPACE}; received {name or 'none'}"
    try:
        with Repo() as repo:
            found = resolve_rev(repo.scm, name or "''")  # git takes an empty name for HEAD
            return Revision(name, git("rev-parse", "--verify", f"{found}^{{commit}}"))
    except (InputError, DvcException, ValueError) as error:
        raise InputError(f"{rule}{shallow()}: {first_line(error)}") from None
