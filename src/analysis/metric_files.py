"""Files of metrics/, read with errors that name them; figures of several seeds, their mean and spread."""

import json
from pathlib import Path
from typing import IO, Any

from common.errors import InputError, shorten

import pandas as pd

PARTS = ("val", "test")
MEASURES = ("accuracy", "loss", "macro_f1", "calibration_error")
NUMBERS = {*MEASURES, "accuracy_low", "accuracy_high", "images", "epochs", "temperature"}


def read(path: Path, needed: tuple[str, ...] = (), or_nothing: bool = False) -> dict[str, Any]:
    """A JSON file of figures.

    Args:
        needed: keys that it must have.
        or_nothing: `{}` will do too, which stands for a part that was not evaluated.

    Raises:
        InputError: it is missing, damaged, or lacks a key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} must be there and be JSON; received: {error}") from None
    figures = parse(content, path)
    missing = [name for name in needed if figures.get(name) is None]
    if missing and (figures or not or_nothing):
        raise InputError(f"{path} must have {', '.join(needed)}; {', '.join(missing)} is missing")
    return figures


def parse(content: bytes, name: object) -> dict[str, Any]:
    """The figures in the JSON of a file.

    Raises:
        InputError: it is no JSON, or not figures by name; `name` stands for the file.
    """
    try:
        figures = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} must be JSON; received: {error}") from None
    if not isinstance(figures, dict):
        raise InputError(f"{name} must hold figures by name; received other JSON")
    for key in NUMBERS & figures.keys():
        if type(figures[key]) not in (int, float):
            raise InputError(f"{key} in {name} must be a number; received {shorten(figures[key])}")
    return figures


def table(source: Path | IO, columns: tuple[str, ...], name: object = None, **options: Any) -> pd.DataFrame:
    """These columns of a table of figures, in which an empty cell is a text.

    Args:
        name: stands for the file where the source is none.
        options: of pandas.read_csv.

    Raises:
        InputError: it is missing, damaged, or lacks a column.
    """
    try:
        return pd.read_csv(source, keep_default_na=False, **options)[list(columns)]
    except (OSError, ValueError, KeyError) as error:  # pandas' own are ValueErrors
        raise InputError(
            f"{name or source} must be a table with {', '.join(columns)}; received: {error}"
        ) from None


def by_part(metrics: Path, needed: tuple[str, ...] = MEASURES) -> dict[str, dict[str, Any]]:
    """What val.json and test.json in `metrics` say, as far as these parts were evaluated.

    Raises:
        InputError: as from `read`.
    """
    results = {part: read(metrics / f"{part}.json", needed, or_nothing=True) for part in PARTS}
    return {part: result for part, result in results.items() if result}


def results_table(results: dict[str, dict[str, Any]], noise: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row for each part, as the pages show it.

    Args:
        results: as from `by_part`, with the source of the images and Wilson's interval.
        noise: as from `summary`; a part may be missing.
    """
    spreads = {part: noise[part]["accuracy"] for part in results if part in noise}
    return pd.DataFrame(
        [
            {
                "part": part if result["source"] == "fashion-mnist" else f"{part} ({result['source']})",
                "images": f"{result['images']:,}",
                "accuracy": f"{result['accuracy']:.2%}",
                "95 % interval": "{accuracy_low:.2%} – {accuracy_high:.2%}".format_map(result),
                "over seeds": "{mean:.2%} ± {std:.2%} (n = {n})".format_map(spreads[part])
                if part in spreads
                else "not measured",
                "loss (nats)": f"{result['loss']:.4f}",
                "macro F1": f"{result['macro_f1']:.4f}",
                "calibration error": f"{result['calibration_error']:.4f}",
            }
            for part, result in results.items()
        ]
    )


def seconds(log: Path = Path(".cache/checkpoints/seconds.csv")) -> dict[str, str]:
    """Seconds of the trainings on this machine, by the MD5 hash of the model, as far as train has logged them."""
    if not log.exists():
        return {}
    lines = (line.split(",") for line in log.read_text("utf-8").splitlines())
    return dict(lines)


def summary(runs: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By part and measure: mean, standard deviation (n - 1) and n.

    Args:
        runs: rows as from `seeds.figures`, of several seeds.
    """
    figures = runs.melt("part", MEASURES, var_name="measure").groupby(["part", "measure"], sort=False)["value"]
    spread = figures.agg(mean="mean", std="std", n="size").round(6)
    return {part: spread.loc[part].to_dict("index") for part in runs["part"].unique()}
