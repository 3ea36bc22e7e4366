"""Whether a training gives the same bytes with other threads, processes, load, processors and libraries.

`python benchmarks/sameness.py` (after `make repro`) repeats the committed training, whole and real, once for
each of `RUNS`, and holds each model against dvc.lock. A run takes about as long as that training, with one thread twice as
long. Several may run at once (`--only`), each the slower for it.

`python benchmarks/sameness.py --small` runs all stages on few rows in a fresh folder, and takes one hash over
every output. Then it does so on an imitated processor:

    --under "qemu-x86_64 -cpu Haswell-v4" --name haswell --stages train    (over 100 times slower)
    --under "env LD_AUDIT=$PWD/.cache/imitate.so IMITATE=zen2" --name zen2    (as fast as ever; see imitate.c)

Each run is added to benchmarks/sameness.json, which so grows from several processors, Pythons and builds of
PyTorch. A run that the file has for this training on this machine is left out. Bytes that should be the same and are
not are written there too, and end the program with an error.
"""

import argparse
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any
from unittest import mock

from common import files, locks, seal
from common.errors import InputError

import torch

import benchmark_files
import rerun
from analysis import dvc_lock, metric_files
from busy import busy_process
from conditions import machine

RESULTS = Path("benchmarks/sameness.json")
FOLDER = Path(".cache/sameness")
SECOND = FOLDER / "second machine"
STAGES = ("fetch", "prepare", "split", "train", "evaluate", "export")
OUTPUTS = ("data", "models", "metrics", "plots")
KILLS, LONGEST_LIFE = 10, 150.0  # the latter in seconds


@contextmanager
def second_machine() -> Iterator[None]:
    """Within the block, a second "machine" takes part in the training that the block starts.

    Raises:
        InputError: it fails.
    """
    rerun.prepare(SECOND, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    with mock.patch.dict(os.environ, both | {"PET_NODE_RANK": "0"}):
        words = [sys.executable, "-EB", str(rerun.SOURCE / "train.py")]
        with subprocess.Popen(words, cwd=SECOND, env=os.environ | {"PET_NODE_RANK": "1"}) as process:
            try:
                yield
                if process.wait():
                    raise InputError(f"train must succeed in {SECOND}; it ended with {process.returncode}")
            finally:
                process.kill()


def kill_at_random(folder: Path) -> None:
    """Starts the training in `folder` and kills it, again and again, each time with another number of threads.

    Raises:
        InputError: it ended by itself.
    """
    random = SystemRandom()
    for number in range(KILLS):
        threads = str(1 + number % 4)
        words = [sys.executable, "-EB", str(rerun.SOURCE / "train.py")]
        with subprocess.Popen(words, cwd=folder, env=os.environ | {"TRAIN_THREADS": threads}) as process:
            time.sleep(random.uniform(0, LONGEST_LIFE))
            process.kill()
        print(f"killed: number {number + 1}, with {threads} threads", flush=True)
        if process.returncode != -signal.SIGKILL:
            raise InputError(f"train must run until it is killed; it ended with {process.returncode}")


@dataclass(frozen=True)
class Run:
    """One training: who computes its shards, changes to params.yaml, what happens meanwhile or before."""

    environment: dict[str, str]
    changes: dict[str, Any] = field(default_factory=dict)
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext
    before: Callable[[Path], None] | None = None


RUNS = {
    "1 thread": Run({"TRAIN_THREADS": "1"}),
    "2 threads": Run({"TRAIN_THREADS": "2"}),
    "3 threads": Run({"TRAIN_THREADS": "3"}),
    "4 threads": Run({"TRAIN_THREADS": "4"}),
    "2 processes": Run({"TRAIN_PROCESSES": "2", "TRAIN_THREADS": "1"}),
    "2 machines (both on this one)": Run({"TRAIN_PROCESSES": "2", "TRAIN_THREADS": "1"}, meanwhile=second_machine),
    "2 threads beside a busy process": Run({"TRAIN_THREADS": "2"}, meanwhile=busy_process),
    f"killed {KILLS} times, with 1 to 4 threads": Run({"TRAIN_THREADS": "2"}, before=kill_at_random),
    "train.precision bfloat16": Run({"TRAIN_THREADS": "2"}, {"train.precision": "bfloat16"}),
}


def place() -> dict[str, str]:
    """What the bytes could depend on and should not."""
    known = machine()
    return {
        "processor": str(known["processor"]),
        "vector instructions": str(known["bfloat16 and vector instructions"]),
        "python": platform.python_version(),
        "torch": torch.__version__,  # with the build: "+cpu"
        "C library": " ".join(platform.libc_ver()),
    }


def read() -> dict[str, Any]:
    """The results of this training so far.

    Raises:
        InputError: the file is damaged.
    """
    training = benchmark_files.training_key()
    return benchmark_files.earlier(RESULTS, training=training) or {"training": training, "runs": [], "small": []}


def is_known(section: str, identity: dict[str, Any]) -> bool:
    """Whether the file has a result with these values."""
    return any(identity.items() <= known.items() for known in read()[section])


def add(section: str, result: dict[str, Any]) -> None:
    with locks.exclusive(FOLDER / "results.lock"):  # other runs may end at the same time
        known = read()
        known[section].append(result)
        files.write_json(RESULTS, known)


def is_committed(run: dict[str, Any]) -> bool:
    """Whether the model of a whole run has the bytes in dvc.lock."""
    return bool(run["md5"] == dvc_lock.read()["train"].outputs[dvc_lock.MODEL])


def first_as_large(run: dict[str, Any], small: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first small run with as many rows and epochs."""
    return next(other for other in small if all(other[key] == run[key] for key in ("rows", "epochs")))


def other_outputs(run: dict[str, Any], small: Sequence[dict[str, Any]]) -> list[str]:
    """The outputs of a small run whose bytes differ from those of `first_as_large`."""
    first = first_as_large(run, small)["outputs"]
    both = {**first, **run["outputs"]}
    return sorted(path for path in both if first.get(path) != run["outputs"].get(path))


# --- whole and real -------------------------------------------------------------------------------


def repeat(run: Run, folder: Path) -> dict[str, str]:
    """Trains and evaluates once more, in `folder`; gives the model's hash."""
    # A fingerprint does not know threads and processes, so states lie in the run's own folder, which is emptied:
    # elsewhere a run could go on from the state that another one left when it was killed.
    environment = {"TRAIN_PROCESSES": "1", "CHECKPOINT_DIR": ".cache/checkpoints"} | run.environment
    with mock.patch.dict(os.environ, environment), run.meanwhile():
        rerun.prepare(folder, run.changes)
        if run.before:
            run.before(folder)
        rerun.run_stage("train", folder)
        rerun.run_stage("evaluate", folder)
    return {"md5": str(files.md5(folder / dvc_lock.MODEL))}


def on_test(one: Path, other: Path) -> dict[str, float]:
    """How the results on test in folder `other` differ from those in `one`."""
    accuracies = [metric_files.read(folder / "metrics/test.json", ("accuracy",))["accuracy"] for folder in (one, other)]
    path = "metrics/predictions/test.csv"
    classes = [metric_files.table(folder / path, ("predicted",))["predicted"] for folder in (one, other)]
    return {
        "predictions changed": int((classes[0] != classes[1]).sum()),
        "accuracy": round(accuracies[1] - accuracies[0], 6),
    }


def measure_whole(names: Sequence[str]) -> None:
    """Trains once more for each of these runs.

    Raises:
        InputError: a run with the committed parameters gave a model with other bytes, now or earlier.
    """
    here = place()
    for name in names:
        identity = {"run": name} | here
        if is_known("runs", identity):
            print(f"{RESULTS} has {name} on {here['processor']}: without its entry, it is trained once more")
            continue
        print(f"training: {name}", flush=True)
        result: dict[str, Any] = identity | repeat(RUNS[name], FOLDER / name)
        if RUNS[name].changes:
            result["test"] = on_test(Path(), FOLDER / name)
        add("runs", result)
        print(f"{name}: {result['md5']}, {'as' if is_committed(result) else 'not as'} in dvc.lock", flush=True)
    mine = [run for run in read()["runs"] if here.items() <= run.items() and run["run"] in names]
    if others := [run["run"] for run in mine if not RUNS[run["run"]].changes and not is_committed(run)]:
        raise InputError(f"every run must give the model in dvc.lock; others came from: {', '.join(others)}")


# --- small, all stages ----------------------------------------------------------------------------


def run_stages(folder: Path, rows: int, epochs: int, under: Sequence[str] = (), stages: Sequence[str] = STAGES) -> None:
    """Runs the pipeline on few training rows in an emptied folder, `stages` of it under the command `under`.

    The environment is sealed before a stage starts, and its mark names the process: so the stage has no need to
    start once more (src/common/seal.py), which under qemu would end the emulation.

    Raises:
        InputError: a stage fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    few = {"split.train_size": rows, "train.epochs": epochs, "train.least_steps": 1}
    rerun.write_params(folder / "params.yaml", few)
    for stage in STAGES:
        words = [*(under if stage in stages else []), sys.executable, str(rerun.SOURCE / f"{stage}.py")]
        start = ["sh", "-c", f'export {seal.SEALED}=$$; exec "$@"', "sh", *words]
        status = subprocess.run(start, cwd=folder, env=seal.environment(), check=False).returncode
        if status:
            raise InputError(f"{stage} must succeed in {folder}; it ended with {status}")


def hashes(folder: Path) -> dict[str, str]:
    """The MD5 hash of every output, by path."""
    paths = sorted(path for top in OUTPUTS for path in (folder / top).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): str(files.md5(path)) for path in paths}


def one_hash(outputs: dict[str, str]) -> str:
    return hashlib.md5(repr(sorted(outputs.items())).encode(), usedforsecurity=False).hexdigest()


def without_paths(command: list[str]) -> str:
    return re.sub(r"[^\s=]*/", "", " ".join(command))


def measure_small(rows: int, epochs: int, under: list[str], name: str, stages: Sequence[str] = STAGES) -> None:
    """Runs the small pipeline here, then on the imitated processor where there is one, or these stages of it.

    Raises:
        InputError: an output has other bytes than in the first run with as many rows and epochs, now or earlier.
    """
    some = "" if {*stages} == {*STAGES} else f", {' and '.join(stages)} alone"
    for command, processor in [([], ""), (under, name)][: 2 if under else 1]:
        identity: dict[str, Any] = {"imitated": processor, "by": without_paths(command) + (some if command else "")}
        identity |= {"rows": rows, "epochs": epochs} | place()
        if not is_known("small", identity):
            print(f"all stages: {processor or 'native'}", flush=True)
            folder = FOLDER / f"small {processor or 'native'}"
            run_stages(folder, rows, epochs, command, stages)
            found = hashes(folder)
            add("small", identity | {"outputs": found})
            print(f"{one_hash(found)}, {len(found)} outputs", flush=True)
        small = read()["small"]
        if others := other_outputs(next(run for run in small if identity.items() <= run.items()), small):
            raise InputError(
                f"every output must have the bytes of the first run in {RESULTS} with as many rows and epochs; "
                f"others came from {processor or 'this machine'}: {', '.join(others)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="RUN", help=f"of: {', '.join(RUNS)}")
    parser.add_argument("--small", action="store_true", help="all stages on few rows")
    parser.add_argument(
        "--under", type=shlex.split, default=[], metavar="COMMAND", help="starts the interpreter of each stage"
    )
    parser.add_argument("--name", default="", help="of the processor that COMMAND imitates")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="under COMMAND (default: all)")
    parser.add_argument("--rows", type=int, default=6000, help="for training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="(default: %(default)s)")
    chosen = parser.parse_args()
    if chosen.under and not (chosen.small and chosen.name):
        raise InputError(f"--under must come with --small and --name; received {shlex.join(chosen.under)}")
    if chosen.small:
        measure_small(chosen.rows, chosen.epochs, chosen.under, chosen.name, chosen.stages)
    else:
        measure_whole(chosen.only or list(RUNS))


if __name__ == "__main__":
    main()
