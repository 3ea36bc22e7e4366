"""Verdicts on results that were changed by hand in a small pipeline, whose hashes in dvc.lock follow."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError

import pandas as pd
import pytest

import reproduction
import verdict
from analysis import dvc_lock, metric_files, revisions, seeds
from conftest import Clone
from edits import edit, md5, other_hash, write_output
from reproduction import Results


@pytest.fixture
def clone(reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    clone = reproduced.copied(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    monkeypatch.setattr("training.machine.is_portable", lambda: True)
    monkeypatch.setattr(reproduction, "would_run", lambda pipeline: [])  # hashes are edited without their files
    return clone


@pytest.fixture
def said(clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    def call() -> str:
        monkeypatch.setattr(sys, "argv", ["verdict.py"])
        verdict.main()
        return capsys.readouterr().out

    return call


def predict(part: str, right: int) -> None:
    """Predictions of which so many are right, and the accuracy that follows."""
    path = Path(f"metrics/predictions/{part}.csv")
    table = pd.read_csv(path, dtype=str)
    following = table["label"].map(lambda label: f"not {label}")
    table["predicted"] = table["label"].where(table.index < right, following)
    table.to_csv(path, index=False)
    other_hash("metrics/predictions")
    accuracy(part, right / len(table))


def accuracy(part: str, value: float) -> None:
    figures = metric_files.read(Path(f"metrics/{part}.json"))
    write_output(f"metrics/{part}.json", json.dumps(figures | {"accuracy": value}))


def measure_noise(std: float, **changes: float) -> None:
    """As make noise would have done it, for the figures of metrics/: four more seeds around them."""
    rows = [row | changes for row in seeds.figures(revisions.HERE)]
    rows += [
        row | {"seed": seed, "accuracy": row["accuracy"] + std * (-1) ** seed}
        for seed in (1, 2, 3, 4)
        for row in seeds.figures(revisions.HERE)
    ]
    pd.DataFrame(rows).to_csv("metrics/noise.csv", index=False)


def retrain() -> None:
    """As a machine that computes otherwise would: another model, in val one more image right."""
    other_hash(dvc_lock.MODEL)
    predict("val", 81)


def commit_figures(clone: Clone, std: float | None = 0.01, **changes: float) -> None:
    for part in ("val", "test"):
        predict(part, 80)
    if std is not None:
        measure_noise(std, **changes)
    clone.commit("figures")


def test_committed_results_are_reproduced_at_once(clone: Clone) -> None:
    """Without the libraries that take seconds; in a fresh process."""
    code = (
        "import runpy, sys; sys.argv[:] = ['tools/verdict.py']; sys.path.insert(0, 'tools')\n"
        "runpy.run_path('tools/verdict.py', run_name='__main__')\n"
        "print({'dvc', 'keras', 'pandas', 'scipy', 'torch'} & {*sys.modules})"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    head = clone.git("rev-parse", "HEAD")[:7]
    assert said == f"Reproduced: every byte as committed in {head}; the MD5 hash of {dvc_lock.MODEL} is " + (
        f"{md5(Path(dvc_lock.MODEL))}.\nset()\n"
    )


def test_git_may_show_signatures(clone: Clone, said: Callable, tmp_path: Path) -> None:
    header, message = clone.git("cat-file", "commit", "HEAD").split("\n\n", 1)
    (tmp_path / "signed").write_text(
        f"{header}\ngpgsig -----BEGIN PGP SIGNATURE-----\n -----END PGP SIGNATURE-----\n\n{message}"
    )
    signed = clone.git("hash-object", "-t", "commit", "-w", str(tmp_path / "signed")).strip()
    clone.git("reset", "--soft", signed)
    (tmp_path / "gpg").write_text("#!/bin/sh\necho 'Good signature' >&2\n")
    (tmp_path / "gpg").chmod(0o755)
    clone.git("config", "gpg.program", str(tmp_path / "gpg"))
    clone.git("config", "log.showSignature", "true")
    assert "Good signature" in clone.git("log", "-1", "--format=%H")
    assert said().startswith(f"Reproduced: every byte as committed in {signed[:7]}")


def test_make_repro_ends_with_the_verdict(clone: Clone) -> None:
    said = clone.run("make", "--silent", "--old-file=.venv/run", "repro")
    assert "up to date" in said
    assert said.splitlines()[-1].startswith("Reproduced: every byte as committed")


def test_without_a_committed_dvc_lock_there_is_no_verdict(clone: Clone, said: Callable) -> None:
    clone.git("rm", "--quiet", "--cached", "dvc.lock")
    clone.git("commit", "--quiet", "--message", "no results")
    assert said() == "No verdict: HEAD has no dvc.lock (commit it, with metrics).\n"


@pytest.mark.parametrize(
    ("lost", "reason"), [(".git", "not a git repository"), ("HEAD", "your current branch 'empty' does not have any")]
)
def test_where_git_has_no_commit_its_own_line_says_so(clone: Clone, said: Callable, lost: str, reason: str) -> None:
    if lost == "HEAD":
        clone.git("switch", "--quiet", "--orphan", "empty")
    else:
        (clone.folder / ".git").rename(clone.folder / "git")
    with pytest.raises(InputError, match=rf"^git log .* must succeed; it said: fatal: {reason}"):
        said()


def lose_the_model() -> None:
    Path(dvc_lock.MODEL).unlink()


def other_model() -> None:
    Path(dvc_lock.MODEL).write_text("other")


def train_for_longer() -> None:
    edit(Path("params.yaml"), "epochs: 2", "epochs: 3")


@pytest.mark.parametrize(
    ("change", "stages"), [(lose_the_model, "train"), (train_for_longer, "train"), (other_model, "train")]
)
def test_what_dvc_lock_does_not_describe_has_no_verdict(clone: Clone, change: Callable[[], None], stages: str) -> None:
    change()
    said = clone.run("python", "tools/verdict.py")
    assert said.startswith(f"No verdict: what is here is not what dvc.lock says (make repro): {stages}")
    assert len(said.splitlines()) == 1


def test_in_a_subfolder_of_a_larger_repository_the_commit_is_read_too(
    clone: Clone, said: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_figures(clone)
    shutil.rmtree(".git")
    larger = Clone(tmp_path / "larger")
    shutil.copytree(clone.folder, larger.folder / "below")
    larger.git("init", "--quiet")
    larger.git("add", "--all")
    larger.commit("as a part")
    monkeypatch.chdir(larger.folder / "below")
    retrain()
    text = said()
    assert text.startswith("Other bytes, same result: 3 of ")
    assert "\nval accuracy: 80.00% in the commit, 81.00% here: within noise. " in text


def test_other_bytes_within_the_noise_are_the_same_result(clone: Clone, said: Callable) -> None:
    commit_figures(clone)
    retrain()
    text = said()
    assert text.startswith("Other bytes, same result: 3 of ")
    (model,) = [line for line in text.splitlines() if dvc_lock.MODEL in line]
    hashes = [dvc_lock.read(commit)["train"].outputs[dvc_lock.MODEL][:7] for commit in ("HEAD", None)]
    assert model.split()[:3] == ["train", dvc_lock.MODEL, hashes[0]]
    assert model.endswith(f"{hashes[1]} here")
    assert "\nval accuracy: 80.00% in the commit, 81.00% here: within noise. " in text
    assert "Chance in images and seeds explains +1.00 points, if both models spread alike (p = 0.41)." in text
    assert "\ntest accuracy: 80.00% in the commit, 80.00% here: within noise. Both models" in text
    assert "\nCause: unknown. Inputs," in text
    assert "Please report it with these lines and: Python 3." in text


def test_beyond_the_noise_is_another_result(clone: Clone, said: Callable) -> None:
    commit_figures(clone)
    other_hash(dvc_lock.MODEL)
    predict("test", 60)
    text = said()
    assert text.startswith("Another result: ")
    assert "\ntest accuracy: 80.00% in the commit, 60.00% here: worse. -20.00 points are more than" in text


@pytest.mark.parametrize(
    ("std", "changes"), [(None, {}), (0.01, {"accuracy": 0.5}), (0.01, {"loss": 0.5})],
    ids=["not measured", "of another training", "of another training alike"],
)  # fmt: skip
def test_without_the_noise_of_this_training_nothing_is_decided(
    clone: Clone, said: Callable, std: float | None, changes: dict[str, float]
) -> None:
    commit_figures(clone, std, **changes)
    retrain()
    text = said()
    assert text.startswith("Other bytes, result not decided: ")
    assert "81.00% here. Whether another seed explains that is not known: the commit has no spread over" in text


def test_other_images_are_not_compared(clone: Clone, said: Callable) -> None:
    commit_figures(clone)
    other_hash("data/prepared/test")
    text = said()
    assert text.startswith("Other bytes, result not decided: ")
    assert "test accuracy: 80.00% in the commit, 80.00% here. Not compared: " in text


def test_a_figure_that_its_predictions_contradict_is_another_result(clone: Clone, said: Callable) -> None:
    accuracy("test", 0.999)
    clone.commit("forge")
    for path in ("dvc.lock", "metrics/test.json"):
        Path(path).write_text(clone.git("show", f"HEAD~1:{path}"))
    text = said()
    assert text.startswith("Another result: 1 of ")
    assert "test accuracy: 99.90% in the commit, " in text
    assert "The predictions contradict that: they give +0.00 points" in text


# --- causes ---------------------------------------------------------------------------------------


def named() -> list[str]:
    results = Results.read()
    assert results is not None
    return [cause.why for cause in reproduction.causes(results)]


def change_inputs() -> None:
    """A parameter and a source of train, and what they give."""
    edit(Path("params.yaml"), "  epochs: 2", "  epochs: 3")
    edit(dvc_lock.LOCK, "epochs: 2", "epochs: 3")
    source = Path("src/training/batches.py")
    old = md5(source)
    source.write_text(source.read_text() + "# touched\n")
    edit(dvc_lock.LOCK, old, md5(source))


def test_uncommitted_changes_are_an_experiment_that_val_judges(clone: Clone, said: Callable) -> None:
    commit_figures(clone)
    change_inputs()
    retrain()
    predict("test", 10)
    text = said()
    assert text.startswith("Other bytes, same result: ")
    assert "test accuracy" not in text
    changes = "src/training/batches.py, train.epochs (2, here 3): an experiment, not a fault"
    assert f"\nCause: uncommitted changes to {changes}." in text
    assert "unknown" not in text


def test_changes_that_change_no_byte_are_reproduced(clone: Clone, said: Callable) -> None:
    change_inputs()
    assert said().startswith("Reproduced: ")


def test_new_data_are_an_experiment_though_git_ignores_them(clone: Clone) -> None:
    Path("data/input/train.csv").write_text("label")
    (old,) = {
        stage.inputs["data/input", ""] for stage in dvc_lock.read().values() if ("data/input", "") in stage.inputs
    }
    edit(dvc_lock.LOCK, old, old[::-1])
    other_hash("data/prepared/train")
    assert named() == ["uncommitted changes to data/input: an experiment, not a fault"]


def test_a_commit_without_its_results_is_named(clone: Clone) -> None:
    lock = dvc_lock.LOCK.read_text()
    change_inputs()
    other_hash(dvc_lock.MODEL)
    here = dvc_lock.LOCK.read_text()
    dvc_lock.LOCK.write_text(lock)
    clone.commit("code alone")
    dvc_lock.LOCK.write_text(here)
    (why,) = named()
    assert why.startswith("the commit was made without its results: its dvc.lock is older than src/training/")


def test_a_change_behind_another_cause_does_not_hide_it(clone: Clone) -> None:
    """An edited evaluate explains no other model."""
    source = Path("src/evaluate.py")
    old = md5(source)
    source.write_text(source.read_text() + "# touched\n")
    edit(dvc_lock.LOCK, old, md5(source))
    other_hash(dvc_lock.MODEL)
    other_hash("metrics/predictions")
    experiment, unknown = named()
    assert experiment.startswith("uncommitted changes to src/evaluate.py:")
    assert unknown.startswith("unknown")


def test_an_output_that_was_edited_is_named(clone: Clone) -> None:
    path = Path("metrics/test.json")
    path.write_text(path.read_text().replace("0.", "0.9", 1))
    assert named() == [
        "metrics/test.json is not as committed, though dvc.lock is: one of the two files was edited by hand"
    ]


def compute(precision: str, device: str) -> None:
    figures = metric_files.read(Path("metrics/train.json"))
    write_output("metrics/train.json", json.dumps(figures | {"precision": precision, "device": device}))


def test_another_precision_or_device_is_named(clone: Clone) -> None:
    figures = metric_files.read(Path("metrics/train.json"))
    figures.pop("precision", None)
    write_output("metrics/train.json", json.dumps(figures))
    clone.commit("figures of an earlier version, which did not record it")
    compute("float32", "cpu")
    assert named()[0].startswith("unknown")
    clone.commit("figures")
    compute("bfloat16", "cuda")
    assert named() == ["train computed in bfloat16 on cuda here, in float32 on cpu in the commit"]
    clone.commit("other figures")
    other_hash(dvc_lock.MODEL)
    assert named() == ["train computed in bfloat16 on cuda here, in bfloat16 on cuda in the commit"]


def test_how_train_computes_is_no_cause_of_other_data(clone: Clone) -> None:
    compute("bfloat16", "cpu")
    clone.commit("figures")
    other_hash("data/prepared/train")
    (why,) = named()
    assert why.startswith("unknown. Inputs, precision, device, libraries and arithmetic are as committed: prepare is")


def test_other_libraries_than_the_commit_locks_are_named(clone: Clone) -> None:
    path = Path("requirements.txt")
    path.write_text(path.read_text().replace("keras==", "keras==0.") + "no-such-library==1\n")
    clone.commit("lock others")
    path.write_text(clone.git("show", "HEAD~1:requirements.txt"))  # an upgrade that is not committed
    other_hash(dvc_lock.MODEL)
    (why,) = named()
    start = "the commit locks other libraries in requirements.txt than are installed: keras "
    assert why.startswith(start)
    assert why.endswith(", no-such-library not installed (locked: 1)")


def test_a_library_in_another_version_is_found_among_comments_and_markers() -> None:
    locked = "keras==9 ; python_full_version < '3'\n# torch==9\ntorch==2.13.0 \\\n    --hash=sha256:00\n"
    assert reproduction.other_libraries(locked) == []
    assert [text.split()[0] for text in reproduction.other_libraries("torch==2.12.0")] == ["torch"]


def test_what_is_left_of_a_removed_library_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert reproduction.other_libraries("torch==2.13.0\ngone==1.0") == ["gone not installed (locked: 1.0)"]


def test_a_processor_that_is_not_portable_is_named(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.machine.is_portable", lambda: False)
    monkeypatch.setattr("training.machine.processor", lambda: "Some Processor")
    monkeypatch.setattr(reproduction.platform, "machine", lambda: "aarch64")
    other_hash(dvc_lock.MODEL)
    reason = "this processor gives other last bits than every x86-64 with AVX2 so far: Some Processor (aarch64)"
    assert named() == [reason]
