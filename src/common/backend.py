"""Keras on PyTorch in its standard settings, whatever the machine's own keras.json says.

Imported instead of, or before, keras: only what needs Keras pays for it.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

# isort: split
import keras

keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
