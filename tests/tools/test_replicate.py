"""Which seeds are trained, and which are found again; trainings are stand-ins, but for the slow test."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError

import pandas as pd
import pytest

import check
import dvc_experiments
import replicate
import replicates
import verdict
from analysis import comparison, revisions, seeds
from conftest import Clone
from replicates import FIRST, Trainings, git


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    monkeypatch.chdir(tmp_path)
    replicates.repository()
    git("config", "core.excludesFile", ".gitignore")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    made = Trainings()
    monkeypatch.setattr(check, "lock_problems", lambda own=False: [])
    monkeypatch.setattr(dvc_experiments, "refuse_missing_files", lambda: None)
    monkeypatch.setattr(dvc_experiments, "run", made.run)
    return made


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["replicate.py", *words])
        replicate.main()
        return capsys.readouterr().out

    return call


def test_an_experiment_is_trained_with_the_seeds_that_are_missing(made: Trainings, call: Callable[..., str]) -> None:
    head = git("rev-parse", "HEAD")
    replicates.experiment("idea", head, head, replicates.results(FIRST, epochs=3))
    made.kinds = {"epochs": 3}
    said = call("idea", "--seeds", "3")
    assert made.seeds == [8, 9]
    assert "val accuracy of 3 seeds: 83.33% ± 28.87%" in said
    assert "make compare A=HEAD B=idea" in said
    call("idea", "--seeds", "4")
    assert made.seeds == [8, 9, 10]
    model = revisions.resolve("idea")
    assert sorted(seeds.replicates(model)) == [FIRST, 8, 9, 10]
    # they are experiments of the same commit
    assert len(revisions.experiments(f"refs/exps/{head[:2]}/{head[2:]}/*")) == 4
    assert [*seeds.replicates(revisions.HERE)] == [FIRST]


def test_a_commit_and_the_workspace_share_their_seeds(made: Trainings, call: Callable[..., str]) -> None:
    call("HEAD", "--seeds", "2")
    call("--seeds", "3")
    assert made.seeds == [8, 9]
    assert "make compare" not in call("workspace", "--seeds", "3")
    found = seeds.trainings(revisions.HERE, "val")
    assert sorted(found.right.columns) == [7, 8, 9]
    assert comparison.difference(found, found).power(5, 0.3).startswith("5 seeds on each side detect")


def test_other_seeds_do_not_stand_in_for_the_training_here(made: Trainings, call: Callable[..., str]) -> None:
    call("--seeds", "5")
    Path("metrics/predictions/val.csv").write_text("id,label,predicted,confidence\n0,1,0,0.5\n1,b,1,0.5\n")
    known = replicates.figures("val", FIRST)
    Path("metrics/val.json").write_text(json.dumps(known | {"accuracy": known["accuracy"] - 1}))
    _, line = verdict.judge(git("rev-parse", "HEAD"), "val")
    assert ", if both models spread alike (p = " in line  # there is one training here


def test_results_of_other_files_are_refused(made: Trainings, call: Callable[..., str]) -> None:
    made.kinds = {"epochs": 9}  # as params.yaml says, and dvc.lock does not
    with pytest.raises(InputError, match=r"^HEAD .* must have the results of its own files \(make repro\); received"):
        call("HEAD")
    assert made.seeds == [8]


def test_a_workspace_that_was_not_reproduced_is_refused(
    made: Trainings, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "lock_problems", lambda own: ["dvc.lock is not up to date"])
    with pytest.raises(InputError, match=r"^workspace must have results .*; received dvc.lock is not up to date$"):
        call()
    Path("dvc.lock").unlink()
    monkeypatch.setattr(check, "lock_problems", lambda own=False: [])
    with pytest.raises(InputError, match=r"received no training in dvc.lock$"):
        call()


def test_seeds_on_val_alone_are_evaluated_again_where_test_is_asked_for(
    made: Trainings, call: Callable[..., str]
) -> None:
    head = git("rev-parse", "HEAD")
    replicates.experiment("chosen", head, head, replicates.results(FIRST, parts=("val",)))
    made.kinds = {"parts": ("val",)}
    call("chosen", "--seeds", "3")
    made.kinds = {}
    call("--seeds", "3", "--record")
    assert made.seeds == [8, 9, 8, 9]
    assert len(set(made.names)) == 4
    assert seeds.trainings(revisions.HERE, "test").accuracy.index.tolist() == [7, 8, 9]
    recorded = pd.read_csv("metrics/noise.csv")
    assert recorded.groupby("part")["seed"].apply(list).to_dict() == {"val": [7, 8, 9], "test": [7, 8, 9]}
    assert "has 3 seeds" in call("--seeds", "3", "--record")
    call("chosen", "--seeds", "3")  # for which those on both parts do
    assert made.seeds == [8, 9, 8, 9]


def test_a_later_evaluation_on_val_alone_hides_no_seed_on_test(made: Trainings, call: Callable[..., str]) -> None:
    call("--seeds", "3")
    head = git("rev-parse", "HEAD")
    replicates.experiment("again", head, head, replicates.results(8, parts=("val",)))
    assert seeds.trainings(revisions.HERE, "test").accuracy.index.tolist() == [7, 8, 9]
    call("--seeds", "3")
    assert made.seeds == [8, 9]


def test_what_is_recorded_is_of_the_parts_of_the_model(made: Trainings, call: Callable[..., str]) -> None:
    call("--seeds", "3")
    replicates.write(replicates.results(FIRST, parts=("val",)))
    Path("metrics/predictions/test.csv").unlink()
    call("--seeds", "3", "--record")
    assert made.seeds == [8, 9]
    assert pd.read_csv("metrics/noise.csv")["part"].tolist() == ["val"] * 3
    assert json.loads(Path("metrics/noise.json").read_text()).keys() == {"val"}


def test_new_files_of_the_workspace_are_missed_by_its_own_seeds_alone(
    made: Trainings, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise InputError("all files must be in git")

    monkeypatch.setattr(dvc_experiments, "refuse_missing_files", refuse)
    call("HEAD", "--seeds", "2")
    with pytest.raises(InputError, match=r"^all files must be in git$"):
        call()
    for source in ("folder", "csv"):
        monkeypatch.setattr(revisions.Revision, "parameters", lambda self, source=source: {"data.source": source})
        with pytest.raises(InputError, match=r"^all files must be in git$"):
            call("HEAD", "--seeds", "2")


def test_one_seed_has_no_spread(made: Trainings, call: Callable[..., str]) -> None:
    with pytest.raises(InputError, match=r"^seeds must be 2 or more; received 1$"):
        call("--seeds", "1")


def test_the_seeds_of_an_experiment_are_not_recorded_as_those_of_the_workspace(
    made: Trainings, call: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match=r"^--record must come without EXP.*; received HEAD$"):
        call("HEAD", "--seeds", "3", "--record")
    assert made.seeds == []


@pytest.mark.slow
def test_a_real_experiment_and_its_seeds_decide(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "clone")
    clone.dvc("exp", "run", "--name", "idea", "-S", "train.epochs=1")
    clone.git("reset", "--quiet", "--hard")
    clone.dvc("checkout")
    words = ("make", "--silent", "--old-file=.venv/run")
    assert "not decided" in clone.run(*words, "compare", "A=HEAD", "B=idea")
    clone.run(*words, "replicate", "EXP=idea", "SEEDS=2")
    assert clone.git("status", "--porcelain") == ""
    said = clone.run(*words, "compare", "A=HEAD", "B=idea")
    assert "1 and 2 seeds" in said
    assert "not decided" not in said
    assert len([name for name in clone.experiments() if name.startswith("seed-")]) == 1
