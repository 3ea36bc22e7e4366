"""The machine that trains: its device, its threads, its memory, and what it is slow at."""

import ctypes
import os
import platform
import time
from pathlib import Path

from common.errors import InputError

# isort: split
import torch
from torch.nn import functional as F


def set_up(threads: int) -> None:
    """The same bits on every run with so many threads, and memory that is not fetched anew."""
    torch.set_num_threads(threads)
    # without it cuBLAS is not deterministic; read when CUDA starts
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # filling what nothing reads costs time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tells glibc to keep for the next step what a step has freed.

    By itself it hands large blocks back to the system at once, and the next step pays a page fault
    for every 4 KiB of its activations (`mallopt(3)`). Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # numbers of M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def processor() -> str:
    """The name of the kind of processor, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def choose_device(wanted: str) -> str:
    """Gives cpu or cuda; auto takes cuda where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "train.device must be cpu or auto where PyTorch finds no GPU; received cuda"
        )
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(wanted: str, device: str) -> str:
    """Gives float32 or bfloat16; auto takes bfloat16 on a GPU, and on a CPU that is faster with it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device == "cuda" or speed_of_bfloat16() > 1 else "float32"


def speed_of_bfloat16() -> float:
    """How many times as fast as in float32 one convolution of a usual size is, on the CPU.

    Measured, since a processor can have the instructions and still be slower with them.
    """

    def seconds(dtype: torch.dtype) -> float:
        images = torch.ones(64, 64, 14, 14, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        kernel = torch.ones(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            F.conv2d(images, kernel, padding=1)
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.float32) / seconds(torch.bfloat16)
