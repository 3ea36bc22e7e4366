"""Whether one model is better than another, by their predictions for the same images.

Two things differ by chance: which images there happen to be, and which seed a training has. A difference
counts where it is more than either explains.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.revisions import Side
from common.errors import InputError

LEVEL = 0.05
NAMES = dict.fromkeys(("label", "predicted", "class"), str)  # a class may be called 1


@dataclass(frozen=True)
class Difference:
    """Between the shares of images that are right, the second side's minus the first's.

    Attributes:
        images: how many both sides named.
        gained: right on the second side alone.
        lost: right on the first side alone.
        low, high: the 95 % interval of the difference, over images (paired t).
        p_images: McNemar's exact test (https://doi.org/10.1007/BF02295996): a coin decides each image
            that one side alone has right.
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
            return "The same images are right on both sides."
        if self.verdict != "within noise":
            return f"{points} are more than chance in the images explains ({test}), and {seeds}."
        if self.p_images >= LEVEL:
            return f"Chance in the images explains {points} ({test})."
        return f"{points} are more than chance in the images explains ({test}), but {seeds}."


def difference(
    before: np.ndarray, after: np.ndarray, noise: dict[str, float] | None = None
) -> Difference:
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
    # two of them differ by a standard deviation √2 as large, which n of them estimate
    of_pair, t = np.sqrt(2) * noise["std"], stats.t(noise["n"] - 1)
    p = 2 * t.sf(abs(value) / of_pair) if of_pair else not value
    return float(t.isf(LEVEL / 2) * of_pair), float(p)


def predictions(before: Side, after: Side, part: str) -> pd.DataFrame:
    """One row for each image that both sides named, by its id.

    It has the `label`, the classes named `before` and `after`, and the latter's `confidence`.

    Raises:
        InputError: a side has no predictions, or the two are of other images.
    """
    found = {}
    for side in (before, after):
        path = f"metrics/predictions/{part}.csv"
        table = side.table(path, "id", "label", "predicted", "confidence", dtype=NAMES)
        if table is None:
            raise InputError(
                f"{side} must have predictions on {part} (or choose the other part with PART=); "
                f"received no {path}"
            )
        found[side] = table.set_index("id")
    images = f"data/prepared/{'test' if part == 'test' else 'train'}"
    data = [side.outputs().get(images) for side in (before, after)]
    both = found[before].join(found[after], suffixes=("", "_after"), how="inner")
    if data[0] != data[1] or both.empty or (both["label"] != both["label_after"]).any():
        raise InputError(
            f"{before} and {after} must name the same {part} images; received {images} "
            f"{data[0]} and {data[1]}, {len(both)} rows in common"
        )
    return pd.DataFrame(
        {
            "label": both["label"],
            "before": both["predicted"],
            "after": both["predicted_after"],
            "confidence": both["confidence_after"],
        }
    )


def noise(sides: tuple[Side, ...], part: str) -> dict[str, Any]:
    """Over seeds, of the first side that has it: `std` and `n` of each measure, and of `recall` by class.

    It is taken to hold for the other side too.
    """
    for side in sides:
        found = side.json("metrics/noise.json").get(part)
        if found:
            table = side.table("metrics/noise_classes.csv", "part", "class", "recall", dtype=NAMES)
            if table is None:
                return found
            classes = table[table["part"] == part].groupby("class")["recall"].agg(["std", "size"])
            by_class = classes.rename(columns={"size": "n"}).to_dict("index")
            return found | {"recall": by_class}
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
    rows = {
        label: overall(group, {"accuracy": spread.get("recall", {}).get(label)})
        for label, group in table.groupby("label")
    }
    corrected = stats.false_discovery_control([row.p for row in rows.values()])
    return pd.DataFrame(
        [
            {
                "class": label,
                "images": row.images,
                "before": (of["before"] == label).mean(),
                "after": (of["after"] == label).mean(),
                "difference": row.value,
                "p": p,
                "counts": p < LEVEL and row.by_seed is not None,
            }
            for (label, row), p in zip(rows.items(), corrected, strict=True)
            for of in [table[table["label"] == label]]
        ]
    )


def confusions(table: pd.DataFrame) -> pd.DataFrame:
    """The pairs of label and other class that were not named as often before as after; most changed first."""
    counted = {
        name: table[table[name] != table["label"]].groupby(["label", name]).size()
        for name in ("before", "after")
    }
    both = pd.DataFrame(counted).fillna(0).astype(int).rename_axis(["label", "named"])
    both["difference"] = both["after"] - both["before"]
    changed = both[both["difference"] != 0].reset_index()
    return changed.sort_values("difference", key=lambda x: -x.abs(), kind="stable")
