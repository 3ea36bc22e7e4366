"""What the choice of the test images is worth: the 70,000 images split at random.

Kaggle's files are the release of 26 August 2017; that of 31 August split the images anew. Here `default` (params.yaml)
and `deep` (published/) are trained on random splits of the 70,000, stratified by class and seeded, each with 10,000
test images. These runs decide nothing, and their figures stand beside no others but in the table of published/README.md.

`python benchmarks/resplits.py` (after `make repro` and `make published`) writes benchmarks/resplits.json after each
run, and continues where it was stopped.
"""

import argparse
import shutil
from itertools import product
from pathlib import Path

from common import arrays, classes, files

import numpy as np
from sklearn.model_selection import train_test_split

import benchmark_files
import rerun
from conditions import machine

RESULTS = Path("benchmarks/resplits.json")
FOLDER = Path(".cache/resplits")
# where their parameters are, and train.precision: in float32, deep takes more than five hours on 2 cores
SYSTEMS = {"default": (Path(), "float32"), "deep": (Path("published/deep"), "bfloat16")}
SPLITS = 3


def write_split(folder: Path, seed: int) -> None:
    """The 70,000 images as IDX files in data/input of `folder`, split by `seed`."""
    parts = [arrays.load(part) for part in ("train", "test")]
    images, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    test_size = len(parts[1][1])
    rows = train_test_split(np.arange(len(labels)), test_size=test_size, random_state=seed, stratify=labels)
    split = zip(("train", "test"), rows, strict=True)
    rerun.write_idx(folder, {part: (images[chosen, :, :, 0], labels[chosen]) for part, chosen in split})
    (folder / "data/input/classes.txt").write_text("\n".join(classes.FASHION_MNIST), "utf-8")
    (folder / "data/raw").mkdir()


def measure(system: str, seed: int) -> float:
    """Test accuracy of a system on the split of this seed."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_split(FOLDER, seed)
    parameters, precision = SYSTEMS[system]
    changes = {"data.source": "idx", "train.precision": precision}
    rerun.write_params(FOLDER / "params.yaml", changes, parameters / "params.yaml")
    for stage in ("prepare", "split"):
        rerun.run_stage(stage, FOLDER)
    return rerun.train_and_evaluate(FOLDER, "test")[1]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS), help="(default: all)")
    chosen, current = parser.parse_args().systems, benchmark_files.models()
    if "default" in chosen:
        benchmark_files.key_to_train()
    earlier = benchmark_files.earlier(RESULTS).get("runs", [])
    runs = [run for run in earlier if run["model"] == current[run["system"]]]
    for seed, system in product(range(SPLITS), chosen):
        if any((run["system"], run["seed"]) == (system, seed) for run in runs):
            continue
        print(f"{system}, split {seed}", flush=True)
        found = {"system": system, "seed": seed, "accuracy": measure(system, seed), "precision": SYSTEMS[system][1]}
        runs.append(found | {"model": current[system], "machine": machine()})
        files.write_json(RESULTS, {"runs": runs})


if __name__ == "__main__":
    main()
