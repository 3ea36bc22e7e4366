"""How the committed training changes with threads, processes, an older processor, or float32.

Each variant is trained once. Measured are whether the model's bytes are the same, how many predictions
change, and by how much the metrics do; `make readme` compares that with the noise of seeds. The older
processor is this one with oneDNN and ATen limited to AVX2.

`python benchmarks/determinism.py` (after `make repro`) writes benchmarks/determinism.json after each run,
and continues where it was stopped.
"""

import os
from pathlib import Path
from typing import Any
from unittest import mock

from common import files, params

import pandas as pd

from analysis import metric_files, rerun
from training.machine import machine

RESULTS = Path("benchmarks/determinism.json")
RERUN = Path(".cache/determinism")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
# by name: changes to params.yaml, changes to the environment
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
    """How the results in folder `other` differ from those in `one`."""
    result: dict[str, Any] = {
        "same bytes": (one / "models/model.keras").read_bytes() == (other / "models/model.keras").read_bytes()
    }
    for part in ("val", "test"):
        here, there = (
            metric_files.read(folder / f"metrics/{part}.json", metric_files.MEASURES) for folder in (one, other)
        )
        classes = [pd.read_csv(folder / f"metrics/predictions/{part}.csv")["predicted"] for folder in (one, other)]
        result[part] = {
            "predictions changed": int((classes[0] != classes[1]).sum()),
            **{name: round(there[name] - here[name], 6) for name in metric_files.MEASURES},
        }
    return result


def main() -> None:
    results: dict[str, Any] = {"machine": machine(), "training": rerun.key(), "runs": {}}
    if RESULTS.exists():
        earlier = metric_files.read(RESULTS, ("machine", "training", "runs"))
        if all(earlier[key] == results[key] for key in ("machine", "training")):
            results = earlier
    threads = {"train.threads": params.load().train.threads}
    os.environ["CHECKPOINT_DIR"] = ".cache/checkpoints"  # in the re-run's folder, which each run empties
    for name, (changes, environment) in RUNS.items():
        if name in results["runs"] or changes == threads:
            continue
        print(f"differs: {name}", flush=True)
        with mock.patch.dict(os.environ, environment):
            rerun.run(RERUN, changes)
        results["runs"][name] = compare(Path(), RERUN)
        files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
