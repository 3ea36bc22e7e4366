"""Trains a model with other seeds: `make replicate EXP=name SEEDS=5`.

EXP is an experiment, a commit or the workspace. Each seed is a DVC experiment that differs from it in train.seed
alone. `make compare`, `review` and `report` find these by their dvc.lock, whatever they are called, so a second
call trains what is missing. A training that was interrupted goes on.
"""

import argparse

from common.errors import InputError

import check
import dvc_experiments
from analysis import comparison, revisions, seeds
from analysis.git import git
from analysis.revisions import Revision


def replicate(model: Revision, count: int) -> dict[int, Revision]:
    """The model with `count` seeds, from its own seed upwards; trains those that are not there.

    Raises:
        InputError: the model's results do not belong to its files, or a training fails.
    """
    training = seeds.training(model)
    problems = list(check.lock_problems()) if model.commit is None else []
    if training is None or problems:
        raise InputError(
            f"{model} must have results that belong to its files (make repro); "
            f"received {problems[0] if problems else 'no training in dvc.lock'}"
        )
    dvc_experiments.refuse_missing_files()
    known = seeds.replicates(model)
    content = model.commit or dvc_experiments.snapshot()
    baseline = model.baseline or git("rev-parse", "HEAD")
    for seed in range(model.seed(), model.seed() + count):
        if seed not in known:
            name = f"seed-{seed}-{training[:8]}"
            found = dvc_experiments.run(name, content, baseline, {"train.seed": seed}, f"seed {seed}")
            if seeds.training(found) != training:
                raise InputError(f"{model} must have the results of its own files (make repro); received others")
            known[seed] = found
    return {seed: known[seed] for seed in range(model.seed(), model.seed() + count)}


def planned(model: Revision, count: int, value: float) -> str:
    """What so many seeds can tell: beside the commit that an experiment started from, else beside the model's own."""
    base = Revision(model.baseline or "HEAD", model.baseline) if model.is_experiment else model
    try:
        sides = seeds.trainings(base, "val"), seeds.trainings(model, "val", alone=base == model)
        comparison.predictions(base, model, "val")
    except InputError as error:  # of other images, or without val
        return f"What difference {count} seeds can tell is not known: {error}."
    return comparison.difference(*sides).power(count, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="EXP", nargs="?", default=revisions.WORKSPACE)
    parser.add_argument("--seeds", type=int, default=5, help="with its own (default: 5)")
    parser.add_argument("--difference", type=float, default=0.3, help="points to tell (default: 0.3)")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        raise InputError(f"seeds must be 2 or more; received {arguments.seeds}")
    model = revisions.resolve(arguments.name)
    print(planned(model, arguments.seeds, arguments.difference / 100), flush=True)
    found = replicate(model, arguments.seeds)
    for part in model.predicted():
        accuracy = seeds.trainings(model, part).accuracy
        print(f"{part} accuracy of {len(accuracy)} seeds: {accuracy.mean():.2%} ± {accuracy.std():.2%}")
    print(f"experiments: {', '.join(revision.name for revision in found.values() if revision != model)}")
    if model.is_experiment:
        print(f"make compare A=HEAD B={model.name} counts them all")


if __name__ == "__main__":
    main()
