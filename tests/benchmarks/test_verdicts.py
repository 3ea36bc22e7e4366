"""Pairs of models are simulated with the spread, the difference and the disagreement that a case names."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common import files
from common.errors import InputError

import numpy as np
import pytest

import verdicts
from conftest import ROOT, of_fashion_mnist

NONE = {"disagreement": 0.0, "gain": 0.0}


@pytest.mark.parametrize(("common", "coherent"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, 0.9)])
@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_accuracies_spread_over_seeds_as_the_case_says(common: float, coherent: float, ratio: float) -> None:
    case = {"std": 0.001, "common": common, "coherent": coherent, "ratio": ratio, **NONE}
    sides = verdicts.simulate(np.random.default_rng(0), images=10_000, seeds=(900, 900), **case)
    assert [side.accuracy.std() for side in sides] == pytest.approx([0.001, ratio * 0.001], rel=0.1)
    assert [side.accuracy.mean() for side in sides] == pytest.approx([verdicts.ACCURACY] * 2, abs=0.007)
    assert sides[0].accuracy.mean() == pytest.approx(sides[1].accuracy.mean(), abs=0.0004)


def test_one_model_alone_has_as_many_images_right_as_the_case_says() -> None:
    case = {"std": 0.0005, "common": 0.0, "disagreement": 0.02, "gain": 0.01}
    before, after = verdicts.simulate(np.random.default_rng(0), images=20_000, seeds=(5, 5), **case)
    change = after.right.mean(axis=1) - before.right.mean(axis=1)
    assert [(change == sign).mean() for sign in (-1, 1)] == pytest.approx([0.005, 0.015], abs=0.003)
    assert change.mean() == pytest.approx(0.01, abs=0.003)


def test_limits_are_the_worst_of_the_cases_with_these_seeds_and_spreads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verdicts, "rates", lambda *words, std, coherent, **case: {"within noise": 1 - std * coherent * case["ratio"]}
    )
    found = verdicts.limits(1, {"one": 0.1, "other": 0.2})
    assert len(found) == 3 * len(verdicts.NUMBERS)
    assert {(row["ratio of spreads"], row["wrong of equal"]) for row in found} == {(1, 0.18), (2, 0.36), (3, 0.54)}


@of_fashion_mnist
@pytest.mark.slow
def test_a_committed_share_follows_from_the_code_and_the_noise_of_today() -> None:
    results = json.loads((ROOT / verdicts.RESULTS).read_text("utf-8"))
    std = json.loads((ROOT / "metrics/noise.json").read_text("utf-8"))["val"]["accuracy"]["std"]
    row = next(row for row in results["cases"] if (row["part"], row["spread"]) == ("val", "committed"))
    case = {"images": verdicts.BARS["val"][0], "std": std, **{name: row[name] for name in ("common", "disagreement")}}
    found = verdicts.rates(results["pairs"], [*case.values(), 0], seeds=(5, 5), gain=0.0, **case)
    assert row["wrong of equal"] == round(1 - found["within noise"], 4) > 0


def test_a_spread_that_no_such_accuracy_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["verdicts.py"])
    monkeypatch.setattr(verdicts, "measure", lambda *_: [])
    monkeypatch.setattr(verdicts, "limits", lambda *_: [])
    (tmp_path / "benchmarks").mkdir()
    most = 0.00129  # on test; val has fewer images
    for std, message in (
        (most, ""),
        (most + 0.0001, rf"^the standard deviation .* at most {most} on test, .*; received"),
    ):
        files.write_json(Path("metrics/noise.json"), {part: {"accuracy": {"std": std}} for part in verdicts.BARS})
        with pytest.raises(InputError, match=message) if message else nullcontext():
            verdicts.main()
    widest: dict[str, Any] = {"images": 10_000, "std": most, "common": 0.0, "disagreement": max(verdicts.DISAGREEMENTS)}
    verdicts.simulate(np.random.default_rng(0), seeds=(1, 1), gain=0.0, **widest)


def test_a_spread_is_simulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path)
    calls: list[float] = []

    def measure(pairs: int, spreads: dict[str, float], part: str) -> list[dict[str, Any]]:
        calls.append(spreads["committed"])
        return [{"part": part, "spread": "committed", "std": round(spreads["committed"], 6)}]

    monkeypatch.setattr(verdicts, "measure", measure)
    monkeypatch.setattr(verdicts, "limits", lambda pairs, spreads: [])
    for std, words, simulated in (
        (0.001, [], True), (0.001, [], False), (0.001, ["--again"], True), (0.001, ["--pairs", "3000"], True),
        (0.001, [], False), (0.0011, [], True),
    ):  # fmt: skip
        calls.clear()
        files.write_json(Path("metrics/noise.json"), {part: {"accuracy": {"std": std}} for part in verdicts.BARS})
        monkeypatch.setattr("sys.argv", ["verdicts.py", *words])
        verdicts.main()
        assert calls == [std] * len(verdicts.BARS) * simulated
