"""Whether one model is better than another, by their predictions for the same images.

Two things differ by chance: which images there happen to be, and which seed a training has. A difference
counts where it is more than both explain. Without a spread over seeds that belongs to one of the two models
(src/analysis/seeds.py), nothing counts.
"""

import dataclasses
import math
from dataclasses import dataclass

from common.errors import InputError

import numpy as np
import pandas as pd
from scipy import stats

from analysis import seeds
from analysis.revisions import Revision
from analysis.seeds import Seeds

LEVEL, POWER = 0.05, 0.8
MOST_SEEDS = 100


@dataclass(frozen=True)
class Difference:
    """Between the accuracies of two models, the second's minus the first's.

    Attributes:
        images: number of images that both models classified.
        seeds: number of trainings of each model.
        is_paired: whether these have the same seeds.
        gained, lost: images that only the second model, or only the first, classified correctly; of the two
            models themselves, without their other seeds.
        value: difference of the means over seeds.
        of_images: variance of `value` from the choice of images.
        of_seeds: variance of `value` from the seeds; None where no spread over seeds is measured.
        freedom: degrees of freedom of `of_seeds`.
        tolerance: a difference up to this does not matter.
    """

    images: int
    seeds: tuple[int, int]
    is_paired: bool
    gained: int
    lost: int
    value: float
    of_images: float
    of_seeds: float | None = None
    freedom: float = math.inf
    tolerance: float = 0.0

    @property
    def error(self) -> float:
        """Standard error of `value`."""
        return math.sqrt(self.of_images + (self.of_seeds or 0.0))

    @property
    def total_freedom(self) -> float:
        """Degrees of freedom of `error`, of which the part of the seeds alone is uncertain (Satterthwaite)."""
        return self.freedom * (self.error**2 / self.of_seeds) ** 2 if self.of_seeds else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, over images and seeds; over images alone where no spread over seeds is measured."""
        half = float(stats.t.isf(LEVEL / 2, self.total_freedom)) * self.error
        return self.value - half, self.value + half

    @property
    def p_images(self) -> float:
        """McNemar's exact test (https://doi.org/10.1007/BF02295996) of `gained` and `lost`.

        A fair coin decides each image that only one model classified correctly.
        """
        changed = self.gained + self.lost
        return float(stats.binomtest(self.gained, changed).pvalue) if changed else 1.0

    @property
    def p(self) -> float:
        """How often chance alone makes such a difference: in the images, and where it is known in the seeds."""
        if self.of_seeds is None:
            return self.p_images
        if not self.error:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.total_freedom))

    @property
    def is_none(self) -> bool:
        """Whether the only training of one model has the same images right as the other model."""
        return not (self.gained or self.lost) and min(self.seeds) == 1

    @property
    def verdict(self) -> str:
        """Better, worse, within noise or not decided."""
        if self.is_none:
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
                f"{points} have p = {self.p_images:.2g} by chance in the images alone (McNemar's exact test); "
                "chance in the seeds is not measured for either training."
            )
        tolerance = f" and the tolerance of {100 * self.tolerance:.2f} points" if self.tolerance else ""
        chance = f"chance in images and seeds{tolerance} explains"
        if self.verdict == "within noise":
            return f"{chance[0].upper()}{chance[1:]} {points} (p = {self.p:.2g})."
        return f"{points} are more than {chance} (p = {self.p:.2g})."

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

    def detectable(self, number: int) -> float | None:
        """The true difference that `number` seeds on each side tell in 80 of 100 cases; None where not known.

        The standard error times Student's t of level and power (Bloom 1995,
        https://doi.org/10.1177/0193841X9501900504), with the same seeds on both sides.
        """
        if self.of_seeds is None or number < 2:
            return None
        one = self.of_seeds / sum(1 / count for count in self.seeds)  # of a single training
        planned = dataclasses.replace(self, of_seeds=2 * one / number, freedom=number - 1)
        quantiles = (stats.t.isf(level, planned.total_freedom) for level in (LEVEL / 2, 1 - POWER))
        return float(sum(quantiles)) * planned.error

    def needed(self, value: float) -> int | None:
        """The number of seeds on each side that tell a true difference of `value`; None: no number, or not known."""
        numbers = range(2, MOST_SEEDS + 1)
        return next((number for number in numbers if (self.detectable(number) or math.inf) <= value), None)


def difference(before: Seeds, after: Seeds, tolerance: float = 0.0) -> Difference:
    """Of two models on the same images, each with one seed or more.

    The images are those of a larger population, as the seeds are: the cases and readers of Obuchowski and
    Rockette (1995, https://doi.org/10.1080/03610919508813243), whose variance has three parts: of the images, of
    the seeds, and of their interaction, an image that one seed has right and another has not. The spread over
    images and the spread over seeds both hold the interaction, so it is taken out of one of them. Where no side
    has predictions of two seeds it is not known, and taken to be as large as it can be.
    """
    sides = (before, after)
    images, accuracies = len(before.right), [side.accuracy.dropna() for side in sides]
    change = after.right.mean(axis=1) - before.right.mean(axis=1)
    over_images = float(change.var()) / images if images > 1 else 0.0
    own = after.right.iloc[:, 0].astype(int) - before.right.iloc[:, 0]
    over_seeds, freedom, is_paired = _over_seeds(*accuracies)
    found = Difference(
        images=images,
        seeds=(len(accuracies[0]), len(accuracies[1])),
        is_paired=is_paired,
        gained=int((own > 0).sum()),
        lost=int((own < 0).sum()),
        value=round(float(accuracies[1].mean() - accuracies[0].mean()), 9),
        of_images=over_images,
        freedom=freedom,
        tolerance=tolerance,
    )
    if over_seeds is None:
        return found
    one = _interaction(before.right, after.right)
    shared = [min(over_images, over_seeds)] * 2
    if one is not None:
        numbers = ([side.right.shape[1] for side in sides], found.seeds)
        shared = [one * sum(1 / number for number in both) / images for both in numbers]
    return dataclasses.replace(
        found, of_images=max(over_images - shared[0], 0.0), of_seeds=max(over_seeds, shared[1])
    )


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


def compare(
    before: Revision, after: Revision, part: str, tolerance: float = 0.0
) -> tuple[Difference, pd.DataFrame]:
    """The difference in accuracy, and in the recall of each class.

    A class counts where neither images nor seeds explain its difference; without the spread over seeds none does.
    `p` is corrected for the number of classes (Benjamini and Hochberg 1995,
    https://doi.org/10.1111/j.2517-6161.1995.tb02031.x).

    Raises:
        InputError: as from `predictions`.
    """
    predictions(before, after, part)
    sides = seeds.trainings(before, part), seeds.trainings(after, part)
    return difference(*sides, tolerance), by_class(*sides)


def remedy(before: Revision, after: Revision) -> str:
    """The command that decides where no spread over seeds is measured."""
    name = next((revision.name for revision in (after, before) if revision.is_experiment), after.name)
    return f"To decide it: make replicate EXP={name}, which trains it with other seeds."


def by_class(before: Seeds, after: Seeds) -> pd.DataFrame:
    """One row a class: number of images, mean recall `before` and `after`, and the columns of `compare`."""
    names = sorted(before.labels.unique())
    pairs = [(before.of_class(name), after.of_class(name)) for name in names]
    found = [difference(*pair) for pair in pairs]
    p = stats.false_discovery_control([recall.p for recall in found])
    measured = np.array([recall.of_seeds is not None for recall in found])
    return pd.DataFrame(
        {
            "class": names,
            "images": [recall.images for recall in found],
            "before": [pair[0].accuracy.mean() for pair in pairs],
            "after": [pair[1].accuracy.mean() for pair in pairs],
            "difference": [recall.value for recall in found],
            "p": p,
            "counts": (p < LEVEL) & measured,
        }
    )


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
    counted = {
        name: table[table[name] != table["label"]].groupby(["label", name]).size() for name in ("before", "after")
    }
    both = pd.DataFrame(counted).fillna(0).astype(int).rename_axis(["label", "predicted"])
    both["difference"] = both["after"] - both["before"]
    changed = both[both["difference"] != 0].reset_index()
    return changed.sort_values("difference", key=lambda x: -x.abs(), kind="stable")
