import json
from pathlib import Path
from typing import Any

from common.errors import InputError

import pytest
import torch

import arithmetic
from training.adam import Adam

PLACE = {"processor": "one", "torch": "2.13.0+cpu"}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without results, where measuring takes no time."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arithmetic, "place", lambda: dict(PLACE))
    monkeypatch.setattr(arithmetic, "measure", lambda under: {"exp": f"under {under}"})


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[dict[str, Any]]:
    monkeypatch.setattr("sys.argv", ["arithmetic.py", *words])
    arithmetic.main()
    return json.loads(arithmetic.RESULTS.read_text("utf-8"))["runs"]


def test_a_run_replaces_that_of_its_machine_and_others_stay(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found["under"] for found in run(monkeypatch)] == ["", arithmetic.EMULATOR]
    monkeypatch.setitem(PLACE, "processor", "another")
    runs = run(monkeypatch, "--under", "")
    assert [(found["processor"], found["under"]) for found in runs] == [
        ("one", ""), ("one", arithmetic.EMULATOR), ("another", ""),
    ]  # fmt: skip
    monkeypatch.setattr(arithmetic, "measure", lambda under: {"exp": "anew"})
    runs = run(monkeypatch, "--under", "")
    assert len(runs) == 3
    assert runs[-1] == PLACE | {"under": "", "hashes": {"exp": "anew"}}


def test_runs_with_another_pytorch_go(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--under", "")
    monkeypatch.setitem(PLACE, "torch", "2.13.0+cu130")
    assert [found["torch"] for found in run(monkeypatch, "--under", "")] == ["2.13.0+cpu", "2.13.0+cu130"]
    monkeypatch.setitem(PLACE, "torch", "2.14.0")
    assert [found["torch"] for found in run(monkeypatch, "--under", "")] == ["2.14.0"]


def test_a_command_that_is_missing_or_fails_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^--under must start a program that is installed; received no-such-program$"):
        arithmetic.measure("no-such-program")
    with pytest.raises(InputError, match=r"^all operations must be computed under false; it ended with 1$"):
        arithmetic.measure("false")
    with pytest.raises(InputError, match=r"^--under must be a command as a shell reads it; received '"):
        arithmetic.measure("'")


@pytest.mark.slow
def test_interpreters_on_one_processor_agree_and_have_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first = arithmetic.measure("")
    assert first == arithmetic.measure("env")
    assert {*arithmetic.OPERATIONS, "optimizer muon", "optimizer adam exact_roots: False"} <= first.keys()


@pytest.mark.parametrize(
    "other",
    [lambda x: x.exp() * (1 + 2**-23), lambda x: x.exp().detach() + x - x],
    ids=["the last bit of values", "the gradient"],
)
def test_a_hash_is_of_values_and_gradient(other: arithmetic.Operation) -> None:
    assert arithmetic.operation_hash(torch.exp) == arithmetic.operation_hash(lambda x: x.exp())
    assert arithmetic.operation_hash(torch.exp) != arithmetic.operation_hash(other)


def test_a_hash_of_an_optimizer_is_of_its_roots() -> None:
    exact, of_mkl = (Adam(exact_roots=exact, learning_rate=0.01) for exact in (True, False))
    assert arithmetic.optimizer_hash(exact) != arithmetic.optimizer_hash(of_mkl)
