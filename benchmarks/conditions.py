"""What a measured time depends on, for the files of results."""

import platform
from importlib.metadata import version

import torch

from training.machine import cores, processor, vector_instructions


def machine() -> dict[str, str | int]:
    """Processor, its vector instructions, threads, versions."""
    has, vectors = vector_instructions(), ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": processor(),
        "bfloat16 and vector instructions": " ".join(name for name in vectors if name in has),
        "threads": cores(),
        "torch": torch.__version__.partition("+")[0],
        "keras": version("keras"),
        "python": platform.python_version(),
    }
