"""One training in several processes, each of which computes its shards of every batch (shards.py).

The processes exchange what they computed over gloo on CPUs and NCCL on GPUs.

torchrun starts the processes. When one process ends, torchrun ends all processes of that machine; the processes of
other machines lose the connection and end too. torchrun's settings come from environment variables: PET_NNODES for its
option `--nnodes`, and so on (https://docs.pytorch.org/docs/stable/elastic/run.html).
"""

import argparse
import atexit
import contextlib
import ctypes
import io
import logging
import os
import re
import signal
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import InputError, first_line

import torch
from torch import distributed
from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

from training import machine

LOST_CONNECTION = re.compile("gloo/transport|NCCL|TCPStore")  # in PyTorch's errors
PR_SET_PDEATHSIG = 1  # option of prctl(2): the signal that a process receives when its parent dies
ERRORS = "TRAINING_ERRORS"  # names the folder in which each process writes the error that ends it


def is_distributed() -> bool:
    """Whether this is one of several processes, started by `launch` or torchrun."""
    return count() > 1


def count() -> int:
    return machine.number("WORLD_SIZE", 1)


def on_this_machine() -> int:
    return machine.number("LOCAL_WORLD_SIZE", 1) if is_distributed() else 1


def rank() -> int:
    """The number of this process, from 0. Process 0 writes all outputs."""
    text = os.environ.get("RANK", "") if is_distributed() else "0"
    if not text.isdecimal() or int(text) >= count():
        raise InputError(f"RANK must be below WORLD_SIZE, {count()}, as torchrun sets both; received {text or 'none'}")
    return int(text)


def should_launch(processes: int) -> bool:
    """Whether `launch` must start these processes: several on this machine, or on several machines."""
    return not is_distributed() and (processes > 1 or os.environ.get("PET_NNODES", "1") != "1")


def launch(processes: int, script: Path) -> None:
    """Runs `script` in so many processes, and returns when all have ended.

    Where PET_NNODES names several machines, each machine runs an equal number of the processes.

    Raises:
        InputError: torchrun's settings are wrong, the machines do not meet, or a process was killed.
        KeyboardInterrupt: this process received SIGINT or SIGTERM.
        SystemExit: a process failed; holds the error of the first one.
    """
    nodes = os.environ.get("PET_NNODES", "1")
    if nodes not in [str(number) for number in range(1, processes + 1) if processes % number == 0]:
        raise InputError(f"PET_NNODES must divide TRAIN_PROCESSES, {processes}; received {nodes}")
    logging.disable()  # torchrun's long report of a failure, for which there is one line here
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ERRORS] = folder
        options = f"--nproc-per-node={processes // int(nodes)}", "--max-restarts=0", f"--log-dir={folder}/torchrun"
        # without it torchrun waits for ever where the machine's name does not resolve
        own = ["--local-addr=127.0.0.1"] if nodes == "1" else []
        try:
            run.run(_parse([*options, *own, str(script)]))
        except SignalException as error:
            raise KeyboardInterrupt from error
        except ChildFailedError as error:
            _exit_with_cause(error, Path(folder), processes, one_machine=nodes == "1")
        except (distributed.DistError, RendezvousError, ValueError) as error:
            raise InputError(
                f"the machines must meet at PET_MASTER_ADDR, PET_MASTER_PORT; received: {first_line(error)}"
            ) from None


def _parse(options: list[str]) -> argparse.Namespace:
    """torchrun's settings, from `options` and the environment."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return run.parse_args(options)
    except SystemExit:
        reason = output.getvalue().splitlines()[-1]
        raise InputError(f"PET_* must be settings of torchrun; received: {reason}") from None


def _exit_with_cause(error: ChildFailedError, folder: Path, processes: int, one_machine: bool) -> None:
    """Exits with the error of the process that ended first; it makes all other processes fail.

    Args:
        folder: where `report_error_to_launcher` has written the processes' errors.
        one_machine: all processes run on this machine.
    """
    rule = f"all {processes} processes must run to the end"
    ended = [(failure.exitcode, number) for number, failure in error.failures.items()]
    # killed processes first; torchrun itself sends SIGTERM to those that remain
    code, number = min(ended, key=lambda end: (end[0] >= 0, end[0] == -signal.SIGTERM))
    how = f"received {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    end = InputError(f"{rule}; process {number} {how}")
    if code < 0 and code != -signal.SIGTERM:
        raise end from None
    files = sorted(folder.glob("[0-9]*"), key=lambda path: path.stat().st_mtime_ns)
    errors = [text for text in (file.read_text("utf-8").rstrip() for file in files) if text]
    causes = [text for text in errors if "\n" not in text]  # without a traceback: not a consequence
    causes += [text for text in errors[:1] if not LOST_CONNECTION.search(text)]
    if causes:
        sys.exit(causes[0])
    if errors and not one_machine:
        raise InputError(f"{rule}; those of another machine did not") from None
    if errors and code >= 0:
        sys.exit(errors[0])
    raise end from None


def report_error_to_launcher() -> None:
    """Where `launch` started this process: hands it the error that ends this process, and ends with it."""
    if ERRORS not in os.environ or not is_distributed():
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    hook, file = sys.excepthook, Path(os.environ[ERRORS]) / str(rank())

    def write(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        output = io.StringIO()
        with contextlib.redirect_stderr(output):
            hook(kind, error, trace)
        try:
            file.write_text(output.getvalue(), "utf-8")
        except OSError:  # such as a full disk
            sys.stderr.write(output.getvalue())

    sys.excepthook = write


def join(device: str) -> None:
    """Joins the process group, where there are several processes; those of one machine wait a day for each other.

    Raises:
        InputError: this machine has fewer GPUs than processes, or a setting of torchrun's is missing.
    """
    if not is_distributed():
        return
    if device == "cuda":
        own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= gpus:
            raise InputError(f"each process must have a GPU; received {own + 1} or more processes, {gpus} GPUs")
        torch.cuda.set_device(own)
    timeout = timedelta(days=1) if on_this_machine() == count() else None  # torchrun notices the end of its own
    try:
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timeout)
    except ValueError as error:
        raise InputError(f"torchrun must start the processes; received: {first_line(error)}") from None
    # before the interpreter shuts down: if gloo's threads free tensors during the shutdown, the process
    # aborts (https://github.com/pytorch/pytorch/pull/179291)
    atexit.register(distributed.destroy_process_group)


def all_gather(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor of each process, by rank; all have one shape."""
    tensors = [torch.empty_like(tensor) for _ in range(count())]
    distributed.all_gather(tensors, tensor)
    return tensors


def broadcast_from_first(content: Any) -> Any:
    """`content` of process 0, which may take long to get there."""
    if not is_distributed():
        return content
    contents = [content]
    distributed.broadcast_object_list(contents, group=distributed.new_group(timeout=timedelta(days=1)))
    return contents[0]


def gather(content: Any) -> list[Any]:
    """`content` of each process, by rank."""
    if not is_distributed():
        return [content]
    contents = [None] * count()
    distributed.all_gather_object(contents, content)
    return contents
