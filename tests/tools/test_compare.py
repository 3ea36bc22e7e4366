"""Comparisons in the small pipeline: a commit, the same again, and an experiment that is worse."""

import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError

import pandas as pd
import pytest

import compare
from analysis import revisions, seeds
from conftest import Clone, made_once


def predict_one_class(clone: Clone) -> None:
    """As a model that knows no other class would do."""
    for path in (clone.folder / "metrics/predictions").glob("*.csv"):
        table = pd.read_csv(path, dtype=str)
        table.assign(predicted=table["label"].iloc[0]).to_csv(path, index=False)


@pytest.fixture(scope="module")
def base(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With an experiment `worse`, and one without metrics; main has an empty commit more."""

    def make(folder: Path) -> None:
        clone = reproduced.copied(folder)
        head = clone.git("rev-parse", "HEAD").strip()
        predict_one_class(clone)
        clone.commit("worse")
        clone.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/worse", "HEAD")
        clone.git("rm", "--quiet", "-r", "metrics")
        clone.commit("no metrics")
        clone.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/empty", "HEAD")
        clone.git("reset", "--quiet", "--hard", head)
        clone.git("commit", "--quiet", "--allow-empty", "--message", "nothing")

    return Clone(made_once(tmp_path_factory, "compared", make)).copied(tmp_path_factory.mktemp("compare") / "clone")


@pytest.fixture
def clone(base: Clone, forks: None, monkeypatch: pytest.MonkeyPatch) -> Clone:
    monkeypatch.chdir(base.folder)
    return base


@pytest.fixture
def call(clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare.py", *words])
        compare.main()
        return capsys.readouterr().out

    return call


def test_identical_runs_are_within_noise_on_test(clone: Clone) -> None:
    words = ("make", "--silent", "--old-file=.venv/run", "compare", "A=main~1", "B=main")
    said = clone.run(*words)
    assert "on test: both are commits" in said
    assert "within noise: Both models classify the same images correctly." in said
    assert "accuracy +0.00 points (95 % interval over images alone +0.00 to +0.00), 1 and 1 seeds, 100 images" in said


@pytest.mark.parametrize("names", [("main", "worse"), ("main",)])
def test_among_experiments_and_in_the_workspace_val_decides(call: Callable[..., str], names: tuple[str, ...]) -> None:
    said = call(*names)
    assert "on val: " in said
    assert "may still be chosen or dropped, which the test images must not decide." in said
    assert "do not belong to it" not in said


def test_a_workspace_that_was_not_reproduced_is_said(
    clone: Clone, call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = clone.copied(tmp_path / "clone")
    path = other.folder / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    monkeypatch.chdir(other.folder)
    assert "the results in the workspace do not belong to it: dvc.lock is not" in call("main")
    with pytest.raises(SystemExit) as ended:  # whatever the verdict on the results that are here
        call("main", "--fail-if", "worse")
    assert ended.value.code == 2


def test_so_is_a_commit_that_was_made_without_its_results(
    clone: Clone, call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = clone.copied(tmp_path / "clone")
    monkeypatch.chdir(other.folder)
    path = other.folder / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    other.commit("more epochs, not trained")
    assert "do not belong to it: dvc.lock is not" in call("HEAD~1", "HEAD")
    assert "do not belong to it" not in call("HEAD~2", "HEAD~1")
    with pytest.raises(SystemExit) as ended:
        call("HEAD~1", "HEAD", "--fail-if", "worse")
    assert ended.value.code == 2
    assert "do not belong to it" in capsys.readouterr().out
    (other.folder / "src/architectures/basic.py").write_text("")  # of a published system
    other.git("checkout", "--quiet", "HEAD~1", "--", "params.yaml")
    assert "do not belong to it" not in call("HEAD~1")


def test_an_experiment_that_became_a_branch_is_a_commit(
    clone: Clone, call: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = clone.copied(tmp_path / "clone")
    experiment = other.git("for-each-ref", "--format=%(objectname)", "refs/exps/*/*/worse").strip()
    other.git("branch", "kept", experiment)
    monkeypatch.chdir(other.folder)
    assert "on test: both are commits" in call("main", "kept")


def test_without_a_spread_over_seeds_nothing_is_decided(call: Callable[..., str]) -> None:
    said = call("main", "worse")
    assert "\nnot decided: -" in said
    assert "by chance in the images alone (McNemar's exact test); chance in the seeds is not measured" in said
    assert "\nTo decide it: make replicate EXP=worse, which" in said
    assert "What difference 5 seeds detect is not known" in said
    assert " True" not in said  # no class counts


@pytest.fixture
def measured(clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """With a spread over seeds that belongs to the model of main."""
    other = clone.copied(tmp_path / "measured")
    monkeypatch.chdir(other.folder)
    rows = [
        row | {"seed": seed, "accuracy": row["accuracy"] + 0.01 * shift}
        for seed, shift in enumerate((0, 1, -1))
        for row in seeds.figures(revisions.HERE)
    ]
    pd.DataFrame(rows).to_csv("metrics/noise.csv", index=False)
    other.commit("noise")
    return other


def test_a_model_that_knows_one_class_is_worse(measured: Clone, call: Callable[..., str]) -> None:
    said = call("main", "worse")
    assert "\nworse: -" in said
    assert "3 and 1 seeds" in said
    assert "5 seeds on each side detect a true difference of " in said
    assert "; 0.30 points need " in said
    assert "; 2.00 points need " in call("main", "worse", "--difference", "2")
    said = call("worse", "main", "--part", "test")
    assert "on test: as asked for." in said
    assert "\nbetter: +" in said


def test_the_exit_status_is_for_programs(measured: Clone, call: Callable[..., str]) -> None:
    for names, status in ((("main", "worse"), 1), (("worse", "main"), 0)):
        with pytest.raises(SystemExit) as ended:
            call(*names, "--fail-if", "worse")
        assert ended.value.code == status
    for points, status in (("1", 1), ("99.5", 0)):
        with pytest.raises(SystemExit) as ended:
            call("main", "worse", "--fail-if", "worse", "--tolerance", points)
        assert ended.value.code == status
    Path("metrics/noise.csv").unlink()
    measured.commit("without noise")
    with pytest.raises(SystemExit) as ended:
        call("main", "worse", "--fail-if", "worse")
    assert ended.value.code == 2


@pytest.mark.parametrize("points", ["-1", "nan"])
def test_a_tolerance_must_be_possible(call: Callable[..., str], points: str) -> None:
    with pytest.raises(InputError, match=rf"^tolerance must be .* points; received {points}"):
        call("main", "worse", "--tolerance", points)


@pytest.mark.parametrize("points", ["0", "-0.1", "100"])
def test_a_difference_to_tell_must_be_possible(call: Callable[..., str], points: str) -> None:
    with pytest.raises(InputError, match=rf"^difference must be .* points; received {points}"):
        call("main", "worse", "--difference", points)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ("nonsense",),
            "^a revision must be a commit, an experiment or workspace; received nonsense: unknown Git revision 'nonsense'$",
        ),
        (("HEAD", "empty"), r"^empty \(.*\) must have predictions on val .*; received no"),
    ],
)
def test_what_cannot_be_compared_is_one_line(call: Callable[..., str], words: tuple[str, ...], error: str) -> None:
    with pytest.raises(InputError, match=error) as refused:
        call(*words)
    assert "\n" not in str(refused.value)
