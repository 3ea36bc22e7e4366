"""Searches parameters: `make sweep` runs what sweep.yaml says, each trial as a DVC experiment.

Optuna proposes. The first trial is params.yaml as it is, where the space holds it, so that there is something to
compare with at the same number of epochs. A second call goes on where it was stopped. A sweep belongs to one commit
(and the changes since) and one search: another commit, or another space, begins another sweep. With --confirm N the
best trial and params.yaml as it is are trained with N seeds each, for as many epochs as params.yaml says.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import locks, params
from common.errors import InputError, first_line

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

import dvc_experiments
import replicate
import search_space
from analysis import comparison, dvc_lock
from analysis.git import git
from analysis.revisions import Revision
from search_space import Search

HERE = Path(".cache/sweep")
DATABASE = f"OPTUNA_STORAGE, else {HERE}/trials.db, must be a database that can be reached"
OPENINGS = 10  # of a database, while other machines may be making Optuna's tables in it
ATTEMPTS = 100  # to find parameters that no other trial has, the last 90 at random


def open_storage() -> optuna.storages.BaseStorage:
    """The database that OPTUNA_STORAGE names, as for Optuna's own commands, or else one of this clone.

    Raises:
        InputError: the database cannot be used.
    """
    url = os.environ.get("OPTUNA_STORAGE") or f"sqlite:///{HERE}/trials.db"
    try:
        for _ in range(OPENINGS):
            # each failure is something that another machine has created meanwhile
            with suppress(IntegrityError, ProgrammingError):
                return optuna.storages.RDBStorage(url)
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each raise their own
        raise InputError(f"{DATABASE}; received: {first_line(error)}") from None


def guided(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    """A tree-structured Parzen estimator after a random quarter of the trials (benchmarks/search.py)."""
    return optuna.samplers.TPESampler(n_startup_trials=max(2, search.trials // 4), seed=seed)


def proposed(
    search: Search,
    baseline: dict[str, Any],
    known: list[FrozenTrial],
    sampler: Callable[[Search, int], optuna.samplers.BaseSampler] = guided,
) -> dict[str, Any]:
    """The parameters of a trial, which follow from the seed and the trials before it, also after a kill.

    None of another trial: `{}` where the space has no more.
    """
    if baseline and not known:
        return baseline
    for attempt in range(ATTEMPTS):
        seed = np.random.SeedSequence([search.seed, len(known), attempt]).generate_state(1)[0]
        chooses = sampler(search, int(seed)) if attempt < 10 else optuna.samplers.RandomSampler(int(seed))
        draft = optuna.create_study(direction=search.direction, sampler=chooses)
        draft.add_trials(known)
        chosen = draft.ask(search.distributions()).params
        if chosen not in [trial.user_attrs.get("chosen", trial.params) for trial in known]:
            return chosen
    return {}


class Sweep:
    """One search. All its trials have the files as they were at the start."""

    def __init__(self, search: Search, current: params.Params):
        self.search = search
        first, second = (*search.epochs, 2 * search.epochs[0])[:2]  # the factor of a single one decides nothing
        # tells its trials from other clones' in a shared database; its own database may be moved with it
        self.clone = f"{platform.node()}:{Path.cwd()}" if os.environ.get("OPTUNA_STORAGE") else ""
        self.content, self.commit = dvc_experiments.snapshot(), git("rev-parse", "HEAD")
        self.files = self.commit + git("diff-tree", "-r", self.commit, self.content, "--", ".", ":(exclude)sweep.yaml")
        self.baseline = search.encoded(dvc_lock.leaves(current.model_dump()))  # of trial 0
        self.study = optuna.create_study(
            study_name=self.named(search.model_dump(exclude={"trials"})),
            storage=open_storage(),
            direction=search.direction,
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(first, second // first),
        )
        # what a sweep that was stopped has left goes on under another number, once, whenever this is stopped too
        for left in self.known():
            if left.state == TrialState.RUNNING and left.user_attrs["clone"] == self.clone:
                others = [trial for trial in self.known() if trial.number != left.number]
                if left.user_attrs["chosen"] not in [trial.user_attrs["chosen"] for trial in others]:
                    self.study.enqueue_trial(left.user_attrs["chosen"], user_attrs=left.user_attrs)
                self.study.tell(left.number, state=TrialState.FAIL)

    def named(self, changes: dict[str, Any]) -> str:
        """A name for an experiment or a sweep, the same for the same files and changes: a hash of both."""
        known = json.dumps([self.files, changes], sort_keys=True).encode()
        return f"sweep-{hashlib.sha256(known).hexdigest()[:8]}"

    def known(self) -> list[FrozenTrial]:
        """All trials but those that go on under another number, or that nobody has proposed."""
        return [it for it in self.study.get_trials() if it.state != TrialState.FAIL and "chosen" in it.user_attrs]

    def next_trial(self) -> optuna.Trial | None:
        """One that waits, else a new one; None when there are as many as asked for, or as the space has."""
        known = self.known()
        if all(trial.state != TrialState.WAITING for trial in known):
            chosen = proposed(self.search, self.baseline, known) if len(known) < self.search.trials else None
            if not chosen:
                return None
            # with its clone's name and parameters from the start, so that a kill at any moment loses none
            self.study.enqueue_trial(chosen, user_attrs={"clone": self.clone, "chosen": chosen})
        trial = self.study.ask(self.search.distributions())
        trial.set_user_attr("clone", self.clone)
        chosen = trial.user_attrs.get("chosen")  # none where another machine has begun the one that waited
        if chosen in [None, *(it.user_attrs["chosen"] for it in self.known() if it.number < trial.number)]:
            self.study.tell(trial, state=TrialState.FAIL)  # or has proposed the same meanwhile
            return self.next_trial()
        return trial

    async def experiment(self, changes: dict[str, Any], label: str) -> Revision:
        """Runs the files of the sweep with changes to params.yaml, on val alone; as `dvc_experiments.run`."""
        changes = {"evaluate.parts": ["val"]} | changes
        return await dvc_experiments.run(self.named(changes), self.content, self.commit, changes, label)

    async def run(self, trial: optuna.Trial) -> str:
        """Runs a trial to its end, tells Optuna, and returns how it ended.

        It goes on to the second and later numbers of epochs only where the pruner lets it.
        """
        for epochs in self.search.epochs:
            changes = {"train.epochs": epochs} | self.search.decoded(trial.params)
            try:
                found = await self.experiment(changes, f"trial {trial.number}")
            except dvc_experiments.Diverged:
                self.study.tell(trial, state=TrialState.PRUNED)
                return "diverged"
            trial.set_user_attr("experiment", found.name)
            value = found.json("metrics/val.json", self.search.metric)[self.search.metric]
            trial.report(value, epochs)
            if epochs < self.search.epochs[-1] and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                return f"{self.search.metric} {value} after {epochs} epochs, not among the best"
        self.study.tell(trial, value)
        return f"{self.search.metric} {value} ({found.name})"

    async def work(self, jobs: int) -> None:
        """Runs trials, so many at a time, until none is left. Where one fails, `asyncio.run` cancels the others."""

        async def one_by_one() -> None:
            while (trial := self.next_trial()) is not None:
                print(f"trial {trial.number}: {await self.run(trial)}", flush=True)

        await asyncio.gather(*(one_by_one() for _ in range(jobs)))


def show(sweep: Sweep, seeds: int) -> None:
    """Prints the best trial and how to keep it; with `seeds` its verdict against params.yaml, over so many of both."""
    ended = sweep.study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    name, search = sweep.study.study_name, sweep.search
    print(f"{name}: {len(ended)} of {search.trials} trials have ended, {len(complete)} of them complete")
    if not complete:
        return
    best = sweep.study.best_trial
    chosen = search.decoded(best.params)
    words = [f"-S {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in chosen.items()]
    print(f"best: {search.metric} {best.value}, trial {best.number}\nto keep it: dvc exp run {' '.join(words)}")
    for first in [trial for trial in complete if trial.params == sweep.baseline][:1]:
        print(f"params.yaml as it is: {search.metric} {first.value}, trial {first.number}")
    if not seeds:
        print("make sweep CONFIRM=3 trains it and params.yaml with three seeds each, for a verdict")
        return
    pair = [asyncio.run(sweep.experiment(changes, "verdict")) for changes in ({}, chosen)]
    for model in pair:
        replicate.replicate(model, seeds)
    found, _ = comparison.compare(pair[0], pair[1], "val")
    print(f"beside params.yaml, on the val images that chose it: {found.verdict}: {found.reason} {found.summary}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    parser.add_argument("--confirm", type=int, default=0, metavar="N", help="seeds to train the best with")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise InputError(f"jobs must be 1 or more; received {arguments.jobs}")
    if arguments.confirm < 0 or arguments.confirm == 1:
        raise InputError(f"confirm must be 0, or 2 seeds or more; received {arguments.confirm}")
    search_space.load(params.load())  # anew below: to wait for another sweep may take hours
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a lost database it warns too, in many lines
    with locks.exclusive(HERE / "lock"):
        try:
            dvc_experiments.refuse_missing_files()
            current = params.load()
            sweep = Sweep(search_space.load(current), current)
            asyncio.run(sweep.work(arguments.jobs))
            show(sweep, arguments.confirm)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:  # of writing, of reading
            raise InputError(f"{DATABASE}; received: {first_line(error)}") from None


if __name__ == "__main__":
    main()
