"""One training in several processes, each with its share of every batch.

Gradients come together by PyTorch's DistributedDataParallel, over gloo on CPUs and NCCL on GPUs. Batch
normalisation takes the statistics of a process's own share of the batch, as there; the moving
statistics are the mean over the processes after each step, so that all have the same weights.

torchrun starts the processes, and ends those of its machine when one does; those of other machines lose
the connection and end too. Its settings come from the environment, where its option `--nnodes` is called
PET_NNODES, and so on (https://docs.pytorch.org/docs/stable/elastic/run.html).
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
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import InputError

# isort: split
import torch
from torch import distributed
from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

LOST = re.compile("gloo/transport|NCCL|TCPStore")  # in what is raised when others are gone
PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that comes when the parent dies
ERRORS = "TRAINING_ERRORS"  # the folder for what ends a process, a file each


def started() -> bool:
    """Whether this is one of several processes, which `launch` or torchrun has started."""
    return count() > 1


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of the processes this is, from 0. The first writes what there is to write."""
    return int(os.environ.get("RANK", "0"))


def wanted(processes: int) -> bool:
    """Whether `launch` has yet to start so many processes, here or on several machines."""
    return not started() and (processes > 1 or os.environ.get("PET_NNODES", "1") != "1")


def launch(processes: int, script: Path) -> None:
    """Runs `script` in so many processes, and ends when all have ended.

    Of several machines (PET_NNODES) each runs its share of the processes.

    Raises:
        InputError: torchrun's settings are wrong, the machines do not meet, or a process was killed.
        KeyboardInterrupt: this process was told to end.
        SystemExit: a process failed; what it said stands on stderr, once.
    """
    nodes = os.environ.get("PET_NNODES", "1")
    if nodes not in [str(number) for number in range(1, processes + 1) if processes % number == 0]:
        raise InputError(f"PET_NNODES must divide train.processes, {processes}; received {nodes}")
    logging.disable()  # what torchrun says of an end at length is said in one line here
    with tempfile.TemporaryDirectory() as folder:
        # the processes' environment: below errors, PyTorch's C++ speaks of speed alone
        os.environ |= {ERRORS: folder, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        each = processes // int(nodes)
        settings = [f"--nproc-per-node={each}", "--max-restarts=0", f"--log-dir={folder}/torchrun"]
        try:
            run.run(_torchrun([*settings, str(script)]))
        except SignalException as error:
            raise KeyboardInterrupt from error
        except ChildFailedError as error:
            _end(error, Path(folder), processes, alone=nodes == "1")
        except (distributed.DistError, RendezvousError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the machines must meet at PET_MASTER_ADDR, PET_MASTER_PORT; received: {reason}"
            ) from None


def _torchrun(settings: list[str]) -> argparse.Namespace:
    """What torchrun makes of its settings, some of which come from the environment."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return run.parse_args(settings)
    except SystemExit:
        reason = said.getvalue().splitlines()[-1]
        raise InputError(f"PET_* must be settings of torchrun; received: {reason}") from None


def _end(error: ChildFailedError, folder: Path, processes: int, alone: bool) -> None:
    """Says what ended the first of the processes: the others fail in its wake.

    Args:
        folder: of what they said, as `keep_error` keeps it.
        alone: there is no other machine.
    """
    rule = f"all {processes} processes must run to the end"
    ended = [(number, failure.exitcode) for number, failure in error.failures.items()]
    killed = [(number, signal.Signals(-code)) for number, code in ended if code < 0]
    for number, by in killed:
        if by != signal.SIGTERM:  # with which torchrun ends the others
            raise InputError(f"{rule}; process {number} received {by.name}") from None
    files = sorted(folder.glob("[0-9]*"), key=lambda path: path.stat().st_mtime_ns)
    said = [text for text in (file.read_text("utf-8").rstrip() for file in files) if text]
    for text in said:
        if "\n" not in text:
            sys.exit(text)
    if said and not LOST.search(said[0]):
        sys.exit(said[0])
    if said and not alone:
        raise InputError(f"{rule}; those of another machine did not") from None
    if killed:  # by somebody else, if nobody said why
        raise InputError(f"{rule}; process {killed[0][0]} received {killed[0][1].name}") from None
    sys.exit(said[0] if said else f"error: {rule}; process {ended[0][0]} ended with {ended[0][1]}")


def keep_error() -> None:
    """Where `launch` started this process, leaves it to that to say what ends it, and ends with it."""
    if ERRORS not in os.environ:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    hook, file = sys.excepthook, Path(os.environ[ERRORS]) / str(rank())

    def keep(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            hook(kind, error, trace)
        try:
            file.write_text(said.getvalue(), "utf-8")
        except OSError:  # such as a full disk
            sys.stderr.write(said.getvalue())

    sys.excepthook = keep


def join(device: str) -> None:
    """Meets the other processes, where there are any.

    Raises:
        InputError: this machine has fewer GPUs than processes.
    """
    if not started():
        return
    if device == "cuda":
        own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= gpus:
            raise InputError(
                f"each process must have a GPU, of which there are {gpus}; received {own + 1} or more processes"
            )
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    # while the interpreter is whole: else gloo's threads may let go of tensors when it is half gone,
    # which aborts the process (https://github.com/pytorch/pytorch/pull/179291)
    atexit.register(distributed.destroy_process_group)


def share(rows: int) -> slice:
    """The rows of a batch that belong to this process; shares differ by one row at most."""
    return slice(rows * rank() // count(), rows * (rank() + 1) // count())


def total(numbers: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if started():
        distributed.all_reduce(numbers)
    return numbers


def average_(tensors: Sequence[torch.Tensor]) -> None:
    """Sets each tensor to its mean over all processes."""
    if started() and tensors:
        flat = total(torch.cat([tensor.flatten() for tensor in tensors])) / count()
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def of_first(content: Any) -> Any:
    """What the first process has; it may take long until it has it."""
    if not started():
        return content
    held = [content]
    patient = distributed.new_group(timeout=timedelta(days=1))
    distributed.broadcast_object_list(held, group=patient)
    return held[0]


def of_all(content: Any) -> list[Any]:
    """What each process has, in their order."""
    if not started():
        return [content]
    held = [None] * count()
    distributed.all_gather_object(held, content)
    return held


def draw_apart(variables: Sequence[torch.Tensor]) -> None:
    """Random numbers, such as those of dropout, are others in each process.

    Args:
        variables: of a model; those of whole numbers are the states of Keras' generators, seed first.
    """
    if rank():
        torch.manual_seed(torch.initial_seed() + rank())  # for layers without a seed of their own
    for variable in variables:
        if not variable.is_floating_point():
            variable[0] += 1_000_000 * rank()  # Keras adds one for each draw


class Shared(torch.nn.Module):
    """What DistributedDataParallel wraps: a function of images, and the weights in it."""

    def __init__(self, function: Any, weights: Sequence[torch.Tensor]):
        super().__init__()
        self.function = function
        self.weights = torch.nn.ParameterList(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images, training=True)
