"""Searches parameters: `make sweep` runs what sweep.yaml says, each trial as a DVC experiment.

Optuna proposes. The first trial is params.yaml as it is, where the space holds it, so that there is
something to compare with at the same number of epochs. A second call goes on where it was stopped: a
trial that had begun keeps its number and its parameters. A sweep belongs to one commit (and the changes
since) and one search: another commit, or another space, begins another sweep.
"""

import argparse
import os
import threading
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from common import files, locks, params
from common.errors import InputError, first_line

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError

import dvc_experiments
import search_space
from analysis import dvc_lock
from search_space import Search

HERE = Path(".cache/sweep")
DATABASE = "OPTUNA_STORAGE must be a database that can be reached"
OPENINGS = 10  # of a database, while other machines may be making Optuna's tables in it
ATTEMPTS = 20  # to find parameters that no other trial has; a small space may have no more
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


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


def refuse_missing_files() -> None:
    """Raises InputError where experiments would run without files of the workspace."""
    if missing := dvc_experiments.missing_files():
        raise InputError(
            "all files must be in git, DVC or .gitignore, or experiments would run without them "
            f"(git add, dvc add); received {', '.join(missing)}"
        )


def this_clone() -> str:
    """An identifier that tells this clone's trials from other clones' in the same database."""
    path = HERE / "clone"
    if not path.exists():
        with files.atomic_file(path) as part:
            part.write_text(uuid.uuid4().hex)
    return path.read_text()


class Sweep:
    """One search, shared by the threads that run its trials."""

    def __init__(self, search: Search, current: params.Params):
        self.search = search
        self.state = dvc_experiments.state("sweep.yaml")
        self.name = dvc_experiments.name(self.state, search.model_dump(exclude={"trials"}))
        known, space = dvc_lock.leaves(current.model_dump()), search.space.items()
        self.baseline = {}  # the parameters of trial 0: params.yaml as it is, or nothing
        if all(values.contains(known[key]) for key, values in space):
            self.baseline = {key: values.encode(known[key]) for key, values in space}
        self.clone = this_clone()
        self.claiming, self.starting = threading.Lock(), threading.Lock()
        self.claimed: set[int] = set()  # numbers of the trials that run in this process
        self.stopped = threading.Event()
        self.study = optuna.create_study(
            study_name=self.name,
            storage=open_storage(),
            direction=search.direction,
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=search.epochs[0], reduction_factor=search.factor
            ),
        )

    def check_state(self) -> None:
        """Raises InputError where a trial would run with files that are not the sweep's."""
        refuse_missing_files()
        if dvc_experiments.state("sweep.yaml") != self.state:
            raise InputError(
                "commit and files must stay as they are while a sweep runs (take the change back, or "
                "begin another sweep); received different ones"
            )

    def claim(self) -> FrozenTrial | None:
        """A trial that this clone began and nobody runs now, else a new one; None when none is left.

        A new trial has its clone's name from the start, so that a kill at any moment loses none.
        """
        while True:
            for trial in self.study.get_trials(states=[TrialState.RUNNING]):
                if trial.user_attrs["clone"] == self.clone and trial.number not in self.claimed:
                    if trial.number < self.search.trials:
                        self.claimed.add(trial.number)
                        return trial
                    self.study.tell(trial.number, state=TrialState.FAIL)  # another clone was faster
            if len(self.study.get_trials()) >= self.search.trials:
                return None
            self.study.add_trial(optuna.create_trial(state=TrialState.RUNNING, user_attrs={"clone": self.clone}))

    def propose(self, known: FrozenTrial) -> optuna.Trial:
        """The trial with its parameters, which follow from the seed, its number and the other trials.

        With one generator for all trials, the first ones after a kill would repeat those before it.
        """
        chosen = self.baseline if known.number == 0 else {}
        others = [trial for trial in self.study.get_trials() if trial.number != known.number]
        for attempt in range(ATTEMPTS):
            if chosen and chosen not in [trial.params for trial in others]:
                break
            seed = np.random.SeedSequence([self.search.seed, known.number, attempt])
            sampler = optuna.samplers.TPESampler(seed=int(seed.generate_state(1)[0]))
            draft = optuna.create_study(direction=self.search.direction, sampler=sampler)
            draft.add_trials(others)
            chosen = self.fill(draft.ask()).params
        self.study.sampler = optuna.samplers.PartialFixedSampler(chosen, optuna.samplers.RandomSampler())
        return self.fill(optuna.Trial(self.study, known._trial_id))

    def fill(self, trial: optuna.Trial) -> optuna.Trial:
        """Gives each parameter its value."""
        for key, values in self.search.space.items():
            values.suggest(trial, key)
        return trial

    def run(self, trial: optuna.Trial, reported: dict[int, float]) -> str:
        """Runs a trial to its end, tells Optuna, and returns how it ended.

        It goes on to the second and later numbers of epochs only where the pruner lets it.
        """
        chosen = {key: values.suggest(trial, key) for key, values in self.search.space.items()}
        label = f"trial {trial.number}"
        for epochs in self.search.epochs:
            changes = {"evaluate.parts": ["val"], "train.epochs": epochs} | chosen
            experiment = dvc_experiments.name(self.state, changes)
            trial.set_user_attr("experiment", experiment)
            try:
                found = dvc_experiments.run(experiment, changes, label, self.starting, self.check_state)
            except dvc_experiments.Diverged:
                self.study.tell(trial, state=TrialState.PRUNED)
                return f"{label}: diverged"
            value = found[self.search.metric]
            if epochs not in reported:
                trial.report(value, epochs)
            if epochs < self.search.epochs[-1] and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                return f"{label}: {self.search.metric} {value} after {epochs} epochs, not among the best"  # fmt: skip
        self.study.tell(trial, value)
        return f"{label}: {self.search.metric} {value} ({experiment})"

    def work(self) -> None:
        """Runs one trial after the other until none is left."""
        while not self.stopped.is_set():
            with self.claiming:
                known = self.claim()
                if known is None:
                    return
                trial = self.propose(known)
            print(self.run(trial, known.intermediate_values), flush=True)


def show(sweep: Sweep) -> None:
    """Prints the best trial, beside params.yaml as it is."""
    study, metric = sweep.study, sweep.search.metric
    ended = study.get_trials(states=FINISHED)
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    print(f"{sweep.name}: {len(ended)} of {sweep.search.trials} trials have ended, {len(complete)} of them complete")  # fmt: skip
    if not complete:
        return
    best = study.best_trial
    chosen = ", ".join(f"{key} {value}" for key, value in best.params.items())
    print(f"best: {metric} {best.value}, trial {best.number}: {chosen}")
    if sweep.baseline and complete[0].number == 0:
        print(f"params.yaml as it is: {metric} {complete[0].value}, trial 0")
    print(f"to keep it: dvc exp apply {best.user_attrs['experiment']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        raise InputError(f"jobs must be 1 or more; received {jobs}")
    current = params.load()
    search = search_space.load(current)
    refuse_missing_files()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna 2.4 introduced PartialFixedSampler, which still warns
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    with locks.exclusive(HERE / "lock"):
        sweep = Sweep(search, current)
        with ThreadPoolExecutor(jobs) as pool:
            workers = [pool.submit(sweep.work) for _ in range(jobs)]
            try:
                for worker in as_completed(workers):
                    worker.result()
            except StorageInternalError as error:
                raise InputError(f"{DATABASE}; received: {first_line(error)}") from None
            finally:
                sweep.stopped.set()
        show(sweep)


if __name__ == "__main__":
    main()
