"""How much figures depend on the seed of the training: a table of runs, and its mean and spread."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import InputError

MEASURES = ("accuracy", "loss", "macro_f1", "calibration_error")


def read(path: Path, wanted: tuple[str, ...] = (), or_nothing: bool = False) -> dict:
    """A JSON file of figures.

    Args:
        wanted: what it must hold.
        or_nothing: `{}` will do too, which stands for what was not evaluated.

    Raises:
        InputError: it is missing, damaged, or has not all that is wanted.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be there and be JSON; received: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold figures by name; received other JSON")
    missing = [name for name in wanted if content.get(name) is None]
    if missing and (content or not or_nothing):
        raise InputError(f"{path} must have {', '.join(wanted)}; {', '.join(missing)} is missing")
    return content


def table(path: Path, columns: tuple[str, ...], **options: Any) -> pd.DataFrame:
    """These columns of a table of figures, in which an empty cell is a text.

    Args:
        options: of pandas.read_csv.

    Raises:
        InputError: it is missing, damaged, or lacks one of them.
    """
    try:
        return pd.read_csv(path, keep_default_na=False, **options)[list(columns)]
    except (OSError, ValueError, KeyError) as error:  # pandas' own are ValueErrors
        raise InputError(
            f"{path} must be a table with {', '.join(columns)}; received: {error}"
        ) from None


def rows(metrics: Path, seed: int) -> list[dict]:
    """What val.json and test.json in `metrics` say: one row for each that has figures.

    Raises:
        InputError: as from `read`.
    """
    results = {
        part: read(metrics / f"{part}.json", MEASURES, or_nothing=True) for part in ("val", "test")
    }
    return [
        {"seed": seed, "part": part} | {name: result[name] for name in MEASURES}
        for part, result in results.items()
        if result
    ]


def recalls(metrics: Path, seed: int) -> list[dict]:
    """The recall of each class on val and test, as far as these were evaluated.

    Raises:
        InputError: a table of `metrics` is damaged.
    """
    found = []
    for part in ("val", "test"):
        path = metrics / f"classes/{part}.csv"
        if path.exists():
            recall = table(path, ("class", "recall"), dtype={"class": str})
            found += recall.assign(seed=seed, part=part).to_dict("records")
    return found


def summary(runs: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By part and measure: mean, standard deviation (n - 1) and n.

    Args:
        runs: rows as from `rows`, of several seeds.
    """
    return {
        str(part): {
            name: {
                "mean": round(float(group[name].mean()), 6),
                "std": round(float(group[name].std()), 6),
                "n": len(group),
            }
            for name in MEASURES
        }
        for part, group in runs.groupby("part", sort=False)
    }
