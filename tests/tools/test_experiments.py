"""One line for the commit and for each idea; trainings are stand-ins."""

import json
import sys
from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest

import experiments
import replicates
from analysis.comparison import Difference
from replicates import FIRST, git


@pytest.fixture(autouse=True)
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A commit with one experiment and another seed of each."""
    monkeypatch.chdir(tmp_path)
    replicates.repository()
    head = git("rev-parse", "HEAD")
    replicates.experiment("seed-8", head, head, results(8))
    replicates.experiment("an-idea-with-quite-a-long-name", head, head, results(FIRST, epochs=3))
    replicates.experiment("idea-8", head, head, results(8, epochs=3))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    return head


def results(seed: int, epochs: int = 2) -> dict[str, str]:
    return replicates.results(seed, epochs, parts=("val",))


def test_replicates_are_seeds_of_their_model(monkeypatch: pytest.MonkeyPatch) -> None:
    table = experiments.table()
    assert table["name"].tolist() == ["HEAD", "an-idea-with-quite-a-long-name"]
    assert table["differs in"].tolist() == ["", "epochs 3"]
    assert table["seeds"].tolist() == [2, 2]
    assert table["verdict"].tolist() == ["", "within noise"]


def test_a_line_has_at_most_100_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = experiments.table()
    table["differs in"] = ", ".join(f"parameter{number} {number}" for number in range(9))
    table["val accuracy"], table["seconds"], table["verdict"] = "100.00% (99.9%–100.0%)", "12345", "within noise"
    monkeypatch.setattr(experiments, "table", lambda: table)
    monkeypatch.setattr(sys, "argv", ["experiments.py"])
    experiments.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) == 100
    assert lines[2].startswith("an-idea-with-qu…  parameter0 0, parameter…  100.00%")


def test_seconds_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.Revision, "outputs", lambda model: {"models/model.keras": model.name})
    experiments.SECONDS.parent.mkdir(parents=True)
    experiments.SECONDS.write_text("HEAD,12\nother,3\n")
    assert experiments.table()["seconds"].tolist() == ["12", ""]


def test_ideas_in_code_are_told_apart(head: str) -> None:
    for name, md5 in (("one", "1234567890"), ("other", "abcdefghij")):
        lock = json.loads(replicates.lock(FIRST))
        lock["stages"]["train"]["deps"] = [{"path": "src/training/muon.py", "md5": md5}]
        lock["stages"]["train"]["params"]["params.yaml"]["train"]["words"] = "two\nlines"
        replicates.experiment(name, head, head, results(FIRST) | {"dvc.lock": json.dumps(lock)})
    differing = experiments.table()["differs in"].tolist()[2:]
    assert differing == ["words two lines, muon.py 1234567", "words two lines, muon.py abcdefg"]


def test_removed_and_nested_parameters_are_told_apart(head: str) -> None:
    for name, place in (("gone", None), ("nested", "muon"), ("plain", "")):
        lock = json.loads(replicates.lock(FIRST))
        train = lock["stages"]["train"]["params"]["params.yaml"]["train"]
        if place is None:
            del train["epochs"]
        elif place:
            train["optimizer_options"] = {place: {"learning_rate": 0.2}}
        else:
            train["learning_rate"] = 0.2
        replicates.experiment(name, head, head, results(FIRST) | {"dvc.lock": json.dumps(lock)})
    differing = experiments.table().set_index("name")["differs in"]
    assert differing[["gone", "nested", "plain"]].tolist() == [
        "epochs removed", "muon.learning_rate 0.2", "learning_rate 0.2",
    ]  # fmt: skip


def test_a_figure_that_is_a_text_is_refused(head: str) -> None:
    found = results(FIRST, epochs=6)
    val = json.loads(found["metrics/val.json"])
    replicates.experiment("text", head, head, found | {"metrics/val.json": json.dumps(val | {"accuracy": "0.9"})})
    with pytest.raises(InputError, match=r"accuracy is missing or no number$"):
        experiments.table()


def test_why_an_experiment_is_not_compared(head: str) -> None:
    """Its images are other ones, it was evaluated on test alone, or a figure is missing."""
    other = results(FIRST, epochs=6)
    other["metrics/predictions/val.csv"] = "id,label,predicted,confidence\n0,1,1,0.5\n2,b,b,0.5\n"
    replicates.experiment("other-rows", head, head, other)
    replicates.experiment("test-alone", head, head, replicates.results(FIRST, epochs=4, parts=("test",)))
    assert experiments.table()["verdict"].tolist()[2:] == ["other images", "not on val"]
    other["metrics/val.json"] = json.dumps({"accuracy": 0.9})
    replicates.experiment("no-interval", head, head, other | {"dvc.lock": replicates.lock(FIRST, epochs=5)})
    with pytest.raises(
        InputError, match=r"^metrics/val.json in no-interval \(.{7}\) must have source, .* is missing or no number$"
    ):
        experiments.table()


def test_the_verdict_is_on_the_experiment_beside_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []

    def compare(before: Any, after: Any, part: str) -> tuple[Difference, None]:
        pairs.append((before.name, after.name, part))
        return Difference(5000, (5, 5), True, 40, 10, 0.006, 1e-9, 1e-9), None

    monkeypatch.setattr(experiments.comparison, "compare", compare)
    assert experiments.table()["verdict"].tolist() == ["", "better"]
    assert pairs == [("HEAD", "an-idea-with-quite-a-long-name", "val")]
