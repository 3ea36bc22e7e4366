"""How often a verdict of `make compare` is wrong, and how often it is right, on simulated pairs of models.

Each pair has images and seeds of its own, and goes through the code that compares real models. Of the images,

- some are open: a training has such an image right with a chance of its own, uniform from 0 to 1, which makes the
  spread over seeds;
- `disagreement` is the share that one model always has right and the other always wrong, whatever the seed. It
  holds the true difference, which may be 0;
- all others are right or wrong with every seed of both models.

The spread over seeds is the committed one (metrics/noise.json), of which five seeds give a rough estimate, or a wider
one: that of a model of which two seeds disagree on 2.1 % of the images (`CHURN`), about as many as two trainings in
other arithmetic (benchmarks/sameness.json).
Half of its variance, or none, is a seed's effect that all its images share.

Beside these cases `limits` are simulated, of equal models: few seeds, half or nine tenths of whose variance is coherent,
in that a better seed has the images right that a worse one has, and more; and a second model that spreads more than the
first one, whose spread a single training of it is taken to have.

`python benchmarks/verdicts.py` writes benchmarks/verdicts.json (more than half an hour on one core).
"""

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from common import files
from common.errors import InputError

import numpy as np
import pandas as pd

import benchmark_files
from analysis import comparison, metric_files
from analysis.seeds import Seeds

RESULTS = Path("benchmarks/verdicts.json")
BARS = {"test": (10_000, 0.0030), "val": (5_000, 0.0050)}  # images, and the true difference to be told
CHURN = 0.021  # share of the images on which two seeds disagree
ACCURACY = 0.94
DISAGREEMENTS = (0.0, 0.005, 0.01, 0.02)
NUMBERS = {  # of seeds of both models
    "one training beside five known": (5, 1),
    "one training beside two known": (2, 1),
    "two seeds on each side": (2, 2),
    "five seeds on each side": (5, 5),
}


def simulate(
    rng: np.random.Generator,
    images: int,
    seeds: tuple[int, int],
    std: float,
    common: float,
    disagreement: float,
    gain: float,
    coherent: float = 0.0,
    ratio: float = 1.0,
) -> tuple[Seeds, Seeds]:
    """Two models; arguments but the numbers of seeds are shares of the images.

    Args:
        std: standard deviation of accuracy over seeds.
        common: share of its variance that is an effect of the seed on all images.
        gain: how much better the second model truly is.
        coherent: share of its variance by which a seed has the next images right as well, or the last ones wrong.
        ratio: of the second model's standard deviation to `std`; what it has more is coherent.
    """
    is_open = 6 * images * std**2 * (1 - common - coherent)  # the mean variance of one open image is 1/6
    only = [(max(disagreement, gain) + sign * gain) / 2 for sign in (-1, 1)]
    shares = [is_open, *only, ACCURACY - is_open / 2 - only[1]]
    kinds = rng.choice(5, images, p=[*shares, 1 - sum(shares)])  # open, only the first, only the second, both, none
    chances = rng.random(images)
    # the effect of a seed, as a share of the images, above which an image that is not open is right
    needed = np.where(kinds == 3, 0.5 - np.cumsum(kinds == 3), np.cumsum(kinds == 4) - 0.5) / images
    sides = []
    for side, count in enumerate(seeds):
        shift = rng.normal(0, std * np.sqrt(common) / is_open, count)
        right = np.repeat(((kinds == 1 + side) | (kinds == 3))[:, None], count, axis=1)  # (images, seeds)
        opened = kinds == 0
        right[opened] = rng.random((opened.sum(), count)) < chances[opened, None] + shift
        if more := coherent + (ratio**2 - 1 if side else 0.0):
            right[kinds >= 3] = rng.normal(0, std * np.sqrt(more), count) > needed[kinds >= 3, None]
        table = pd.DataFrame(right)
        sides.append(Seeds(table.mean(), table, pd.Series("", table.index)))
    return sides[0], sides[1]


def rates(pairs: int, key: list[Any], **case: Any) -> dict[str, float]:
    """The share of each verdict.

    Beside a single training, all but one seed of the first model are known by their accuracy alone, as from noise.csv.

    Args:
        key: makes the random numbers of a case its own.
    """
    rng = np.random.default_rng([int(1e6 * value) for value in key])
    found: Counter[str] = Counter()
    for _ in range(pairs):
        before, after = simulate(rng, **case)
        if case["seeds"][1] == 1:
            before = Seeds(before.accuracy, before.right[[0]], before.labels)
        found[comparison.difference(before, after).verdict] += 1
    return {verdict: round(found[verdict] / pairs, 4) for verdict in ("better", "worse", "within noise")}


def measure(pairs: int, spreads: dict[str, float], part: str) -> list[dict[str, Any]]:
    """Wrong verdicts of equal models, and right ones at the bar of `part`."""
    images, gain = BARS[part]
    found = []
    for (kind, std), common, disagreement in itertools.product(spreads.items(), (0.0, 0.5), DISAGREEMENTS):
        case: dict[str, Any] = {"images": images, "std": std, "common": common, "disagreement": disagreement}
        key = [images, std, common, disagreement]
        equal = rates(pairs, [*key, 0], seeds=(5, 5), gain=0.0, **case)
        single = rates(pairs, [*key, 1], seeds=(5, 1), gain=0.0, **case)
        row = {"part": part, "spread": kind, "std": round(std, 6), "common": common, "disagreement": disagreement}
        row |= {"wrong of equal": round(1 - equal["within noise"], 4)}
        row |= {"wrong of equal, one training beside five known": round(1 - single["within noise"], 4)}
        right = rates(pairs, [*key, 2, 5], seeds=(5, 5), gain=gain, **case)
        row |= {f"right at {100 * gain:.2f} points": right["better"]}
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def limits(pairs: int, spreads: dict[str, float]) -> list[dict[str, Any]]:
    """The most wrong verdicts of equal models, by numbers of seeds and ratio of spreads, on the test images."""
    images, found = BARS["test"][0], []
    for (numbers, seeds), ratio in itertools.product(NUMBERS.items(), (1.0, 2.0, 3.0)):
        wrong = []
        for std, coherent, disagreement in itertools.product(spreads.values(), (0.5, 0.9), (0.0, 0.005)):
            key = [images, std, coherent, disagreement, 3, *seeds, ratio]
            case: dict[str, Any] = {"std": std, "coherent": coherent, "disagreement": disagreement, "ratio": ratio}
            equal = rates(pairs, key, images=images, seeds=seeds, common=0.0, gain=0.0, **case)
            wrong.append(round(1 - equal["within noise"], 4))
        found.append({"seeds": numbers, "ratio of spreads": ratio, "wrong of equal": max(wrong)})
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=benchmark_files.positive, default=2000, help="simulated pairs of models in a case"
    )
    parser.add_argument("--again", action="store_true", help="simulate this spread over seeds once more")
    chosen = parser.parse_args()
    pairs = chosen.pairs
    noise = metric_files.read(Path("metrics/noise.json"), tuple(BARS))
    spreads = {
        part: {"committed": noise[part]["accuracy"]["std"], "wider": np.sqrt(CHURN / 2 / images)}
        for part, (images, _) in BARS.items()
    }
    for part, (images, _) in BARS.items():
        # of a wider one more images are open than this accuracy leaves (`simulate`)
        most = np.sqrt((2 * (1 - ACCURACY) - DISAGREEMENTS[-1]) / (6 * images))
        if spreads[part]["committed"] > most:
            raise InputError(
                f"the standard deviation over seeds must be at most {most:.5f} on {part}, for an accuracy of "
                f"{ACCURACY}; received {spreads[part]['committed']:.5f} in metrics/noise.json"
            )
    earlier = benchmark_files.earlier(RESULTS)
    stds = {case["part"]: case["std"] for case in earlier.get("cases", []) if case["spread"] == "committed"}
    is_same = stds == {part: round(each["committed"], 6) for part, each in spreads.items()}
    if is_same and earlier["pairs"] >= pairs and not chosen.again:
        print(f"{RESULTS} is of this spread over seeds (--again simulates it once more)")
        return
    found = {"limits": limits(pairs, spreads["test"])}
    cases = [case for part in BARS for case in measure(pairs, spreads[part], part)]
    files.write_json(RESULTS, {"pairs": pairs, "seeds": 5, "cases": cases} | found)


if __name__ == "__main__":
    main()
