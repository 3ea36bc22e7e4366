"""Writes the figures of benchmarks/ into README.md, MODEL_CARD.md and pages of published/, data/input/ and docs/.

With --check it says whether the pages have them (src/analysis/marked_pages.py).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import pandas as pd

import benchmark_files
import change
import reproducibility_page
from analysis import marked_pages, metric_files
from analysis.marked_pages import markdown


def clone_sentence() -> str:
    """What `make repro` takes in a fresh clone; errors are those of `benchmark_files`."""
    found = benchmark_files.results("clone", of_this_training=True)
    if not found:
        return "How long it takes is not measured with this recipe (`python benchmarks/clone.py`)."
    minutes = {name: f"{count / 60:.1f} minutes" for name, count in found["seconds"].items()}
    return (
        f"In a fresh clone it takes {minutes['environment']} for the environment (more where downloads are slow), "
        f"{minutes['pipeline']} for the stages ({minutes['train']} of training) and {found['megabytes']['all'] / 1000:.1f} GB of disk, on "
        f"{benchmark_files.machine(found)}."
    )


def recipes_table() -> str:
    """Markdown: test accuracy against seconds, of each recipe; errors are those of `benchmark_files`."""
    found = benchmark_files.results("recipe", of_this_training=True)
    if not found:
        return "Not measured with this recipe (`python benchmarks/recipe.py`)."
    runs = pd.DataFrame([run | {"processor": benchmark_files.machine(run)} for run in found["runs"]])
    rows = []
    for (_, precision), same in runs.groupby(["recipe", "precision"], sort=False):
        changes = {**same["changes"].iloc[0], **({} if precision == "float32" else {"train.precision": precision})}
        accuracies, fastest = same["accuracy"], same.loc[same.groupby("processor", sort=False)["seconds"].idxmin()]
        rows.append(
            {
                "changes to params.yaml": " ".join(f"`{key}={value}`" for key, value in changes.items()) or "none",
                "seconds": "<br>".join(f"{run.seconds:.0f} ({run.processor})" for run in fastest.itertuples()),
                "in fixed steps": "<br>".join(
                    f"{1000 * run.seconds / run.fixed_step_ms:,.0f}" for run in fastest.itertuples()
                ),
                "test accuracy": f"{accuracies.mean():.2%}"
                + (f" ± {accuracies.std():.2%} (n = {len(same)})" if len(same) > 1 else " (one seed)"),
            }
        )
    return f"![Test accuracy against time](../benchmarks/recipe.svg)\n\n{markdown(pd.DataFrame(rows))}"


def operations_table() -> str:
    """Markdown: what part of the processor's speed the recipes reach; errors are those of `benchmark_files`."""
    found, recipe = (benchmark_files.results(name, of_this_training=True) for name in ("speed", "recipe"))
    rows = []
    for measured in found.get("machines", []) if recipe else []:
        here = [run for run in recipe["runs"] if run["machine"] == measured["machine"]]
        here.sort(key=lambda run: found["operations"][run["recipe"]])
        for (name, precision), same in pd.DataFrame(here).groupby(["recipe", "precision"], sort=False) if here else []:
            operations, most = found["operations"][name], measured["most a second"][precision]
            reached = operations / same["seconds"].min()
            rows.append(
                {
                    "training": f"{name}, {precision}",
                    "measured on": benchmark_files.machine(measured),
                    "operations (10¹²)": f"{operations / 1e12:.0f}",
                    "a second (10⁹)": f"{reached / 1e9:.0f}",
                    "the most (10⁹)": f"{most / 1e9:.0f}",
                    "share": f"{reached / most:.0%}",
                }
            )
    if not rows:
        return "Not measured with this recipe, on its machine (`python benchmarks/speed.py`)."
    return markdown(pd.DataFrame(rows))


NO_PICTURES = "Not measured with this model (`python benchmarks/pictures.py`)."


def out_of_distribution_table() -> str:
    """How often pictures are called out of distribution; errors are those of `benchmark_files.results`."""
    limit = metric_files.read(Path("metrics/unlikeness.json"), ("train_images", "val_images"))
    part, count = ("val", limit["val_images"]) if limit["val_images"] else ("training", limit["train_images"])
    shares = {f"{part} images, which set the limit ({count:,})": "2 in 100, by definition"}
    note = f"Others: {NO_PICTURES[0].lower()}{NO_PICTURES[1:]}"
    if found := benchmark_files.results("pictures", of_this_training=True):
        again = found["val"]
        shares[f"val images turned into photographs ({again['images']:,})"] = (
            f"{again['out of distribution as photographs']:.1%}"
        )
        for kind, pictures in found["out of distribution"].items():
            refused = pictures["too little contrast"] / pictures["pictures"]
            shares[f"{kind} ({pictures['pictures']:,})"] = f"{pictures['out of distribution']:.1%}" + (
                f" ({refused:.1%}: too little contrast)" if refused else ""
            )
        note = (
            "Val images turned into photographs (enlarged, on #fdfdfd, JPEG): "
            f"{again['accuracy as photographs']:.2%} are classified correctly, "
            f"{again['accuracy']:.2%} of the 28 × 28 images themselves."
        )
    table = pd.DataFrame(shares.items(), columns=["pictures", "called out of distribution"])
    return f"{markdown(table)}\n\n{note}"


def scores_table() -> str:
    """How well scores tell pictures of no garments from garments; errors are those of `benchmark_files.results`."""
    found = benchmark_files.results("pictures", of_this_training=True)
    if not found:
        return NO_PICTURES
    areas = pd.DataFrame(found["areas"]).T  # a row for each score
    table = pd.DataFrame({"mean": areas.mean(axis=1), **areas}).map("{:.3f}".format)
    return markdown(table.rename_axis("area under the ROC curve").reset_index())


def altered_table() -> str:
    """What becomes of pictures with specks, shadows and so on; errors are those of `benchmark_files.results`."""
    found = benchmark_files.results("pictures", of_this_training=True)
    if not found:
        return NO_PICTURES
    table = pd.DataFrame(found["altered"]["shares"]).T.map("{:.1%}".format)
    return markdown(table.rename_axis(f"{found['altered']['images']:,} val images as photographs").reset_index())


def speed_table() -> str:
    """Latency and throughput; errors are those of `benchmark_files.results`."""
    found = benchmark_files.results("latency", of_this_training=True)
    if not found:
        return "Not measured with this model (`python benchmarks/latency.py`)."
    one, many = (found["milliseconds"][f"{count} at once"] for count in (1, 1000))
    start = found["seconds from start to answer"]
    rows = [
        {
            "": name,
            "one image": f"{one[name]:.2g} ms",
            "1,000 images": f"{many[name]:.0f} ms",
            "start to answer": f"{start[name]:.1f} s" if name in start else "",
        }
        for name in one
    ]
    return f"{markdown(pd.DataFrame(rows))}\n\nMeasured on {benchmark_files.machine(found)}."


def own_images_table() -> str:
    """Mean accuracies on small sets of other images; errors are those of `benchmark_files.results`."""
    found = benchmark_files.results("own_images", of_this_training=True)
    if not found:
        return "Not measured with this recipe (`python benchmarks/own_images.py`)."
    if found["recipe"] != params.load().train.model_dump(mode="json"):
        raise InputError(
            "benchmarks/own_images.json must be of the recipe in params.yaml; received results of another one"
        )
    rows = []
    for name, runs in pd.DataFrame(found["runs"]).groupby("set", sort=False):
        models = {"this recipe": "ours", "gradient boosting": "boosting", "logistic regression": "logistic"}
        spread = {title: f"{runs[key].mean():.1%} ± {runs[key].std():.1%}" for title, key in models.items()}
        counts = {"rows": f"{runs['train rows'].iloc[0]:,}", "n": len(runs), "seconds": f"{runs['seconds'].max():.0f}"}
        rows.append({"images": name} | counts | spread)
    place = benchmark_files.machine(max(found["runs"], key=lambda run: float(run["seconds"])))
    return f"{markdown(pd.DataFrame(rows))}\n\nSeconds are those of the longest training, on {place}."


def resplits_table() -> str:
    """Markdown: accuracies on random splits of all images beside that on today's; errors are those of `benchmark_files`."""
    models, found = benchmark_files.models(), benchmark_files.results("resplits")
    if not (current := [run for run in found.get("runs", []) if run["model"] == models[run["system"]]]):
        return "Not measured with these models (`python benchmarks/resplits.py`)."
    results = metric_files.read(Path("published/results.json"))
    rows = []
    for system, runs in pd.DataFrame(current).groupby("system", sort=False):
        today, accuracies = results[system]["test_accuracy"], runs["accuracy"]
        difference = 100 * (accuracies - today)
        spread = f" ± {difference.std():.2f}" if len(runs) > 1 else ""
        rows.append(
            {
                "system": system,
                "test accuracy, today's split": f"{today:.2%}",
                "precision on random splits": runs["precision"].iloc[0],
                "on random splits": ", ".join(map("{:.2%}".format, accuracies)),
                "difference in points": f"{difference.mean():+.2f}{spread} (n = {len(runs)})",
            }
        )
    return markdown(pd.DataFrame(rows))


def simulated() -> dict[str, Any]:
    """The results of verdicts.py; {} where it was not run.

    Raises:
        InputError: they are damaged, or of another spread over seeds than that in metrics/noise.json.
    """
    found = benchmark_files.results("verdicts")
    noise = benchmark_files.earlier(Path("metrics/noise.json"))
    known = {part: measures["accuracy"]["std"] for part, measures in noise.items()}
    for case in found.get("cases", []):
        if case["spread"] == "committed" and case["std"] != known.get(case["part"]):
            raise InputError(
                "benchmarks/verdicts.json must be of the spread in metrics/noise.json (python benchmarks/verdicts.py, "
                f"or remove it); received {case['std']} on {case['part']}"
            )
    return found


def verdicts_sentences() -> str:
    """How often `make compare` is wrong, and right; errors are those of `simulated`."""
    found = simulated()
    if not found:
        return "Not simulated (`python benchmarks/verdicts.py`)."
    cases = pd.DataFrame(found["cases"])
    detected = []
    for part, of_part in cases.groupby("part", sort=False):
        for name, shares in of_part.filter(like="right at ").dropna(axis="columns").items():
            gain = str(name).removeprefix("right at ")
            detected.append(f"{gain} on {part} in {shares.min():.0%} to {shares.max():.0%} of the pairs")
    return (
        f"In each of {len(cases)} cases, {found['pairs']:,} pairs of models were simulated, both with the same spread over "
        f"seeds. Of pairs that are equal, at most {cases.filter(like='wrong of equal').max(axis=None):.1%} were called "
        f"*better* or *worse*. With {found['seeds']} seeds on each side, a true difference was detected: "
        f"{', '.join(detected)}, depending on how the models differ."
    )


def limits_table() -> str:
    """Wrong verdicts by numbers of seeds and ratio of spreads; errors are those of `simulated`."""
    found = simulated()
    if not found:
        return "Not simulated (`python benchmarks/verdicts.py`)."
    wrong = pd.DataFrame(found["limits"]).pivot(index="seeds", columns="ratio of spreads", values="wrong of equal")
    shown = wrong.map("{:.1%}".format).rename(columns="spread × {:g}".format)
    return markdown(shown.loc[[*dict.fromkeys(row["seeds"] for row in found["limits"])]].reset_index())


def search_sentence() -> str:
    """How good the best trial of a sweep is, by sampler; errors are those of `benchmark_files.results`."""
    found = benchmark_files.results("search")
    whole = [run for run in found.get("runs", []) if len(run["trials"]) == found["search"]["trials"]]
    if not whole:
        return "Not measured (`python benchmarks/search.py`)."
    runs = pd.DataFrame(whole)
    best = runs["trials"].map(lambda trials: max(trial["value"] for trial in trials)).groupby(runs["sampler"])
    table = best.agg(["mean", "std", "count"]).sort_values("mean", ascending=False)
    spreads = [f"{name} {mean:.1%} ± {std:.1%} (n = {count})" for name, mean, std, count in table.itertuples()]
    return (
        f"Best val accuracy of {found['search']['trials']} short trainings, over sweeps with different seeds: "
        f"{', '.join(spreads)}."
    )


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    Path("README.md"): {"clone": clone_sentence},
    Path("docs/change.md"): {
        **{name: partial(change.block, name) for name in change.BLOCKS},
        change.REVIEW: change.review,
    },
    Path("docs/verdicts.md"): {"verdicts": verdicts_sentences, "limits": limits_table},
    Path("docs/experiments.md"): {"recipes": recipes_table, "operations": operations_table, "search": search_sentence},
    Path("docs/reproducibility.md"): {
        "runs": reproducibility_page.runs_table,
        "processors": reproducibility_page.processors_table,
        "operations": reproducibility_page.operations_table,
        "speed": reproducibility_page.speed_table,
    },
    Path("published/README.md"): {"resplits": resplits_table},
    Path("MODEL_CARD.md"): {
        "altered": altered_table,
        "out of distribution": out_of_distribution_table,
        "scores": scores_table,
        "speed": speed_table,
    },
    Path("data/input/README.md"): {"own images": own_images_table},
}
REMOVED = (Path("published/README.md"), Path("MODEL_CARD.md"))  # by make adopt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything differs")
    check = parser.parse_args().check
    pages = {page: made for page, made in PAGES.items() if page.exists() or page not in REMOVED}
    marked_pages.update({page: {name: table() for name, table in made.items()} for page, made in pages.items()}, check)


if __name__ == "__main__":
    main()
