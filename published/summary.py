"""The published systems side by side: published/results.json, two pictures and the tables of the pages.

`python published/summary.py` writes them from the committed metrics; `--check` fails if they differ from
the metrics. Nothing is trained and no image is needed.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import files, params
from common.errors import InputError

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib import pyplot as plt
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import architectures
import claims
from analysis import marked_pages, metric_files

mpl.use("Agg")  # draws into files, whatever screen there is

PARTS = ("train", "val")
INTERVAL = ("accuracy", "accuracy_low", "accuracy_high")


def parameters_and_flops(chosen: params.Params, classes: int) -> tuple[int, int]:
    """The network's parameters, and the floating-point operations of a training step for one image.

    Counted are convolutions and matrix products, forward and backward; a multiply-add counts as two
    (torch.utils.flop_counter).
    """
    shape = (chosen.data.height, chosen.data.width, chosen.data.channels)
    name = chosen.model.architecture
    network = architectures.build(name, shape, classes, chosen.model.options.get(name, {}))
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(1, *shape), training=False)
        F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64)).backward()
    return network.count_params(), counter.get_total_flops()


def measured(folder: Path) -> dict[str, Any]:
    """The figures of one training; those of val and test only where they were evaluated.

    Args:
        folder: has params.yaml and the metrics.

    Raises:
        InputError: a file is missing or damaged.
    """
    chosen = params.load(folder / "params.yaml")
    curves = {part: claims.curve(folder, part) for part in PARTS}
    epochs = len(curves["val"])
    epoch = curves["val"].idxmax() if chosen.train.keep == "best" else epochs
    if epoch not in curves["train"].index:
        raise InputError(f"{folder}/metrics/curves must have epoch {epoch} of train; it is missing")
    table = folder / "metrics/data/classes.csv"
    rows = metric_files.table(table, ("part", "class", "images"))
    rows = rows[rows["part"] == "train"].set_index("class")["images"]
    if "all" not in rows:
        raise InputError(f"{table} must have a row for all of train; it is missing")
    images = chosen.split.train_size or int(rows["all"]) - chosen.split.val_size
    parameters, flops = parameters_and_flops(chosen, len(rows) - 1)
    found = {
        "parameters": parameters,
        "training_images": images,
        "epochs": epochs,
        "training_flops": flops * images * epochs,
        "train_accuracy": round(float(curves["train"][epoch]), 6),  # in the saved model's epoch
    }
    for part, result in metric_files.by_part(folder / "metrics", (*INTERVAL, "images")).items():
        names = INTERVAL if part == "test" else INTERVAL[:1]
        found |= {f"{part}_{name}": result[name] for name in (*names, "images")}
    return found


def results() -> dict[str, dict[str, Any]]:
    """The figures of each published system; `default` is this repository's own pipeline.

    Raises:
        InputError: a file is missing or damaged; claims.yaml has no `why` for a claim that was not
            reached, or has one for a claim that was reached.
    """
    found = {}
    for name, claim in claims.claims().items():
        ours = measured(claims.PUBLISHED / name)
        if "test_accuracy" not in ours:
            raise InputError(f"published/{name} must be evaluated on the test images; it is not")
        # within the 95 % interval of the accuracy (Wilson's), or below it
        said = "reached" if claim.test <= ours["test_accuracy_high"] else "not reached"
        if (said == "not reached") != bool(claim.why):
            raise InputError(
                "published/claims.yaml must say why exactly where a claim was not reached; "
                f"received for {name}, {said}: {claim.why}"
            )
        found[name] = {
            "claimed_train_accuracy": claim.train,
            "claimed_test_accuracy": claim.test,
            "chose_on_test": claim.chose_on_test,
            **ours,
            "verdict": said,
            **({"why": claim.why} if claim.why else {}),
        }
    return found | {"default": measured(Path())}


def draw(panels: dict[str, dict[str, pd.Series]], path: Path) -> None:
    """Draws accuracy over epochs: panels by title, in each its curves by name."""
    mpl.rcdefaults()  # the same bytes for the same figures, whatever the machine's settings
    plt.rcParams["svg.hashsalt"] = path.name
    figure, grid = plt.subplots(
        1, len(panels), figsize=(2.2 * len(panels) + 1, 3), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (title, curves) in zip(grid[0], panels.items(), strict=True):
        for name, curve in curves.items():
            axes.plot(curve.index, 100 * curve, label=name)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    grid[0, 0].set_ylabel("accuracy (%)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center")
    with files.atomic_file(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    plt.close(figure)


def percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"


def short_table() -> str:
    """Markdown: claimed beside measured test accuracy of each published system, and the default.

    Raises:
        InputError: published/results.json is missing or damaged.
    """
    return marked_pages.markdown(_systems()[["system", "claimed test", "test (95 % interval)", "verdict"]])


def full_table() -> str:
    """Markdown: all figures of each published system and the default, and why a claim was not reached.

    Raises:
        InputError: published/results.json is missing or damaged.
    """
    reasons = [f"`{name}` was not reached: {found['why']}" for name, found in _results().items() if "why" in found]
    return "\n\n".join([marked_pages.markdown(_systems()), *reasons])


def _systems() -> pd.DataFrame:
    """One row for each published system and the default; a figure that is missing is an empty cell."""
    rows = []
    for name, found in _results().items():
        accuracy, low, high = (percent(found.get(f"test_accuracy{end}")) for end in ("", "_low", "_high"))
        digits, exponent = f"{found['training_flops']:.1e}".split("e")
        rows.append(
            {
                "system": name,
                "parameters": f"{found['parameters']:,}",
                "training images": f"{found['training_images']:,}",
                "epochs": found["epochs"],
                "training FLOPs": f"{digits} × 10<sup>{int(exponent)}</sup>",
                "claimed train": percent(found.get("claimed_train_accuracy")),
                "claimed test": percent(found.get("claimed_test_accuracy")),
                "chosen on test images": found.get("chose_on_test", "no"),
                "train": percent(found.get("train_accuracy")),
                "val": percent(found.get("val_accuracy")),
                "test (95 % interval)": accuracy and f"{accuracy} ({low} – {high})",
                "verdict": found.get("verdict", ""),
            }
        )
    return pd.DataFrame(rows)


def optimizers_table() -> str:
    """Markdown: heinit's accuracy with each optimizer, beside its author's figures.

    Raises:
        InputError: a table of published/heinit/ is missing or damaged.
    """
    claimed = claims.claims()["heinit"].optimizers
    rows = []
    for name in claims.OPTIMIZERS:
        table = claims.optimizer_curves(name)
        last = table.iloc[-1]
        rows.append(
            {
                "optimizer": name,
                "claimed test": percent(claimed.get(name)),
                "epochs": table.index[-1],
                "train": percent(last["train_accuracy"]),
                "val": percent(last["val_accuracy"]),
                "best val": percent(table["val_accuracy"].max()),
            }
        )
    return marked_pages.markdown(pd.DataFrame(rows))


def _results() -> dict[str, dict]:
    """published/results.json, checked for what the tables show."""
    path = claims.PUBLISHED / "results.json"
    found = metric_files.read(path)
    needed = ("parameters", "training_images", "epochs", "training_flops", "train_accuracy")
    for name, result in found.items():
        missing = [key for key in needed if not isinstance(result, dict) or result.get(key) is None]
        if missing:
            raise InputError(
                f"{path} must be as published/summary.py writes it; {', '.join(missing)} of {name} is missing"
            )
    return found


PAGES: marked_pages.Pages = {
    Path("README.md"): {"published": short_table},
    Path("published/README.md"): {"systems": full_table, "optimizers": optimizers_table},
}


def write(folder: Path) -> None:
    """Writes results.json, curves.svg and optimizers.svg into `folder`.

    Raises:
        InputError: as from `results`.
    """
    files.write_json(folder / "results.json", results())
    draw(
        {name: {part: claims.curve(claims.PUBLISHED / name, part) for part in PARTS} for name in claims.claims()},
        folder / "curves.svg",
    )
    compared = {name: claims.optimizer_curves(name) for name in claims.OPTIMIZERS}
    draw(
        {part: {name: table[f"{part}_accuracy"] for name, table in compared.items()} for part in PARTS},
        folder / "optimizers.svg",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    check = parser.parse_args().check
    if check:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            for path in sorted(Path(folder).iterdir()):
                there = claims.PUBLISHED / path.name
                if not there.exists() or there.read_bytes() != path.read_bytes():
                    raise InputError(
                        f"{there} must follow from the metrics (make readme writes it); received other content"
                    )
    else:
        write(claims.PUBLISHED)
    marked_pages.update(PAGES, check)


if __name__ == "__main__":
    main()
