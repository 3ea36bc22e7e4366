import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import comparison
from analysis.comparison import Difference, difference
from analysis.revisions import Revision

NOISE = {"std": 0.0014, "n": 5}
T = 2.7764451051977987  # 97.5 % of Student's t with 4 degrees of freedom


def right(images: int, both: int, gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models that have so many images right: both of them, the second alone, the first alone."""
    before, after = np.zeros((2, images), bool)
    before[: both + lost] = True
    after[:both] = after[both + lost : both + lost + gained] = True
    return before, after


# --- one difference -----------------------------------------------------------------------------


def test_equal_models_differ_by_nothing() -> None:
    found = difference(*right(100, 90, 0, 0), NOISE)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert found.verdict == "within noise"
    assert found.reason == "Both models classify the same images correctly."


def test_the_figures_are_those_of_the_formulas() -> None:
    found = difference(*right(1000, 900, 10, 2), NOISE)
    assert (found.images, found.gained, found.lost, found.value) == (1000, 10, 2, 0.008)
    # McNemar: 12 coins, of which 10 or more, or 2 or fewer, fall on one side
    assert found.p_images == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    half = 1.962341 * math.sqrt((12 / 1000 - 0.008**2) / 999)  # t with 999 degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.008 - half, 0.008 + half), rel=1e-5)
    assert found.by_seed == pytest.approx(T * math.sqrt(2) * 0.0014)
    assert difference(*right(1000, 900, 2, 10)).value == -0.008


@pytest.mark.parametrize(
    ("counts", "noise", "verdict", "reason"),
    [
        ((200, 20), NOISE, "better", "+1.80 points are more than chance in the images explains"),
        ((20, 200), NOISE, "worse", "-1.80 points are more than chance in the images explains"),
        ((60, 50), NOISE, "within noise", "Chance in the images explains +0.10 points"),
        # beyond images, but not beyond seeds: √2 · 0.0014 · t = 0.55 points
        ((60, 10), NOISE, "within noise", "but another seed alone moves it by up to 0.55 points"),
        ((60, 10), None, "better", "and the spread over seeds is not measured"),
        ((60, 10), {"std": 0.0, "n": 5}, "better", "by up to 0.00 points"),
    ],
)
def test_the_verdict_needs_more_than_images_and_seeds_explain(
    counts: tuple[int, int], noise: dict | None, verdict: str, reason: str
) -> None:
    found = difference(*right(10_000, 9_000, *counts), noise)
    assert found.verdict == verdict
    assert reason in found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize("images", [1, 10])
def test_every_image_newly_right(images: int) -> None:
    found = difference(*right(images, 0, images, 0))
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_seeds_that_move_nothing_explain_no_difference_alone() -> None:
    still = {"std": 0.0, "n": 5}
    assert comparison.another_seed(0.0, still) == (0, 1)
    assert comparison.another_seed(0.01, still) == (0, 0)


# --- how often it is wrong ----------------------------------------------------------------------

# Each image has a chance to be right, mostly near 0 or 1, so that two trainings of one recipe predict
# different classes for about 2 % of the images; and the seed moves true accuracy by 0.1 points, as the
# committed noise says.
MEAN, CONCENTRATION, SEED_STD = 0.935, 0.2, 0.001
CHANCES = stats.beta(MEAN * CONCENTRATION, (1 - MEAN) * CONCENTRATION)
# drawing from these is 20 times as fast as from the distribution
QUANTILES = CHANCES.ppf((np.arange(100_000) + 0.5) / 100_000).astype(np.float32)


def train(rng: np.random.Generator, chances: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Which images each training has right (trainings, images), the true accuracy `moved` (trainings,)."""
    draws = rng.random((2, len(moved), len(chances)), np.float32)
    right = draws[0] < chances
    more, fewer = ((sign * moved / share)[:, None] for sign, share in ((1, 1 - MEAN), (-1, MEAN)))
    return (right | (draws[1] < more)) & (draws[1] >= fewer)


def verdicts(gain: float, pairs: int, images: int = 10_000) -> Counter[str]:
    """Of pairs, each with images and seeds of its own, and noise measured with five seeds.

    The second recipe is truly better by `gain`.
    """
    rng = np.random.default_rng(int(gain * 1e6))
    found: Counter[str] = Counter()
    for _ in range(pairs):
        chances = QUANTILES[rng.integers(0, len(QUANTILES), images)]
        moved = rng.normal([0] * 6 + [gain], SEED_STD)
        *seeds, before, after = train(rng, chances, moved)
        noise = {"std": float(np.std([seed.mean() for seed in seeds], ddof=1)), "n": 5}
        found[difference(before, after, noise).verdict] += 1
    return found


def test_equal_models_are_told_apart_in_at_most_one_of_twenty() -> None:
    found = verdicts(0.0, 1000)
    assert 950 <= found["within noise"] < 1000


def test_one_point_is_seen_in_at_least_four_of_five() -> None:
    assert verdicts(0.01, 400)["better"] >= 320


def test_a_tenth_of_a_point_is_noise_and_two_points_are_not() -> None:
    assert verdicts(0.001, 200)["within noise"] >= 180
    assert verdicts(0.02, 200)["better"] == 200


# --- two revisions ------------------------------------------------------------------------------

LOCK = "stages: {{prepare: {{outs: [{{path: data/prepared/train, md5: {md5}}}]}}}}"


@dataclass(frozen=True)
class Written(Revision):
    """A revision whose files are given."""

    commit: str | None = None
    files: dict[str, str] = field(default_factory=dict, compare=False)

    def content(self, path: str) -> bytes | None:
        return self.files[path].encode() if path in self.files else None


def written(
    name: str, predicted: list[str], ids: list[int] | None = None, files: dict[str, str] | None = None
) -> Written:
    """Predictions for images of which the first half is `a`, then `b`; and other files."""
    half = len(predicted) // 2
    labels = "a" * half + "b" * (len(predicted) - half)
    rows = zip(ids or range(len(predicted)), labels, predicted, strict=True)
    lines = ["id,label,predicted,confidence", *(f"{i},{label},{p},0.5" for i, label, p in rows)]
    predictions = {"metrics/predictions/val.csv": "\n".join(lines)}
    return Written(name, files={**predictions, "dvc.lock": LOCK.format(md5="1"), **(files or {})})


def test_images_are_paired_by_their_id() -> None:
    before = written("x", ["a", "b", "b", "b"])
    after = written("y", ["a", "a", "b", "c"], ids=[0, 1, 2, 9])
    table = comparison.predictions(before, after, "val")
    assert table.index.tolist() == [0, 1, 2]
    assert table["before"].tolist() == ["a", "b", "b"]
    assert table["after"].tolist() == ["a", "a", "b"]
    found = comparison.overall(table, {})
    assert (found.images, found.gained, found.lost) == (3, 1, 0)


def test_a_class_may_be_called_na() -> None:
    revision = written("x", ["a", "b"])
    text = revision.files["metrics/predictions/val.csv"]
    revision.files["metrics/predictions/val.csv"] = text.replace("a,a", "NA,NA")
    assert comparison.predictions(revision, revision, "val")["label"].tolist() == ["NA", "b"]


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (written("y", ["a", "b"], ids=[7, 8]), "0 rows in common"),
        (written("y", ["a", "b"], ids=[1, 0]), "2 rows in common"),  # of other labels
        (written("y", ["a", "b"], files={"dvc.lock": LOCK.format(md5="2")}), "data/prepared/train 1 and 2"),
        (Written("y"), r"y must have predictions on val .*; received no metrics/predictions/val.csv"),
        (
            written("y", ["a", "b"], files={"metrics/predictions/val.csv": "nothing"}),
            "metrics/predictions/val.csv in y must be a table",
        ),
    ],
)
def test_other_images_are_refused(after: Revision, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        comparison.predictions(written("x", ["a", "b"]), after, "val")


def table_of(before: str, after: str, label: str) -> pd.DataFrame:
    return pd.DataFrame({"label": list(label), "before": list(before), "after": list(after), "confidence": 0.5})


def test_classes_are_corrected_for_their_number() -> None:
    # class a: 8 images newly right; b: nothing; c: one newly wrong
    table = table_of("b" * 8 + "bb" + "ccc", "a" * 8 + "bb" + "cca", "a" * 8 + "bb" + "ccc")
    measured = {"recall": {name: {"std": 0.001, "n": 5} for name in "abc"}}
    rows = comparison.by_class(table, measured).set_index("class")
    assert rows["difference"].to_dict() == pytest.approx({"a": 1, "b": 0, "c": -1 / 3})
    assert rows["images"].to_dict() == {"a": 8, "b": 2, "c": 3}
    assert rows["before"].to_dict() == {"a": 0, "b": 1, "c": 1}
    assert rows.loc["a", "p"] == pytest.approx(3 * 2 / 2**8)  # the smallest of three
    assert rows["counts"].to_dict() == {"a": True, "b": False, "c": False}


def test_a_class_that_seeds_move_as_much_does_not_count() -> None:
    table = table_of("b" * 8 + "bb", "a" * 8 + "bb", "a" * 8 + "bb")
    for std, counts in ((0.5, True), (0.001, False)):
        spread = {"recall": {"a": {"std": std, "n": 5}}}
        assert comparison.by_class(table, spread)["counts"].any() != counts
    assert not comparison.by_class(table, {})["counts"].any()  # not measured


def test_confusions_come_in_order_of_change() -> None:
    table = table_of("bbbaac", "bccaba", "aaaaab")
    rows = comparison.confusions(table).to_dict("records")
    assert [(row["label"], row["predicted"], row["before"], row["after"]) for row in rows] == [
        ("a", "c", 0, 2),
        ("a", "b", 3, 2),
        ("b", "a", 0, 1),
        ("b", "c", 1, 0),
    ]


def test_noise_is_that_of_the_first_revision_that_has_it() -> None:
    noise = '{"val": {"accuracy": {"mean": 0.9, "std": 0.01, "n": 3}}}'
    classes = "seed,part,class,recall\n0,val,a,0.5\n1,val,a,0.7\n0,test,a,0.1\n"
    pair = (Written("x"), Written("y", files={"metrics/noise.json": noise}))
    assert comparison.noise(pair, "val")["accuracy"]["std"] == 0.01
    assert "recall" not in comparison.noise(pair, "val")
    assert comparison.noise(pair, "test") == {}
    pair[1].files["metrics/noise_classes.csv"] = classes
    recall: Any = comparison.noise(pair, "val")["recall"]
    assert recall["a"]["n"] == 2
    assert recall["a"]["std"] == pytest.approx(0.2 / math.sqrt(2))


def test_a_difference_says_of_itself_what_is_asked() -> None:
    found = Difference(1000, 30, 10, 0.0, 0.04, 0.002, 0.01, 0.04)
    assert (found.value, found.p, found.verdict) == (0.02, 0.04, "better")
