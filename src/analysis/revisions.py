"""One side of a comparison: a commit, an experiment, or the working directory."""

import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError

# isort: split
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev
from ruamel.yaml import YAML, YAMLError

WORKSPACE = "workspace"
PARTS = ("val", "test")


@dataclass(frozen=True)
class Side:
    """What git has at a revision. Nothing is checked out, and no data is needed.

    Attributes:
        name: as it was asked for.
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
        if not self.commit or not git(
            "for-each-ref", f"--points-at={self.commit}", "refs/exps/??/*/*"
        ):
            return False
        return not git("branch", "--all", "--contains", self.commit)

    def text(self, path: str) -> str | None:
        """The content of a file; None where it is not there."""
        if self.commit is None:
            return Path(path).read_text("utf-8") if Path(path).exists() else None
        done = subprocess.run(
            ["git", "show", f"{self.commit}:{path}"], capture_output=True, check=False
        )
        return None if done.returncode else done.stdout.decode("utf-8")

    def json(self, path: str) -> dict[str, Any]:
        """The figures of a file; none where it is not there.

        Raises:
            InputError: the file is damaged.
        """
        try:
            return dict(json.loads(self.text(path) or "{}"))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} in {self} must hold figures; received: {error}") from None

    def table(self, path: str, *columns: str, **options: Any) -> pd.DataFrame | None:
        """The rows of a CSV file, with the columns that are named; None where it is not there.

        Raises:
            InputError: the file is damaged, or lacks one of them.
        """
        text = self.text(path)
        if text is None:
            return None
        try:
            return pd.read_csv(io.StringIO(text), keep_default_na=False, **options)[list(columns)]
        except (ValueError, KeyError) as error:  # pandas' own are ValueErrors
            raise InputError(
                f"{path} in {self} must be a table with {', '.join(columns)}; received: {error}"
            ) from None

    def predicted(self) -> list[str]:
        """The parts that have predictions."""
        return [part for part in PARTS if self.text(f"metrics/predictions/{part}.csv")]

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
            stages = (YAML(typ="safe").load(self.text("dvc.lock") or "{}") or {}).get("stages", {})
            entries = [entry for stage in stages.values() for entry in stage.get(kind, [])]
            return {entry["path"]: entry["md5"] for entry in entries}
        except (YAMLError, AttributeError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"dvc.lock in {self} must be as DVC writes it; received: {reason}"
            ) from None


def side(name: str) -> Side:
    """The side that a name stands for: a revision as git names it, an experiment, or `workspace`.

    Raises:
        InputError: there is none.
    """
    if name == WORKSPACE:
        return Side(name, None)
    try:
        with Repo() as repo:
            return Side(name, resolve_rev(repo.scm, name))
    except RevError:
        raise InputError(
            f"a side must be a commit, an experiment or {WORKSPACE}; received {name}"
        ) from None


def git(*words: str) -> str:
    """What git says, without the line break at its end.

    Raises:
        InputError: it fails, which its own line tells.
    """
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nothing"])[0]
        raise InputError(f"git {' '.join(words)} must succeed; it said: {reason}")
    return done.stdout.strip()
