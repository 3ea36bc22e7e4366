"""What other threads, several processes, an older processor, or float32 do to the committed training.

Each is trained once: whether the model has the same bytes, for how many test images it names another
class, and by how much the metrics move, which `make readme` sets against the noise of seeds. An older processor is
this one with oneDNN and ATen held to AVX2.

`python benchmarks/determinism.py` (after `make repro`) writes
benchmarks/determinism.json after each run, and goes on where it was stopped.
"""

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from common import errors  # first: from here on an interruption is one line

# isort: split
import pandas as pd
from train_step import machine

from analysis import seeds, trials
from common import files, params

RESULTS = Path("benchmarks/determinism.json")
TRIAL = Path(".cache/determinism")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
# what differs: changes to params.yaml, changes to the environment
RUNS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nothing": ({}, {}),
    "train.threads 1": ({"train.threads": 1}, {}),
    "train.threads 3": ({"train.threads": 3}, {}),
    "train.processes 2, train.threads 1": ({"train.processes": 2, "train.threads": 1}, {}),
    "train.processes 3, train.threads 1": ({"train.processes": 3, "train.threads": 1}, {}),
    "train.precision float32": ({"train.precision": "float32"}, {}),
    "AVX2": ({}, AVX2),
}


def compare(one: Path, other: Path) -> dict[str, Any]:
    """What `other` has that is not as in `one`; both as the pipeline writes them."""
    result: dict[str, Any] = {
        "same bytes": (one / "models/model.keras").read_bytes()
        == (other / "models/model.keras").read_bytes()
    }
    for part in ("val", "test"):
        here, there = (
            seeds.read(folder / f"metrics/{part}.json", seeds.MEASURES) for folder in (one, other)
        )
        classes = [
            pd.read_csv(folder / f"metrics/predictions/{part}.csv")["predicted"]
            for folder in (one, other)
        ]
        result[part] = {
            "other classes": int((classes[0] != classes[1]).sum()),
            **{name: round(there[name] - here[name], 6) for name in seeds.MEASURES},
        }
    return result


def main() -> None:
    results: dict[str, Any] = {"machine": machine(), "of": trials.key(), "runs": {}}
    if RESULTS.exists():
        earlier = seeds.read(RESULTS, ("machine", "of", "runs"))
        if all(earlier[key] == results[key] for key in ("machine", "of")):
            results = earlier
    threads = {"train.threads": params.load().train.threads}
    os.environ["CHECKPOINT_DIR"] = ".cache/checkpoints"  # in the trial, which each run empties
    for name, (changes, environment) in RUNS.items():
        if name in results["runs"] or changes == threads:
            continue
        print(f"differs: {name}", flush=True)
        with mock.patch.dict(os.environ, environment):
            trials.run(TRIAL, changes)
        results["runs"][name] = compare(Path(), TRIAL)
        files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
