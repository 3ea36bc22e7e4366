"""Which trials a sweep has, what is kept of an interrupted one, and the real thing; mostly with stand-ins for runs."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import numpy as np
import optuna
import psutil
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from ruamel.yaml import YAML
from sqlalchemy import Engine, NullPool, create_engine, event
from sqlalchemy.exc import OperationalError

import dvc_experiments
import replicate
import search_space
import servers
import sweep
from analysis import comparison
from analysis.comparison import Difference
from analysis.git import git
from analysis.revisions import Revision
from conftest import TINY, Clone, kill_all_of, with_forks, write_params

SEARCH: dict[str, Any] = {
    "metric": "accuracy",
    "trials": 8,
    "seed": 0,
    "epochs": [1],
    "space": {
        "train.learning_rate": {"low": 0.001, "high": 1.0, "log": True},
        "train.batch_size": {"choices": [32, 64, 128]},
    },
}
RATE, SIZE = SEARCH["space"]
SNAPSHOT = dvc_experiments.snapshot


def write(folder: Path, **changes: Any) -> None:
    YAML().dump(SEARCH | changes, folder / "sweep.yaml")


class Run(Revision):
    """What a run gives: figures without a commit."""

    def json(self, path: str, *needed: str) -> dict[str, Any]:
        accuracy = float(str(self.commit))
        return {"accuracy": accuracy, "loss": -accuracy}


class Runs:
    """Stands for dvc_experiments.run: notes the changes of each, and gives a figure that they determine."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        self.ends: Callable[[dict[str, Any]], BaseException | None] = lambda changes: None

    async def run(self, name: str, content: str, commit: str, changes: dict[str, Any], label: str) -> Run:
        assert (content, commit) == ("content", "commit")
        if (error := self.ends(changes)) is not None:
            raise error
        self.made[name] = changes
        return Run(name, str(self.accuracy(changes)))

    @staticmethod
    def accuracy(changes: dict[str, Any]) -> float:
        """The best learning rate is 0.1; more epochs help."""
        return 0.9 - 0.1 * abs(math.log10(changes[RATE]) + 1) + 0.001 * changes.get("train.epochs", 2)

    def values(self, key: str) -> list[Any]:
        return [changes[key] for changes in self.made.values()]


class Verdicts:
    """Stands for comparison.compare: notes which two are compared."""

    def __init__(self) -> None:
        self.pairs: list[list[str]] = []

    def compare(self, before: Revision, after: Revision, part: str) -> tuple[Difference, None]:
        assert part == "val"
        self.pairs.append([before.name, after.name])
        return Difference(5000, (1, 1), False, 40, 10, 0.006, 0.0), None


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> Verdicts:
    found = Verdicts()
    monkeypatch.setattr(comparison, "compare", found.compare)
    return found


@pytest.fixture
def runs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """The working directory is a project with sweep.yaml, and runs are stand-ins."""
    write(workspace)
    made = Runs()
    monkeypatch.setattr(dvc_experiments, "run", made.run)
    monkeypatch.setattr(dvc_experiments, "snapshot", lambda: "content")
    monkeypatch.setattr(sweep, "git", lambda *words: "" if words[0] == "diff-tree" else "commit")
    monkeypatch.setattr(dvc_experiments, "refuse_missing_files", lambda: None)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.setattr(sys, "argv", ["sweep.py"])
    return made


def studied() -> list[optuna.trial.FrozenTrial]:
    """The trials of the one study in the working directory, without those that go on under another number."""
    storage = sweep.open_storage()
    (study,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).get_trials()
    return [trial for trial in trials if trial.state != TrialState.FAIL]


def test_as_many_trials_as_asked_for_and_the_first_is_params_yaml(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.main()
    assert [trial.state for trial in studied()] == [TrialState.COMPLETE] * 8
    assert len(runs.made) == 8
    first, *others = runs.made.values()
    assert (first[RATE], first[SIZE]) == (0.05, 64)  # as in TINY
    assert all(0.001 <= changes[RATE] <= 1 for changes in others)
    assert {changes[SIZE] for changes in others} <= {32, 64, 128}
    assert all(changes["evaluate.parts"] == ["val"] for changes in runs.made.values())
    assert runs.values("train.epochs") == [1] * 8
    best = max(runs.made, key=lambda name: runs.accuracy(runs.made[name]))
    said = capsys.readouterr().out
    assert "8 of 8 trials have ended, 8 of them complete" in said
    # what is searched alone: neither the epochs of a trial nor its parts
    chosen = runs.made[best]
    assert f"to keep it: dvc exp run -S {RATE}={chosen[RATE]} -S {SIZE}={chosen[SIZE]}\n" in said
    assert f"params.yaml as it is: accuracy {runs.accuracy(first)}, trial 0" in said
    assert "make sweep CONFIRM=3" in said


def test_a_diff_program_of_the_user_hides_no_change(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "git", git)
    monkeypatch.setattr(dvc_experiments, "snapshot", SNAPSHOT)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "true")
    edited = workspace / "edited.py"
    edited.touch()
    (workspace / ".cache/sweep").mkdir(parents=True)
    for words in (
        "init --quiet",
        "config user.name a",
        "config user.email a@example.invalid",
        "add --all",
        "commit --quiet -m start",
    ):
        git(*words.split())
    names = set()
    for text in ("a", "b"):
        edited.write_text(text)
        current = params.load()
        names.add(sweep.Sweep(search_space.load(current), current).study.study_name)
    assert len(names) == 2


def test_the_best_is_confirmed_with_all_epochs_and_more_seeds(
    runs: Runs, verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[str, int]] = []
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--confirm", "3"])
    monkeypatch.setattr(replicate, "replicate", lambda model, count: trained.append((model.name, count)))
    monkeypatch.setattr(runs, "accuracy", lambda changes: 0.9 - 0.1 * abs(math.log10(changes.get(RATE, 0.05)) + 1))
    sweep.main()
    *trials, plain, confirmed = runs.made.values()
    best = max(trials, key=runs.accuracy)
    assert plain == {"evaluate.parts": ["val"]}
    assert confirmed == {"evaluate.parts": ["val"], RATE: best[RATE], SIZE: best[SIZE]}
    names = [*runs.made][-2:]
    assert trained == [(names[0], 3), (names[1], 3)]
    assert verdicts.pairs == [names]
    assert (
        "beside params.yaml, on the val images that chose it: not decided: +0.60 points have p = "
        in capsys.readouterr().out
    )


def test_a_second_call_has_nothing_to_do_and_more_trials_are_added(runs: Runs, workspace: Path) -> None:
    sweep.main()
    sweep.main()
    assert len(runs.made) == 8
    write(workspace, trials=11)
    sweep.main()
    assert len(runs.made) == 11
    assert len(studied()) == 11


@pytest.mark.parametrize(
    "error",
    [
        StorageInternalError("connection refused\nSQL"),
        OperationalError("SELECT 1", None, Exception("connection refused")),
    ],
)
@pytest.mark.parametrize("where", ["Sweep", "show"])
def test_a_database_that_is_lost_is_one_line(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def lose(*_: Any) -> None:
        raise error

    rule = r"^OPTUNA_STORAGE, else .cache/sweep/trials.db, must be .*; received: .*connection refused\)?$"
    runs.ends = lambda changes: error if runs.made else None
    with pytest.raises(InputError, match=rule):
        sweep.main()
    monkeypatch.setattr(sweep, where, lose)
    runs.ends = lambda changes: None
    with pytest.raises(InputError, match=rule):
        sweep.main()


@pytest.mark.parametrize("other", [{"seed": 1}, {"metric": "loss"}, {"epochs": [2]}])
def test_another_search_is_another_sweep(runs: Runs, workspace: Path, other: dict[str, Any]) -> None:
    sweep.main()
    write(workspace, **other)
    before = runs.values(RATE)
    runs.made.clear()
    sweep.main()
    assert len(optuna.get_all_study_summaries(sweep.open_storage())) == 2
    assert len(runs.made) == 8
    assert "seed" not in other or runs.values(RATE)[1:] != before[1:]  # the first is params.yaml as it is


def test_where_the_space_does_not_hold_params_yaml_all_trials_are_proposals(
    runs: Runs, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(workspace, space={RATE: {"low": 0.2, "high": 0.3}})
    sweep.main()
    assert all(0.2 <= value <= 0.3 for value in runs.values(RATE))
    assert "as it is" not in capsys.readouterr().out


def test_in_a_small_space_no_parameters_come_twice(runs: Runs, workspace: Path) -> None:
    write(workspace, trials=6, space={RATE: {"choices": [0.1, 0.2]}, SIZE: {"choices": [8, 16, 32]}})
    sweep.main()
    assert len(set(zip(runs.values(RATE), runs.values(SIZE), strict=True))) == 6


def test_a_space_that_has_no_more_ends_the_sweep(runs: Runs, workspace: Path) -> None:
    write(workspace, trials=4, space={RATE: {"choices": [0.1, 0.2]}})
    sweep.main()
    assert runs.values(RATE) == [0.1, 0.2] or runs.values(RATE) == [0.2, 0.1]
    assert len(studied()) == 2


def test_the_lowest_loss_wins(runs: Runs, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(workspace, metric="loss")
    sweep.main()
    lowest = min(-runs.accuracy(changes) for changes in runs.made.values())
    assert f"best: loss {lowest}," in capsys.readouterr().out


def test_of_four_trials_one_goes_on_with_four_times_the_epochs(runs: Runs, workspace: Path) -> None:
    write(workspace, epochs=[1, 4], trials=16)
    sweep.main()
    short = [changes for changes in runs.made.values() if changes["train.epochs"] == 1]
    long = [changes for changes in runs.made.values() if changes["train.epochs"] == 4]
    assert len(short) == 16
    assert 4 <= len(long) <= 10  # the first ones cannot know what comes
    assert len(short) + len(long) == len(runs.made)
    states = [trial.state for trial in studied()]
    assert states.count(TrialState.COMPLETE) == len(long)
    assert states.count(TrialState.PRUNED) == 16 - len(long)
    best = max(short, key=runs.accuracy)
    assert best | {"train.epochs": 4} in long


# --- what ends early ------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing handles it, as nothing does a kill."""


def at(number: int, error: BaseException) -> Callable[[dict[str, Any]], BaseException | None]:
    """Ends the run with that number, once."""
    left = [*[None] * number, error]
    return lambda changes: left.pop(0) if left else None


@pytest.mark.parametrize("number", [0, 3, 7])
@pytest.mark.parametrize("error", [Killed(), KeyboardInterrupt(), InputError("disk full")])
def test_an_interrupted_sweep_ends_with_the_trials_of_an_undisturbed_one(
    runs: Runs, number: int, error: BaseException
) -> None:
    runs.ends = at(number, error)
    with pytest.raises(type(error)):
        sweep.main()
    assert len(runs.made) == number
    assert [trial.state for trial in studied()].count(TrialState.RUNNING) == 1
    sweep.main()
    disturbed, trials = dict(runs.made), studied()
    assert len(disturbed) == len(trials) == 8
    Path(".cache/sweep/trials.db").unlink()
    runs.made.clear()
    sweep.main()
    assert runs.made == disturbed
    assert [trial.params for trial in studied()] == [trial.params for trial in trials]


def test_a_sweep_goes_on_where_its_folder_has_another_name_and_machine(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.ends = at(2, Killed())
    with pytest.raises(Killed):
        sweep.main()
    moved = workspace.rename(workspace.parent / "moved")
    monkeypatch.chdir(moved)
    monkeypatch.setattr(sweep.platform, "node", lambda: "another")
    sweep.main()
    assert len(runs.made) == 8
    assert {trial.state for trial in studied()} == {TrialState.COMPLETE}


def test_an_interrupted_rung_is_not_the_end_of_a_trial(runs: Runs, workspace: Path) -> None:
    write(workspace, epochs=[1, 4])
    runs.ends = at(1, Killed())  # trial 0 with four epochs
    with pytest.raises(Killed):
        sweep.main()
    runs.made.clear()
    sweep.main()
    assert [changes["train.epochs"] for changes in runs.made.values()][:2] == [1, 4]
    first = studied()[0]
    assert first.state == TrialState.COMPLETE
    assert first.intermediate_values.keys() == {1, 4}


def ends_after(writes: int) -> Callable[[Any], None]:
    """Ends the process at the next one, as a kill."""
    left = iter(range(writes))

    def count(connection: Any) -> None:
        if next(left, None) is None:
            os._exit(9)

    return count


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [[1], [1, 4]])
def test_a_kill_at_any_write_loses_no_trial_and_none_comes_twice(
    runs: Runs, workspace: Path, epochs: list[int]
) -> None:
    """What ran before is an experiment, which is kept."""
    write(workspace, epochs=epochs, trials=5)
    writes: list[object] = []
    note = writes.append
    event.listen(Engine, "commit", note)
    sweep.main()
    event.remove(Engine, "commit", note)
    made, trials = dict(runs.made), studied()
    for number in np.random.default_rng(0).choice(len(writes), 12, replace=False):
        Path(".cache/sweep/trials.db").unlink()
        if (child := os.fork()) == 0:
            event.listen(Engine, "commit", ends_after(number))
            sweep.main()
        assert os.waitpid(child, 0)[1] == 9 << 8
        sweep.main()
        assert runs.made == made, number
        found = studied()
        assert [trial.params for trial in found] == [trial.params for trial in trials], number
        assert [trial.state for trial in found] == [trial.state for trial in trials], number


def test_a_training_that_diverges_is_the_end_of_its_trial_alone(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.ends = lambda changes: dvc_experiments.Diverged("") if changes[RATE] > 0.1 else None
    sweep.main()
    states = [trial.state for trial in studied()]
    assert 0 < states.count(TrialState.PRUNED) < 8
    assert len(runs.made) == states.count(TrialState.COMPLETE)
    said = capsys.readouterr().out
    assert said.count(": diverged") == states.count(TrialState.PRUNED)
    assert f"8 of 8 trials have ended, {len(runs.made)} of them complete" in said


def test_without_a_complete_trial_nothing_is_best(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.ends = lambda changes: dvc_experiments.Diverged("")
    sweep.main()
    assert capsys.readouterr().out.splitlines()[-1].endswith("0 of them complete")


# --- several at a time ----------------------------------------------------------------------------


def test_two_jobs_run_two_trials_at_a_time_and_none_twice(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(workspace, trials=7)
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--jobs", "2"])
    entered, meeting = itertools.count(), asyncio.Barrier(2)

    async def run(*words: Any) -> Run:
        if next(entered) < 6:  # for the seventh there is no other
            await asyncio.wait_for(meeting.wait(), 30)
        return await runs.run(*words)

    monkeypatch.setattr(dvc_experiments, "run", run)
    sweep.main()
    assert len(runs.made) == 7
    assert sorted(trial.number for trial in studied()) == [*range(7)]


def test_where_one_of_two_jobs_fails_the_other_ends_and_takes_no_more(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--jobs", "2"])

    async def run(*words: Any) -> Run:
        await runs.run(*words)
        await asyncio.sleep(600)
        raise AssertionError

    runs.ends = at(1, InputError("disk full"))
    monkeypatch.setattr(dvc_experiments, "run", run)
    with pytest.raises(InputError, match="disk full"):
        sweep.main()
    assert len(runs.made) == 1


def test_clones_with_one_database_share_the_trials(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another clone takes its turn between any two trials of this one, and is killed in its last."""
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{workspace}/trials.db")
    other = workspace / "other"
    turns = iter(range(100))

    async def run(*words: Any) -> Run:
        if next(turns) == 2:
            (study,) = optuna.get_all_study_summaries(os.environ["OPTUNA_STORAGE"])
            shared = optuna.load_study(study_name=study.study_name, storage=os.environ["OPTUNA_STORAGE"])
            attributes = {"clone": str(other), "chosen": {}}
            taken = optuna.create_trial(state=TrialState.RUNNING, user_attrs=attributes)
            shared.add_trial(taken)
        return await runs.run(*words)

    monkeypatch.setattr(dvc_experiments, "run", run)
    sweep.main()
    states = [trial.state for trial in studied()]
    assert states.count(TrialState.COMPLETE) == len(runs.made) == 7
    assert states.count(TrialState.RUNNING) == 1  # the other's, left alone
    assert len(states) == 8


@pytest.mark.parametrize("place", range(5))
def test_what_another_clone_begins_meanwhile_is_not_run_twice(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Optuna writes the parameters of a trial that begins one by one; here there are none yet."""
    write(workspace, trials=6, space={RATE: {"choices": [0.1, 0.2]}, SIZE: {"choices": [8, 16, 32]}})
    propose = sweep.proposed

    def propose_as_another(*words: Any) -> dict[str, Any]:
        chosen = propose(*words)
        if len(words[-1]) == place:
            storage = sweep.open_storage()
            (study,) = optuna.get_all_study_summaries(storage)
            attributes = {"clone": "another", "chosen": chosen}
            taken = optuna.create_trial(state=TrialState.RUNNING, user_attrs=attributes)
            optuna.load_study(study_name=study.study_name, storage=storage).add_trial(taken)
        return chosen

    monkeypatch.setattr(sweep, "proposed", propose_as_another)
    sweep.main()
    assert len(runs.made) == 5
    assert len({json.dumps(trial.user_attrs["chosen"]) for trial in studied()}) == 6


@pytest.mark.parametrize("killed", [False, True])
def test_a_trial_that_waited_may_be_begun_by_another_clone(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Optuna then begins one of its own, which no clone has proposed; a kill may leave it as it is."""
    write(workspace, trials=4)
    enqueue = optuna.Study.enqueue_trial
    begun: list[optuna.Trial] = []

    def another_begins_it(study: optuna.Study, *words: Any, **named: Any) -> None:
        enqueue(study, *words, **named)
        if len(begun) < 2:
            begun.append(study.ask())
            begun[-1].set_user_attr("clone", "another")
            if killed:
                study.ask()

    monkeypatch.setattr(optuna.Study, "enqueue_trial", another_begins_it)
    sweep.main()
    assert len(runs.made) == 2
    chosen = [trial.user_attrs["chosen"] for trial in studied() if "chosen" in trial.user_attrs]
    assert len({json.dumps(each) for each in chosen}) == len(chosen) == 4
    sweep.main()  # those of a clone that is gone
    assert len(runs.made) == 2


def test_a_sweep_that_has_waited_is_of_the_files_of_then(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def wait(path: Path) -> Iterator[None]:
        write_params(workspace, TINY | {RATE: 0.2})
        path.parent.mkdir(parents=True)
        yield

    monkeypatch.setattr(sweep.locks, "exclusive", wait)
    sweep.main()
    assert next(iter(runs.made.values()))[RATE] == 0.2


def test_params_yaml_as_it_is_may_be_a_later_trial(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two at a time the second one has ended when both are killed, and the first goes on under another number."""
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--jobs", "2"])
    begun = itertools.count()

    async def run(*words: Any) -> Run:
        if (number := next(begun)) == 0:
            await asyncio.sleep(600)
        if number == 2:
            raise Killed
        return await runs.run(*words)

    with monkeypatch.context() as patch:
        patch.setattr(dvc_experiments, "run", run)
        with pytest.raises(Killed):
            sweep.main()
    sweep.main()
    assert "params.yaml as it is: accuracy " in capsys.readouterr().out


# --- what is refused ------------------------------------------------------------------------------


def test_files_that_experiments_would_miss_are_refused_with_the_list(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise InputError("received src/new.py")

    monkeypatch.setattr(dvc_experiments, "refuse_missing_files", refuse)
    with pytest.raises(InputError, match=r"received src/new\.py$"):
        sweep.main()
    assert not runs.made


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/trials.db", "mysql://a:secret@b"])
def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    with pytest.raises(InputError, match=r"^OPTUNA_STORAGE, else .* must be .*; received: .") as refused:
        sweep.main()
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_damaged_database_of_this_clone_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    sweep.HERE.mkdir(parents=True, exist_ok=True)
    (sweep.HERE / "trials.db").write_text("no database")
    with pytest.raises(InputError, match=rf", else {sweep.HERE}/trials.db, must be .*; received: .*not a database"):
        sweep.main()


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--jobs", "0"), "jobs must be 1 or more; received 0"),
        (("--confirm", "1"), "confirm must be 0, or 2 seeds or more; received 1"),
        (("--confirm", "-1"), "confirm must be 0, or 2 seeds or more; received -1"),
    ],
)
def test_numbers_must_be_possible(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], rule: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
    with pytest.raises(InputError, match=f"^{rule}$"):
        sweep.main()


@pytest.mark.parametrize("epochs", [[1], [1, 4]])
def test_of_twelve_trials_nine_are_proposed(
    runs: Runs, workspace: Path, monkeypatch: pytest.MonkeyPatch, epochs: list[int]
) -> None:
    write(workspace, trials=12, epochs=epochs)
    proposed: set[int] = set()
    sampler = optuna.samplers.TPESampler
    relative = sampler.sample_relative

    def sample(self: Any, study: optuna.Study, trial: Any, space: dict[str, Any]) -> dict[str, Any]:
        found = relative(self, study, trial, space)
        if found:  # random trials have their values one by one
            proposed.add(trial.number)
        return found

    monkeypatch.setattr(sampler, "sample_relative", sample)
    sweep.main()
    assert proposed == {*range(3, 12)}


# --- real experiments -----------------------------------------------------------------------------


def swept(clone: Clone) -> dict[str, dict[str, Any]]:
    """The parameters of each experiment, by name, as dvc shows them; without what a killed one left."""
    shown = clone.experiments()
    names = clone.dvc("exp", "list", "--name-only").split()
    return {name: shown[name]["params"]["params.yaml"]["data"] for name in names}


def prepared(reproduced: Clone, folder: Path, **changes: Any) -> Clone:
    clone = reproduced.copied(folder)
    write(folder, **changes)
    pipeline = YAML().load(folder / "dvc.yaml")
    del pipeline["stages"]["export"]  # takes as long as train and evaluate together, and is no part of a search
    YAML().dump(pipeline, folder / "dvc.yaml")
    clone.commit("what to search")
    return clone


def start(clone: Clone, **variables: str) -> subprocess.Popen[str]:
    """The sweep, in forks."""
    return subprocess.Popen(
        ["make", "--silent", "--old-file=.venv/run", "sweep"],
        cwd=clone.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=with_forks() | variables,
    )


@pytest.mark.slow
def test_killed_after_the_second_of_five_trials_it_ends_with_five_and_none_twice(
    reproduced: Clone, tmp_path: Path
) -> None:
    clone = prepared(reproduced, tmp_path / "clone", trials=5)
    process = start(clone)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("trial 2 | epoch 1/"):
            break
    kill_all_of(clone.folder)
    process.wait()
    assert len(swept(clone)) == 2
    said, _ = (again := start(clone)).communicate(timeout=600)
    assert again.returncode == 0, said
    assert "5 of 5 trials have ended, 5 of them complete" in said
    assert "trial 1 |" not in said
    found = swept(clone)
    settings = {(each["train"]["learning_rate"], each["train"]["batch_size"]) for each in found.values()}  # fmt: skip
    assert len(found) == len(settings) == 5
    assert clone.git("status", "--porcelain") == ""
    assert not [path for path in (clone.folder / ".cache/experiments").iterdir() if path.is_dir()]
    # its parameters are all that an experiment needs to be made again
    pattern = f"refs/exps/*/*/{min(found)}"
    reference = clone.git("for-each-ref", "--format=%(refname)", pattern).strip()
    (clone.folder / "params.yaml").write_text(clone.git("show", f"{reference}:params.yaml"))
    clone.dvc("repro")
    assert clone.git("diff", "--stat", reference, "--", "params.yaml", "dvc.lock", "metrics") == ""


def trees(clone: Clone) -> dict[str, str]:
    """What each experiment holds: its hash in git, by the experiment's name."""
    listed = clone.git("for-each-ref", "--format=%(refname:lstrip=4) %(tree)", "refs/exps/*/*/sweep-*")
    return dict(line.split() for line in listed.splitlines())


@pytest.mark.slow
def test_kill_9_at_ten_random_moments_changes_no_experiment(reproduced: Clone, tmp_path: Path) -> None:
    clone = prepared(reproduced, tmp_path / "clone", trials=2)
    undisturbed = clone.copied(tmp_path / "undisturbed")
    other = start(undisturbed)
    generator, struck, trials = np.random.default_rng(0), 0, clone.folder / ".cache/experiments"
    for moment in generator.uniform(0, 4, 10):
        process = start(clone)
        time.sleep(moment)
        kill_all_of(clone.folder)
        process.communicate()
        struck += trials.exists() and any(path.is_dir() for path in trials.iterdir())
    assert struck > 0
    for process in (start(clone), other):
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert "2 of 2 trials have ended, 2 of them complete" in said
    assert len(trees(clone)) == 2
    assert trees(clone) == trees(undisturbed)
    assert clone.git("status", "--porcelain") == ""
    assert not [path for path in (clone.folder / ".cache/experiments").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_machines_that_come_at_once_make_the_tables_together(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Barrier(8)

    def come(_: int) -> int:
        start.wait()
        return len(sweep.open_storage().get_all_studies())

    with servers.postgresql() as url, ThreadPoolExecutor(8) as pool:
        monkeypatch.setenv("OPTUNA_STORAGE", url)
        assert list(pool.map(come, range(8))) == [0] * 8


@pytest.mark.slow
def test_two_clones_share_the_trials_in_one_postgresql(reproduced: Clone, tmp_path: Path) -> None:
    first = prepared(reproduced, tmp_path / "first", trials=4)
    clones = [first, first.copied(tmp_path / "second")]
    with servers.postgresql() as url:
        processes = [start(clone, OPTUNA_STORAGE=url) for clone in clones]
        for process in processes:
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said
        (study,) = optuna.get_all_study_summaries(url)
        trials = optuna.load_study(study_name=study.study_name, storage=url).get_trials()
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(done) == 4
    made = [swept(clone) for clone in clones]
    for clone, experiments in zip(clones, made, strict=True):
        own = {
            trial.user_attrs["experiment"] for trial in done if trial.user_attrs["clone"].endswith(str(clone.folder))
        }
        assert own == experiments.keys()
        assert own  # both had a share
    assert {trial.user_attrs["experiment"] for trial in done} == made[0].keys() | made[1].keys()
    assert len({json.dumps(trial.params) for trial in done}) == 4


@pytest.mark.slow
def test_a_database_that_is_killed_thrice_loses_no_trial_and_none_comes_twice(
    reproduced: Clone, tmp_path: Path
) -> None:
    """PostgreSQL starts all its processes again when one is killed, and every connection is lost."""
    clone = prepared(reproduced, tmp_path / "clone", trials=2)
    generator = np.random.default_rng(0)
    ends = []
    with servers.postgresql() as url:
        for moment in generator.uniform(0, 3, 3):
            process = start(clone, OPTUNA_STORAGE=url)
            while not (connections := backends(url)):
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(moment)
            for connection in backends(url) or connections:
                with contextlib.suppress(psutil.NoSuchProcess):
                    connection.kill()
            said, _ = process.communicate(timeout=600)
            wait_until_it_has_recovered(url)
            ends.append(process.returncode)
            assert "Traceback" not in said
            assert (process.returncode == 0) != (f"error: {sweep.DATABASE}; received: " in said), said
        again = start(clone, OPTUNA_STORAGE=url)
        said, _ = again.communicate(timeout=600)
        assert again.returncode == 0, said
        (study,) = optuna.get_all_study_summaries(url)
        trials = optuna.load_study(study_name=study.study_name, storage=url).get_trials()
    assert any(ends)
    # a trial that fails with its connection may have no parameters yet
    done = [trial for trial in trials if trial.state != TrialState.FAIL]
    assert [trial.state for trial in done] == [TrialState.COMPLETE] * 2
    assert len(trees(clone)) == len({json.dumps(trial.params) for trial in done}) == 2


def wait_until_it_has_recovered(url: str) -> None:
    """PostgreSQL refuses connections for seconds where a process of it was killed; afterwards none is left."""
    engine, end = create_engine(url, poolclass=NullPool), time.monotonic() + 120
    while True:
        try:
            engine.connect().close()
            break
        except OperationalError:
            assert time.monotonic() < end
            time.sleep(0.1)
    while backends(url):
        time.sleep(0.05)


def backends(url: str) -> list[psutil.Process]:
    """The processes of PostgreSQL that serve a client each."""
    port = re.findall(r":(\d+)/", url)[0]
    (server,) = [
        connection.pid
        for connection in psutil.net_connections("tcp4")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == int(port)
    ]
    found = []
    for process in psutil.Process(server).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "127.0.0.1(" in " ".join(process.cmdline()):
                found.append(process)
    return found
