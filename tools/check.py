"""Whether what is committed belongs together: `make check`. Needs neither data nor model.

Where results here are not as committed, it first says why, as `make repro` does. That alone is no fault. It
names every fault, then fails: dvc.lock that is not up to date, figures that do not follow from the
predictions, stages that import or read what dvc.yaml does not list, parameters that nothing reads, and
files in git that belong to DVC or are too large. With --data it also holds each file under data/ and
models/ against dvc.lock, byte for byte.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import reproduction
import stage_dependencies
from analysis import dvc_lock, metric_files, statistics

PIPELINES = {"dvc.yaml": "make repro", "published/dvc.yaml": "make published"}
LARGEST_IN_GIT = 1_000_000  # bytes
TRACKED_BY_DVC = ("data/", "models/")


def lock_problems() -> Iterator[str]:
    """DVC's own view. It says by its text alone whether a stage would run."""
    stages: list[str] = []
    for pipeline, command in PIPELINES.items():
        done = subprocess.run(
            ["dvc", "repro", "--allow-missing", "--dry", pipeline], capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        if "Data and pipelines are up to date" in output:
            continue
        # without data DVC fails at the first stage that would run, and names it
        found = re.findall(r"(?:^Running stage|failed to reproduce) '(.+?)'", output, re.M)
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
    systems = params.read_yaml(Path("published/claims.yaml"), dict[str, Any])
    for folder in [Path(), *(Path("published") / name for name in systems)]:
        metrics = folder / "metrics"
        results = metric_files.by_part(metrics)
        for part in metric_files.PARTS:
            result = results.get(part, {})
            table, classes = (metrics / name / f"{part}.csv" for name in ("predictions", "classes"))
            if bool(result) != table.exists() or bool(result) != classes.exists():
                yield f"{metrics}/{part}.json, {table} and {classes} must all have figures, or none"
            elif result:
                for name, value in _follows(table, classes).items():
                    if result[name] != value:
                        yield f"{metrics}/{part}.json has {name} {result[name]}; {table} gives {value}"


def _follows(table: Path, classes: Path) -> dict[str, float | int]:
    predictions = metric_files.table(table, ("label", "predicted"), dtype=str)
    names = metric_files.table(classes, ("class",), dtype=str)["class"].to_numpy()
    try:
        labels, predicted = predictions.to_numpy().T
        return statistics.counts(labels, predicted, names)
    except ValueError as error:  # of scikit-learn
        raise InputError(f"{table} and {classes} must be as evaluate writes them; received: {error}") from None


def file_problems() -> Iterator[str]:
    """What git has and should not have."""
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    owned = dvc_lock.cached_outputs()
    for name in names.stdout.split("\0")[:-1]:
        path = Path(name)
        if any(name == out or name.startswith(f"{out}/") for out in owned):
            yield f"{name} is in git, and belongs to DVC"
        elif path.exists() and path.stat().st_size > LARGEST_IN_GIT:
            yield f"{name} is in git with {path.stat().st_size:,} bytes; what is large belongs to DVC"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="store_true", help="also every byte of data/ and models/")
    with_data = parser.parse_args().data
    results = reproduction.Results.read()
    for cause in reproduction.causes(results) if results else ():
        print(f"the results are not as committed: {cause.why}. {cause.advice}.", file=sys.stderr, flush=True)
    problems = [*lock_problems(), *figure_problems(), *stage_dependencies.Pipeline().problems(), *file_problems()]
    if with_data:
        problems += [
            f"{difference} (dvc checkout --force brings back what dvc.lock says)"
            for difference in dvc_lock.differences(TRACKED_BY_DVC)
        ]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise InputError(f"what is committed must belong together; received {len(problems)} faults")
    print("every dvc.lock, dvc.yaml, metrics/ and the files in git belong together")


if __name__ == "__main__":
    main()
