"""The results here beside the committed ones: which outputs differ, and why.

`make repro` and `make check` name the same cause.
"""

import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from common.errors import shorten

from analysis import dvc_lock
from analysis.git import git, names

CPUINFO = Path("/proc/cpuinfo")
NAMED = 8  # of what differs; more would hide the rest
RESTORE = (
    "git restore dvc.lock metrics brings the committed figures back, dvc pull the files, where a remote has them"
)


@dataclass(frozen=True)
class Cause:
    """Why outputs differ, and what to do."""

    why: str
    advice: str
    is_experiment: bool = False


@dataclass(frozen=True)
class Results:
    """The results here beside those of a commit.

    Attributes:
        commit: its hash.
        before, here: what both dvc.lock say, by stage.
        edited: outputs in git that are not as in the commit, though both dvc.lock have one hash for them.
    """

    commit: str
    before: dict[str, dvc_lock.Stage]
    here: dict[str, dvc_lock.Stage]
    edited: list[str]

    @classmethod
    def read(cls) -> "Results | None":
        """Beside HEAD; None where it has no dvc.lock.

        Raises:
            InputError: there is no commit, or git cannot read it.
        """
        commit = git("log", "-1", "--format=%H")
        if not git("ls-tree", "--name-only", commit, "--", f"./{dvc_lock.LOCK}"):
            return None
        before, here = dvc_lock.read(commit), dvc_lock.read()
        outputs = [path for stage in here.values() for path in stage.outputs]
        changed = names(git("diff", "--name-only", "--relative", "-z", "HEAD", "--", *outputs))
        known = cls(commit, before, here, [])
        other = {path for stage in known.stages() for path in known.other_outputs(stage)}
        edited = [path for path in changed if not any(Path(path).is_relative_to(out) for out in other)]
        return cls(commit, before, here, edited)

    def stages(self) -> list[str]:
        return [*(self.before | self.here)]

    def _both(self, stage: str) -> list[dvc_lock.Stage]:
        return [stages.get(stage, dvc_lock.Stage()) for stages in (self.before, self.here)]

    def outputs(self, stage: str) -> list[str]:
        return list(dict.fromkeys(path for one in self._both(stage) for path in one.outputs))

    def other_outputs(self, stage: str) -> dict[str, tuple[str | None, str | None]]:
        """The hashes that differ, of the commit and here."""
        before, here = (one.outputs for one in self._both(stage))
        return {path: (before.get(path), here.get(path)) for path in _differing(before, here)}

    def other_inputs(self, stage: str) -> dict[tuple[str, str], str]:
        """The inputs that differ, by file and key as in dvc_lock.Stage, in words."""
        before, here = (one.inputs for one in self._both(stage))
        words = {}
        for file, key in _differing(before, here):
            values = [shorten(inputs.get((file, key)), 40) for inputs in (before, here)]
            words[file, key] = f"{key} ({values[0]}, here {values[1]})" if key else file
        return words

    def is_reproduced(self) -> bool:
        return not self.edited and not any(self.other_outputs(stage) for stage in self.stages())


def would_run(pipeline: str, *options: str) -> list[str]:
    """The stages that `dvc repro` would run, as far as DVC names them; it says so by its text alone."""
    words = ["dvc", "repro", "--dry", *options, pipeline]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if "Data and pipelines are up to date" in output:
        return []
    # without data DVC fails at the first stage that would run, and names it
    return re.findall(r"(?:^Running stage|failed to reproduce) '(.+?)'", output, re.M) or ["DVC cannot say what"]


def _differing(before: dict, here: dict) -> list[Any]:
    return [key for key in before | here if before.get(key) != here.get(key)]


def changed_inputs(results: Results, stages: Iterable[str]) -> list[Cause]:
    """What these stages depend on and no stage writes, as far as it differs."""
    written = {path for stage in results.stages() for path in results.outputs(stage)}
    changed = {key: text for stage in stages for key, text in results.other_inputs(stage).items()}
    changed = {(file, key): text for (file, key), text in changed.items() if file not in written}
    files = sorted({file for file, _ in changed})
    # data/input is ignored by git, so it may have what git does not know
    uncommitted = files and [
        *names(git("diff", "--name-only", "--relative", "-z", "HEAD", "--", *files)),
        *names(git("ls-files", "--others", "-z", "--", *files)),
    ]
    here = {key for key in changed if any(Path(path).is_relative_to(key[0]) for path in uncommitted)}
    experiment = [text for key, text in changed.items() if key in here]
    stale = [text for key, text in changed.items() if key not in here]
    causes = []
    if experiment:
        causes.append(
            Cause(
                f"uncommitted changes to {listed(experiment)}: an experiment, not a fault",
                "make compare A=HEAD says which model is better. Commit the changes with dvc.lock and metrics, "
                f"or take them back: git restore undoes the changes, {RESTORE}, then make repro",
                is_experiment=True,
            )
        )
    if stale:
        causes.append(
            Cause(
                f"the commit was made without its results: its dvc.lock is older than {listed(stale)}",
                "commit dvc.lock and metrics as they are now",
            )
        )
    return causes


def listed(texts: list[str]) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def causes(results: Results) -> list[Cause]:
    """Why outputs are not as committed; none where they are.

    A stage with changed inputs needs no other cause, nor does one that depends on its outputs.
    """
    other = [stage for stage in results.stages() if results.other_outputs(stage)]
    found = changed_inputs(results, other)
    if results.edited:
        found.append(
            Cause(
                f"{listed(results.edited)} is not as committed, though dvc.lock is: one of the two files was edited by hand",
                f"git restore {' '.join(results.edited[:NAMED])}, then make repro: what differs again was edited "
                "before the commit",
            )
        )
    unexplained = [stage for stage in other if not results.other_inputs(stage)]
    if unexplained:
        found.append(_other_arithmetic(results.commit, unexplained))
    return found


def _other_arithmetic(commit: str, stages: list[str]) -> Cause:
    """Why these stages, with the same inputs, gave other outputs."""
    from analysis.revisions import WORKSPACE, Revision

    before = Revision(commit[:7], commit)
    figures = [side.json("metrics/train.json") for side in (before, Revision(WORKSPACE, None))]
    committed, here = ({key: known.get(key) for key in ("precision", "device")} for known in figures)
    portable = "train.precision: float32 and train.device: cpu give the same bytes on every x86-64 processor"
    if "train" in stages and committed != here and all(committed.values()) and all(here.values()):
        why = "train computed in {precision} on {device} here".format_map(here)
        return Cause(f"{why}, in {{precision}} on {{device}} in the commit".format_map(committed), portable)
    if "train" in stages and (here["precision"] == "bfloat16" or here["device"] == "cuda"):
        why = "train computed in {precision} on {device}, which gives other last bits on other machines"
        return Cause(why.format_map(here), portable)
    libraries = other_libraries((before.content("requirements.txt") or b"").decode())
    if libraries:
        return Cause(
            f"the commit locks other libraries in requirements.txt than are installed: {listed(libraries)}",
            "pip install -r requirements.txt, then dvc repro --force. If the upgrade is meant, "
            "docs/reproducibility.md says how to commit it",
        )
    reason = other_processor()
    if reason:
        return Cause(reason, f"use these results here, but do not commit them as they are; {RESTORE}")
    from training.machine import processor

    return Cause(
        f"unknown. Inputs, precision, device, libraries and arithmetic are as committed: {listed(stages)} is not "
        "reproducible here, or the committed files are not what the stages wrote",
        f"make rebuild on another machine tells which. Please report it with these lines and: Python {platform.python_version()}, "
        f"PyTorch {metadata.version('torch')}, {platform.platform()}, {processor()}",
    )


def other_libraries(requirements: str) -> list[str]:
    """The libraries that are not installed in the version that requirements.txt locks."""
    from packaging.requirements import Requirement

    found = []
    for line in requirements.splitlines():
        if not line[:1].isalnum():  # a comment, an option or a hash
            continue
        locked = Requirement(line.rstrip("\\ "))
        if locked.marker and not locked.marker.evaluate():
            continue
        try:
            installed = metadata.version(locked.name)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed == "not installed" or installed not in locked.specifier:
            found.append(f"{locked.name} {installed} (locked: {str(locked.specifier).removeprefix('==')})")
    return found


def other_processor() -> str | None:
    """Why arithmetic here is not the portable one; None where it is."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"this processor is no x86-64 ({platform.machine()}): it gives other last bits"
    if CPUINFO.exists() and "avx2" not in CPUINFO.read_text().split():
        return "this processor has no AVX2: it gives other last bits"
    from training import machine

    return None if machine.is_portable() else "a known calculation gives other last bits here than on any x86-64"
