"""Searches parameters: `make sweep` runs what sweep.yaml says, each trial as a DVC experiment.

Optuna proposes. The first trial is params.yaml as it is, where the space holds it, so that there is
something to compare with at the same number of epochs. A second call goes on where it was stopped: a
trial that had begun keeps its number and its parameters. A sweep belongs to one commit (and the changes
since) and one search: another commit, or another space, begins another sweep. With --confirm N the best
trial and params.yaml as it is are trained with N seeds each, for as many epochs as params.yaml says.
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import locks, params
from common.errors import InputError, first_line

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError

import dvc_experiments
import replicate
import search_space
from analysis import comparison, dvc_lock, revisions
from analysis.git import git
from analysis.revisions import Revision
from search_space import Search

HERE = Path(".cache/sweep")
DATABASE = "OPTUNA_STORAGE must be a database that can be reached"
OPENINGS = 10  # of a database, while other machines may be making Optuna's tables in it
ATTEMPTS = 100  # to find parameters that no other trial has, the last 90 at random; a small space may have no more
VAL_ALONE = {"evaluate.parts": ["val"]}
COUNTED = [state for state in TrialState if state != TrialState.FAIL]  # which goes on under another number


def open_storage() -> optuna.storages.BaseStorage:
    """A file of this clone, or the database that OPTUNA_STORAGE names, as for Optuna's own commands.

    Raises:
        InputError: the database cannot be used.
    """
    url = os.environ.get("OPTUNA_STORAGE")
    if not url:
        journal = HERE / "journal.log"
        if journal.exists():
            with journal.open("r+b") as file:  # a half-written line would become part of the next one
                file.truncate(file.read().rfind(b"\n") + 1)
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        for _ in range(OPENINGS - 1):
            # each failure is something that another machine has created meanwhile
            with suppress(IntegrityError, ProgrammingError):
                return optuna.storages.RDBStorage(url)
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each raise their own
        raise InputError(f"{DATABASE}; received: {first_line(error)}") from None


def guided(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    """After a random quarter of the trials a Gaussian process, which Optuna has for few trials; TPE under successive
    halving, since it learns from the trials that were not among the best too.
    """
    startup = min(10, max(2, search.trials // 4))
    if len(search.epochs) > 1:
        return optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)
    return optuna.samplers.GPSampler(n_startup_trials=startup, seed=seed)


def proposed(
    search: Search,
    baseline: dict[str, Any],
    known: list[FrozenTrial],
    sampler: Callable[[Search, int], optuna.samplers.BaseSampler] = guided,
) -> dict[str, Any]:
    """The parameters of a trial, which follow from the seed and the trials before it, also after a kill."""
    chosen = {} if known else baseline
    for attempt in range(ATTEMPTS):
        if chosen and chosen not in [trial.params for trial in known]:
            break
        seed = np.random.SeedSequence([search.seed, len(known), attempt]).generate_state(1)[0]
        chooses = sampler(search, int(seed)) if attempt < 10 else optuna.samplers.RandomSampler(int(seed))
        draft = optuna.create_study(direction=search.direction, sampler=chooses)
        draft.add_trials(known)
        chosen = draft.ask(search.distributions()).params
    return chosen


class Sweep:
    """One search, shared by the threads that run its trials. All trials have the files as they were at the start."""

    def __init__(self, search: Search, current: params.Params):
        self.search, self.claiming = search, threading.Lock()
        self.clone = f"{platform.node()}:{Path.cwd()}"  # tells its trials from other clones' in a shared database
        self.content, self.commit = dvc_experiments.snapshot(), git("rev-parse", "HEAD")
        self.changes = git("diff", "HEAD", "--binary", "--", ".", ":(exclude)sweep.yaml")
        self.baseline = search.encoded(dvc_lock.leaves(current.model_dump()))  # of trial 0
        self.name = self.named(search.model_dump(exclude={"trials"}))
        self.study = optuna.create_study(
            study_name=self.name,
            storage=open_storage(),
            direction=search.direction,
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(search.epochs[0], search.factor),
        )
        for left in self.study.get_trials(states=[TrialState.RUNNING]):  # by a sweep that was stopped
            if left.user_attrs.get("clone") == self.clone:
                self.study.tell(left.number, state=TrialState.FAIL)
                self.study.enqueue_trial(left.params, user_attrs=left.user_attrs)

    def named(self, changes: dict[str, Any]) -> str:
        """A name for an experiment or a sweep, the same for the same files and changes: a hash of both."""
        known = json.dumps([self.commit + self.changes, changes]).encode()
        return f"sweep-{hashlib.sha256(known).hexdigest()[:8]}"

    def next_trial(self) -> optuna.Trial | None:
        """One that waits, else a new one; None when there are as many as asked for."""
        known = self.study.get_trials(states=COUNTED)
        if all(trial.state != TrialState.WAITING for trial in known):
            if len(known) >= self.search.trials:
                return None
            # with its clone's name from the start, so that a kill at any moment loses none
            chosen = proposed(self.search, self.baseline, known)
            self.study.enqueue_trial(chosen, user_attrs={"clone": self.clone})
        trial = self.study.ask(self.search.distributions())
        trial.set_user_attr("clone", self.clone)
        return trial

    def experiment(self, changes: dict[str, Any], label: str) -> Revision:
        """Runs the files of the sweep with changes to params.yaml, on val alone; as `dvc_experiments.run`."""
        changes = VAL_ALONE | changes
        return dvc_experiments.run(self.named(changes), self.content, self.commit, changes, label)

    def run(self, trial: optuna.Trial) -> str:
        """Runs a trial to its end, tells Optuna, and returns how it ended.

        It goes on to the second and later numbers of epochs only where the pruner lets it.
        """
        label, metric = f"trial {trial.number}", self.search.metric
        for epochs in self.search.epochs:
            try:
                found = self.experiment({"train.epochs": epochs} | self.search.decoded(trial.params), label)
            except dvc_experiments.Diverged:
                self.study.tell(trial, state=TrialState.PRUNED)
                return f"{label}: diverged"
            trial.set_user_attr("experiment", found.name)
            value = found.json("metrics/val.json")[metric]
            trial.report(value, epochs)
            if epochs < self.search.epochs[-1] and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                return f"{label}: {metric} {value} after {epochs} epochs, not among the best"
        self.study.tell(trial, value)
        return f"{label}: {metric} {value} ({found.name})"

    def work(self) -> None:
        """Runs one trial after the other until none is left."""
        while not dvc_experiments.stopped.is_set():
            with self.claiming:
                trial = self.next_trial()
            if trial is None:
                return
            print(self.run(trial), flush=True)


def show(sweep: Sweep, seeds: int) -> None:
    """Prints the best trial, how to keep it, and its verdict against params.yaml as it is.

    Args:
        seeds: with which both are trained for that; 0: their trials have to do.
    """
    ended = sweep.study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    print(
        f"{sweep.name}: {len(ended)} of {sweep.search.trials} trials have ended, {len(complete)} of them complete"
    )
    if not complete:
        return
    best, first, metric = sweep.study.best_trial, complete[0], sweep.search.metric
    chosen = sweep.search.decoded(best.params)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in chosen.items()}
    words = [f"-S {shlex.quote(f'{key}={text}')}" for key, text in texts.items()]
    print(f"best: {metric} {best.value}, trial {best.number}\nto keep it: dvc exp run {' '.join(words)}")
    if seeds:
        pair = [sweep.experiment(changes, "confirm") for changes in ({}, chosen)]
        for model in pair:
            replicate.replicate(model, seeds)
    elif first.params == sweep.baseline != best.params:
        print(f"params.yaml as it is: {metric} {first.value}, trial {first.number}")
        names = [trial.user_attrs["experiment"] for trial in (first, best)]
        if not all(git("for-each-ref", f"refs/exps/*/*/{name}") for name in names):
            print("another clone has one of the two: dvc exp pull brings it, for make compare")
            return
        pair = [revisions.resolve(name) for name in names]
    else:
        return
    found, _ = comparison.compare(pair[0], pair[1], "val")
    print(f"beside params.yaml as it is: {found.verdict}: {found.reason} {found.summary}")
    if found.verdict == "not decided":
        print("make sweep CONFIRM=3 trains both with three seeds, which decides it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    parser.add_argument(
        "--confirm", type=int, default=0, metavar="N", help="seeds to train the best with (0: none)"
    )
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        raise InputError(f"jobs must be 1 or more; received {arguments.jobs}")
    if arguments.confirm < 0 or arguments.confirm == 1:
        raise InputError(f"confirm must be 0, or 2 seeds or more; received {arguments.confirm}")
    current = params.load()
    search = search_space.load(current)
    dvc_experiments.refuse_missing_files()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with locks.exclusive(HERE / "lock"):
        sweep = Sweep(search, current)
        with ThreadPoolExecutor(arguments.jobs) as pool, dvc_experiments.all_or_none():
            workers = [pool.submit(sweep.work) for _ in range(arguments.jobs)]
            try:
                for worker in as_completed(workers):
                    worker.result()
            except StorageInternalError as error:
                raise InputError(f"{DATABASE}; received: {first_line(error)}") from None
        show(sweep, arguments.confirm)


if __name__ == "__main__":
    main()
