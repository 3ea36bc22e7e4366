"""Searches parameters: `make sweep` runs what sweep.yaml says, each trial as a DVC experiment.

Optuna proposes. The first trial is params.yaml as it is, where the space holds it, so that there is
something to compare with at the same number of epochs. A second call goes on where it was stopped: a
trial that had begun keeps its number and its parameters. Trials are of one commit (and of what was
changed since): another one, or another space, begins another sweep.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import os
import threading
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, ProgrammingError

from analysis import experiments, search
from analysis.search import Search
from common import files, locks, params
from common.errors import InputError

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
        if journal.exists():  # a line that was not written to its end would be part of the next one
            lines, _, rest = journal.read_bytes().rpartition(b"\n")
            if rest:
                with files.whole_file(journal) as part:
                    part.write_bytes(lines + b"\n" if lines else b"")
        return JournalStorage(JournalFileBackend(str(journal)))
    try:
        for _ in range(OPENINGS - 1):
            # each failure is something that another machine has made meanwhile
            with suppress(IntegrityError, ProgrammingError):
                return optuna.storages.RDBStorage(url)
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{DATABASE}; received: {reason}") from None


def refuse_missed() -> None:
    """Raises InputError where experiments would run without files that are here."""
    if missed := experiments.missed():
        raise InputError(
            "all files must be in git, DVC or .gitignore, or experiments would run without them "
            f"(git add, dvc add); received {', '.join(missed)}"
        )


def this_clone() -> str:
    """What tells the trials of this clone from those of others in the same database."""
    path = HERE / "clone"
    if not path.exists():
        with files.whole_file(path) as part:
            part.write_text(uuid.uuid4().hex)
    return path.read_text()


class Sweep:
    """One search, shared by the threads that run its trials."""

    def __init__(self, wanted: Search, current: params.Params):
        self.wanted = wanted
        self.state = experiments.state("sweep.yaml")
        self.name = (
            f"sweep-{experiments.digest([self.state, wanted.model_dump(exclude={'trials'})])}"
        )
        held = search.leaves(current.model_dump())
        self.first = {}  # what trial 0 has
        if all(values.hold(held[key]) for key, values in wanted.space.items()):
            self.first = {key: values.stored(held[key]) for key, values in wanted.space.items()}
        self.clone = this_clone()
        self.storage = open_storage()
        self.taking, self.starting = threading.Lock(), threading.Lock()
        self.taken: set[int] = set()
        self.stopped = threading.Event()
        optuna.create_study(
            study_name=self.name,
            storage=self.storage,
            direction=wanted.direction,
            load_if_exists=True,
        )

    def unchanged(self) -> None:
        """Raises InputError where a trial would run other files than the sweep's."""
        refuse_missed()
        if experiments.state("sweep.yaml") != self.state:
            raise InputError(
                "commit and files must stay as they are while a sweep runs (take the change back, or "
                "begin another sweep); received others"
            )

    def study(self) -> optuna.Study:
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.wanted.epochs[0], reduction_factor=self.wanted.factor
        )
        return optuna.load_study(study_name=self.name, storage=self.storage, pruner=pruner)

    def take(self, study: optuna.Study) -> FrozenTrial | None:
        """A trial that this clone began and nobody runs now, else a new one; None when all are taken.

        A new trial has its clone's name from the start, so that no moment is a bad one for a kill.
        """
        while True:
            for trial in study.get_trials(states=[TrialState.RUNNING]):
                if trial.user_attrs["clone"] == self.clone and trial.number not in self.taken:
                    if trial.number < self.wanted.trials:
                        self.taken.add(trial.number)
                        return trial
                    study.tell(trial.number, state=TrialState.FAIL)  # others were faster
            if len(study.get_trials()) >= self.wanted.trials:
                return None
            study.add_trial(
                optuna.create_trial(state=TrialState.RUNNING, user_attrs={"clone": self.clone})
            )

    def propose(self, study: optuna.Study, known: FrozenTrial) -> optuna.Trial:
        """The trial with its parameters: the seed, its number and what is known so far determine them.

        With one generator for all, the first trials after a kill would be those before it once more.
        """
        chosen = self.first if known.number == 0 else {}
        others = [trial for trial in study.get_trials() if trial.number != known.number]
        for attempt in range(ATTEMPTS):
            if chosen and chosen not in [trial.params for trial in others]:
                break
            seed = np.random.SeedSequence([self.wanted.seed, known.number, attempt])
            sampler = optuna.samplers.TPESampler(seed=int(seed.generate_state(1)[0]))
            draft = optuna.create_study(direction=self.wanted.direction, sampler=sampler)
            draft.add_trials(others)
            chosen = self.fill(draft.ask()).params
        study.sampler = optuna.samplers.PartialFixedSampler(chosen, optuna.samplers.RandomSampler())
        return self.fill(optuna.Trial(study, known._trial_id))

    def fill(self, trial: optuna.Trial) -> optuna.Trial:
        """Gives each parameter its value."""
        for key, values in self.wanted.space.items():
            values.suggest(trial, key)
        return trial

    def run(self, study: optuna.Study, trial: optuna.Trial, reported: dict[int, float]) -> str:
        """Runs a trial to its end, and tells Optuna; returns how it ended.

        With the second and later numbers of epochs only where the pruner lets it go on.
        """
        chosen = {key: values.suggest(trial, key) for key, values in self.wanted.space.items()}
        label = f"trial {trial.number}"
        for epochs in self.wanted.epochs:
            changes = {"evaluate.parts": ["val"], "train.epochs": epochs} | chosen
            experiment = experiments.name(self.state, changes)
            trial.set_user_attr("experiment", experiment)
            try:
                found = experiments.run(experiment, changes, label, self.starting, self.unchanged)
            except experiments.Diverged:
                study.tell(trial, state=TrialState.PRUNED)
                return f"{label}: diverged"
            value = found[self.wanted.metric]
            if epochs not in reported:
                trial.report(value, epochs)
            if epochs < self.wanted.epochs[-1] and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return f"{label}: {self.wanted.metric} {value} after {epochs} epochs, not among the best"  # fmt: skip
        study.tell(trial, value)
        return f"{label}: {self.wanted.metric} {value} ({experiment})"

    def work(self) -> None:
        """Runs one trial after the other until none is left."""
        study = self.study()
        while not self.stopped.is_set():
            with self.taking:
                known = self.take(study)
                if known is None:
                    return
                trial = self.propose(study, known)
            print(self.run(study, trial, known.intermediate_values), flush=True)


def show(sweep: Sweep) -> None:
    """The best trial, beside params.yaml as it is."""
    study, metric = sweep.study(), sweep.wanted.metric
    ended = study.get_trials(states=FINISHED)
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    print(f"{sweep.name}: {len(ended)} of {sweep.wanted.trials} trials have ended, {len(complete)} of them complete")  # fmt: skip
    if not complete:
        return
    best = study.best_trial
    chosen = ", ".join(f"{key} {value}" for key, value in best.params.items())
    print(f"best: {metric} {best.value}, trial {best.number}: {chosen}")
    if sweep.first and complete[0].number == 0:
        print(f"params.yaml as it is: {metric} {complete[0].value}, trial 0")
    print(f"to keep it: dvc exp apply {best.user_attrs['experiment']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        raise InputError(f"jobs must be 1 or more; received {jobs}")
    current = params.load()
    wanted = search.load(current)
    refuse_missed()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # of PartialFixedSampler, which has been there since Optuna 2.4
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    with locks.alone(HERE / "lock"):
        sweep = Sweep(wanted, current)
        with ThreadPoolExecutor(jobs) as pool:
            workers = [pool.submit(sweep.work) for _ in range(jobs)]
            try:
                for worker in as_completed(workers):
                    worker.result()
            except StorageInternalError as error:
                raise InputError(f"{DATABASE}; received: {str(error).splitlines()[0]}") from None
            finally:
                sweep.stopped.set()
        show(sweep)


if __name__ == "__main__":
    main()
