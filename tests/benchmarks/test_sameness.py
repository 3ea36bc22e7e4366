"""Which stages of a small run have another processor."""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest

import benchmark_files
import sameness
from analysis import dvc_lock
from analysis.dvc_lock import Stage
from conftest import ROOT
from training import machine

STAGE = """
import os, pathlib, sys
with open("order.txt", "a") as order:
    print(pathlib.Path(sys.argv[0]).stem, os.environ.get("IMITATE"), os.environ["SEALED_PROCESS"] == str(os.getpid()), file=order)
pathlib.Path("models").mkdir(exist_ok=True)
pathlib.Path("models/model").write_text("bytes")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project whose stages write down under what they ran."""
    source = tmp_path / "source"
    source.mkdir()
    for stage in sameness.STAGES:
        (source / f"{stage}.py").write_text(STAGE)
    monkeypatch.setattr(sameness.rerun, "SOURCE", source)
    monkeypatch.setattr(sameness.benchmark_files, "training_key", lambda: "this training")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "params.yaml").write_text("split: {train_size: null}\ntrain: {epochs: 26, least_steps: 100}\n")
    return tmp_path


def small(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[dict[str, Any]]:
    monkeypatch.setattr("sys.argv", ["sameness.py", "--small", *words])
    sameness.main()
    return json.loads(sameness.RESULTS.read_text("utf-8"))["small"]


def order(name: str) -> list[str]:
    return (sameness.FOLDER / f"small {name}" / "order.txt").read_text().splitlines()


def test_all_stages_run_here_and_on_the_imitated_processor(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = small(monkeypatch, "--under", "/usr/bin/env IMITATE=zen2", "--name", "zen2")
    assert order("native") == [f"{stage} None True" for stage in sameness.STAGES]
    assert order("zen2") == [f"{stage} zen2 True" for stage in sameness.STAGES]
    assert [(run["imitated"], run["by"]) for run in found] == [("", ""), ("zen2", "env IMITATE=zen2")]
    assert (
        found[0]["outputs"]
        == found[1]["outputs"]
        == {"models/model": hashlib.md5(b"bytes", usedforsecurity=False).hexdigest()}
    )


def test_other_bytes_are_written_down_and_end_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = STAGE + 'open("models/" + str(os.environ.get("IMITATE")), "w")'
    (sameness.rerun.SOURCE / "export.py").write_text(other)
    for _ in range(2):  # the second time they are known
        with pytest.raises(InputError, match=r"^every output .*; others came from zen2: models/None, models/zen2$"):
            small(monkeypatch, "--under", "env IMITATE=zen2", "--name", "zen2")
    assert [run["imitated"] for run in json.loads(sameness.RESULTS.read_text("utf-8"))["small"]] == ["", "zen2"]
    assert small(monkeypatch, "--rows", "5000")[2]["rows"] == 5000  # has none to be compared with


@pytest.mark.parametrize("is_same", [True, False])
def test_a_whole_run_must_give_the_committed_model(
    project: Path, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    committed = Stage(outputs={dvc_lock.MODEL: "0123" if is_same else "4567"})
    monkeypatch.setattr(dvc_lock, "read", lambda: {"train": committed})
    monkeypatch.setattr(sameness, "repeat", lambda run, folder: {"md5": "0123" if not run.changes else "89ab"})
    monkeypatch.setattr(sameness, "on_test", lambda one, other: {"predictions changed": 5, "accuracy": 0.0})
    monkeypatch.setattr("sys.argv", ["sameness.py", "--only", "1 thread", "train.precision bfloat16"])
    for _ in range(2):  # the second time both are known
        refusal = pytest.raises(InputError, match=r"^every run must .* others came from: 1 thread$")
        with nullcontext() if is_same else refusal:
            sameness.main()
    runs = json.loads(sameness.RESULTS.read_text("utf-8"))["runs"]
    assert [(run["run"], run["md5"], "test" in run) for run in runs] == [
        ("1 thread", "0123", False),
        ("train.precision bfloat16", "89ab", True),
    ]


def committed() -> dict[str, Any]:
    """The results of the training here: in an experiment, or a repository of one's own, there may be none."""
    found = benchmark_files.results("sameness")
    if not found or found["training"] != benchmark_files.training_key():
        pytest.skip("sameness is not measured for this training")
    return found


def test_what_is_committed_supports_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = committed()
    others = [run["run"] for run in found["runs"] if not sameness.is_committed(run)]
    assert others == [run["run"] for run in found["runs"] if sameness.RUNS[run["run"]].changes]
    assert [sameness.other_outputs(run, found["small"]) for run in found["small"]] == [[]] * len(found["small"])
    assert found["runs"] and found["small"]


def test_chosen_stages_alone_are_imitated(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--under", "env IMITATE=zen2", "--name", "zen2", "--stages", "train", "export"
    by = [run["by"] for run in small(monkeypatch, *words)]
    imitated = ("train", "export")
    assert order("zen2") == [f"{stage} {'zen2' if stage in imitated else None} True" for stage in sameness.STAGES]
    assert by == ["", "env IMITATE=zen2, train and export alone"]


def test_a_stage_that_fails_ends_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sameness.rerun.SOURCE / "split.py").write_text("raise SystemExit(3)")
    with pytest.raises(InputError, match=r"^split must succeed in .*; it ended with 3$"):
        small(monkeypatch)
    assert not sameness.RESULTS.exists()


@pytest.mark.slow
def test_the_code_gives_the_bytes_that_were_committed(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages with the committed parameters on few rows: it notices in minutes what a rebuild would."""
    monkeypatch.chdir(ROOT)
    found = committed()
    assert machine.is_portable(), "this processor's float32 is its own: no other one gives these bytes"
    known = min(found["small"], key=lambda run: run["rows"])
    monkeypatch.setenv("FASHION_MNIST_DIR", str(real.parent / "raw"))
    sameness.run_stages(tmp_path / "run", known["rows"], known["epochs"])
    again = known | {"outputs": sameness.hashes(tmp_path / "run")}
    assert sameness.other_outputs(again, [known]) == [], (
        "the code computes something else (dvc repro --force and the benchmarks of docs/reproducibility.md, if it is meant)"
    )
