"""Keras on PyTorch in its standard settings, with the same last bits on every x86-64 processor with AVX2.

`from common.backend import keras` is how this repository imports Keras: only scripts that need it pay
for it. Architecture files may write `import keras`, since `architectures` loads this module first.
"""

import os
import sys
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

# Keras imports these where they are installed, for wrappers and drawings that nothing here uses: it
# takes a third less time to start where it does not find them.
hidden: dict[str, Any] = dict.fromkeys({"matplotlib", "sklearn"} - sys.modules.keys())
sys.modules |= hidden

import h5py
import keras

for name in hidden:
    del sys.modules[name]


def _audited_open(name: bytes, *arguments: Any, **options: Any) -> Any:
    sys.audit("open", name, "r", os.O_RDONLY)
    return _open(name, *arguments, **options)


# h5py 3.16 opens files in C: without this event, weights that an architecture loads would go unseen
_open, h5py.h5f.open = h5py.h5f.open, _audited_open
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
