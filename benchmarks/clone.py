"""What `make repro` takes in a fresh clone, on this machine: seconds and disk.

`python benchmarks/clone.py` clones the last commit, without its caches, runs `make .venv/run` and `make repro` there,
and writes benchmarks/clone.json, unless that has it for this training. It needs what `make repro` needs, and ends with
an error unless every byte is as committed.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from common import files
from common.errors import InputError

import benchmark_files
from analysis import dvc_lock
from analysis.git import git
from conditions import LEFT_OUT, machine

RESULTS = Path("benchmarks/clone.json")


def seconds(folder: Path, target: str) -> tuple[int, str]:
    """Runs a target of make there; gives its seconds and what it printed.

    Raises:
        InputError: it fails.
    """
    start = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
    done = subprocess.run(["make", target], cwd=folder, env=environment, check=False, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise InputError(f"make {target} must succeed in a fresh clone; it ended with {done.returncode}")
    return round(time.perf_counter() - start), done.stdout


def megabytes(folder: Path) -> int:
    """What the files in a folder take on disk; a file with several names counts once."""
    sizes = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return round(sum(sizes.values()) / 1e6)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    training = benchmark_files.training_key()
    if benchmark_files.earlier(RESULTS, training=training):
        return
    if git("status", "--porcelain", "--", str(dvc_lock.LOCK)):
        raise InputError("dvc.lock must be committed, since the clone has the last commit; received an edited one")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        git("clone", "--quiet", ".", str(folder))
        environment, _ = seconds(folder, ".venv/run")
        pipeline, output = seconds(folder, "repro")
        if "\nReproduced" not in f"\n{output}":
            raise InputError(f"make repro must end with Reproduced; received: {output.splitlines()[-1]}")
        ((_, train),) = (line.split(",") for line in (folder / ".cache/checkpoints/seconds.csv").read_text().split())
        results = {
            "training": training,
            "machine": machine(),
            "seconds": {"environment": environment, "pipeline": pipeline, "train": int(train)},
            "megabytes": {"environment": megabytes(folder / ".venv"), "all": megabytes(folder)},
        }
    files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
