"""Whether what is committed belongs together: `make check`. Needs neither data nor model.

Where results here are not as committed, it first says why, as `make repro` does. That alone is no fault. It names every
fault, then fails: dvc.lock that is not up to date, figures that do not follow from the predictions, an architecture
that needs another file, and files in git that are compiled or too large. With --data it also holds data/ and models/, as
far as dvc.lock has them, and each object of DVC's cache against its hash. (tests/test_pipeline.py checks dvc.yaml.)
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import numpy as np
import pandas as pd
from dvc.repo import Repo

import architectures
import reproduction
from analysis import dvc_lock, metric_files, statistics
from analysis.git import git, is_compiled, names

INPUT = Path("data/input")
CLAIMS = Path("published/claims.yaml")
PIPELINES = {"dvc.yaml": "make repro", "published/dvc.yaml": "make published"}
OWN = ("folder", "idx")  # sources of other images than Fashion-MNIST
IN_INPUT = (*OWN, "csv")  # sources in data/input
LARGEST_IN_GIT = 1_000_000  # bytes


def lock_problems(own: bool = False) -> Iterator[str]:
    """DVC's own view, of dvc.yaml alone with `own`; what several stages depend on is named once."""
    stages: list[str] = []
    own |= params.load().data.source != "fashion-mnist"  # on which alone the published systems are trained
    for pipeline, command in [*PIPELINES.items()][: 1 if own or not CLAIMS.exists() else None]:
        found = reproduction.would_run(pipeline, "--allow-missing")
        if found and not (found == ["prepare"] and _lacks_only_images()):
            yield f"{Path(pipeline).with_suffix('.lock')} is not up to date ({command}): {', '.join(found)} would run"
        stages += found
    if not stages:
        return
    status = subprocess.run(["dvc", "status"], capture_output=True, encoding="utf-8", check=False).stdout
    ends = tuple(f" {name}" for name in (*stages, INPUT))
    lines = [" ".join(line.split()) for line in status.splitlines() if not line.endswith(ends)]
    yield from dict.fromkeys(line for line in lines if line.startswith(("modified:", "changed command")))


def _lacks_only_images() -> bool:
    """Whether all that `prepare` lacks are images of one's own, which git does not have: data/input has none."""
    if any(path.is_file() and path.name != "README.md" and path.suffix != ".dvc" for path in INPUT.rglob("*")):
        return False
    done = subprocess.run(["dvc", "status", "--json", "prepare"], capture_output=True, check=False)
    changes = [each for each in json.loads(done.stdout or "{}").get("prepare", []) if isinstance(each, dict)]
    changed = {name: how for each in changes for name, how in each.get("changed deps", {}).items()}
    return {name for name, how in changed.items() if how != "deleted"} == {str(INPUT)}


def figure_problems() -> Iterator[str]:
    """Every metrics/ against its predictions, as far as these determine the rest."""
    systems = params.read_yaml(CLAIMS, dict[str, Any]) if CLAIMS.exists() else {}
    for folder in [Path(), *(Path("published") / name for name in systems)]:
        metrics = folder / "metrics"
        results = metric_files.by_part(metrics)
        for part in metric_files.PARTS:
            result = results.get(part, {})
            table, classes = (metrics / name / f"{part}.csv" for name in ("predictions", "classes"))
            if bool(result) != table.exists() or bool(result) != classes.exists():
                yield f"{metrics}/{part}.json, {table} and {classes} must all have figures, or none"
            elif result:
                figures, by_class = _follows(table, classes)
                for name, value in figures.items():
                    if result.get(name) != value:
                        yield f"{metrics}/{part}.json has {name} {result.get(name)}; {table} gives {value}"
                if classes.read_text("utf-8") != by_class:
                    yield f"{classes} is not what {table} gives"


def _follows(table: Path, classes: Path) -> tuple[dict[str, float | int], str]:
    """The figures of all images, and the table of classes."""
    known = metric_files.table(classes, ("class",))["class"].drop_duplicates()
    predictions = metric_files.table(table, ("label", "predicted"))
    labels, predicted = (pd.Index(known).get_indexer(predictions[name]) for name in predictions)
    if not len(labels) or min(*labels, *predicted) < 0:
        raise InputError(f"{table} must have images, all of classes that {classes} has; received others")
    by_class = statistics.per_class(labels, np.eye(len(known))[predicted], list(known))
    return statistics.counts(labels, predicted), by_class.to_csv(index=False)


def architecture_problems() -> Iterator[str]:
    """Whether the chosen one is a file by itself: it is built once, where it may read no other."""
    chosen = params.load()
    name, data = chosen.model.architecture, chosen.data
    try:
        architectures.build(name, (data.height, data.width, data.channels), 10, chosen.model.options.get(name, {}))
    except InputError as error:
        yield str(error)


def file_problems() -> Iterator[str]:
    """What git has and should not have; DVC misses an output that dvc.yaml no longer has."""
    yield from (f"{path} is in git, and no stage writes it" for path in dvc_lock.unwritten())
    yield from (f"{path} {how} (make repro)" for path, how in dvc_lock.differences(("metrics/",)))
    for name in names(git("ls-files", "-z")):
        path = Path(name)
        if is_compiled(name):
            yield f"{name} is in git, and Python could run it in the place of its source"
        elif path.exists() and path.stat().st_size > LARGEST_IN_GIT and not name.startswith("metrics/data/"):
            yield f"{name} is in git with {path.stat().st_size:,} bytes; what is large belongs to DVC"


def problems(with_data: bool) -> Iterator[str]:
    for found in (lock_problems, figure_problems, architecture_problems, file_problems):
        yield from found()
    if CLAIMS.exists() and (source := params.load().data.source) in OWN:
        theirs = "README.md, MODEL_CARD.md, published/, and figures in benchmarks/"
        yield f"{theirs} are Fashion-MNIST's; make adopt removes them (data.source is {source})"
    if with_data:
        with Repo() as repo:
            damaged = list(dvc_lock.damaged_objects(Path(repo.cache.local_cache_dir)))
        yield from (f"{path} is damaged (remove it; dvc pull or dvc repro makes it again)" for path in damaged)
        remedy = "remove it, then dvc repro" if damaged else "dvc checkout --force {} brings back what dvc.lock says"
        differences = dvc_lock.differences(("data/", "models/"))
        yield from (f"{path} {fault} ({remedy.format(path)})" for path, fault in differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="store_true", help="also every byte of models/, data/raw … and DVC's cache")
    with_data = parser.parse_args().data
    results = reproduction.Results.read()
    for cause in reproduction.causes(results) if results else ():
        print(f"the results are not as committed: {cause.why}. {cause.advice}.", file=sys.stderr, flush=True)
    count = 0
    for problem in problems(with_data):
        print(problem, file=sys.stderr, flush=True)
        count += 1
    if count:
        raise InputError(f"what is committed must belong together; received {count} faults")
    print("every dvc.lock, metrics/ and the files in git belong together")


if __name__ == "__main__":
    main()
