"""Trains a model with other seeds: `make replicate EXP=name SEEDS=5`.

EXP is an experiment, a commit or the workspace. Each seed is a DVC experiment that differs from it in train.seed alone.
`make compare`, `review` and `report` find these by their dvc.lock, whatever they are called, so a second call trains
what is missing. `make noise` does this for the workspace, and keeps the figures in git (--record).
"""

import argparse
import asyncio
from collections.abc import Collection
from contextlib import suppress

from common import files
from common.errors import InputError

import pandas as pd

import check
import dvc_experiments
import readme
from analysis import metric_files, revisions, seeds
from analysis.git import git
from analysis.revisions import Revision


def replicate(model: Revision, count: int) -> dict[int, Revision]:
    """The model with `count` seeds, from its own seed upwards; trains those that are not there.

    Raises:
        InputError: the model's results do not belong to its files, or a training fails.
    """
    content = model.commit or dvc_experiments.snapshot()  # an edit from here on is another model
    training = seeds.training(model)
    problem = next(iter(check.lock_problems(own=True)), None) if model.commit is None else None
    if training is None or problem:
        received = problem or "no training in dvc.lock"
        raise InputError(f"{model} must have results that belong to its files (make repro); received {received}")
    if model.commit is None or model.parameters().get("data.source") in check.IN_INPUT:
        dvc_experiments.refuse_missing_files()
    parts = model.predicted()
    known = {seed: other for seed, other in seeds.replicates(model).items() if {*parts} <= {*other.predicted()}}
    # that of an experiment is its parent
    baseline = git("rev-parse", f"{model.commit}^" if model.is_experiment else model.commit or "HEAD")
    wanted = range(model.seed(), model.seed() + count)
    for seed in [seed for seed in wanted if seed not in known]:
        name = "-".join([f"seed-{seed}", training[:8], *parts])
        known[seed] = asyncio.run(dvc_experiments.run(name, content, baseline, {"train.seed": seed}, f"seed {seed}"))
        if seeds.training(known[seed]) != training:
            raise InputError(f"{model} must have the results of its own files (make repro); received others")
    return {seed: known[seed] for seed in wanted}


def record(models: Collection[Revision], parts: Collection[str]) -> None:
    """Writes noise.csv and noise_classes.csv, figures and recalls of each model, and noise.json, their summary."""
    table = pd.DataFrame([row for model in models for row in seeds.figures(model) if row["part"] in parts])
    classes = pd.DataFrame([row for model in models for row in seeds.recalls(model) if row["part"] in parts])
    for name, content in (("noise.csv", table), ("noise_classes.csv", classes)):
        with files.atomic_file(readme.METRICS / name) as part:
            content.to_csv(part, index=False)
    files.write_json(readme.METRICS / "noise.json", metric_files.summary(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="EXP", nargs="?", default=revisions.WORKSPACE, help="(default: workspace)")
    parser.add_argument("--seeds", type=int, default=5, help="with its own (default: 5)")
    parser.add_argument("--record", action="store_true", help="write the figures of all seeds to metrics/noise.*")
    arguments = parser.parse_args()
    if arguments.record and arguments.name != revisions.WORKSPACE:
        raise InputError(f"--record must come without EXP: metrics/noise.* is not its own; received {arguments.name}")
    if arguments.seeds < 2:
        raise InputError(f"seeds must be 2 or more; received {arguments.seeds}")
    model = revisions.resolve(arguments.name)
    if arguments.record:
        metric_files.by_part(readme.METRICS)  # which must be there
        count = 0
        with suppress(InputError):  # of files that do not belong together: all are written anew
            count = min((part["accuracy"]["n"] for part in readme.noise().values()), default=0)
        if count >= arguments.seeds:
            print(f"{readme.METRICS / 'noise.csv'} has {count} seeds of this training")
            return
    models = replicate(model, arguments.seeds).values()
    for part in model.predicted():
        accuracy = seeds.trainings(model, part).accuracy
        print(f"{part} accuracy of {len(accuracy)} seeds: {accuracy.mean():.2%} ± {accuracy.std():.2%}")
    if model.is_experiment:
        print(f"make compare A=HEAD B={model.name} counts them all")
    if arguments.record:
        record(models, model.predicted())


if __name__ == "__main__":
    main()
