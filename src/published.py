"""The published systems side by side: published/results.json and two pictures, from their metrics.

`python src/published.py` writes them, `--check` says whether they are as it would write them. Nothing
is trained and no image is needed.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from scipy.stats import binomtest

from analysis import seeds, systems
from common import backend, files, params
from common.errors import InputError

# isort: split
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import architectures

mpl.use("Agg")  # draws into files, whatever screen there is

PARTS = ("train", "val")
INTERVAL = ("accuracy", "accuracy_low", "accuracy_high")


def verdict(claimed: float, accuracy: float, images: int) -> str:
    """`reached` when the 95 % interval of the accuracy (Wilson's) includes the claim, or lies above it."""
    interval = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return "reached" if claimed <= interval.high else "not reached"


def parameters_and_flops(chosen: params.Params, classes: int) -> tuple[int, int]:
    """Of the network: its parameters, and the floating-point operations of a training step an image.

    Operations are those of convolutions and matrix products, forward and backward, a multiply-add
    counting as two (torch.utils.flop_counter).
    """
    shape = (chosen.data.height, chosen.data.width, chosen.data.channels)
    name = chosen.model.architecture
    network = architectures.build(name, shape, classes, chosen.model.options.get(name, {}))
    with FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(1, *shape), training=False)
        F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64)).backward()
    return network.count_params(), counter.get_total_flops()


def measured(folder: Path) -> dict[str, Any]:
    """What is known of the training whose params.yaml and metrics lie in `folder`.

    Figures of val and test are there as far as these were evaluated.

    Raises:
        InputError: a file is missing or damaged.
    """
    chosen = params.load(folder / "params.yaml")
    curves = {part: systems.accuracies(folder, part) for part in PARTS}
    epochs = len(curves["val"])
    kept = curves["val"].idxmax() if chosen.train.keep == "best" else epochs
    if kept not in curves["train"].index:
        raise InputError(f"{folder}/metrics/curves must have epoch {kept} of train; it is missing")
    table = folder / "metrics/data/classes.csv"
    rows = seeds.table(table, ("part", "class", "images"))
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
        "train_accuracy": round(float(curves["train"][kept]), 6),  # of the epoch that was kept
    }
    for part in ("val", "test"):
        result = seeds.read(folder / f"metrics/{part}.json", (*INTERVAL, "images"), or_nothing=True)
        names = INTERVAL if part == "test" else INTERVAL[:1]
        found |= {f"{part}_{name}": result[name] for name in names if result}
        if result:
            found[f"{part}_images"] = result["images"]
    return found


def results() -> dict[str, dict[str, Any]]:
    """Figures of each published system, and as `default` those of this repository's own pipeline.

    Raises:
        InputError: a file is missing or damaged; a claim that was not reached has no `why` in
            claims.yaml, or one that was reached has.
    """
    found = {}
    for name, claim in systems.claims().items():
        ours = measured(systems.PUBLISHED / name)
        if "test_accuracy" not in ours:
            raise InputError(f"published/{name} must be evaluated on the test images; it is not")
        said = verdict(claim.test, ours["test_accuracy"], ours["test_images"])
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
    """One panel beside the other by title, each with its curves by name, over epochs."""
    mpl.rcdefaults()  # the same bytes for the same figures, whatever is set up here
    plt.rcParams["svg.hashsalt"] = path.name
    figure, places = plt.subplots(
        1,
        len(panels),
        figsize=(2.2 * len(panels) + 1, 3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    places = places[0]
    for place, (title, curves) in zip(places, panels.items(), strict=True):
        for name, curve in curves.items():
            place.plot(curve.index, 100 * curve, label=name)
        place.set(title=title, xlabel="epoch")
        place.xaxis.get_major_locator().set_params(integer=True)
        place.grid(alpha=0.3)
    places[0].set_ylabel("accuracy (%)")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside right center")
    with files.whole_file(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    plt.close(figure)


def write(folder: Path) -> None:
    """Writes results.json, curves.svg and optimizers.svg into `folder`.

    Raises:
        InputError: as from `results`.
    """
    files.write_json(folder / "results.json", results())
    draw(
        {
            name: {part: systems.accuracies(systems.PUBLISHED / name, part) for part in PARTS}
            for name in systems.claims()
        },
        folder / "curves.svg",
    )
    compared = {name: systems.optimizer_curves(name) for name in systems.OPTIMIZERS}
    draw(
        {
            part: {name: table[f"{part}_accuracy"] for name, table in compared.items()}
            for part in PARTS
        },
        folder / "optimizers.svg",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if anything differs"
    )
    if not parser.parse_args().check:
        write(systems.PUBLISHED)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            there = systems.PUBLISHED / path.name
            if not there.exists() or there.read_bytes() != path.read_bytes():
                raise InputError(
                    f"{there} must follow from the metrics of the systems (make readme "
                    "writes it); received another"
                )
    print(
        f"{systems.PUBLISHED}/results.json and its pictures follow from the metrics of the systems"
    )


if __name__ == "__main__":
    main()
