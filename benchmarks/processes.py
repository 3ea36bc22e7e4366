"""How much faster several processes train: images a second, each process with one thread.

`python src/train.py` trains the committed network for a few epochs on the first rows: with one, two and
three processes, and with one process that has a thread for each core, in alternating rounds. Measured is the
time from the end of the first epoch to the end of the last.

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

from common import files
from common.errors import InputError

from analysis import rerun
from training.machine import machine

ROWS, EPOCHS, ROUNDS = 6_000, 4, 3
RERUN = Path(".cache/processes")
RESULTS = Path("benchmarks/processes.json")
CONFIGURATIONS = [
    {"train.processes": count, "train.threads": threads}
    for count, threads in [(1, 1), (2, 1), (3, 1), (1, os.cpu_count() or 1)]
]


def images_a_second(configuration: dict[str, int]) -> float:
    """The speed of one training without start-up and first epoch."""
    changes: dict[str, Any] = {
        "split.val_size": 0,
        "split.train_size": ROWS,
        "evaluate.parts": ["test"],
        "train.epochs": EPOCHS,
    }
    rerun.prepare(RERUN, changes | configuration)
    process = subprocess.Popen(
        [sys.executable, rerun.SOURCE / "train.py"],
        cwd=RERUN,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    ends = [time.perf_counter() for line in process.stdout if re.match(r"epoch \d+/", line)]
    if process.wait() or len(ends) != EPOCHS:
        raise InputError(f"train must succeed in {RERUN}; it ended with {process.returncode}")
    return (EPOCHS - 1) * ROWS / (ends[-1] - ends[0])


def main() -> None:
    speeds: list[list[float]] = [[] for _ in CONFIGURATIONS]
    for _ in range(ROUNDS):
        for configuration, round_speeds in zip(CONFIGURATIONS, speeds, strict=True):
            round_speeds.append(images_a_second(configuration))
            print(f"{configuration}: {round_speeds[-1]:,.0f} images/s", flush=True)
    results = [
        configuration | {"images_a_second": round(statistics.median(round_speeds), 1)}
        for configuration, round_speeds in zip(CONFIGURATIONS, speeds, strict=True)
    ]
    for result in results:
        print(f"{result}: {result['images_a_second'] / results[0]['images_a_second']:.2f} times")
    files.write_json(RESULTS, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
