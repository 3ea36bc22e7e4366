"""Which stages of a small run have another processor."""

import json
from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest

import sameness

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
    assert found[0]["hash"] == found[1]["hash"]


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
