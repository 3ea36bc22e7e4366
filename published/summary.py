"""The published systems side by side: published/results.json, a picture and the tables of the pages.

`python published/summary.py` writes them from the committed metrics alone; `--check` fails if they differ from these.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from common import files, params
from common.errors import InputError

import pandas as pd
from pydantic import Field

from analysis import marked_pages, metric_files
from analysis.figures import plt
from analysis.marked_pages import markdown
from training import operations

PARTS = ("train", "val")
INTERVAL = ("accuracy", "accuracy_low", "accuracy_high")
PUBLISHED = Path("published")


class Claim(params.Section):
    """The accuracies that an author's description reports.

    Attributes:
        logged: those in the log of the author's own code, where it is public.
        release: of Fashion-MNIST, on which they were measured.
        why: explains a claim that was not reached; without figures, which would go stale.
    """

    train: params.Fraction | None
    test: params.Fraction
    chose_on_test: Literal["yes", "no", "not said"]
    release: Literal["26 August 2017", "31 August 2017"]
    logged: dict[Literal["train", "val", "test"], params.Fraction] = Field(default={})
    why: Annotated[str, Field(pattern=r"^\D+$")] | None = None


def curve(folder: Path, part: str) -> pd.Series:
    """Accuracy on train or val by epoch from 1, in the metrics below `folder`; errors are those of `metric_files.table`."""
    path, columns = folder / f"metrics/curves/plots/metrics/{part}/accuracy.tsv", {"step": int, "accuracy": float}
    return metric_files.table(path, tuple(columns), dtype=columns, sep="\t").set_index("step")["accuracy"]


def measured(folder: Path) -> dict[str, Any]:
    """The figures of one training; those of val and test only where they were evaluated.

    Args:
        folder: has params.yaml and the metrics.

    Raises:
        InputError: a file is missing or damaged.
    """
    chosen = params.load(folder / "params.yaml")
    trained, results = curve(folder, "train"), metric_files.by_part(folder / "metrics", (*INTERVAL, "images"))
    epochs = len(trained)
    small = params.small_epochs(chosen.train.progressive_resizing, chosen.train.epochs)
    small = small if small < epochs else 0  # a training that ended before had none: its network takes one size only
    epoch = curve(folder, "val").iloc[small:].idxmax() if chosen.train.keep == "best" else epochs
    rows = metric_files.table(Path("metrics/data/classes.csv"), ("part", "class", "images"))
    rows = rows.loc[rows["part"] == "train", "images"]  # the first of all classes
    start, end = chosen.split.train_slice or (results.get("val", {}).get("images", 0), int(rows.iloc[0]))
    images = chosen.split.train_size or max(0, end - start)  # images of one's own may be fewer than val has
    parameters, flops = operations.of_training(chosen, len(rows) - 1, images, epochs)
    found = {
        "parameters": parameters,
        "training_images": images,
        "epochs": epochs,
        "training_flops": flops,
        "train_accuracy": round(float(trained[epoch]), 6),  # in the saved model's epoch
        "precision": chosen.train.precision,
    }
    for part, result in results.items():
        found |= {f"{part}_{name}": result[name] for name in (*INTERVAL[: 3 if part == "test" else 1], "images")}
    return found


def results() -> dict[str, dict[str, Any]]:
    """The figures of each published system; `default` is this repository's own pipeline.

    Raises:
        InputError: a file is missing or damaged; claims.yaml has no `why` for a claim that was not
            reached, or has one for a claim that was reached.
    """
    found, claims = {}, params.read_yaml(PUBLISHED / "claims.yaml", dict[str, Claim])
    for name, claim in claims.items():
        ours = measured(PUBLISHED / name)
        if "test_accuracy" not in ours:
            raise InputError(f"published/{name} must be evaluated on the test images; it is not")
        # within the 95 % interval of the accuracy (Wilson's), or below it
        verdict = "reached" if claim.test <= ours["test_accuracy_high"] else "not reached"
        if (verdict == "not reached") != bool(claim.why):
            raise InputError(
                f"{PUBLISHED}/claims.yaml must say why exactly where a claim is not reached; received {name}, {verdict}: {claim.why}"
            )
        found[name] = {
            "claimed_train_accuracy": claim.train,
            "claimed_test_accuracy": claim.test,
            "chose_on_test": claim.chose_on_test,
            "claimed_on_release": claim.release,
            "logged": claim.logged,
            **ours,
            "verdict": verdict,
            **({"why": claim.why} if claim.why else {}),
        }
    return found | {"default": measured(Path())}


def systems_table(systems: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row for each of `results`; a figure that is missing is an empty cell."""
    rows = []
    for name, found in systems.items():
        percent = {key: f"{value:.2%}" for key, value in found.items() if "accuracy" in key and value is not None}
        digits, exponent = f"{found['training_flops']:.1e}".split("e")
        tested = "{test_accuracy} ({test_accuracy_low} – {test_accuracy_high})"
        rows.append(
            {
                "system": name,
                "parameters": f"{found['parameters']:,}",
                "training images": f"{found['training_images']:,}",
                "epochs": found["epochs"],
                "training FLOPs": f"{digits} × 10<sup>{int(exponent)}</sup>",
                "precision": found["precision"],
                "claimed train": percent.get("claimed_train_accuracy", ""),
                "claimed test": percent.get("claimed_test_accuracy", ""),
                "author's log": ", ".join(f"{part} {value:.2%}" for part, value in found.get("logged", {}).items()),
                "claimed on the release of": found.get("claimed_on_release", ""),
                "chosen on test images": found.get("chose_on_test", "no"),
                "train": percent["train_accuracy"],
                "val": percent.get("val_accuracy", ""),
                "test (95 % interval)": tested.format_map(percent) if "test_accuracy" in percent else "",
                "verdict": found.get("verdict", ""),
            }
        )
    return pd.DataFrame(rows)


def write(systems: dict[str, dict[str, Any]], folder: Path) -> None:
    """Writes `results` as results.json, and accuracy over epochs as curves.svg, into `folder`."""
    files.write_json(folder / "results.json", systems)
    plt.rcParams["svg.hashsalt"] = "curves.svg"  # the same bytes for the same figures
    names = [name for name in systems if name != "default"]
    figure, grid = plt.subplots(-(-len(names) // 4), 4, figsize=(10, 5.5), sharey=True, layout="constrained")
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(grid.flat, names, strict=False):
        for part in PARTS if systems[name].get("val_images") else PARTS[:1]:
            axes.plot(100 * curve(PUBLISHED / name, part), label=part)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.supylabel("accuracy (%)")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside right center")
    with files.atomic_file(folder / "curves.svg") as unfinished:
        figure.savefig(unfinished, format="svg", metadata={"Date": None})
    plt.close(figure)


def pages(systems: dict[str, dict[str, Any]]) -> marked_pages.Pages:
    """The tables of `results`, with the reasons why claims were not reached."""
    table = systems_table(systems)
    short = table[["system", "claimed test", "claimed on the release of", "test (95 % interval)", "verdict"]]
    reasons = [f"`{name}` was not reached: {found['why']}" for name, found in systems.items() if "why" in found]
    return {
        Path("README.md"): {"published": markdown(short)},
        PUBLISHED / "README.md": {"systems": "\n\n".join([markdown(table), *reasons])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    check = parser.parse_args().check
    systems = results()
    if check:
        with tempfile.TemporaryDirectory() as folder:
            write(systems, Path(folder))
            for path in sorted(Path(folder).iterdir()):
                there = PUBLISHED / path.name
                if not there.exists() or there.read_bytes() != path.read_bytes():
                    raise InputError(f"{there} must follow from the metrics (make readme); received other content")
    else:
        write(systems, PUBLISHED)
    marked_pages.update(pages(systems), check)


if __name__ == "__main__":
    main()
