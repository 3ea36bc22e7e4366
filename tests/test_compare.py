"""Real runs on the small pipeline: a commit, the same again, and an experiment on fewer rows."""

import subprocess
from pathlib import Path

import pytest
from conftest import Clone


@pytest.fixture(scope="module")
def clone(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = reproduced.copied(tmp_path_factory.mktemp("compare") / "clone")
    clone.dvc("exp", "run", "--name", "fewer", "-S", "split.train_size=20", "-S", "train.epochs=1")
    clone.git("checkout", "--quiet", "--", ".")
    return clone


def compare(clone: Clone, *words: str) -> str:
    return clone.run("make", "--silent", "--old-file=.venv/run", "compare", *words)


def test_identical_runs_are_within_noise_on_test(clone: Clone) -> None:
    clone.git("commit", "--quiet", "--allow-empty", "--message", "nothing")
    said = compare(clone, "A=main~1", "B=main")
    assert "on test: both sides are commits" in said
    assert "within noise: The same images are right on both sides." in said
    assert (
        "accuracy +0.00 points (95 % interval +0.00 to +0.00), on 100 images: 0 newly right" in said
    )


@pytest.mark.parametrize("sides", [("main", "fewer"), ("main",)])
def test_among_experiments_and_in_the_workspace_val_decides(
    clone: Clone, sides: tuple[str, ...]
) -> None:
    said = compare(clone, *(f"{name}={side}" for name, side in zip("AB", sides, strict=False)))
    assert "on val: " in said
    assert "may still be chosen or dropped, which the test images must not decide." in said


def test_a_workspace_that_was_not_reproduced_is_said(clone: Clone, tmp_path: Path) -> None:
    other = clone.copied(tmp_path / "clone")
    path = other.folder / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    said = compare(other, "A=main")
    assert "the workspace is compared by results that are not of it: dvc.lock is not" in said


def test_an_experiment_that_became_a_branch_is_a_commit(clone: Clone, tmp_path: Path) -> None:
    other = clone.copied(tmp_path / "clone")
    other.dvc("exp", "branch", "fewer", "kept")
    assert "on test: both sides are commits" in compare(other, "A=main", "B=kept")


def test_training_on_few_rows_is_worse(clone: Clone) -> None:
    said = compare(clone, "A=main", "B=fewer")
    assert "\nworse: -" in said
    assert "the spread over seeds is not measured." in said
    said = compare(clone, "A=fewer", "B=main", "PART=test")
    assert "on test: as asked for." in said
    assert "\nbetter: +" in said


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ("nonsense",),
            "error: a side must be a commit, an experiment or workspace; received nonsense",
        ),
        (("HEAD", "empty"), "error: empty ("),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    clone: Clone, words: tuple[str, ...], error: str, tmp_path: Path
) -> None:
    other = clone.copied(tmp_path / "clone")
    other.git("rm", "--quiet", "-r", "metrics")
    other.commit("no metrics")
    other.git("update-ref", "refs/exps/aa/bbbb/empty", "HEAD")
    other.git("reset", "--quiet", "--hard", "HEAD~1")
    done = subprocess.run(
        ["python", "src/compare.py", *words],
        cwd=other.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(error)
    assert len(done.stderr.splitlines()) == 1
