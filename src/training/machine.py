"""The machine that trains: its device, threads and memory, and its speed in bfloat16."""

import ctypes
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from common.errors import InputError

import torch
from torch.nn import functional as F


def set_up(threads: int) -> None:
    """Makes PyTorch give the same bits on every run with so many threads, and keep freed memory."""
    torch.set_num_threads(threads)
    # without it cuBLAS is not deterministic; read when CUDA starts
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # PyTorch would fill new tensors, which costs time, and nothing reads them before they are written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory that a step has freed for the next step.

    By default glibc returns large blocks to the system at once, and the next step pays a page fault for
    every 4 KiB of its activations (`mallopt(3)`). Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # numbers of M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def processor() -> str:
    """The name of the processor model, as far as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def machine() -> dict[str, str | int]:
    """What a measured time depends on: processor, its vector instructions, threads, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    vectors = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": processor(),
        "bfloat16 and vector instructions": " ".join(name for name in vectors if name in flags),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
        "keras": version("keras"),
        "python": platform.python_version(),
    }


def choose_device(setting: str) -> str:
    """Gives cpu or cuda; auto takes cuda where there is one."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device must be cpu or auto where PyTorch finds no GPU; received cuda")
    return "cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu"


def choose_precision(setting: str, device: str) -> str:
    """Gives float32 or bfloat16; auto takes bfloat16 on a GPU, and on a CPU that is faster with it.

    On a CPU that is slower with it, bfloat16 is taken with a warning.
    """
    if device == "cuda":
        return "bfloat16" if setting == "auto" else setting
    if setting == "float32":
        return setting
    speed = speed_of_bfloat16()
    if setting == "auto":
        return "bfloat16" if speed > 1 else "float32"
    if speed < 1:
        print(
            f"bfloat16 has {speed:.2f} times the speed of float32 on this processor: "
            "set train.precision to float32 or auto",
            file=sys.stderr,
        )
    return setting


def speed_of_bfloat16() -> float:
    """The speed of a convolution of a usual size on the CPU in bfloat16, as a multiple of float32's.

    Measured, since a processor can have the instructions and still be slower with them.
    """

    def seconds(dtype: torch.dtype) -> float:
        images = torch.ones(64, 64, 14, 14, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.ones(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            F.conv2d(images, kernel, padding=1)
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(torch.float32) / seconds(torch.bfloat16)
