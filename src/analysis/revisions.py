"""A revision to compare: a commit, an experiment, or the working directory."""

import io
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev
from ruamel.yaml import YAML, YAMLError

from analysis import metric_files
from analysis.git import git

WORKSPACE = "workspace"


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
        if not self.commit or not git("for-each-ref", f"--points-at={self.commit}", "refs/exps/??/*/*"):
            return False
        return not git("branch", "--all", "--contains", self.commit)

    def content(self, path: str) -> bytes | None:
        """The bytes of a file; None where it is not there."""
        if self.commit is None:
            return Path(path).read_bytes() if Path(path).exists() else None
        done = subprocess.run(["git", "show", f"{self.commit}:./{path}"], capture_output=True, check=False)
        return None if done.returncode else done.stdout

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

    def outputs(self) -> dict[str, str]:
        """The hash of every output of the pipeline by path, as dvc.lock has it.

        Raises:
            InputError: dvc.lock is damaged.
        """
        return self._locked("outs")

    def code(self) -> dict[str, str]:
        """The hash of every file under src/ that a stage depends on, as `outputs`."""
        return {path: md5 for path, md5 in self._locked("deps").items() if path.startswith("src/")}

    def _locked(self, kind: str) -> dict[str, str]:
        try:
            stages = (YAML(typ="safe").load(self.content("dvc.lock") or b"{}") or {}).get("stages", {})
            entries = [entry for stage in stages.values() for entry in stage.get(kind, [])]
            return {entry["path"]: entry["md5"] for entry in entries}
        except (YAMLError, AttributeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"dvc.lock in {self} must be as DVC writes it; received: {reason}") from None


def resolve(name: str) -> Revision:
    """The revision that a name stands for: as git names it, an experiment, or `workspace`.

    Raises:
        InputError: there is none.
    """
    if name == WORKSPACE:
        return Revision(name, None)
    try:
        with Repo() as repo:
            return Revision(name, resolve_rev(repo.scm, name))
    except RevError:
        raise InputError(f"a revision must be a commit, an experiment or {WORKSPACE}; received {name}") from None
