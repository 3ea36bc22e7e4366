"""A revision to compare: a commit, an experiment, or the working directory."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev

from analysis import dvc_lock, metric_files
from analysis.git import content, git, shallow

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
        return self.name if known else f"{self.name} ({(self.commit or '')[:7]})"

    @property
    def is_experiment(self) -> bool:
        """Whether it is one of DVC's experiments, which no branch holds."""
        return self.baseline != self.commit

    @property
    def baseline(self) -> str | None:
        """The commit that an experiment was started from; the commit itself where it is no experiment."""
        found = self.commit and git(
            "for-each-ref", f"--points-at={self.commit}", "--format=%(refname)", EXPERIMENTS
        )
        if not found or git("branch", "--all", "--contains", str(self.commit)):
            return self.commit
        return "".join(found.split("/")[2:4])

    def content(self, path: str) -> bytes | None:
        """The bytes of a file; None where the revision does not have it.

        Raises:
            InputError: git cannot read it.
        """
        if self.commit is None:
            return Path(path).read_bytes() if Path(path).exists() else None
        return content(self.commit, path)

    def json(self, path: str) -> dict[str, Any]:
        """The figures of a file; none where it is not there.

        Raises:
            InputError: the file is damaged.
        """
        return metric_files.parse(self.content(path) or b"{}", f"{path} in {self}")

    def table(self, path: str, *columns: str, **options: Any) -> pd.DataFrame | None:
        """The rows of a CSV file, with the columns that are named; None where it is not there.

        Raises:
            InputError: the file is damaged, or lacks one of them.
        """
        content = self.content(path)
        if content is None:
            return None
        return metric_files.table(io.BytesIO(content), columns, f"{path} in {self}", **options)

    def predicted(self) -> list[str]:
        """The parts that have predictions."""
        return [part for part in metric_files.PARTS if self.content(f"metrics/predictions/{part}.csv")]

    def lock(self) -> dict[str, dvc_lock.Stage]:
        """What dvc.lock says of each stage; nothing where the revision has none.

        Raises:
            InputError: dvc.lock is damaged.
        """
        lock = self.content("dvc.lock")
        return {} if lock is None else dvc_lock.parse(lock, f" in {self}")

    def seed(self) -> int:
        """train.seed, as dvc.lock has it; -1 where it has no training."""
        return self.lock().get("train", dvc_lock.Stage()).inputs.get(("params.yaml", "train.seed"), -1)

    def outputs(self) -> dict[str, str]:
        """The hash of every output of the pipeline by path, as dvc.lock has it; errors are those of `lock`."""
        return {path: md5 for stage in self.lock().values() for path, md5 in stage.outputs.items()}

    def code(self) -> dict[str, str]:
        """The hash of every file under src/ that a stage depends on, as `outputs`."""
        inputs = {
            path: md5 for stage in self.lock().values() for (path, key), md5 in stage.inputs.items() if not key
        }
        return {path: md5 for path, md5 in inputs.items() if path.startswith("src/")}


HERE = Revision(WORKSPACE, None)


def resolve(name: str) -> Revision:
    """The revision that a name stands for: as git names it, an experiment, or `workspace`.

    Raises:
        InputError: there is none.
    """
    if name == WORKSPACE:
        return HERE
    try:
        with Repo() as repo:
            return Revision(name, resolve_rev(repo.scm, name))
    except RevError:
        rule = f"a revision must be a commit, an experiment or {WORKSPACE}"
        raise InputError(f"{rule}; received {name}{shallow()}") from None
