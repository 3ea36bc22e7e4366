"""How much faster several processes train: images a second, each process with one thread.

Every number of processes trains the committed network with `python src/train.py` for some epochs of the
first rows, in alternating rounds, and beside them one process with as many threads as the machine has
cores. What counts is the time from the end of the first epoch to the end of the last.
`python benchmarks/processes.py` (after `make repro`) prints a table and writes benchmarks/processes.json.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from common import errors  # first: from here on an interruption is one line

# isort: split
from train_step import machine

from analysis import trials
from common import files
from common.errors import InputError

ROWS, EPOCHS, ROUNDS = 6_000, 4, 3
TRIAL = Path(".cache/processes")
RESULTS = Path("benchmarks/processes.json")
CONFIGURATIONS = [
    {"train.processes": count, "train.threads": threads}
    for count, threads in [(1, 1), (2, 1), (3, 1), (1, os.cpu_count() or 1)]
]


def images_a_second(configuration: dict[str, int]) -> float:
    """Of one training, start-up and first epoch left out."""
    changes: dict[str, Any] = {
        "split.val_size": 0,
        "split.train_size": ROWS,
        "evaluate.parts": ["test"],
        "train.epochs": EPOCHS,
    }
    trials.prepare(TRIAL, changes | configuration)
    process = subprocess.Popen(
        [sys.executable, trials.SOURCE / "train.py"],
        cwd=TRIAL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    ends = [time.perf_counter() for line in process.stdout if re.match(r"epoch \d+/", line)]
    if process.wait() or len(ends) != EPOCHS:
        raise InputError(f"train must succeed in {TRIAL}; it ended with {process.returncode}")
    return (EPOCHS - 1) * ROWS / (ends[-1] - ends[0])


def main() -> None:
    speeds: list[list[float]] = [[] for _ in CONFIGURATIONS]
    for _ in range(ROUNDS):
        for configuration, of_rounds in zip(CONFIGURATIONS, speeds, strict=True):
            of_rounds.append(images_a_second(configuration))
            print(f"{configuration}: {of_rounds[-1]:,.0f} images/s", flush=True)
    results = [
        configuration | {"images_a_second": round(statistics.median(of_rounds), 1)}
        for configuration, of_rounds in zip(CONFIGURATIONS, speeds, strict=True)
    ]
    for result in results:
        print(f"{result}: {result['images_a_second'] / results[0]['images_a_second']:.2f} times")
    files.write_json(RESULTS, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
