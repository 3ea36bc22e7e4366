"""What training costs as the data grows: seconds an epoch, peak memory, seconds to the first step.

Each number of rows is one epoch of `python src/train.py` in a process of its own, with the committed
parameters. `python benchmarks/growth.py` (after `make repro`) prints a table and writes
benchmarks/growth.json.
"""

import json
import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from common import errors  # first: from here on an interruption is one line

# isort: split
from analysis import trials
from common import files

ROWS = [6_000, 15_000, 30_000, 60_000]
TRIAL = Path(".cache/growth").resolve()
RESULTS = Path("benchmarks/growth.json")


def train_and_tell() -> None:
    """Runs src/train.py here, then prints what it cost as JSON."""
    from training.callbacks import Progress
    from training.step import NativeModel

    begun: list[float] = []
    ended: list[float] = []
    step, epoch_end = NativeModel.train_step, Progress.on_epoch_end

    def timed_step(self: Any, data: Any) -> Any:
        begun.append(time.perf_counter())
        return step(self, data)

    def timed_end(self: Any, *args: Any) -> None:
        ended.append(time.perf_counter())
        epoch_end(self, *args)

    NativeModel.train_step = timed_step  # type: ignore[method-assign]
    Progress.on_epoch_end = timed_end  # type: ignore[assignment, method-assign]
    runpy.run_path(str(trials.SOURCE / "train.py"), run_name="__main__")
    told = {
        "seconds_to_first_step": round(begun[0] - START, 2),
        "seconds_an_epoch": round(ended[0] - begun[0], 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(told))


def main() -> None:
    # of train_step.py, imported late since the child must not pay for it
    from train_step import machine

    results = []
    for rows in ROWS:
        trials.prepare(
            TRIAL,
            {
                "split.val_size": 0,
                "split.train_size": None if rows == max(ROWS) else rows,
                "train.epochs": 1,
                "evaluate.parts": ["test"],
            },
        )
        told = subprocess.run(
            [sys.executable, Path(__file__).resolve(), "--child"],
            cwd=TRIAL,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.splitlines()[-1]
        results.append({"rows": rows} | json.loads(told))
        print(", ".join(f"{key} {value:,}" for key, value in results[-1].items()), flush=True)
    files.write_json(RESULTS, {"machine": machine(), "results": results})


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        train_and_tell()
    else:
        main()
