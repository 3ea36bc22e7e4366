"""Files of metrics/, read with errors that name them; figures of several seeds, their mean and spread."""

import json
from pathlib import Path
from typing import IO, Any

from common.errors import InputError

import pandas as pd

PARTS = ("val", "test")
TYPES: dict[str, type] = {"part": str, "class": str, "label": str, "predicted": str}  # as 1 or nan
TYPES |= {"confidence": float, "images": int, "precision": float, "recall": float, "f1": float}
MEASURES = ("accuracy", "loss", "macro_f1", "calibration_error")
FIGURES = ("source", "images", "accuracy_low", "accuracy_high", *MEASURES)  # of a row of `results_table`
NUMBERS = {*FIGURES[1:], "epochs", "temperature"}


def read(path: Path, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """A JSON file of figures; errors are those of `parse`, and that it is missing."""
    try:
        return parse(path.read_bytes(), path, needed)
    except OSError as error:
        raise InputError(f"{path} must be there and be JSON; received: {error}") from None


def parse(content: bytes, name: object, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The figures in the JSON of a file.

    Args:
        needed: keys that the file, for which `name` stands, must have.

    Raises:
        InputError: it is no JSON, not figures by name, or lacks a key.
    """
    try:
        figures = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} must be JSON; received: {error}") from None
    if not isinstance(figures, dict):
        raise InputError(f"{name} must hold figures by name; received other JSON")
    found = {key: figures.get(key) for key in needed}
    if wrong := [k for k, v in found.items() if v is None or (k in NUMBERS and not isinstance(v, int | float))]:
        raise InputError(f"{name} must have {', '.join(needed)}; {', '.join(wrong)} is missing or no number")
    return figures


def table(source: Path | IO, columns: tuple[str, ...], name: object = None, **options: Any) -> pd.DataFrame:
    """These columns of a table of figures, of `TYPES`, in which an empty cell is a text.

    Args:
        name: stands for the file where the source is none.
        options: of pandas.read_csv.

    Raises:
        InputError: it is missing, damaged, or lacks a column.
    """
    try:
        return pd.read_csv(source, keep_default_na=False, **{"dtype": TYPES} | options)[list(columns)]
    except (OSError, ValueError, KeyError) as error:  # pandas' own are ValueErrors
        raise InputError(f"{name or source} must be a table with {', '.join(columns)}; received: {error}") from None


def by_part(metrics: Path, needed: tuple[str, ...] = MEASURES) -> dict[str, dict[str, Any]]:
    """What val.json and test.json in `metrics` say, as far as they were evaluated; errors are those of `read`."""
    return {part: read(path, needed) for part in PARTS if read(path := metrics / f"{part}.json")}  # {}: not evaluated


def results_table(results: dict[str, dict[str, Any]], noise: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row for each part, as the pages show it; means over classes come first where these are unequal.

    Args:
        results: as from `by_part`, with the source of the images and Wilson's interval.
        noise: as from `summary`; a part may be missing.
    """
    rows, is_unequal = [], any("macro_accuracy" in result for result in results.values())
    for part, result in results.items():
        spread = "{mean:.2%} ± {std:.2%} (n = {n})".format_map(noise[part]["accuracy"]) if part in noise else ""
        known = result.get("release", "unknown")
        f1, recall = f"{result['macro_f1']:.4f}", result.get("macro_accuracy", "")
        release = "" if known == "unknown" else f", Fashion-MNIST of {known}"
        row = {
            "part": part if result["source"] == "fashion-mnist" else f"{part} ({result['source']}{release})",
            "images": f"{result['images']:,}",
            **({"macro accuracy": recall and f"{recall:.2%}", "macro F1": f1} if is_unequal else {}),
            "accuracy": f"{result['accuracy']:.2%}",
            "95 % interval": "{accuracy_low:.2%} – {accuracy_high:.2%}".format_map(result),
            "over seeds": spread or "not measured",
            "loss (nats)": f"{result['loss']:.4f}",
            "macro F1": f1,
            "calibration error": f"{result['calibration_error']:.4f}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def summary(runs: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By part and measure: mean, standard deviation (n - 1) and n.

    Args:
        runs: rows as from `seeds.figures`, of several seeds.
    """
    figures = runs.melt("part", MEASURES, var_name="measure").groupby(["part", "measure"], sort=False)["value"]
    spread = figures.agg(mean="mean", std="std", n="size").round(6)
    return {part: spread.loc[part].to_dict("index") for part in runs["part"].unique()}
