"""Writes figures of metrics/, benchmarks/ and published/ into README.md and the other pages.

With --check it says whether they are there. Between `<!-- NAME: written by make readme -->` and
`<!-- end of NAME -->` a page belongs to this command.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import re
from pathlib import Path

import pandas as pd

from analysis import card, comparison, seeds, systems, trials
from common import files, params
from common.errors import InputError

README = Path("README.md")
CARD = Path("MODEL_CARD.md")
PUBLISHED = Path("published/README.md")
METRICS = Path("metrics")
RECIPE = Path("benchmarks/recipe.json")
DETERMINISM = Path("benchmarks/determinism.json")
PROCESSES = Path("benchmarks/processes.json")
FIGURES = ("source", "images", "accuracy_low", "accuracy_high", *seeds.MEASURES)


def over_seeds(seed: int) -> dict[str, str]:
    """By part: the accuracy's mean, standard deviation and n over seeds, where they were measured.

    Raises:
        InputError: metrics/noise.csv is of another training than the rest of metrics/, or does not
            belong to metrics/noise.json.
    """
    if not (METRICS / "noise.csv").exists():
        return {}
    try:
        runs = pd.read_csv(METRICS / "noise.csv")
        of_this = runs[runs["seed"] == seed].to_dict("records")
        summary = seeds.summary(runs)
    except (ValueError, KeyError) as error:  # pandas' own are ValueErrors
        raise InputError(
            f"{METRICS}/noise.csv must be a table as make noise writes it; received: {error}"
        ) from None
    if of_this != seeds.rows(METRICS, seed):
        raise InputError(
            f"{METRICS}/noise.csv must have the figures of {METRICS}/ for seed {seed} (make noise, or "
            "remove it and noise.json); received others"
        )
    if summary != seeds.read(METRICS / "noise.json"):
        raise InputError(
            f"{METRICS}/noise.json must follow from noise.csv (make noise writes both); received others"
        )
    return {
        part: "{mean:.2%} ± {std:.2%} (n = {n})".format_map(measures["accuracy"])
        for part, measures in summary.items()
    }


def results_table() -> str:
    """Markdown: one row for each part of metrics/ that has figures."""
    chosen = params.load()
    noise = over_seeds(chosen.train.seed)
    epochs = seeds.read(METRICS / "train.json", ("epochs",))["epochs"]
    lines = [
        f"`{chosen.model.architecture}`, {epochs} epochs. The interval is "
        "Wilson's, over images; mean and standard deviation are over seeds.",
        "",
        "| part | images | accuracy | 95 % interval | over seeds | loss (nats) | macro F1 | calibration error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part in ("val", "test"):
        result = seeds.read(METRICS / f"{part}.json", FIGURES, or_nothing=True)
        if result:
            source = "" if result["source"] == "fashion-mnist" else f" ({result['source']})"
            lines.append(
                f"| {part}{source} | {result['images']:,} | {result['accuracy']:.2%} | "
                f"{result['accuracy_low']:.2%} – {result['accuracy_high']:.2%} | "
                f"{noise.get(part, 'not measured')} | {result['loss']:.4f} | "
                f"{result['macro_f1']:.4f} | {result['calibration_error']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def budgets_table() -> str:
    """Markdown: accuracy against seconds, and the training on every row, from benchmarks/recipe.json.

    Raises:
        InputError: the file is of another training than dvc.lock.
    """
    if not RECIPE.exists():
        return "Not measured with this recipe (`python benchmarks/recipe.py`).\n"
    recipe = seeds.read(RECIPE, ("machine", "of", "runs"))
    if recipe["of"] != trials.key():
        raise InputError(
            f"{RECIPE} must be of the training in dvc.lock (python benchmarks/recipe.py, or remove "
            "it); received another's"
        )
    try:
        runs = pd.DataFrame([run["changes"] | run for run in recipe["runs"]])
        budgets = runs[runs["evaluate.parts"].map("".join) == "val"]
        all_rows = runs[runs["evaluate.parts"].map("".join) == "test"]
        machine = "{threads} cores: {processor}".format_map(recipe["machine"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{RECIPE} must be as benchmarks/recipe.py writes it; received: {error}"
        ) from None
    lines = []
    if len(budgets):
        lines += [
            "![Val accuracy against seconds](benchmarks/budgets.svg)",
            "",
            "| epochs | seconds | val accuracy |",
            "| --- | --- | --- |",
            *_by_epochs(budgets),
            "",
        ]
    if len(all_rows):
        lines += [
            "| epochs | seconds | test accuracy, trained on every row (`split.val_size=0`) |",
            "| --- | --- | --- |",
            *_by_epochs(all_rows),
            "",
        ]
    lines.append(f"Seconds on {machine}.")
    return "\n".join(lines) + "\n"


def determinism_table() -> str:
    """Markdown: what became of the training where something else than a seed was changed.

    Raises:
        InputError: benchmarks/determinism.json is of another training than dvc.lock, or a part has no
            figure in metrics/noise.json.
    """
    if not DETERMINISM.exists():
        return "Not measured with this recipe (`python benchmarks/determinism.py`).\n"
    measured = seeds.read(DETERMINISM, ("machine", "of", "runs"))
    if measured["of"] != trials.key():
        raise InputError(
            f"{DETERMINISM} must be of the training in dvc.lock (python benchmarks/determinism.py, or "
            "remove it); received another's"
        )
    noise = seeds.read(METRICS / "noise.json", ("test",))
    lines = [
        "| changed | model's bytes | test images named otherwise | test accuracy | p of another seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    try:
        spread = noise["test"]["accuracy"]
        by_seed, _ = comparison.another_seed(0.0, spread)
        for name, run in measured["runs"].items():
            moved = run["test"]["accuracy"]
            _, p = comparison.another_seed(moved, spread)
            lines.append(
                f"| {name} | {'the same' if run['same bytes'] else 'others'} | "
                f"{run['test']['other classes']:,} | {100 * moved:+.2f} points | {p:.2f} |"
            )
        lines += [
            "",
            f"Another seed alone moves it by up to {100 * by_seed:.2f} points in 95 of 100 cases. "
            f"Measured on: {measured['machine']['processor']}.",
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{DETERMINISM} must be as benchmarks/determinism.py writes it; received: {error}"
        ) from None
    return "\n".join(lines) + "\n"


def processes_table() -> str:
    """Markdown: the speed of several processes beside that of one, from benchmarks/processes.json."""
    if not PROCESSES.exists():
        return "Not measured (`python benchmarks/processes.py`).\n"
    measured = seeds.read(PROCESSES, ("machine", "results"))
    lines = [
        "| processes | threads of each | images a second | times |",
        "| --- | --- | --- | --- |",
    ]
    try:
        one = measured["results"][0]["images_a_second"]
        for result in measured["results"]:
            speed = result["images_a_second"]
            lines.append(
                f"| {result['train.processes']} | {result['train.threads']} | {speed:,.0f} | "
                f"{speed / one:.2f} |"
            )
        lines += ["", "Measured on {threads} cores: {processor}.".format_map(measured["machine"])]
    except (LookupError, TypeError) as error:
        raise InputError(
            f"{PROCESSES} must be as benchmarks/processes.py writes it; received: {error}"
        ) from None
    return "\n".join(lines) + "\n"


def _by_epochs(runs: pd.DataFrame) -> list[str]:
    """A row of a table for each number of epochs: seconds and accuracy over seeds."""
    return [
        f"| {epochs:.0f} | {same['seconds'].mean():.0f} | {_spread(same)} |"
        for epochs, same in runs.groupby("train.epochs")
    ]


def _spread(runs: pd.DataFrame) -> str:
    accuracy = runs["accuracy"]
    return f"{accuracy.mean():.2%} ± {accuracy.std():.2%} (n = {len(runs)})"


PAGES = {
    README: {
        "results": results_table,
        "budgets": budgets_table,
        "determinism": determinism_table,
        "processes": processes_table,
        "published": systems.short_table,
    },
    PUBLISHED: {"systems": systems.whole_table, "optimizers": systems.optimizers_table},
    CARD: {
        "results": results_table,
        "classes": card.classes_table,
        "mistakes": card.mistakes_table,
        "calibration": card.calibration,
        "unlike": card.unlike_table,
        "speed": card.speed_table,
    },
}


def written(page: Path) -> tuple[str, str]:
    """A page as it is, and with the tables that belong into it.

    Raises:
        InputError: marks are missing.
    """
    text = new = page.read_text("utf-8") if page.exists() else ""
    for name, table in PAGES[page].items():
        marked = re.compile(
            rf"(?<=<!-- {name}: written by make readme -->\n).*(?=<!-- end of {name} -->)", re.S
        )
        if not marked.search(text):
            raise InputError(
                f"{page} must have the two comments that mark the {name}; received none"
            )
        start, end = marked.search(new).span()  # type: ignore[union-attr]
        new = new[:start] + table() + new[end:]
    return text, new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if anything differs"
    )
    check = parser.parse_args().check
    pages = {page: written(page) for page in PAGES}
    for page, (text, new) in pages.items():
        if check and new != text:
            raise InputError(
                f"{page} must show the figures that are committed (make readme writes them); "
                "received others"
            )
        if not check:
            with files.whole_file(page) as part:
                part.write_text(new, "utf-8")
        print(f"{page} shows the figures that are committed")


if __name__ == "__main__":
    main()
