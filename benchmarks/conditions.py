"""What a measured time depends on, for the files of results."""

import platform
import re
from importlib.metadata import version

import torch

from training.machine import CPUINFO, cores, processor, vector_instructions

LEFT_OUT = ("CHECKPOINT_DIR", "MAKEFLAGS", "MAKELEVEL")  # of the environment; with make's, make names its folder


def generation() -> str:
    """Family and model of the processor, where Linux knows them: hypervisors call many generations `AMD EPYC`."""
    text = CPUINFO.read_text("utf-8") if CPUINFO.exists() else ""
    family, model = (re.search(rf"^{name}\s*: (\d+)$", text, re.MULTILINE) for name in ("cpu family", "model"))
    return f", family {family[1]}, model {model[1]}" if family and model else ""


def machine() -> dict[str, str | int]:
    """Processor, its vector instructions, threads, versions."""
    has, vectors = vector_instructions(), ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": processor() + generation(),
        "bfloat16 and vector instructions": " ".join(name for name in vectors if name in has),
        "threads": cores(),
        "torch": torch.__version__.partition("+")[0],
        "keras": version("keras"),
        "python": platform.python_version(),
    }
