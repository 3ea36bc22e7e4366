"""Whether one model is better than another, by their predictions for the same images.

Two things differ by chance: which images there happen to be, and which seed a training has. A difference counts where
it is more than both explain; without a spread over seeds that belongs to one of the two models (seeds.py), nothing does.
"""

import math
import shlex
from dataclasses import dataclass, replace

from common.errors import InputError, one_line

import pandas as pd
from scipy import optimize, stats

from analysis import seeds
from analysis.marked_pages import escaped
from analysis.revisions import Revision
from analysis.seeds import Seeds

LEVEL, POWER, MOST_SEEDS = 0.05, 0.8, 100


@dataclass(frozen=True)
class Difference:
    """Between the accuracies of two models, the second's minus the first's.

    Attributes:
        images: number of images that both models classified.
        seeds: number of trainings of each model.
        is_paired: whether these have the same seeds.
        gained, lost: images that only the second model, or only the first, classified correctly; of the two
            models themselves, without their other seeds.
        value: difference of the mean accuracies over seeds, as a share: 0.01 is one point.
        of_images, of_seeds: variance of `value` from the choice of images, and from the seeds; None: not measured.
        estimated: `of_seeds` by the spread over seeds alone, which may be less than the interaction with images makes.
        freedom: degrees of freedom of `estimated`.
        tolerance: a difference up to this share does not matter.
    """

    images: int
    seeds: tuple[int, int]
    is_paired: bool
    gained: int
    lost: int
    value: float
    of_images: float
    of_seeds: float | None = None
    estimated: float = 0.0
    freedom: float = math.inf
    tolerance: float = 0.0

    @property
    def error(self) -> float:
        """Standard error of `value`."""
        return math.sqrt(self.of_images + (self.of_seeds or 0.0))

    def half_width(self, tail: float) -> float:
        """Of the interval that misses the truth with a chance of `tail` on each side, or less.

        Each variance counts times the squared quantile of its own degrees of freedom, which holds for any number of
        seeds if the variances are independent (Banerjee 1960, Sankhya 22, 357), as Satterthwaite's formula does not.
        """
        known, estimated = float(stats.norm.isf(tail)) ** 2, float(stats.t.isf(tail, self.freedom)) ** 2
        return math.sqrt(known * self.of_images + max(known * (self.of_seeds or 0.0), estimated * self.estimated))

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, over images and seeds; over images alone where no spread over seeds is measured."""
        half = self.half_width(LEVEL / 2)
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """At most how often chance in images and seeds makes such a difference; without seeds, McNemar's exact test.

        There a fair coin decides each image that one model alone classified correctly (doi.org/10.1007/BF02295996).
        """
        least = 2.0 ** (1 - self.images)  # of that test; with seeds too, since few images tell nothing of their spread
        if self.of_seeds is None:
            changed = self.gained + self.lost
            return float(stats.binomtest(self.gained, changed).pvalue) if changed else 1.0
        if not self.value or self.half_width(2.0**-500) < abs(self.value):
            return least if self.value else 1.0
        return max(least, 2 ** (1 + optimize.brentq(lambda x: self.half_width(2.0**x) - abs(self.value), -500, -1)))

    @property
    def is_none(self) -> bool:
        """Whether the only training of one model, or every seed, has the same images right as the other model."""
        return not (self.gained or self.lost) and (min(self.seeds) == 1 or not self.error)

    @property
    def verdict(self) -> str:
        """Better, worse, within noise or not decided."""
        if self.is_none or (self.of_seeds is not None and self.p >= LEVEL):
            return "within noise"
        if self.of_seeds is None:
            return "not decided"
        low, high = self.interval
        return "better" if low > self.tolerance else "worse" if high < -self.tolerance else "within noise"

    @property
    def reason(self) -> str:
        """One sentence."""
        points = f"{100 * self.value:+.2f} points"
        if self.is_none:
            return "Both models classify the same images correctly."
        if self.of_seeds is None:
            return (
                f"{points} have p = {self.p:.2g} by chance in the images alone (McNemar's exact test); "
                "chance in the seeds is not measured for either training."
            )
        tolerance = f" and the tolerance of {100 * self.tolerance:.2f} points" if self.tolerance else ""
        spread = f"{', if both models spread alike' * (self.seeds[0] != self.seeds[1])} (p = {self.p:.2g})."
        if self.verdict == "within noise":
            return f"Chance in images and seeds{tolerance} explains {points}{spread}"
        return f"{points} are more than chance in images and seeds{tolerance} explains{spread}"

    @property
    def summary(self) -> str:
        """Value, interval and numbers, in one line."""
        low, high = (100 * end for end in self.interval)
        over = "images alone" if self.of_seeds is None else "images and seeds"
        paired = ", paired by seed" if self.is_paired else ""
        return (
            f"accuracy {100 * self.value:+.2f} points (95 % interval over {over} {low:+.2f} to {high:+.2f}), "
            f"{self.seeds[0]} and {self.seeds[1]} seeds{paired}, {self.images:,} images; of their own trainings "
            f"{self.gained} newly right, {self.lost} newly wrong"
        )

    def detectable(self, number: int) -> float:
        """The true difference that `number` seeds on each side, 2 or more, detect in about 80 of 100 cases.

        The half widths of level and power (Bloom 1995, doi.org/10.1177/0193841X9501900504). Known where `of_seeds` is.
        """
        paired = 2 / number * (self.of_seeds or 0.0) / sum(1 / count for count in self.seeds)
        planned = replace(self, of_seeds=paired, estimated=paired, freedom=number - 1)
        return planned.half_width(LEVEL / 2) + planned.half_width(1 - POWER)

    def power(self, number: int, value: float) -> str:
        """What `number` seeds on each side detect, and the number that detects a true difference of `value`, in words."""
        if not self.of_seeds:  # not measured, or a model beside itself
            return f"What difference {number} seeds detect is not known where a spread over seeds is missing or 0."
        enough = (n for n in range(2, MOST_SEEDS + 1) if self.detectable(n) <= value)
        return (
            f"{number} seeds on each side detect a true difference of {100 * self.detectable(number):.2f} points in "
            f"about 80 of 100 cases; {100 * value:.2f} points need {next(enough, f'more than {MOST_SEEDS}')} seeds."
        )


def difference(before: Seeds, after: Seeds, tolerance: float = 0.0) -> Difference:
    """Of two models on the same images, each with one seed or more.

    Images and seeds are samples, as cases and readers of doi.org/10.1080/03610919508813243 (Obuchowski and Rockette
    1995): the variance has a part of the images, one of the seeds, and one of their interaction, an image that one seed
    alone has right. The spreads over images and seeds both hold the interaction, so one gives it up. Unless a side has
    predictions of two seeds, it is taken to be as large as can be: too narrow an interval where it is small.
    """
    images, accuracies = len(before.right), [side.accuracy.dropna() for side in (before, after)]
    number = (len(accuracies[0]), len(accuracies[1]))
    change = after.right.mean(axis=1) - before.right.mean(axis=1)
    over_images = float(change.var()) / images if images > 1 else 0.0
    over_seeds, freedom, is_paired = _over_seeds(*accuracies)
    own = after.right.iloc[:, 0].astype(int) - before.right.iloc[:, 0]
    value = round(float(accuracies[1].mean() - accuracies[0].mean()), 9)
    gained, lost = int((own > 0).sum()), int((own < 0).sum())
    in_images, of_seeds = min(over_images, over_seeds or 0.0), over_seeds
    if over_seeds is not None and (one := _interaction(before.right, after.right)) is not None:
        predicted = (before.right.shape[1], after.right.shape[1])
        in_images, in_seeds = (one * sum(1 / n for n in numbers) / images for numbers in (predicted, number))
        of_seeds = max(over_seeds, in_seeds)
    spreads = (max(over_images - in_images, 0.0), of_seeds, over_seeds or 0.0, freedom)
    return Difference(images, number, is_paired, gained, lost, value, *spreads, tolerance)


def _over_seeds(before: pd.Series, after: pd.Series) -> tuple[float | None, float, bool]:
    """Variance of the difference of two means over seeds, its degrees of freedom, and whether seeds are paired.

    With the same seeds, of the paired differences; else pooled, as in Student's t for independent samples, so that
    a side with one seed is taken to spread as the other one does. None without two seeds on either side.
    """
    if len(before) > 1 and set(before.index) == set(after.index):
        return float((after - before).var()) / len(before), len(before) - 1, True
    freedom = len(before) + len(after) - 2
    if not freedom:
        return None, math.inf, False
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (before, after))
    return squares / freedom * (1 / len(before) + 1 / len(after)), freedom, False


def _interaction(*sides: pd.DataFrame) -> float | None:
    """Variance of one image's outcome in one training, beside the means of image and seed, pooled over the sides.

    Args:
        sides: as `Seeds.right`; those with one seed say nothing.
    """
    squares, freedom = 0.0, 0
    for side in sides:
        outcomes = side.to_numpy(float)  # (images, k)
        if min(outcomes.shape) > 1:
            means = outcomes.mean(0) + outcomes.mean(1, keepdims=True) - outcomes.mean()
            squares += float(((outcomes - means) ** 2).sum())
            freedom += (outcomes.shape[0] - 1) * (outcomes.shape[1] - 1)
    return squares / freedom if freedom else None


def compare(before: Revision, after: Revision, part: str, tolerance: float = 0.0) -> tuple[Difference, pd.DataFrame]:
    """The difference in accuracy, and in the recall of each class; errors are those of `predictions`."""
    predictions(before, after, part)
    sides = seeds.trainings(before, part), seeds.trainings(after, part)
    return difference(*sides, tolerance), by_class(*sides)


def remedy(before: Revision, after: Revision) -> str:
    """The command that decides where no spread over seeds is measured."""
    name = next((revision.name for revision in (after, before) if revision.is_experiment), after.name)
    return f"To decide it: {escaped(f'make replicate EXP={shlex.quote(one_line(name))}')}, which trains it with other seeds."


def by_class(before: Seeds, after: Seeds) -> pd.DataFrame:
    """One row a class: number of images, mean recall `before` and `after`, `difference`, `p`, and whether it counts.

    None counts without a spread over seeds. `p` is corrected for the number of classes (Benjamini and Hochberg 1995,
    doi.org/10.1111/j.2517-6161.1995.tb02031.x).
    """
    rows = []
    for name in sorted(before.labels.unique()):
        pair = before.of_class(name), after.of_class(name)
        means, recall = [side.accuracy.mean() for side in pair], difference(*pair)
        rows.append([name, recall.images, *means, recall.value, recall.p, recall.of_seeds is not None])
    table = pd.DataFrame(rows, columns=["class", "images", "before", "after", "difference", "p", "counts"])
    table["p"] = stats.false_discovery_control(table["p"])
    return table.assign(counts=table["counts"] & (table["p"] < LEVEL))


def predictions(before: Revision, after: Revision, part: str) -> pd.DataFrame:
    """One row for each image, by its id.

    Columns are `label`, the classes predicted `before` and `after`, and the second model's `confidence`.

    Raises:
        InputError: a revision has no predictions, or the two are for different images.
    """
    tables = [seeds.predictions(revision, part) for revision in (before, after)]
    images = f"data/prepared/{'test' if part == 'test' else 'train'}"
    data = [revision.outputs().get(images) for revision in (before, after)]
    labels = [table["label"].sort_index() for table in tables]
    if data[0] != data[1] or tables[0].empty or not labels[0].equals(labels[1]):
        shared = len(tables[0].index.intersection(tables[1].index))
        raise InputError(
            f"{before} and {after} must have predictions for the same {part} images; received other images: "
            f"{len(tables[0]):,} and {len(tables[1]):,}, {shared:,} in common, {images} {data[0]} and {data[1]}"
        )
    both = tables[0][["label", "predicted"]].rename(columns={"predicted": "before"})
    return both.join(tables[1][["predicted", "confidence"]].rename(columns={"predicted": "after"}))


def confusions(table: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a label and a wrong class whose number of images changed; most changed first."""
    sides = ("before", "after")
    counted = {side: table[table[side] != table["label"]].groupby(["label", side]).size() for side in sides}
    both = pd.DataFrame(counted).fillna(0).astype(int).rename_axis(["label", "predicted"])
    change = (both["after"] - both["before"]).abs().sort_values(ascending=False, kind="stable")
    return both.loc[change.index[change > 0]].reset_index()
