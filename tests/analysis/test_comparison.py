import json
import math
from collections import Counter

from common.errors import InputError

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import comparison
from analysis.comparison import Difference, difference
from analysis.seeds import Seeds
from replicates import Written

T = stats.t.isf(0.025, 4)


def model(*right: np.ndarray, known: list[float] | None = None, first: int = 0) -> Seeds:
    """With the predictions of seeds `first`, `first` + 1, …, and the accuracy alone of the seeds after these."""
    table = pd.DataFrame(dict(enumerate(right, first)))
    accuracies = dict(enumerate([*table.mean(), *(known or [])], first))
    accuracy = pd.Series(accuracies, dtype=float)
    return Seeds(accuracy, table, pd.Series("a", table.index))


def right(images: int, both: int, gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models that have so many images right: both of them, the second alone, the first alone."""
    before, after = np.zeros((2, images), bool)
    before[: both + lost] = True
    after[:both] = after[both + lost : both + lost + gained] = True
    return before, after


def single(images: int, both: int, gained: int, lost: int, std: float | None = 0.0014) -> Difference:
    """One training each; the first model has four more seeds around its own, so that all five spread by `std`."""
    before, after = right(images, both, gained, lost)
    spread = np.sqrt([1, 1]) * (std or 0)
    known = [before.mean() + sign * s for s in spread for sign in (-1, 1)] if std is not None else []
    return difference(model(before, known=known), model(after))


# --- one training each ----------------------------------------------------------------------------


def test_equal_models_differ_by_nothing() -> None:
    for found in (single(100, 90, 0, 0), single(100, 90, 0, 0, std=None)):
        assert (found.value, found.verdict) == (0, "within noise")
        assert found.reason == "Both models classify the same images correctly."


def test_models_that_agree_in_one_seed_of_two_do_not_classify_the_same() -> None:
    one, other = right(100, 90, 0, 5)
    found = difference(model(one, one), model(one, other))
    assert (found.gained, found.lost, found.is_none) == (0, 0, False)
    assert "the same images" not in found.reason


@pytest.mark.parametrize(("seeds", "is_said"), [(1, True), (2, True), (5, False)])
def test_what_a_spread_with_fewer_seeds_assumes_is_said(seeds: int, is_said: bool) -> None:
    before, after = right(1000, 900, 20, 10)
    known = [0.9, 0.92, 0.91, 0.93]
    found = difference(model(before, known=known), model(after, known=known[: seeds - 1], first=7))
    assert found.seeds == (5, seeds)
    assert (", if both models spread alike (p = " in found.reason) is is_said


def test_a_model_beside_itself_differs_by_nothing_and_tells_no_power() -> None:
    itself = model(right(100, 90, 2, 5)[0], known=[0.9, 0.93])
    found = difference(itself, itself)
    assert (found.verdict, found.reason) == ("within noise", "Both models classify the same images correctly.")
    assert (
        found.power(5, 0.003)
        == "What difference 5 seeds detect is not known where a spread over seeds is missing or 0."
    )


def test_the_figures_are_those_of_the_formulas() -> None:
    found = single(1000, 900, 10, 2, std=None)
    assert (found.images, found.gained, found.lost, found.value, found.seeds) == (1000, 10, 2, 0.008, (1, 1))
    # McNemar: 12 coins, of which 10 or more, or 2 or fewer, fall on one side
    assert found.p == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert found.of_images == pytest.approx((12 / 1000 - 0.008**2) / 999)
    assert found.interval == pytest.approx((0.008 - 1.96 * found.error, 0.008 + 1.96 * found.error), abs=1e-5)
    # the seeds' part: one training beside five
    measured = single(1000, 900, 10, 2, std=0.01)
    assert measured.of_seeds == pytest.approx(0.01**2 * (1 + 1 / 5))
    assert (measured.freedom, measured.seeds, measured.of_images) == (4, (5, 1), 0)  # the seeds' holds it
    assert measured.p == pytest.approx(2 * stats.t.sf(0.008 / measured.error, 4))


@pytest.mark.parametrize(
    ("counts", "std", "verdict", "reason"),
    [
        ((200, 20), 0.0014, "better", "+1.80 points are more than chance in images and seeds explains, if both"),
        ((20, 200), 0.0014, "worse", "-1.80 points are more than chance in images and seeds explains, if both"),
        ((60, 50), 0.0014, "within noise", "Chance in images and seeds explains +0.10 points, if both"),
        # beyond images, but not beyond seeds: √1.2 · 0.0018 · t = 0.55 points
        ((60, 10), 0.0018, "within noise", "Chance in images and seeds explains +0.50 points, if both"),
        ((60, 10), None, "not decided", "chance in the seeds is not measured for either training."),
        ((60, 10), 0.0, "better", "+0.50 points are more than chance"),
    ],
)
def test_the_verdict_needs_more_than_images_and_seeds_explain(
    counts: tuple[int, int], std: float | None, verdict: str, reason: str
) -> None:
    found = single(10_000, 9_000, *counts, std=std)
    assert found.verdict == verdict
    assert reason in found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize("images", [1, 10])
def test_every_image_newly_right(images: int) -> None:
    found = single(images, 0, images, 0, std=None)
    assert (found.value, found.interval, found.verdict) == (1, (1, 1), "not decided")


@pytest.mark.parametrize(("images", "verdict"), [(1, "within noise"), (5, "within noise"), (6, "better")])
def test_few_images_tell_nothing_of_their_spread(images: int, verdict: str) -> None:
    """Every image is newly right, with every seed: a coin that falls so has p of two sides."""
    wrong, now_right = np.zeros(images, bool), np.ones(images, bool)
    found = difference(model(wrong, wrong), model(now_right, now_right))
    assert found.p == 2 * 0.5**images
    assert found.verdict == verdict


def test_a_tolerated_difference_is_no_verdict() -> None:
    before, after = right(10_000, 9_000, 20, 200)
    worse = difference(model(before, known=[0.92] * 4), model(after))
    _, high = worse.interval
    assert worse.verdict == "worse"
    for tolerance, is_within in ((-high * 0.99, False), (-high * 1.01, True)):
        sides = model(before, known=[0.92] * 4), model(after)
        for pair, verdict in ((sides, "worse"), (sides[::-1], "better")):
            found = difference(*pair, tolerance)
            assert found.verdict == ("within noise" if is_within else verdict)
            assert f"the tolerance of {100 * tolerance:.2f} points" in found.reason


# --- several seeds --------------------------------------------------------------------------------


def drawn(rng: np.random.Generator, chances: np.ndarray, seeds: int) -> list[np.ndarray]:
    return [rng.random(len(chances)) < chances for _ in range(seeds)]


def test_seeds_are_paired_where_both_sides_have_the_same() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(500)
    before, after = model(*drawn(rng, chances, 4)), model(*drawn(rng, chances, 4))
    paired, unpaired = difference(before, after), difference(before, model(*drawn(rng, chances, 3)))
    test = stats.ttest_rel(after.accuracy, before.accuracy)
    assert (paired.is_paired, paired.freedom, paired.value) == (
        True,
        3,
        pytest.approx(after.accuracy.mean() - before.accuracy.mean()),
    )
    assert paired.of_seeds is not None
    assert paired.of_seeds >= (paired.value / test.statistic) ** 2 - 1e-12
    assert (unpaired.is_paired, unpaired.freedom, unpaired.seeds) == (False, 5, (4, 3))
    assert "paired by seed" in paired.summary
    assert "paired" not in unpaired.summary


def test_as_many_seeds_but_others_are_not_paired() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(500)
    before, after = model(*drawn(rng, chances, 5)), model(*drawn(rng, chances, 5), first=3)
    found = difference(before, after)
    assert (found.is_paired, found.freedom, found.seeds) == (False, 8, (5, 5))
    pooled = stats.ttest_ind(after.accuracy, before.accuracy)
    assert found.of_seeds is not None
    assert found.of_seeds >= (found.value / pooled.statistic) ** 2 - 1e-12


def test_the_images_part_is_of_the_seeds_with_predictions() -> None:
    """Five accuracies on one side, of which two have predictions: these two alone tell of images."""
    rng = np.random.default_rng(2)
    chances = rng.random(500)
    first, others = drawn(rng, chances, 2), drawn(rng, 1 - chances, 5)
    found = difference(model(*first, known=[right.mean() for right in drawn(rng, chances, 3)]), model(*others))
    change = np.mean(others, axis=0) - np.mean(first, axis=0)
    outcomes = [np.array(side, float) for side in (first, others)]  # (k, 500) each
    left = [side - side.mean(0) - side.mean(1, keepdims=True) + side.mean() for side in outcomes]
    interaction = sum((each**2).sum() for each in left) / ((2 - 1 + 5 - 1) * 499)
    assert found.of_images == pytest.approx(change.var(ddof=1) / 500 - interaction * (1 / 2 + 1 / 5) / 500)


def test_what_is_in_both_spreads_counts_once() -> None:
    """Each image is a coin: all of the spread over images is the interaction with seeds."""
    rng = np.random.default_rng(1)
    chances = np.full(2000, 0.5)
    errors = [difference(model(*drawn(rng, chances, 5)), model(*drawn(rng, chances, 5))).error for _ in range(50)]
    expected = math.sqrt(2 * 0.25 / 5 / 2000)
    assert expected < np.mean(errors) < 1.25 * expected  # not √2 times


def test_images_that_one_model_always_has_right_are_not_cured_by_seeds() -> None:
    before, after = right(1000, 900, 30, 10)
    few, many = (difference(model(*[before] * n), model(*[after] * n)) for n in (2, 20))
    assert few.of_seeds == many.of_seeds == 0
    assert few.error == many.error == pytest.approx(math.sqrt((40 / 1000 - 0.02**2) / 999))


def test_more_seeds_tell_a_smaller_difference() -> None:
    found = single(10_000, 9_000, 60, 50, std=0.0014)
    five, twenty = found.detectable(5), found.detectable(20)
    assert five > twenty > 2.8 * math.sqrt(found.of_images)
    assert "5 seeds on each side detect a true difference of " in found.power(5, five)
    assert found.power(5, five).endswith("points need 5 seeds.")
    hidden = found.power(5, math.sqrt(found.of_images))  # by the images alone
    assert hidden.endswith("points need more than 100 seeds.")
    unknown = single(10_000, 9_000, 60, 50, std=None)
    assert "not known where a spread over seeds is missing" in unknown.power(5, 0.5)


# --- how often it is wrong ----------------------------------------------------------------------

# As in benchmarks/verdicts.py, which has the rates: few images are open, and a training has each of these right
# with a chance of its own. The committed spread on test, half of it common to all images of a seed; 1 % of
# the images is right with one of the two models alone, whatever the seed.
IMAGES, STD, DISAGREEMENT = 10_000, 0.000687, 0.01


def verdicts(gain: float, pairs: int, seeds: tuple[int, int], known: int | None = None) -> Counter[str]:
    """Of pairs of models, each with images and seeds of its own; the second is truly better by `gain`."""
    rng = np.random.default_rng(int(gain * 1e6))
    is_open = 3 * IMAGES * STD**2
    only = [(DISAGREEMENT + sign * gain) / 2 for sign in (-1, 1)]
    found: Counter[str] = Counter()
    for _ in range(pairs):
        kinds = rng.choice(4, IMAGES, p=[is_open, *only, 1 - is_open - sum(only)])
        chances, sides = rng.random(IMAGES), []
        for side, count in enumerate(seeds):
            moved = rng.normal(0, STD / math.sqrt(2) / is_open, count)
            sides.append(
                [
                    ((kinds == 1 + side) | (kinds == 3)) | ((kinds == 0) & (rng.random(IMAGES) < chances + m))
                    for m in moved
                ]
            )
        before = model(*sides[0]) if known is None else model(sides[0][0], known=[s.mean() for s in sides[0][1:]])
        found[difference(before, model(*sides[1])).verdict] += 1
    return found


@pytest.mark.parametrize(("seeds", "known"), [((5, 5), None), ((5, 1), 5)])
def test_equal_models_are_told_apart_in_about_one_of_twenty(seeds: tuple[int, int], known: int | None) -> None:
    assert verdicts(0.0, 400, seeds, known)["within noise"] >= 370


def test_half_a_point_is_seen_with_five_seeds_and_one_point_with_one() -> None:
    assert verdicts(0.005, 100, (5, 5))["better"] >= 95
    assert verdicts(0.01, 100, (5, 1), 5)["better"] >= 95


@pytest.mark.parametrize("freedom", [1, 2, 4, 8])
def test_intervals_miss_no_more_than_they_say(freedom: int) -> None:
    """Normal differences, the spread over seeds known to a few degrees of freedom, exactly: at quantiles of it."""
    shares = (np.arange(200) + 0.5) / 200
    for of_images in (0, 0.05, 0.25, 1, 4):  # the seeds' true part is 1
        missed = []
        for of_seeds in stats.chi2.ppf(shares, freedom) / freedom:
            found = Difference(10_000, (2, 2), False, 1, 0, 1.0, of_images, of_seeds, of_seeds, freedom)
            missed.append(2 * stats.norm.sf(found.half_width(0.025) / math.sqrt(of_images + 1)))
        assert 0.012 < np.mean(missed) <= 0.0501
        assert (of_images == 0) == (np.mean(missed) > 0.0495)


@pytest.mark.parametrize("freedom", [1, 3, 8, math.inf])
@pytest.mark.parametrize("estimated", [0.01, 0.7])  # less than the interaction of seeds and images, or the most
def test_p_is_the_level_at_which_the_interval_reaches_0(freedom: float, estimated: float) -> None:
    for value in (1e-9, 0.5, -3.0, 20.0):
        found = Difference(10_000, (2, 2), False, 1, 0, value, 0.3, 0.7, estimated, freedom)
        assert found.half_width(found.p / 2) == pytest.approx(abs(value))
        low, high = found.interval
        assert (found.p < 0.05) == (not low < 0 < high)
    none, sure = (Difference(10_000, (2, 2), False, 1, 0, value, 0.3, 0.0) for value in (0.0, 100.0))
    assert (none.p, sure.p) == (1, 0)


def test_p_of_seeds_alone_is_students() -> None:
    for freedom in (1, 4):
        found = Difference(10_000, (2, 2), False, 1, 0, 5.0, 0.0, 0.7, 0.7, freedom)
        assert found.p == pytest.approx(2 * stats.t.sf(5.0 / math.sqrt(0.7), freedom))


# --- two revisions ------------------------------------------------------------------------------

LOCK = "stages: {{prepare: {{outs: [{{path: data/prepared/train, md5: {md5}}}]}}}}"


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
    before = written("x", ["a", "b", "b", "c"])
    after = written("y", ["a", "a", "b", "b"], ids=[1, 0, 3, 2])
    table = comparison.predictions(before, after, "val")
    assert table.index.tolist() == [0, 1, 2, 3]
    assert table["before"].tolist() == ["a", "b", "b", "c"]
    assert table["after"].tolist() == ["a", "a", "b", "b"]


def test_a_class_may_be_called_na() -> None:
    revision = written("x", ["a", "b"])
    text = revision.files["metrics/predictions/val.csv"]
    revision.files["metrics/predictions/val.csv"] = text.replace("a,a", "NA,NA")
    assert comparison.predictions(revision, revision, "val")["label"].tolist() == ["NA", "b"]


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (written("y", ["a", "b"], ids=[7, 8]), "other images: 2 and 2, 0 in common"),
        (written("y", ["a", "b"], ids=[0, 8]), "other images: 2 and 2, 1 in common"),  # by chance
        (written("y", ["a", "b"], ids=[1, 0]), "other images: 2 and 2, 2 in common"),  # of other labels
        (written("y", ["a", "b"], files={"dvc.lock": LOCK.format(md5="2")}), "data/prepared/train 1 and 2"),
        (Written("y"), r"y must have predictions on val .*; received no metrics/predictions/val.csv"),
        (
            written("y", ["a", "b"], files={"metrics/predictions/val.csv": "nothing"}),
            "metrics/predictions/val.csv in y must be a table",
        ),
    ],
)
def test_other_images_are_refused(after: Written, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        comparison.predictions(written("x", ["a", "b"]), after, "val")


def test_on_test_the_images_of_test_must_be_the_same() -> None:
    sides = []
    for md5 in "12":
        outs = [{"path": "data/prepared/train", "md5": "1"}, {"path": "data/prepared/test", "md5": md5}]
        side = written(md5, ["a", "b"], files={"dvc.lock": json.dumps({"stages": {"prepare": {"outs": outs}}})})
        side.files["metrics/predictions/test.csv"] = side.files["metrics/predictions/val.csv"]
        sides.append(side)
    one, other = sides
    assert len(comparison.predictions(one, other, "val")) == 2
    with pytest.raises(InputError, match="data/prepared/test 1 and 2"):
        comparison.predictions(one, other, "test")


def table_of(before: str, after: str, label: str) -> pd.DataFrame:
    return pd.DataFrame({"label": list(label), "before": list(before), "after": list(after), "confidence": 0.5})


def sides_of(table: pd.DataFrame, std: float | None) -> list[Seeds]:
    """Both models with one training; the recall of each class spreads by `std` over three seeds of the first."""
    recalls = {seed: dict.fromkeys("abc", seed * (std or 0.0)) for seed in (1, 2, 3)}
    known = pd.DataFrame(recalls) if std is not None else pd.DataFrame()
    return [
        Seeds(
            pd.Series(dtype=float),
            pd.DataFrame({9: table[name] == table["label"]}),
            table["label"],
            known if name == "before" else pd.DataFrame(),
        )
        for name in ("before", "after")
    ]


def test_classes_are_corrected_for_their_number() -> None:
    # class a: 8 images newly right; b: nothing; c: one newly wrong
    table = table_of("b" * 8 + "bb" + "ccc", "a" * 8 + "bb" + "cca", "a" * 8 + "bb" + "ccc")
    rows = comparison.by_class(*sides_of(table, None)).set_index("class")
    assert rows["difference"].to_dict() == pytest.approx({"a": 1, "b": 0, "c": -1 / 3})
    assert rows["images"].to_dict() == {"a": 8, "b": 2, "c": 3}
    assert rows["before"].to_dict() == {"a": 0, "b": 1, "c": 1}
    assert rows.loc["a", "p"] == pytest.approx(3 * 2 / 2**8)  # the smallest of three
    assert not rows["counts"].any()  # the spread over seeds is not measured


def test_a_class_of_few_images_does_not_count() -> None:
    labels = pd.Series(["a"] * 4 + ["b"] * 200)
    before, after = (np.array([*of_a, *[True] * 200]) for of_a in ([False] * 4, [True, True, True, False]))
    sides = [Seeds(pd.Series([side.mean()] * 2), pd.DataFrame({0: side, 1: side}), labels) for side in (before, after)]
    rows = comparison.by_class(*sides).set_index("class")
    assert rows["difference"].to_dict() == {"a": 0.75, "b": 0}
    assert rows["p"].to_dict() == {"a": 2 * 2 * 0.5**4, "b": 1}
    assert not rows["counts"].any()


def test_a_class_that_seeds_move_as_much_does_not_count() -> None:
    table = table_of("b" * 8 + "bb", "a" * 8 + "bb", "a" * 8 + "bb")
    for std, counts in ((0.5, False), (0.001, True)):
        rows = comparison.by_class(*sides_of(table, std)).set_index("class")
        assert rows.loc["a", "counts"] == counts


def test_confusions_come_in_order_of_change() -> None:
    table = table_of("bbbaac", "bccaba", "aaaaab")
    rows = comparison.confusions(table).to_dict("records")
    assert [(row["label"], row["predicted"], row["before"], row["after"]) for row in rows] == [
        ("a", "c", 0, 2),
        ("a", "b", 3, 2),
        ("b", "a", 0, 1),
        ("b", "c", 1, 0),
    ]


def test_what_is_detected_leaves_room_for_level_and_power() -> None:
    found = Difference(10_000, (5, 1), False, 9, 5, 0.0004, 4e-6, 2.4e-6, 2.4e-6, 4)
    for number in (5, 20):
        spread = 2 / number * 2e-6  # of a seed it is 2e-6: of five beside one 2.4e-6
        tails = [(stats.norm.isf(tail), stats.t.isf(tail, number - 1)) for tail in (0.025, 0.2)]
        expected = sum(math.sqrt(z**2 * 4e-6 + t**2 * spread) for z, t in tails)
        assert found.detectable(number) == pytest.approx(expected)
    hidden = found.power(5, 2.8 * math.sqrt(4e-6))  # by the images alone
    assert hidden.endswith("0.56 points need more than 100 seeds.")
