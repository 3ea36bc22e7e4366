"""The results here beside the committed ones: which outputs differ, and why.

`make repro` and `make check` name the same cause.
"""

import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError, shorten

from analysis import dvc_lock
from analysis.git import git, names

NAMED = 8  # of what differs; more would hide the rest
RESTORE = "git restore dvc.lock metrics brings the committed figures back, dvc pull the files, where a remote has them"


@dataclass(frozen=True)
class Cause:
    """Why outputs differ, and what to do."""

    why: str
    advice: str
    is_experiment: bool = False


@dataclass(frozen=True)
class Results:
    """How the results here differ from those of a commit, as both dvc.lock say.

    Attributes:
        commit: its hash.
        written: the path of every output.
        outputs: by stage and path, the hashes that differ, in the commit and here; None where there is none.
        inputs: those that differ, in words, by stage, and by file and key as in dvc_lock.Stage.
        edited: outputs in git that are not as in the commit, though both dvc.lock have one hash for them.
    """

    commit: str
    written: set[str]
    outputs: dict[str, dict[str, tuple[str | None, str | None]]]
    inputs: dict[str, dict[tuple[str, str], str]]
    edited: list[str]

    @classmethod
    def read(cls) -> "Results | None":
        """Beside HEAD; None where it has no dvc.lock.

        Raises:
            InputError: there is no commit, or git cannot read it.
        """
        commit = git("log", "-1", "--no-show-signature", "--format=%H")
        if not git("ls-tree", "--name-only", commit, "--", f"./{dvc_lock.LOCK}"):
            return None
        before, here = dvc_lock.read(commit), dvc_lock.read()
        written = {path for lock in (before, here) for stage in lock.values() for path in stage.outputs}
        outputs, inputs = {}, {}
        for stage in before | here:
            old, new = (lock.get(stage, dvc_lock.Stage()) for lock in (before, here))
            outputs[stage] = _differing(old.outputs, new.outputs)
            inputs[stage] = {
                (file, key): f"{key} ({shorten(values[0], 40)}, here {shorten(values[1], 40)})" if key else file
                for (file, key), values in _differing(old.inputs, new.inputs).items()
            }
        other = {path for differing in outputs.values() for path in differing}
        edited = [path for path in _uncommitted(written) if not any(map(Path(path).is_relative_to, other))]
        return cls(commit, written, outputs, inputs, edited)


def _differing(before: dict, here: dict) -> dict[Any, tuple[Any, Any]]:
    both = {key: (before.get(key), here.get(key)) for key in before | here}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def _uncommitted(paths: Iterable[str]) -> list[str]:
    """The files of git among or below `paths` that are not as in HEAD."""
    return names(git("diff", "--name-only", "--relative", "-z", "HEAD", "--", *paths)) if paths else []


def would_run(pipeline: str, *options: str) -> list[str]:
    """The stages that `dvc repro` would run, as far as DVC names them in its text; an InputError has its own errors."""
    folder, words = Path(pipeline).parent, ["dvc", "repro", "--dry", *options]
    done = subprocess.run(words, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    output = done.stdout + done.stderr
    # without data DVC fails at the first stage that would run, and names it
    found = re.findall(r"(?:^Running stage|failed to reproduce) '(.+?)'", output, re.M)
    if done.returncode and not found:
        reason = [*re.findall("^ERROR: (.+)", output, re.M), *output.split("\n")][0]
        raise InputError(f"dvc must be able to read {pipeline}; it said: {reason}")
    keys = dvc_lock.leaves(params.read_yaml(Path(pipeline), dict[str, Any]))
    is_known = "Data and pipelines are up to date" in output and not any(key.endswith(".frozen") for key in keys)
    return found or ([] if is_known else ["what is frozen, or DVC does not name,"])


def _changed_inputs(results: Results, stages: list[str]) -> Iterator[Cause]:
    """What these stages depend on and no stage writes, as far as it differs."""
    every = {key: words for stage in stages for key, words in results.inputs[stage].items()}
    changed = {(file, key): words for (file, key), words in every.items() if file not in results.written}
    files = sorted({file for file, _ in changed})
    # data/input is ignored by git, so it may have what git does not know
    uncommitted = files and [*_uncommitted(files), *names(git("ls-files", "--others", "-z", "--", *files))]
    here = {file for file in files if any(Path(path).is_relative_to(file) for path in uncommitted)}
    if experiment := [words for (file, _), words in changed.items() if file in here]:
        yield Cause(
            f"uncommitted changes to {listed(experiment)}: an experiment, not a fault",
            "make compare A=HEAD says which model is better. Commit the changes with dvc.lock and metrics (pictures in "
            f"data/input: dvc add), or take them back: git restore for files that git has, {RESTORE}, then make repro",
            is_experiment=True,
        )
    if stale := [words for (file, _), words in changed.items() if file not in here]:
        yield Cause(
            f"the commit was made without its results: its dvc.lock is older than {listed(stale)}",
            "commit dvc.lock and metrics as they are now",
        )


def listed(texts: list[str]) -> str:
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def causes(results: Results) -> Iterator[Cause]:
    """Why outputs are not as committed; none where they are.

    A stage with changed inputs needs no other cause, nor does one that depends on its outputs.
    """
    other = [stage for stage, differing in results.outputs.items() if differing]
    yield from _changed_inputs(results, other)
    if results.edited:
        yield Cause(
            f"{listed(results.edited)} is not as committed, though dvc.lock is: one of the two files was edited by hand",
            f"git restore {' '.join(results.edited[:NAMED])}, then make repro: what differs again was edited "
            "before the commit",
        )
    if unexplained := [stage for stage in other if not results.inputs[stage]]:
        yield _other_arithmetic(results.commit, unexplained)


def _other_arithmetic(commit: str, stages: list[str]) -> Cause:
    """Why these stages, with the same inputs, gave other outputs."""
    from analysis.revisions import HERE, Revision
    from training import machine

    before = Revision(commit[:7], commit)
    committed, here = (
        [side.json("metrics/train.json").get(key) for key in ("precision", "device")] for side in (before, HERE)
    )
    is_recorded = "train" in stages and None not in committed  # earlier versions did not
    if is_recorded and (committed != here or {"bfloat16", "cuda"} & {*here}):
        return Cause(
            "train computed in {} on {} here, in {} on {} in the commit".format(*here, *committed),
            "train.precision: float32 and train.device: cpu give the same bytes on every x86-64 processor with AVX2 so far",
        )
    libraries = other_libraries((before.content("requirements.txt") or b"").decode())
    if libraries:
        return Cause(
            f"the commit locks other libraries in requirements.txt than are installed: {listed(libraries)}",
            "pip install -r requirements.txt, then dvc repro --force. If the upgrade is meant, "
            "docs/reproducibility.md says how to commit it",
        )
    processor = f"{machine.processor()} ({platform.machine()})"
    if not machine.is_portable():
        return Cause(
            f"this processor gives other last bits than every x86-64 with AVX2 so far: {processor}",
            f"use these results here, but do not commit them as they are; {RESTORE}",
        )
    return Cause(
        f"unknown. Inputs, precision, device, libraries and arithmetic are as committed: {listed(stages)} is not "
        "reproducible here, or the committed files are not what the stages wrote",
        f"make rebuild on another machine tells which. Please report it with these lines and: Python {platform.python_version()}, "
        f"PyTorch {metadata.version('torch')}, {platform.platform()}, {processor}",
    )


def other_libraries(requirements: str) -> list[str]:
    """The libraries that are not installed in the version that requirements.txt locks."""
    from packaging.requirements import Requirement

    found = []
    for line in re.findall(r"^\w[^\\\n]*", requirements, re.M):  # no comment, option or hash
        locked = Requirement(line)
        version = next((library.version for library in metadata.distributions(name=locked.name)), None)
        is_for_here = locked.marker is None or locked.marker.evaluate()
        if is_for_here and (version is None or version not in locked.specifier):
            rule = str(locked.specifier).removeprefix("==")
            found.append(f"{locked.name} {version or 'not installed'} (locked: {rule})")
    return found
