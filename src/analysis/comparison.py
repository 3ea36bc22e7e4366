"""Whether one model is better than another, by their predictions for the same images.

Two things differ by chance: which images there happen to be, and which seed a training has. A difference
counts where it is more than either explains.
"""

from dataclasses import dataclass
from typing import Any

from common.errors import InputError

import numpy as np
import pandas as pd
from scipy import stats

from analysis.revisions import Revision

LEVEL = 0.05
NAMES = dict.fromkeys(("label", "predicted", "class"), str)  # a class may be called 1


@dataclass(frozen=True)
class Difference:
    """Between the accuracies of two models, the second's minus the first's.

    Attributes:
        images: number of images that both models classified.
        gained: images that only the second model classified correctly.
        lost: images that only the first model classified correctly.
        low, high: the 95 % interval of the difference, over images (paired t).
        p_images: McNemar's exact test (https://doi.org/10.1007/BF02295996): a fair coin decides each
            image that only one model classified correctly.
        by_seed: how far apart two trainings that differ in seed alone are in 95 of 100 cases, from
            `make noise`; None where that was not measured.
        p_seeds: how often such a pair is as far apart as this one.
    """

    images: int
    gained: int
    lost: int
    low: float
    high: float
    p_images: float
    by_seed: float | None = None
    p_seeds: float | None = None

    @property
    def value(self) -> float:
        return (self.gained - self.lost) / self.images

    @property
    def p(self) -> float:
        """Of what explains the difference best."""
        return max(self.p_images, self.p_seeds or 0.0)

    @property
    def verdict(self) -> str:
        if self.p >= LEVEL:
            return "within noise"
        return "better" if self.value > 0 else "worse"

    @property
    def reason(self) -> str:
        """One sentence."""
        points = f"{100 * self.value:+.2f} points"
        test = f"McNemar's exact test, p = {self.p_images:.2g}"
        seeds = (
            "the spread over seeds is not measured"
            if self.by_seed is None
            else f"another seed alone moves it by up to {100 * self.by_seed:.2f} points in 95 of 100 cases"
        )
        if not self.gained and not self.lost:
            return "Both models classify the same images correctly."
        if self.verdict != "within noise":
            return f"{points} are more than chance in the images explains ({test}), and {seeds}."
        if self.p_images >= LEVEL:
            return f"Chance in the images explains {points} ({test})."
        return f"{points} are more than chance in the images explains ({test}), but {seeds}."


def difference(before: np.ndarray, after: np.ndarray, noise: dict[str, float] | None = None) -> Difference:
    """Of two models on the same images.

    Args:
        before, after: (N,) bool, whether each image is right.
        noise: `std` and `n` of the same share over seeds.
    """
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    value = (gained - lost) / len(before)
    change = after.astype(np.float64) - before
    if np.ptp(change):
        interval = stats.ttest_1samp(change, 0).confidence_interval()
        low, high = float(interval.low), float(interval.high)
    else:
        low = high = value
    p_images = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    by_seed, p_seeds = another_seed(value, noise) if noise else (None, None)
    return Difference(len(before), gained, lost, low, high, float(p_images), by_seed, p_seeds)


def another_seed(value: float, noise: dict[str, float]) -> tuple[float, float]:
    """How far another seed alone moves a share in 95 of 100 cases, and the p of its moving it by `value`.

    Args:
        noise: `std` and `n` of the share over seeds.
    """
    # the difference of two has a standard deviation √2 times as large, estimated from n
    std, freedom = np.sqrt(2) * noise["std"], noise["n"] - 1
    p = 2 * stats.t.sf(abs(value) / std, freedom) if std else not value
    return float(stats.t.isf(LEVEL / 2, freedom) * std), float(p)


def predictions(before: Revision, after: Revision, part: str) -> pd.DataFrame:
    """One row for each image that both models classified, by its id.

    Columns are `label`, the classes predicted `before` and `after`, and the second model's `confidence`.

    Raises:
        InputError: a revision has no predictions, or the two are for different images.
    """
    tables = []
    for revision in (before, after):
        path = f"metrics/predictions/{part}.csv"
        table = revision.table(path, "id", "label", "predicted", "confidence", dtype=NAMES)
        if table is None:
            raise InputError(
                f"{revision} must have predictions on {part} (or choose the other part with PART=); "
                f"received no {path}"
            )
        tables.append(table.set_index("id"))
    images = f"data/prepared/{'test' if part == 'test' else 'train'}"
    data = [revision.outputs().get(images) for revision in (before, after)]
    both = tables[0].join(tables[1], suffixes=("_before", ""), how="inner")
    if data[0] != data[1] or both.empty or (both["label_before"] != both["label"]).any():
        raise InputError(
            f"{before} and {after} must have predictions for the same {part} images; received "
            f"{images} {data[0]} and {data[1]}, {len(both)} rows in common"
        )
    both = both.rename(columns={"predicted_before": "before", "predicted": "after"})
    return both[["label", "before", "after", "confidence"]]


def noise(revisions: tuple[Revision, ...], part: str) -> dict[str, Any]:
    """The spread over seeds: `std` and `n` of each measure, and of `recall` by class.

    It is measured at the first revision that has it, and taken to hold for the other one too.
    """
    for revision in revisions:
        spread = revision.json("metrics/noise.json").get(part)
        if spread:
            path = "metrics/noise_classes.csv"
            table = revision.table(path, "part", "class", "recall", dtype=NAMES)
            if table is None:
                return spread
            recalls = table[table["part"] == part].groupby("class")["recall"]
            return spread | {"recall": recalls.agg(std="std", n="size").to_dict("index")}
    return {}


def overall(table: pd.DataFrame, spread: dict[str, Any]) -> Difference:
    """Of accuracy.

    Args:
        table: as from `predictions`.
        spread: as from `noise`.
    """
    before, after = ((table[name] == table["label"]).to_numpy() for name in ("before", "after"))
    return difference(before, after, spread.get("accuracy"))


def by_class(table: pd.DataFrame, spread: dict[str, Any]) -> pd.DataFrame:
    """Of the recall of each class.

    A class counts where neither images nor seeds explain the difference; without the spread over seeds
    none does. `p` is corrected for the number of classes (Benjamini and Hochberg 1995,
    https://doi.org/10.1111/j.2517-6161.1995.tb02031.x).
    """
    found = [
        overall(group, {"accuracy": spread.get("recall", {}).get(label)})
        for label, group in table.groupby("label")
    ]
    p = stats.false_discovery_control([recall.p for recall in found])
    seeds_measured = np.array([recall.by_seed is not None for recall in found])
    correct = table[["before", "after"]].eq(table["label"], axis=0).groupby(table["label"])
    rows = correct.mean().rename_axis("class").reset_index()
    rows.insert(1, "images", correct.size().to_numpy())
    return rows.assign(difference=[recall.value for recall in found], p=p, counts=(p < LEVEL) & seeds_measured)


def confusions(table: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a label and a wrong class whose number of images changed; most changed first."""
    counted = {
        name: table[table[name] != table["label"]].groupby(["label", name]).size() for name in ("before", "after")
    }
    both = pd.DataFrame(counted).fillna(0).astype(int).rename_axis(["label", "predicted"])
    both["difference"] = both["after"] - both["before"]
    changed = both[both["difference"] != 0].reset_index()
    return changed.sort_values("difference", key=lambda x: -x.abs(), kind="stable")
