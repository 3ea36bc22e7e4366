"""The machine that trains: its device, arithmetic, threads and memory."""

import ctypes
import hashlib
import math
import os
import platform
import re
import sys
import threading
from pathlib import Path

from common.backend import keras
from common.errors import InputError

import torch
from torch.nn import functional as F

PORTABLE = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR"  # as common/backend.py sets them
_thread = threading.local()
CPUINFO = Path("/proc/cpuinfo")
VECTORS = re.compile(r"(sse|avx|amx|fma|f16c|asimd|sve|sme|bf16|i8mm)\w*$")  # of x86-64 and ARM
KNOWN_STEP, KNOWN_VERSION = "faa58bdc60944715", "2.13"  # on every x86-64 processor with AVX2 so far


def set_up(precision: str) -> None:
    """Chooses PyTorch's deterministic algorithms, one thread an operation, and the instruction sets.

    Must precede the first operation of PyTorch in the process, which fixes the instruction sets.
    """
    if precision == "bfloat16":
        for name in PORTABLE:
            os.environ.pop(name, None)
    # without it cuBLAS is not deterministic; read when CUDA starts
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports torch._dynamo, for seconds
    torch.backends.cudnn.allow_tf32 = False  # else a GPU rounds float32 to 10 bits before it multiplies
    # PyTorch would fill new tensors, which costs time, and nothing reads them before they are written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    keep_freed_memory()
    torch.set_num_threads(1)


def prepare_thread(device: str) -> None:
    """Settings that PyTorch and Keras keep for each thread, until it ends."""
    torch.set_num_threads(1)
    _thread.scope = keras.device(device)  # when nothing refers to it, Keras ends the scope
    _thread.scope.__enter__()


def number(variable: str, default: int) -> int:
    """An environment variable that counts from 1."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"{variable} must be a number from 1; received {text}")
    return int(text)


def cores() -> int:
    """Of this process."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


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


def _cpuinfo() -> str:
    """Of all processors."""
    return CPUINFO.read_text("utf-8") if CPUINFO.exists() else ""


def processor() -> str:
    """The name of the processor model, as far as the system knows it."""
    found = re.search(r"^model name\s*: (.*)", _cpuinfo(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def vector_instructions() -> list[str]:
    """Those that the processors have, as Linux calls them."""
    return sorted({word for word in _cpuinfo().split() if VECTORS.match(word)})


def choose_device(setting: str) -> str:
    """Gives cpu or cuda; auto takes cuda where there is one."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device must be cpu or auto where PyTorch finds no GPU; received cuda")
    return "cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu"


def arithmetic(precision: str, device: str, exact_roots: bool = True) -> str:
    """A name for how this machine computes: where it is the same, a training gives the same bytes.

    Without `exact_roots`, Adam takes those of MKL (2024.2), whose last bits differ between AMD and Intel.
    """
    if precision == "float32" and device == "cpu" and is_portable():
        roots = torch.linspace(0, 1, 1001).pow(0.5).numpy().tobytes()
        return "portable" if exact_roots else f"portable but for roots, {hashlib.sha256(roots).hexdigest()[:16]}"
    place = [torch.cuda.get_device_name()] if device == "cuda" else [processor(), *vector_instructions()]
    return " ".join([precision, "on", *place])


def is_portable() -> bool:
    """Whether float32 operations of this process give the bytes that x86-64 with AVX2 gave so far.

    Computes one training step with known result, which needs all of ATen, oneDNN and MKL; their settings
    alone would not tell what they chose.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _known_step() == KNOWN_STEP
    finally:
        torch.set_num_threads(before)


def _known_step() -> str:
    """The hash of what a convolution, batch normalisation, a dense layer and their gradients give."""

    def numbers(*shape: int) -> torch.Tensor:
        count = math.prod(shape)
        return ((torch.arange(count) * 7919 % 2003).float() / 2003 - 0.5).view(shape)

    images = numbers(16, 32, 13, 13).contiguous(memory_format=torch.channels_last)
    kernel = numbers(64, 32, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    dense = numbers(10, 64).requires_grad_()
    with torch.enable_grad():
        x = F.silu(F.batch_norm(F.conv2d(images, kernel, padding=1), None, None, training=True))
        log_probabilities = F.linear(x.amax((2, 3)), dense).log_softmax(-1)
        gradients = torch.autograd.grad(log_probabilities.square().mean(), (kernel, dense))
    found = [tensor.contiguous().numpy().tobytes() for tensor in (log_probabilities.detach(), *gradients)]
    return hashlib.sha256(b"".join(found)).hexdigest()[:16]
