"""Keras on PyTorch, whatever the machine's own Keras configuration says; import before keras."""

import os

os.environ["KERAS_BACKEND"] = "torch"
