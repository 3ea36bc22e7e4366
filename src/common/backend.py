"""Keras on PyTorch in its standard settings, whatever the machine's own keras.json says.

`from common.backend import keras` is how this repository imports Keras: only scripts that need it pay
for it. Architecture files may write `import keras`, since `architectures` loads this module first.
"""

import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"
# Threads that wait for each other spin for this many rounds (under a millisecond), then sleep. The
# default of libgomp, PyTorch's thread pool on Linux, makes a step ten times as slow where one other
# process is busy; sleeping at once makes it half as fast where none is. Read when PyTorch is loaded;
# the results are the same.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Keras imports these where they are installed, for wrappers and drawings that nothing here uses: it
# takes a third less time to start where it does not find them.
hidden: dict[str, Any] = dict.fromkeys({"matplotlib", "sklearn"} - sys.modules.keys())
sys.modules |= hidden

import keras

for name in hidden:
    del sys.modules[name]
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
