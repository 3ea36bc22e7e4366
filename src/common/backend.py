"""Keras on PyTorch in its standard settings, with the same last bits on x86-64 processors with AVX2.

`from common.backend import keras` is how this repository imports Keras: only scripts that need it pay
for it. Architecture files may write `import keras`, since `architectures` loads this module first.
"""

import os
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

for name in [name for name in os.environ if name.startswith("KERAS_")]:
    del os.environ[name]  # KERAS_MAX_EPOCHS, for one, shortens every `fit`
os.environ |= {
    "KERAS_BACKEND": "torch",
    "KERAS_HOME": "/proc/nobody",  # where there can be no keras.json
    # Portable arithmetic: ATen, oneDNN and MKL choose the same code on every processor. It takes all three
    # (PyTorch 2.13, oneDNN 3.12, MKL 2024.2), and they are read at the first operation.
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}

import numpy as np
import torch  # it would import the stand-in for its own part

# Keras takes a decorator of the compiler's, and asks it to forget what was compiled; here nothing is
COMPILER = types.SimpleNamespace(disable=lambda: lambda function: function, reset=lambda: None)
UNUSED: dict[str, Any] = {"matplotlib": None, "sklearn": None, "torch._dynamo": COMPILER}  # with stand-ins


@contextmanager
def slow_imports_hidden() -> Iterator[None]:
    """Keras starts in half the time, since it finds nothing of `UNUSED` in it but what has been imported before."""
    hidden = {name: UNUSED[name] for name in UNUSED.keys() - sys.modules.keys()}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with slow_imports_hidden():
    import h5py
    import keras


def _root(values: torch.Tensor) -> torch.Tensor:
    """Square roots as IEEE 754 rounds them: those of MKL begin with an approximation that each maker has its own of."""
    exact = values if values.dtype.is_complex or values.dtype == torch.float64 else values.float()
    with np.errstate(invalid="ignore"):  # of a negative number, NaN as in PyTorch
        np.sqrt(exact.detach().numpy(), out=(roots := torch.empty_like(exact)).numpy())
    return roots.to(values.dtype) if values.is_floating_point() else roots


ROOTS = torch.library.Library("aten", "IMPL")  # theirs as long as this object is there
with warnings.catch_warnings(action="ignore"):  # PyTorch's, since it has roots of its own
    ROOTS.impl("sqrt", _root, "CPU")
    ROOTS.impl("sqrt_", lambda values: torch.mul(_root(values), 1, out=values), "CPU")
    ROOTS.impl("sqrt.out", lambda values, *, out: torch.mul(_root(values), 1, out=out), "CPU")


def _audited_open(name: bytes, *arguments: Any, **options: Any) -> Any:
    sys.audit("open", name, "r", os.O_RDONLY)
    return _open(name, *arguments, **options)


# h5py 3.16 opens files in C: without this event, weights that an architecture loads would go unseen
_open, h5py.h5f.open = h5py.h5f.open, _audited_open
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
