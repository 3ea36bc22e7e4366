"""Whether what is committed belongs together: `make check`. Needs neither data nor model.

It says all that it finds, then fails: dvc.lock that is not up to date, figures that do not follow from
the predictions, stages that import or read what dvc.yaml does not list, parameters that nobody reads,
and files in git that are DVC's or too large for git.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis import declarations, seeds, statistics, systems, tracked
from common.errors import InputError

PIPELINES = {"dvc.yaml": "make repro", "published/dvc.yaml": "make published"}
LARGEST_IN_GIT = 1_000_000  # bytes


def lock_problems() -> Iterator[str]:
    """DVC's own view. It says by its text alone whether a stage would run."""
    stages = []
    for pipeline, command in PIPELINES.items():
        done = subprocess.run(
            ["dvc", "repro", "--allow-missing", "--dry", pipeline],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        if "Data and pipelines are up to date" in said:
            continue
        found = [
            line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")
        ]
        # without data DVC fails at the first stage that would run, and names it
        found += re.findall(r"failed to reproduce '(.+?)'", said)
        yield f"{Path(pipeline).with_suffix('.lock')} is not up to date ({command}): {', '.join(found) or 'DVC cannot say what'} would run"
        stages += found or [""]
    if not stages:
        return
    status = subprocess.run(["dvc", "status"], capture_output=True, text=True, check=False).stdout
    modified = [
        " ".join(line.split())
        for line in status.splitlines()
        if "modified:" in line and not line.endswith(tuple(f" {stage}" for stage in stages))
    ]
    yield from dict.fromkeys(modified)  # several stages may depend on it


def figure_problems() -> Iterator[str]:
    """Every metrics/ against its predictions, as far as these determine the rest."""
    for folder in [Path(), *(systems.PUBLISHED / name for name in systems.claims())]:
        metrics = folder / "metrics"
        for part in ("val", "test"):
            result = seeds.read(metrics / f"{part}.json", seeds.MEASURES, or_nothing=True)
            table, classes = (metrics / name / f"{part}.csv" for name in ("predictions", "classes"))
            if bool(result) != table.exists() or bool(result) != classes.exists():
                yield f"{metrics}/{part}.json, {table} and {classes} must all have figures, or none"
            elif result:
                for name, value in _follows(table, classes).items():
                    if result[name] != value:
                        yield f"{metrics}/{part}.json has {name} {result[name]}; {table} gives {value}"


def _follows(table: Path, classes: Path) -> dict[str, float | int]:
    try:
        predictions = pd.read_csv(table, dtype=str)
        names = pd.read_csv(classes, dtype=str)["class"].to_numpy()
        return statistics.counts(
            predictions["label"].to_numpy(), predictions["predicted"].to_numpy(), names
        )
    except (ValueError, KeyError) as error:  # pandas' own are ValueErrors
        raise InputError(
            f"{table} and {classes} must be as evaluate writes them; received: {error}"
        ) from None


def file_problems() -> Iterator[str]:
    """What git has and should not have."""
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    owned = tracked.cached()
    for name in names.stdout.split("\0")[:-1]:
        path = Path(name)
        if any(name == out or name.startswith(f"{out}/") for out in owned):
            yield f"{name} is in git, and belongs to DVC"
        elif path.exists() and path.stat().st_size > LARGEST_IN_GIT:
            yield f"{name} is in git with {path.stat().st_size:,} bytes; what is large belongs to DVC"


def main() -> None:
    problems = [
        *lock_problems(),
        *figure_problems(),
        *declarations.Pipeline().problems(),
        *file_problems(),
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise InputError(f"what is committed must belong together; received {len(problems)} faults")
    print("every dvc.lock, dvc.yaml, metrics/ and the files in git belong together")


if __name__ == "__main__":
    main()
